"""The life of one connection: open, shake hands, handle, finish.

A session runs in a task of its own, which the server owns. Whatever happens in it ends here, as an
event; only what ends the whole program goes further, and the task's own cancellation.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import anyio

from asyncserver import events
from asyncserver._handlers.kinds import is_stream_protocol
from asyncserver._handlers.mirrors import Service
from asyncserver._listen.address import PeerAddress
from asyncserver._settings.limits import Limits, Timeouts
from asyncserver._stream.blocking import hosted
from asyncserver._stream.budget import Pace
from asyncserver._stream.connection import Connection
from asyncserver._stream.deadlines import overdue
from asyncserver._stream.debugging import SlowStepsProtocol
from asyncserver._stream.foreign import AnyProtocol, tell_when_lost
from asyncserver._stream.protocol import StreamProtocol
from asyncserver._tls.transport import TLSTransport, shake_hands
from asyncserver.errors import (
    AsyncServerError,
    ConnectionBusy,
    ConnectionClosed,
    DeadlineExceeded,
    HandlerError,
    HandshakeError,
    UpgradeRefusedError,
)

__all__ = ("Session", "Terms")


@dataclass(frozen=True, slots=True)
class Terms:
    """What all sessions of a server have in common."""

    service: Service
    tls: ssl.SSLContext | None
    limits: Limits
    timeouts: Timeouts
    observers: events.Observers


class Session:
    """One admitted connection.

    Attributes:
        context: what its task runs in.
        opened: when it was accepted, in seconds of the loop's clock.
        peer: who is at the other end.
        connection: what the handler holds, once it does; never with a protocol factory.

    """

    __slots__ = (
        "_aborted", "_asked", "_expired", "_handed_over", "_lost", "_protocol", "_sock", "_terms", "_transport",
        "connection", "context", "opened", "peer",
    )  # fmt: skip

    def __init__(
        self, sock: socket.socket, peer: PeerAddress, terms: Terms, context: Context
    ) -> None:
        self._sock = sock
        self._terms = terms
        self._transport: asyncio.Transport | None = None
        self._protocol: AnyProtocol | None = None  # somebody else's
        self._lost: asyncio.Future[None] | None = None
        self._expired: str | None = None
        self._handed_over = False  # the bare socket, to a thread
        self._aborted = False
        self._asked: bool | None = None  # to finish, and then whether it is spared
        self.opened = asyncio.get_running_loop().time()
        self.context = context
        self.connection: Connection | None = None
        self.peer = peer

    @property
    def host(self) -> str:
        """Whom the gate counts this connection for; empty for Unix sockets."""
        return "" if isinstance(self.peer, str) else self.peer[0]

    def coroutine(self, pace: Pace) -> Coroutine[Any, Any, None]:
        """Return what its task shall run. Every end of it leaves the socket closed."""
        if self._terms.service.stream is None:
            return self._run(None)
        loop = asyncio.get_running_loop()
        kind = SlowStepsProtocol if loop.get_debug() else StreamProtocol
        protocol = kind(loop, self._terms.limits.read_buffer, pace)
        return protocol.drive(self._run(protocol), self.context)

    async def _run(self, protocol: StreamProtocol | None) -> None:
        service = self._terms.service
        try:
            if protocol is not None and service.stream is not None:
                connection = await self._open_connection(protocol)
                try:  # not in a method of its own: each is a frame that an idle connection holds
                    await service.stream(connection)
                except BaseException as exc:
                    if self._ends(exc):  # cancelled, given up, or the program ends: no waiting
                        connection.abort()
                        raise
                    self._report(exc, ended=protocol.ended)
                connection.close()
                if protocol.transport.get_write_buffer_size():
                    await connection.aclose()
            elif service.blocking is not None:
                await self._open_socket(service.blocking)
            else:
                await self._open_protocol()
        except (HandshakeError, DeadlineExceeded) as exc:
            self._terms.observers.emit(events.HandshakeFailed(self.peer, exc))
        except OSError as exc:  # the peer was gone before the loop had it
            self._terms.observers.emit(events.Disconnected(self.peer, exc))
        except Exception as exc:
            self.abort()  # somebody else's protocol did not like its transport
            self._terms.observers.emit(events.Failed(self.peer, exc))
        finally:
            if protocol is not None:
                protocol.let_go()

    def ask_to_finish(self, *, spared: bool) -> None:
        """Tell the handler that the server is closing; if `spared`, not before its first message."""
        self._asked = spared
        if self.connection is not None:
            self.connection.finish(spared=spared)
        elif self._protocol is not None:
            self._tell_protocol()
        elif self._terms.tls is not None and not spared and not self._handed_over:
            self.abort()  # still shaking hands; but a thread cannot be told

    def _tell_protocol(self) -> None:
        if self._asked is not False:
            return
        try:
            getattr(self._protocol, "closing", _nothing)()
        except Exception as exc:
            self._terms.observers.emit(events.Failed(self.peer, exc))

    def abort(self) -> None:
        """Close at once. The task ends by itself, unless the handler will not have it."""
        self._aborted = True
        if self.connection is not None:
            self.connection.abort()
        elif self._transport is not None:
            self._transport.abort()
        elif self._terms.service.blocking is not None:
            with contextlib.suppress(OSError):  # the loop may watch it, so it is not closed yet
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def overdue(self, now: float) -> str | None:
        """Return the name of the deadline that is over, if one is; each only once."""
        timeouts = self._terms.timeouts
        deadline: str | None = None
        if self.connection is not None:
            deadline = overdue(self.connection._protocol, timeouts, now)
        elif timeouts.lifetime is not None and now - self.opened >= timeouts.lifetime:
            deadline = "lifetime"
        elif (
            self._lost is not None and self._transport is not None and self._transport.is_closing()
        ):
            self._end_protocol()  # it was exchanged by set_protocol(), and we were not told
        return None if deadline == self._expired else deadline

    def expire(self, deadline: str, task: asyncio.Task[None]) -> None:
        """Act on a deadline: "idle" ends the reading only, so that a handler can say goodbye."""
        self._expired = deadline
        if self.connection is not None:
            error = DeadlineExceeded(deadline, getattr(self._terms.timeouts, deadline))
            if deadline == "idle":
                self.connection._protocol.stop_reading(error)
                return
            self.connection._protocol.fail(error)
        if deadline == "lifetime":
            task.cancel()

    def release(self) -> tuple[int, int]:
        """Close the socket if it never became a transport; return the bytes received and sent."""
        if self._transport is None:
            self._sock.close()
        if self.connection is None:
            return 0, 0
        return self.connection.bytes_received, self.connection.bytes_sent

    # -- opening -------------------------------------------------------------------------------

    async def _open_connection(self, protocol: StreamProtocol) -> Connection:
        terms = self._terms
        await self._open(protocol)
        if not protocol.transport.is_closing():  # uvloop raises if the peer has gone already
            protocol.transport.set_write_buffer_limits(terms.limits.write_buffer)
        self.connection = Connection(protocol, self.peer, terms.limits, terms.timeouts)
        protocol.opened = protocol.since = self.opened  # one number for both
        if self._asked is not None:
            self.connection.finish(spared=self._asked)
        return self.connection

    async def _open(self, protocol: AnyProtocol) -> None:
        """Put `protocol` onto the socket, with TLS between them where that is wanted."""
        loop = asyncio.get_running_loop()
        if self._terms.tls is None:
            self._transport, _ = await loop.connect_accepted_socket(lambda: protocol, self._sock)
            return
        layer = TLSTransport(self._terms.tls)
        seconds = self._terms.timeouts.handshake
        try:
            async with asyncio.timeout(seconds):
                self._transport, _ = await loop.connect_accepted_socket(lambda: layer, self._sock)
                if self._aborted:
                    self._transport.abort()  # `ask_to_finish` came too early for it
                await layer.handshake()
        except TimeoutError:
            if seconds is None:
                raise
            raise DeadlineExceeded("handshake", seconds) from None
        self._transport = layer
        protocol.connection_made(layer)
        layer.start(protocol)

    # -- handling ------------------------------------------------------------------------------

    def _ends(self, exc: BaseException) -> bool:
        """Whether `exc` is for whoever runs the task, and not the handler's own failure."""
        if isinstance(exc, asyncio.CancelledError):
            task = asyncio.current_task()
            return task is None or task.cancelling() > 0  # else what it awaited was cancelled
        return _ends_the_program(exc)

    def _report(self, exc: BaseException, *, ended: bool) -> None:
        """Say whose fault it was: the peer's is nothing to shout about."""
        emit = self._terms.observers.emit
        if isinstance(exc, DeadlineExceeded) and exc.deadline != "handshake":
            return  # told when it ran out
        if isinstance(exc, HandshakeError | UpgradeRefusedError | DeadlineExceeded):
            emit(events.HandshakeFailed(self.peer, exc))
        elif _is_peers_fault(exc, ended=ended, own=self._closed_itself()):
            emit(events.Disconnected(self.peer, exc))
        else:
            emit(events.Failed(self.peer, exc))

    def _closed_itself(self) -> bool:
        """Whether the handler has closed its connection, and nobody else."""
        return self.connection is not None and self.connection.closed_by_handler

    # -- a thread with the bare socket ---------------------------------------------------------

    async def _open_socket(
        self, handle: Callable[[socket.socket, PeerAddress], Awaitable[BaseException | None]]
    ) -> None:
        if self._terms.tls is not None:
            await self._wrap_socket(self._terms.tls)
        sock = hosted(self._sock, self._terms.timeouts, self._terms.limits.line)
        self._sock = sock
        self._handed_over = True
        try:
            raised = await handle(sock, self.peer)
            if sock.overdue is not None:
                self._terms.observers.emit(events.Expired(self.peer, sock.overdue))
            if raised is not None:
                self._report(raised, ended=True)
        finally:  # a copy of the descriptor may keep it open, as in socketserver
            with contextlib.suppress(OSError):  # the peer may have gone
                sock.shutdown(socket.SHUT_WR)

    async def _wrap_socket(self, context: ssl.SSLContext) -> None:
        seconds = self._terms.timeouts.handshake
        sock = context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
        sock.setblocking(False)
        self._sock = sock
        try:
            async with asyncio.timeout(seconds):
                await shake_hands(sock)
        except TimeoutError:
            if seconds is None:
                raise
            raise DeadlineExceeded("handshake", seconds) from None
        except OSError as exc:  # ssl.SSLError is one
            raise HandshakeError(str(exc)) from exc

    # -- somebody else's protocol --------------------------------------------------------------

    async def _open_protocol(self) -> None:
        assert self._terms.service.stream_factory is not None
        protocol = self._terms.service.stream_factory()
        if not is_stream_protocol(protocol):
            raise HandlerError(
                f"the factory returned {protocol!r}: it must return an asyncio.Protocol, or be"
                " `async def handler(connection)`"
            )
        self._lost = asyncio.get_running_loop().create_future()
        await self._open(tell_when_lost(protocol, self._end_protocol))
        self._protocol = protocol
        self._tell_protocol()
        try:
            await self._lost
        except asyncio.CancelledError:
            self.abort()
            raise

    def _end_protocol(self) -> None:
        assert self._lost is not None
        if not self._lost.done():
            self._lost.set_result(None)


def _nothing() -> None:
    """Stand in for a protocol's `closing()`, which it need not have."""


OWN_FAULTS = (ConnectionBusy, HandlerError)
STREAM_ENDS = (
    anyio.BrokenResourceError,
    anyio.DelimiterNotFound,
    anyio.EndOfStream,
    anyio.IncompleteRead,
    ConnectionError,
    EOFError,
)


def _is_peers_fault(exc: BaseException, *, ended: bool, own: bool) -> bool:
    """Whether the handler only tripped over the end of its connection, which was not its `own` doing.

    Our own exceptions can come from nowhere else; those of anyio's wrappers, and builtin ones, may
    be about another stream of the handler's, so they count only if this one is over.
    """
    if isinstance(exc, BaseExceptionGroup):
        return all(_is_peers_fault(each, ended=ended, own=own) for each in exc.exceptions)
    if isinstance(exc, ConnectionClosed):
        return not own
    if isinstance(exc, AsyncServerError):
        return not isinstance(exc, OWN_FAULTS)
    return isinstance(exc, STREAM_ENDS) and ended


def _ends_the_program(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return any(_ends_the_program(each) for each in exc.exceptions)
    return isinstance(exc, SystemExit | KeyboardInterrupt | GeneratorExit)
