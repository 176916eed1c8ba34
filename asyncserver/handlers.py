"""The classes of handlers, and what a server knows of any handler: its `Service`.

The classes mirror `socketserver`'s: the same names and the same order of calls, with `async` and
`await` added. What else can be a handler is found out in `kinds`.
"""

import asyncio
import dataclasses
import io
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncserver.address import Address, PeerAddress
from asyncserver.connection import Connection
from asyncserver.datagram import Datagram
from asyncserver.errors import HandlerError
from asyncserver.foreign import AnyProtocol
from asyncserver.limits import Limits
from asyncserver.settings import octets

if TYPE_CHECKING:  # handlers are below the server, which only passes through them
    from asyncserver.server import Server

__all__ = (
    "BaseRequestHandler",
    "DatagramRequestHandler",
    "Handler",
    "Hosted",
    "Service",
    "StreamRequestHandler",
)


@dataclass(frozen=True, slots=True)
class Service:
    """What a server does with what comes in; `None` where the handler cannot take it.

    Attributes:
        blocking: takes a blocking socket, shaken hands with if it is a TLS one, and its peer; returns
            what the handler raised.
        capacity: most requests at once, if that is less than `Limits` allow.
        flaw: what is missing in a handler of the right kind; a sentence that says what to write.

    """

    stream: Callable[[Connection], Coroutine[Any, Any, object]] | None = None
    datagram: Callable[[Datagram], Awaitable[object]] | None = None
    stream_factory: Callable[[], AnyProtocol] | None = None
    datagram_factory: Callable[[], asyncio.DatagramProtocol] | None = None
    blocking: Callable[[socket.socket, PeerAddress], Awaitable[BaseException | None]] | None = None
    capacity: int | None = None
    flaw: str | None = None

    def check(self, address: Address, name: str) -> None:
        """Raise `HandlerError` if the handler, called `name`, cannot serve `address`."""
        if address.is_stream and not (self.stream or self.stream_factory or self.blocking):
            raise HandlerError(f"{name} handles datagrams; {address} has connections")
        if not address.is_stream and not (self.datagram or self.datagram_factory):
            raise HandlerError(f"{name} handles connections; {address} has datagrams")
        if self.flaw is not None:
            raise HandlerError(self.flaw)

    def narrow(self, limits: Limits) -> Limits:
        """Return `limits` with nothing above `capacity`."""
        if self.capacity is None:
            return limits
        return dataclasses.replace(
            limits,
            connections=min(self.capacity, limits.connections or self.capacity),
            datagrams=min(self.capacity, limits.datagrams or self.capacity),
        )


class Hosted:
    """A handler of some other kind, which knows itself how to be served."""

    def service(self, server: "Server") -> Service:
        """Return what `server` shall do."""
        raise NotImplementedError


Handler = Callable[..., Any] | Hosted
"""An async function of one argument, a `BaseRequestHandler` class, a protocol factory, or what
`compat.threaded` makes of a blocking handler."""


class BaseRequestHandler:
    """Handles one request: override `handle`, and `setup` and `finish` where needed.

    Attributes:
        request: the `Connection` or the `Datagram`.
        client_address: `request.peer`.
        server: the `Server`.

    """

    def __init__(self, request: Any, client_address: PeerAddress, server: "Server") -> None:
        self.request = request
        self.client_address = client_address
        self.server = server

    async def setup(self) -> None:
        """Prepare; called before `handle`."""

    async def handle(self) -> None:
        """Do the work."""

    async def finish(self) -> None:
        """Clean up; called after `handle` whenever `setup` did not raise."""


class StreamRequestHandler(BaseRequestHandler):
    """Handles a connection through `rfile` and `wfile`.

    Attributes:
        request: the `Connection`, which can do all this itself, and more.
        rfile: `readline`, `read`, `readexactly`, `readuntil`, and iteration over lines.
        wfile: `write` and `writelines`.

    """

    request: Connection

    async def setup(self) -> None:
        self.rfile = StreamReadFile(self.request)
        self.wfile = StreamWriteFile(self.request)


class DatagramRequestHandler(BaseRequestHandler):
    """Handles a datagram through `rfile` and `wfile`.

    What was written goes back to the sender as one datagram at the end. Unlike in `socketserver`
    (cpython#152024), a handler that writes nothing replies nothing.

    Attributes:
        request: the `Datagram`.
        packet: its bytes.

    """

    request: Datagram

    async def setup(self) -> None:
        self.packet = self.request.data
        self.rfile = DatagramReadFile(self.packet)
        self.wfile = DatagramWriteFile()

    async def finish(self) -> None:
        reply = self.wfile.getvalue()
        if reply:
            await self.request.reply(reply)


class StreamReadFile:
    """What has been received, as a file to await."""

    def __init__(self, connection: Connection) -> None:
        self.read = connection.read
        self.readline = connection.readline
        self.readexactly = connection.readexactly
        self.readuntil = connection.readuntil
        self._lines = connection.lines

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._lines()


class StreamWriteFile:
    """What is to be sent, as a file to await."""

    def __init__(self, connection: Connection) -> None:
        self.write = connection.send

    async def writelines(self, lines: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send all `lines`; as in `io`, none gets a newline added."""
        await self.write(b"".join([octets("writelines()", line) for line in lines]))

    async def flush(self) -> None:
        """Do nothing: `write` has sent it."""


class DatagramReadFile:
    """A datagram's bytes, as a file to await."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    async def read(self, n: int = -1) -> bytes:
        """Return up to `n` bytes, all that is left without `n`."""
        return self._file.read(n)

    async def readline(self) -> bytes:
        """Return a line; what is left if no newline ends it."""
        return self._file.readline()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for line in self._file:
            yield line


class DatagramWriteFile:
    """A reply in the making, as a file to await."""

    def __init__(self) -> None:
        self._file = io.BytesIO()

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append to the reply."""
        self._file.write(octets("write()", data))

    async def flush(self) -> None:
        """Do nothing: the reply goes out at the end."""

    def getvalue(self) -> bytes:
        """Return the reply so far."""
        return self._file.getvalue()
