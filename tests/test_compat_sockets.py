"""The listening socket: who may bring it, wrap it, replace it, or do without.

Every test runs on the standard library and on compat: what real programs do with `socketserver` has
to come out the same. What compat makes better is in `test_compat_better.py`.
"""

import os
import socket

import pytest

from tests.conftest import TLS
from tests.dropin import ANY, Upper, ask, over, serving


def test_listener_may_be_wrapped_after_init(module, tls: TLS):
    server = module.ThreadingTCPServer(ANY, Upper)
    server.socket = tls.server.wrap_socket(server.socket, server_side=True)
    with serving(server), socket.create_connection(server.server_address, 10) as client:
        assert over(client, tls) == b"HELLO\n"


def test_listener_may_be_the_only_connection(module):
    ours, theirs = socket.socketpair()

    class Server(module.TCPServer):
        def server_bind(self):
            pass

        def server_activate(self):
            self.socket.close()
            self.socket = ours

        def get_request(self):
            return self.socket, "the only one"

    class Handler(module.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.client_address.encode())

    with theirs, Server(("nowhere", 0), Handler) as server:
        theirs.sendall(b"x")
        server.handle_request()
        assert theirs.recv(100) == b"the only one"


def test_server_activate_may_replace_the_socket(module, tls: TLS):
    class Server(module.TCPServer):
        def server_activate(self):
            self.socket = tls.server.wrap_socket(self.socket, server_side=True)
            super().server_activate()

    with (
        serving(Server(ANY, Upper)) as server,
        socket.create_connection(server.server_address, 10) as client,
    ):
        assert over(client, tls) == b"HELLO\n"


def test_server_bind_may_take_a_socket_from_elsewhere(module):
    inherited = socket.create_server(ANY)

    class Server(module.TCPServer):
        def server_bind(self):
            self.socket.close()
            self.socket = socket.socket(fileno=os.dup(inherited.fileno()))
            self.server_address = self.socket.getsockname()

    with inherited, serving(Server(ANY, Upper)) as server:
        assert server.server_address == inherited.getsockname()
        assert ask(server) == b"HELLO\n"


def test_socket_may_be_replaced_after_a_close(module):
    server = module.TCPServer(ANY, Upper, bind_and_activate=False)
    server.server_close()
    server.socket = socket.create_server(ANY)
    server.server_address = server.socket.getsockname()
    with serving(server):
        assert ask(server) == b"HELLO\n"


def test_fileno_is_the_sockets(module):
    server = module.TCPServer(ANY, Upper)
    before = server.fileno()
    with serving(server):
        ask(server)
        assert server.fileno() == before == server.socket.fileno()
        server.socket.set_inheritable(True)
    assert server.fileno() == -1


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_listener_keeps_its_blocking_mode(module, timeout):
    server = module.TCPServer(ANY, Upper)
    server.socket.settimeout(timeout)
    with serving(server):
        ask(server)
        assert server.socket.gettimeout() == timeout
        assert os.get_blocking(server.fileno()) == (timeout is None)


def test_server_may_have_a_descriptor_and_no_socket(module):
    class Server(module.BaseServer):
        def __init__(self):
            super().__init__("a pipe", None)
            self.pipe = os.pipe()
            self.seen = []

        def fileno(self):
            return self.pipe[0]

        def get_request(self):
            return os.read(self.pipe[0], 1), "the writer"

        def finish_request(self, request, client_address):
            self.seen.append((request, client_address))
            if request == b"c":
                self._BaseServer__shutdown_request = True

    server = Server()
    os.write(server.pipe[1], b"abc")
    server.serve_forever(poll_interval=0.01)
    assert server.seen == [(each, "the writer") for each in (b"a", b"b", b"c")]
    for fileno in server.pipe:
        os.close(fileno)
