"""SocketServer-style code on asyncserver: the room is laid out, its furniture is on the way.

Nothing is exported yet. Blocking handlers keep running on the standard library's `socketserver`
until this package carries its names.
"""
