"""The small client behind `asyncserver send`: say something to a server, read what it answers.

It blocks, and knows nothing of event loops: a second opinion on what the server does.
"""

import contextlib
import os
import selectors
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, Final

from asyncserver._listen.address import Address

__all__ = ("READ_SIZE", "exchange", "how_to_try")

READ_SIZE: Final = 65_536  # bytes
LONGEST_DATAGRAM: Final = 256 * 1024  # bytes; Linux's default for Unix sockets is 208 KiB


def exchange(address: Address, data: bytes, timeout: float | None) -> Iterator[bytes]:
    """Send `data` and yield the answer: one datagram, or a stream up to its end.

    A stream is half-closed after `data`, so that the server knows that nothing more comes.

    Raises:
        OSError: nobody listens there, the server did not take all of `data`, or (TimeoutError)
            nothing moved for `timeout` seconds.

    """
    return (
        _stream(address, data, timeout) if address.is_stream else _datagram(address, data, timeout)
    )


def how_to_try(address: Address, *, encrypted: bool) -> str | None:
    """Return a command that talks to the server at `address`; `None` if there is none for it."""
    if not address.is_unix:
        address = Address.of_ip(address.scheme, _host(address), address.port)
    if not encrypted:
        found = shutil.which("asyncserver") is not None
        program = ["asyncserver"] if found else [sys.executable, "-m", "asyncserver"]
        return shlex.join([*program, "send", address, "hello"])
    if address.path.startswith("@"):
        return None  # OpenSSL knows no abstract names
    host = f"[{address.host}]" if ":" in address.host else address.host  # its zone as it is
    peer = ["-unix", address.path] if address.is_unix else ["-connect", f"{host}:{address.port}"]
    return shlex.join(["openssl", "s_client", "-quiet", *peer])


# -- streams -----------------------------------------------------------------------------------


def _stream(address: Address, data: bytes, timeout: float | None) -> Iterator[bytes]:
    # Sends and receives at once: who echoes stops reading when nobody reads the echo.
    left, failure = memoryview(data), None
    wanted = selectors.EVENT_READ | selectors.EVENT_WRITE
    with _connect(address, timeout) as sock, selectors.DefaultSelector() as selector:
        sock.setblocking(False)
        selector.register(sock, wanted)
        while wanted:
            selector.modify(sock, wanted)
            ready = selector.select(timeout)
            if not ready:
                raise TimeoutError
            if ready[0][1] & selectors.EVENT_WRITE:
                left, failure = _send_some(sock, left)
                if failure is not None or not left:
                    wanted &= ~selectors.EVENT_WRITE
            if ready[0][1] & selectors.EVENT_READ:
                chunk = sock.recv(READ_SIZE)
                if chunk:
                    yield chunk
                else:
                    wanted &= ~selectors.EVENT_READ
    if failure is not None:
        raise failure


def _send_some(sock: socket.socket, data: memoryview) -> tuple[memoryview, OSError | None]:
    """Return what is left to send, and why no more can be: the answer may still be on its way."""
    try:
        data = data[sock.send(data) :]
        if not data:
            sock.shutdown(socket.SHUT_WR)
    except BlockingIOError:
        pass
    except OSError as exc:
        return data, exc
    return data, None


def _connect(address: Address, timeout: float | None) -> socket.socket:
    if not address.is_unix:
        return socket.create_connection((_host(address), address.port), timeout)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(_unix_name(address))
    except BaseException:
        sock.close()
        raise
    return sock


# -- datagrams ---------------------------------------------------------------------------------


def _datagram(address: Address, data: bytes, timeout: float | None) -> Iterator[bytes]:
    if address.is_unix:
        with _named_socket() as sock:
            yield _ask(sock, _unix_name(address), data, timeout)
        return
    found = socket.getaddrinfo(_host(address), address.port, type=socket.SOCK_DGRAM)
    for attempt, (family, *_, peer) in enumerate(found, 1):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                answer = _ask(sock, peer, data, timeout)
        except TimeoutError:
            raise
        except OSError:  # nobody there: perhaps the server has only the other IP family
            if attempt == len(found):
                raise
        else:
            yield answer
            return


@contextlib.contextmanager
def _named_socket() -> Iterator[socket.socket]:
    """Make a Unix datagram socket with a name that a reply can go to."""
    with (
        tempfile.TemporaryDirectory(prefix="asyncserver-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        path = os.path.join(directory, "reply.sock")
        sock.bind(path)
        # The server may be another user. Connected, the socket takes nothing from anybody else.
        os.chmod(directory, 0o711)  # noqa: S103 - as said
        os.chmod(path, 0o666)  # noqa: S103
        yield sock


def _ask(sock: socket.socket, peer: Any, data: bytes, timeout: float | None) -> bytes:
    sock.settimeout(timeout)
    sock.connect(peer)
    sock.send(data)
    return sock.recv(LONGEST_DATAGRAM)


# -- names -------------------------------------------------------------------------------------


def _host(address: Address) -> str:
    """Return a host to connect to: "all addresses" is only a place to listen."""
    return {"": "localhost", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)


def _unix_name(address: Address) -> str:
    return "\0" + address.path[1:] if address.path.startswith("@") else address.path
