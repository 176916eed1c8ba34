"""Datagrams: what a handler holds, the socket, the tasks."""
