"""The kinds of handlers that a server can serve; `adapt` makes one of whatever it was given."""

import asyncio
import dataclasses
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from asyncserver._datagram.datagram import Datagram
from asyncserver._handlers.mirrors import BaseRequestHandler, ServerView
from asyncserver._listen.address import Address, PeerAddress
from asyncserver._settings.limits import Limits
from asyncserver._stream.connection import Connection
from asyncserver._stream.foreign import AnyProtocol
from asyncserver.errors import HandlerError

__all__ = (
    "AsyncHandler",
    "BlockingHandler",
    "Handler",
    "HandlerAdapter",
    "Kind",
    "ProtocolFactory",
    "check",
    "narrow",
)


@dataclass(frozen=True, slots=True)
class AsyncHandler:
    """It runs on the loop, in a task; `None` where it cannot take what comes.

    Attributes:
        flaw: what is missing in a handler of the right kind; a sentence that says what to write.

    """

    stream: Callable[[Connection], Coroutine[Any, Any, object]] | None
    datagram: Callable[[Datagram], Awaitable[object]] | None
    flaw: str | None = None


@dataclass(frozen=True, slots=True)
class ProtocolFactory:
    """It makes asyncio protocols, which get all that comes without a detour."""

    stream: Callable[[], AnyProtocol] | None
    datagram: Callable[[], asyncio.DatagramProtocol] | None


@dataclass(frozen=True, slots=True)
class BlockingHandler:
    """It runs in threads, and is awaited here.

    Attributes:
        stream: takes a blocking socket, shaken hands with if it is a TLS one, and its peer; returns
            what the handler raised.
        capacity: most requests at once, if that is less than `Limits` allow.

    """

    stream: Callable[[socket.socket, PeerAddress], Awaitable[BaseException | None]] | None
    datagram: Callable[[Datagram], Awaitable[object]] | None
    capacity: int | None = None


Kind = AsyncHandler | ProtocolFactory | BlockingHandler


class HandlerAdapter:
    """A handler of some other kind, which knows itself how to be served."""

    def kind(self, server: ServerView) -> Kind:
        """Return what `server` shall serve."""
        raise NotImplementedError


Handler = (
    Callable[[Connection], Coroutine[Any, Any, object]]
    | Callable[[Datagram], Coroutine[Any, Any, object]]
    | type[BaseRequestHandler]
    | Callable[[], asyncio.BaseProtocol]
    | HandlerAdapter
)
"""An async function of one argument, a `BaseRequestHandler` class, a protocol factory, or what
`compat.threaded` makes of a blocking handler."""


def check(kind: Kind, address: Address, name: str) -> None:
    """Raise `HandlerError` if the handler, called `name`, cannot serve `address`."""
    if address.is_stream and kind.stream is None:
        raise HandlerError(f"{name} handles datagrams; {address} has connections")
    if not address.is_stream and kind.datagram is None:
        raise HandlerError(f"{name} handles connections; {address} has datagrams")
    if isinstance(kind, AsyncHandler) and kind.flaw is not None:
        raise HandlerError(kind.flaw)


def narrow(kind: Kind, limits: Limits) -> Limits:
    """Return `limits` with nothing above what the handler takes at once."""
    capacity = kind.capacity if isinstance(kind, BlockingHandler) else None
    if capacity is None:
        return limits
    return dataclasses.replace(
        limits,
        connections=min(capacity, limits.connections or capacity),
        datagrams=min(capacity, limits.datagrams or capacity),
    )
