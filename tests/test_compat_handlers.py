"""What a handler is, what it is given, and what it may do with that.

Every test runs on the standard library and on compat: what real programs do with `socketserver` has
to come out the same. What compat makes better is in `test_compat_better.py`.
"""

import asyncio
import contextvars
import functools
import os
import select
import socket
import struct
from typing import Any

import pytest

from tests.dropin import ANY, ask, serving


@pytest.mark.parametrize("way", ["partial", "closure", "type"])
def test_handler_may_be_any_callable(module, way):
    class Handler(module.StreamRequestHandler):
        def __init__(self, *args, word=b""):
            self.word = word
            super().__init__(*args)

        def handle(self):
            self.wfile.write(self.word)

    handlers = {
        "partial": functools.partial(Handler, word=b"hi"),
        "closure": lambda *args: Handler(*args, word=b"hi"),
        "type": type("Made", (Handler,), {"handle": lambda self: self.wfile.write(b"hi")}),
    }
    with serving(module.ThreadingTCPServer(ANY, handlers[way])) as server:
        assert server.RequestHandlerClass is handlers[way]
        assert ask(server) == b"hi"


def test_request_is_a_raw_blocking_socket(module):
    class Handler(module.StreamRequestHandler):
        def handle(self):
            assert select.select([self.request, self.rfile], [], [], 10)[0]
            answer = (
                f"{type(self.request)} {self.request.gettimeout()} {self.request.getblocking()}"
            )
            self.wfile.write(answer.encode())

    with serving(module.ThreadingTCPServer(ANY, Handler)) as server:
        assert ask(server) == b"<class 'socket.socket'> None True"


def test_request_has_a_descriptor_that_can_be_duplicated(module):
    class Handler(module.BaseRequestHandler):
        def handle(self):
            with socket.socket(fileno=os.dup(self.request.fileno())) as same:
                same.sendall(struct.pack("!I", 7))

    with serving(module.ThreadingTCPServer(ANY, Handler)) as server:
        assert ask(server, b"") == bytes([0, 0, 0, 7])


@pytest.mark.parametrize("kind", ["UDPServer", "ThreadingUDPServer", "UnixDatagramServer"])
def test_datagram_request_is_bytes_and_the_servers_socket(module, kind, directory):
    class Handler(module.BaseRequestHandler):
        def handle(self):
            data, sock = self.request
            assert isinstance(data, bytes)
            assert sock is self.server.socket
            sock.sendto(data.upper(), self.client_address)

    address: Any = os.path.join(directory, "s") if "Unix" in kind else ANY
    with serving(getattr(module, kind)(address, Handler)) as server:
        assert ask(server) == b"HELLO\n"


def test_max_packet_size_is_honoured(module):
    class Server(module.UDPServer):
        max_packet_size = 4

    class Handler(module.DatagramRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.read())

    with serving(Server(ANY, Handler)) as server:
        assert ask(server) == b"hell"


def test_handler_may_wait_for_the_next_datagram_itself(module):
    class Handler(module.DatagramRequestHandler):
        def handle(self):
            self.socket.sendto(b"more", self.client_address)
            (data, _), _ = self.server.get_request()
            self.wfile.write(self.rfile.read() + data)

    with (
        serving(module.UDPServer(ANY, Handler)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(10)
        client.sendto(b"one ", server.server_address)
        assert client.recv(100) == b"more"
        client.sendto(b"two", server.server_address)
        assert client.recv(100) == b"one two"


def test_datagrams_are_cut_and_answered_with_what_was_written(module):
    class Handler(module.DatagramRequestHandler):
        def handle(self):
            if len(self.packet) > 10:
                self.wfile.write(str(len(self.packet)).encode())

    with serving(module.UDPServer(ANY, Handler)) as server:
        assert ask(server, bytes(20_000)) == b"8192"
        assert ask(server, b"x") == b""  # an empty datagram, which nobody wrote


def test_asyncio_run_works_in_a_handler(module):
    async def answer():
        await asyncio.sleep(0)
        return b"from a loop"

    class Handler(module.StreamRequestHandler):
        def handle(self):
            self.wfile.write(asyncio.run(answer()))

    with serving(module.TCPServer(ANY, Handler)) as server:
        assert ask(server) == b"from a loop"


def test_every_request_of_a_thread_has_an_empty_context(module):
    variable = contextvars.ContextVar("variable", default=b"empty")
    variable.set(b"the server's")

    class Handler(module.StreamRequestHandler):
        def handle(self):
            self.wfile.write(variable.get())
            variable.set(b"somebody else's")

    with serving(module.ThreadingTCPServer(ANY, Handler)) as server:
        assert [ask(server) for _ in range(3)] == [b"empty"] * 3
