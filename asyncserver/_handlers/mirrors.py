"""The classes of handlers, which mirror `socketserver`'s.

The same names and the same order of calls, with `async` and `await` added. What else can be a handler
stands in `kinds`.
"""

import io
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import Any, Protocol

from asyncserver._datagram.datagram import Datagram
from asyncserver._lifecycle import ServerState
from asyncserver._listen.address import Address, PeerAddress
from asyncserver._observe.stats import Stats
from asyncserver._settings.checks import octets
from asyncserver._stream.connection import Connection
from asyncserver._stream.draining import DrainEvent
from asyncserver.events import Event

__all__ = (
    "BaseRequestHandler",
    "DatagramRequestHandler",
    "ServerView",
    "StreamRequestHandler",
)

Octets = bytes | bytearray | memoryview


class ServerView(Protocol):
    """What a handler sees of the `Server` that serves it; there it is described."""

    @property
    def addresses(self) -> tuple[Address, ...]: ...
    @property
    def sockets(self) -> tuple[socket.socket, ...]: ...
    @property
    def state(self) -> ServerState: ...
    @property
    def draining(self) -> DrainEvent: ...
    @property
    def connections(self) -> Iterator[Connection]: ...
    @property
    def stats(self) -> Stats: ...
    async def close(self, grace: float | None = ...) -> None: ...
    def begin_close(self, grace: float | None) -> None: ...
    def abort(self) -> None: ...
    async def wait_closed(self) -> None: ...
    def emit(self, event: Event) -> None: ...


class BaseRequestHandler:
    """Handles one request: override `handle`, and `setup` and `finish` where needed.

    Attributes:
        request: the `Connection` or the `Datagram`.
        client_address: `request.peer`.
        server: the `Server`.

    """

    def __init__(self, request: Any, client_address: PeerAddress, server: ServerView) -> None:
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
        self.rfile: StreamReadFile = StreamReadFile(self.request)
        self.wfile: StreamWriteFile = StreamWriteFile(self.request)


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
        self.packet: bytes = self.request.data
        self.rfile: DatagramReadFile = DatagramReadFile(self.packet)
        self.wfile: DatagramWriteFile = DatagramWriteFile()

    async def finish(self) -> None:
        reply = self.wfile.getvalue()
        if reply:
            await self.request.reply(reply)


class StreamReadFile:
    """What has been received, as a file to await."""

    def __init__(self, connection: Connection) -> None:
        self.read: Callable[..., Coroutine[Any, Any, bytes]] = connection.read
        self.readline: Callable[[], Coroutine[Any, Any, bytes]] = connection.readline
        self.readexactly: Callable[[int], Coroutine[Any, Any, bytes]] = connection.readexactly
        self.readuntil: Callable[..., Coroutine[Any, Any, bytes]] = connection.readuntil
        self._lines = connection.lines

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._lines()


class StreamWriteFile:
    """What is to be sent, as a file to await."""

    def __init__(self, connection: Connection) -> None:
        self.write: Callable[[Octets], Coroutine[Any, Any, None]] = connection.send

    async def writelines(self, lines: Iterable[Octets]) -> None:
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

    async def write(self, data: Octets) -> None:
        """Append to the reply."""
        self._file.write(octets("write()", data))

    async def flush(self) -> None:
        """Do nothing: the reply goes out at the end."""

    def getvalue(self) -> bytes:
        """Return the reply so far."""
        return self._file.getvalue()
