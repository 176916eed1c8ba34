"""Drop-in servers and their clients, for tests that run on the standard library and on compat."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

from tests.conftest import TLS

ANY = ("127.0.0.1", 0)


@contextlib.contextmanager
def serving(server: Any, **options: Any) -> Iterator[Any]:
    """Serve in a thread; at the end no thread of it is left."""
    errors: list[BaseException] = []

    def serve() -> None:
        try:
            server.serve_forever(**{"poll_interval": 0.02} | options)
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    if errors:
        raise errors[0]


def ask(server: Any, text: bytes = b"hello\n") -> bytes:
    """What a client gets that sends `text` and says that it is done."""
    if server.socket_type == socket.SOCK_DGRAM:
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(socket.socket(server.address_family, socket.SOCK_DGRAM))
            client.settimeout(10)
            if server.address_family == getattr(socket, "AF_UNIX", None):
                client.bind(b"")  # an abstract name of the kernel's choice
            client.sendto(text, server.server_address)
            return client.recv(70_000)
    with socket.socket(server.address_family) as client:
        client.settimeout(10)
        client.connect(server.server_address)
        client.sendall(text)
        with contextlib.suppress(OSError):  # ENOTCONN: it was refused meanwhile
            client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(1000), b""))


class Upper(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline().upper())


def over(client: Any, ca: TLS) -> bytes:
    with ca.client.wrap_socket(client, server_hostname="localhost") as encrypted:
        encrypted.sendall(b"hello\n")
        return b"".join(iter(lambda: encrypted.recv(1000), b""))


def stop(server: Any) -> None:
    """What `shutdown` does, without the wait in which the standard library would deadlock here."""
    server._BaseServer__shutdown_request = True
