"""The small client behind `asyncserver send`: say something to a server, read what it answers."""

import os
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

from asyncserver.address import Address

__all__ = ("exchange",)

LONGEST_DATAGRAM = 65_535  # bytes
READ_SIZE = 65_536  # bytes


def exchange(address: Address, data: bytes, timeout: float | None) -> Iterator[bytes]:
    """Send `data` and yield the answer: one datagram, or a stream up to its end.

    A stream is half-closed after `data`, so that the server knows that nothing more comes.

    Raises:
        OSError: nobody listens there, or (TimeoutError) nothing came for `timeout` seconds.

    """
    return (
        _stream(address, data, timeout) if address.is_stream else _datagram(address, data, timeout)
    )


def _stream(address: Address, data: bytes, timeout: float | None) -> Iterator[bytes]:
    with _connect(address, timeout) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while chunk := sock.recv(READ_SIZE):
            yield chunk


def _connect(address: Address, timeout: float | None) -> socket.socket:
    if not address.is_unix:
        return socket.create_connection((address.host or "localhost", address.port), timeout)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(_unix_name(address))
    except BaseException:
        sock.close()
        raise
    return sock


def _datagram(address: Address, data: bytes, timeout: float | None) -> Iterator[bytes]:
    if address.is_unix:
        # The reply needs a name to go to.
        with (
            tempfile.TemporaryDirectory(prefix="asyncserver-") as directory,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        ):
            sock.bind(os.path.join(directory, "reply.sock"))
            yield _ask(sock, _unix_name(address), data, timeout)
    else:
        host = address.host or "localhost"
        info = socket.getaddrinfo(host, address.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(info[0], socket.SOCK_DGRAM) as sock:
            yield _ask(sock, info[4], data, timeout)


def _ask(sock: socket.socket, peer: Any, data: bytes, timeout: float | None) -> bytes:
    sock.settimeout(timeout)
    sock.connect(peer)
    sock.send(data)
    return sock.recv(LONGEST_DATAGRAM)


def _unix_name(address: Address) -> str:
    return "\0" + address.path[1:] if address.path.startswith("@") else address.path
