"""Handlers: the classes that mirror socketserver's, and every kind that can be served."""
