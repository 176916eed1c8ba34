"""What a subclass may set, be called, and derive from.

Every test runs on the standard library and on compat: what real programs do with `socketserver` has
to come out the same. What compat makes better is in `test_compat_better.py`.
"""

import socket
import socketserver
from typing import Any

import compat
from tests.dropin import ANY, Upper, ask, serving


def test_attributes_set_before_init_stay(module):
    class Server(module.ThreadingTCPServer):
        def __init__(self):
            self.allow_reuse_address = True
            self.daemon_threads = True
            self.address_family = socket.AF_INET6
            self.request_queue_size = 5
            super().__init__(("::1", 0), Upper)

    with serving(Server()) as server:
        assert ask(server) == b"HELLO\n"
        assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
        assert (server.daemon_threads, server.request_queue_size) == (True, 5)


def test_flags_set_on_the_standard_class_are_seen(module, monkeypatch):
    monkeypatch.setattr(socketserver.TCPServer, "allow_reuse_address", True)
    monkeypatch.setattr(socketserver.TCPServer, "request_queue_size", 7)
    with module.ThreadingTCPServer(ANY, Upper) as server:
        assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
        assert server.request_queue_size == 7


NAMES = [
    "threads",
    "context",
    "loop",
    "slots",
    "deadline",
    "limits",
    "address",
    "handler",
    "handlers",
    "engine",
    "pool",
    "queue",
    "state",
    "stats",
    "connections",
    "clients",
    "running",
    "draining",
    "closed",
    "timeouts",
    "gate",
    "worker",
    "workers",
    "jobs",
    "lock",
    "events",
    "executor",
    "selector",
    "acceptor",
    "transport",
    "protocol",
    "task",
    "tasks",
    "options",
    "settings",
    "config",
    "name",
    "host",
    "port",
    "url",
    "path",
    "mode",
    "grace",
    "backlog",
    "peer",
    "local",
    "request",
    "requests",
    "response",
    "session",
    "sessions",
    "conf",
]


def test_subclass_may_use_any_name(module):
    class Server(module.ThreadingTCPServer):
        def __init__(self):
            for name in NAMES:
                setattr(self, name, name)
            super().__init__(ANY, Upper)

    assert len(NAMES) >= 50
    with serving(Server()) as server:
        assert ask(server) == b"HELLO\n"
    assert [getattr(server, name) for name in NAMES] == NAMES


def test_standard_mixin_may_stand_on_top(module):
    made = type("Made", (socketserver.ThreadingMixIn, module.TCPServer), {})
    with serving(made(ANY, Upper)) as server:
        assert isinstance(server, socketserver.ThreadingMixIn)
        assert isinstance(server, socketserver.TCPServer)
        assert ask(server) == b"HELLO\n"
    assert issubclass(module.ThreadingTCPServer, socketserver.ThreadingTCPServer)


def test_mixes_with_the_standard_librarys_servers(module):
    import http.server

    bases = (http.server.HTTPServer,)
    if module is compat:
        bases = (compat.TCPServer, *bases)
    made: Any = type("Made", bases, {})
    with serving(made(ANY, http.server.BaseHTTPRequestHandler)) as server:
        assert server.server_name
        assert b"501" in ask(server, b"GET / HTTP/1.0\r\n\r\n").splitlines()[0]
