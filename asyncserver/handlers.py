"""Every kind of handler becomes one `Service`; what cannot be one is told how to become one.

The classes mirror `socketserver`'s: the same names and the same order of calls, with `async` and
`await` added.
"""

import asyncio
import dataclasses
import inspect
import io
import socket
import socketserver
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncserver.address import Address, PeerAddress
from asyncserver.connection import Connection
from asyncserver.datagram import Datagram
from asyncserver.errors import HandlerError
from asyncserver.limits import Limits
from asyncserver.protocol import AnyProtocol

if TYPE_CHECKING:  # handlers are below the server, which only passes through them
    from asyncserver.server import Server

__all__ = (
    "BaseRequestHandler",
    "DatagramRequestHandler",
    "Handler",
    "Hosted",
    "Service",
    "StreamRequestHandler",
    "adapt",
    "is_blocking",
)


@dataclass(frozen=True, slots=True)
class Service:
    """What a server does with what comes in; `None` where the handler cannot take it.

    Attributes:
        blocking: takes a blocking socket, shaken hands with if it is a TLS one, and its peer; returns
            what the handler raised.
        capacity: most requests at once, if that is less than `Limits` allow.

    """

    stream: Callable[[Connection], Coroutine[Any, Any, object]] | None = None
    datagram: Callable[[Datagram], Awaitable[object]] | None = None
    stream_factory: Callable[[], AnyProtocol] | None = None
    datagram_factory: Callable[[], asyncio.DatagramProtocol] | None = None
    blocking: Callable[[socket.socket, PeerAddress], Awaitable[BaseException | None]] | None = None
    capacity: int | None = None

    def check(self, address: Address, name: str) -> None:
        """Raise `HandlerError` if the handler, called `name`, cannot serve `address`."""
        if address.is_stream and not (self.stream or self.stream_factory or self.blocking):
            raise HandlerError(f"{name} handles datagrams; {address} has connections")
        if not address.is_stream and not (self.datagram or self.datagram_factory):
            raise HandlerError(f"{name} handles connections; {address} has datagrams")

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


# -- classes -----------------------------------------------------------------------------------


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

    async def writelines(self, lines: list[bytes]) -> None:
        """Send all `lines`; as in `io`, none gets a newline added."""
        await self.write(b"".join(lines))

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

    async def write(self, data: bytes) -> None:
        """Append to the reply."""
        self._file.write(data)

    async def flush(self) -> None:
        """Do nothing: the reply goes out at the end."""

    def getvalue(self) -> bytes:
        """Return the reply so far."""
        return self._file.getvalue()


# -- from a handler to a service ---------------------------------------------------------------


def adapt(handler: Handler, server: "Server") -> Service:
    """Find out what kind of handler this is.

    Raises:
        HandlerError: it is none; the message says what to write instead.

    """
    if isinstance(handler, Hosted):
        return handler.service(server)
    if isinstance(handler, type):
        service = _adapt_class(handler, server)
        if service is not None:
            return service
    elif _is_async(handler):
        _check_takes_one_argument(handler)
        return Service(stream=handler, datagram=handler)
    elif callable(handler) and _takes_nothing(handler):
        return Service(stream_factory=handler, datagram_factory=handler)
    raise HandlerError(_advice(handler))


def _adapt_class(handler: type, server: "Server") -> Service | None:
    if issubclass(handler, BaseRequestHandler):
        _check_methods(handler)

        async def serve(request: Connection | Datagram) -> None:
            served = handler(request, request.peer, server)
            await served.setup()
            try:
                await served.handle()
            finally:
                await served.finish()

        return Service(
            stream=None if issubclass(handler, DatagramRequestHandler) else serve,
            datagram=None if issubclass(handler, StreamRequestHandler) else serve,
        )
    if issubclass(handler, asyncio.DatagramProtocol):
        return Service(datagram_factory=handler)
    if issubclass(handler, asyncio.Protocol | asyncio.BufferedProtocol):
        return Service(stream_factory=handler)
    return None


def _check_methods(handler: type[BaseRequestHandler]) -> None:
    for name in ("setup", "handle", "finish"):
        if not inspect.iscoroutinefunction(getattr(handler, name)):
            raise HandlerError(
                f"{handler.__qualname__}.{name}() is not async: write `async def {name}(self)`"
            )


def _is_async(handler: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 - its kind matters, not that it is there
    )


def _check_takes_one_argument(handler: Callable[..., Any]) -> None:
    try:
        inspect.signature(handler).bind(None)
    except TypeError as exc:
        name = _name(handler)
        raise HandlerError(
            f"{name}() cannot be called with a connection ({exc}): write `async def {name}"
            "(connection)`, or a datagram's `(datagram)`"
        ) from None


def _takes_nothing(handler: Callable[..., Any]) -> bool:
    try:
        inspect.signature(handler).bind()
    except (TypeError, ValueError):
        return False
    return True


def is_blocking(handler: object) -> bool:
    """Whether this is a handler for threads: one of `socketserver`'s, or a function that blocks."""
    if isinstance(handler, type):
        return issubclass(handler, socketserver.BaseRequestHandler)
    if isinstance(handler, Hosted) or not callable(handler) or _is_async(handler):
        return False
    return not inspect.isasyncgenfunction(handler) and not _takes_nothing(handler)


def _advice(handler: object) -> str:
    name = _name(handler)
    if isinstance(handler, type) and issubclass(handler, socketserver.BaseRequestHandler):
        return (
            f"{name} is a blocking socketserver handler: derive it from"
            f" asyncserver.{_mirror(handler)} and write `async def handle(self)`, or run it in"
            f" threads with compat.threaded({name})"
        )
    if inspect.isasyncgenfunction(handler):
        return f"{name}() is an async generator: a handler sends, it does not yield"
    if inspect.iscoroutine(handler):
        handler.close()
        return f"this is a coroutine: give the function, `{handler.__name__}` and not a call of it"
    if callable(handler) and not isinstance(handler, type):
        return (
            f"{name}() is a blocking function: write `async def {name}(connection)`, or run it in"
            f" threads with compat.threaded({name})"
        )
    return (
        f"{name} cannot handle requests: give an async function, a class derived from"
        " asyncserver.BaseRequestHandler, or a factory of asyncio protocols"
    )


def _mirror(handler: type) -> str:
    names = [each.__name__ for each in handler.__mro__ if each.__module__ == "socketserver"]
    return names[0]


def _name(handler: object) -> str:
    return getattr(handler, "__qualname__", None) or repr(handler)
