"""The life of one connection: open, shake hands, handle, finish. This is what all kinds share.

A connection has a task of its own, which the server owns. Whatever happens in it ends here, as an
event; only what ends the whole program goes further, and the task's own cancellation. How each kind
of handler is served stands in `stream_task`, `protocol_task` and `blocking_task`.
"""

import asyncio
import socket
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

from asyncserver import events
from asyncserver._listen.address import PeerAddress
from asyncserver._settings.context import ServerContext
from asyncserver._stream.connection import Connection
from asyncserver._stream.foreign import AnyProtocol
from asyncserver._tls.transport import TLSTransport
from asyncserver.errors import DeadlineExceededError, HandshakeError

__all__ = ("ConnectionTask",)


class ConnectionTask:
    """One admitted connection.

    Attributes:
        opened: when it was accepted, in seconds of the loop's clock.
        peer: who is at the other end.
        variables: the context variables that its task sees.
        connection: what the handler holds, once it does; only with a handler that holds one.

    """

    __slots__ = (
        "_aborted",
        "_context",
        "_expired",
        "_sock",
        "_transport",
        "connection",
        "opened",
        "peer",
        "variables",
    )

    def __init__(
        self, sock: socket.socket, peer: PeerAddress, context: ServerContext, variables: Context
    ) -> None:
        self._sock = sock
        self._context = context
        self._transport: asyncio.Transport | None = None
        self._expired: str | None = None
        self._aborted = False
        self.opened = asyncio.get_running_loop().time()
        self.variables = variables
        self.connection: Connection | None = None
        self.peer = peer

    @property
    def host(self) -> str:
        """Whom admission counts this connection for; empty for Unix sockets."""
        return "" if isinstance(self.peer, str) else self.peer[0]

    def coroutine(self) -> Coroutine[Any, Any, None]:
        """Return what its task shall run. Every end of it leaves the socket closed."""
        raise NotImplementedError

    def ask_to_finish(self, *, spared: bool) -> None:
        """Tell the handler that the server drains; if `spared`, not before its first message."""
        if self._context.tls is not None and not spared:
            self.abort()  # still shaking hands

    def abort(self) -> None:
        """Close at once. The task ends by itself, unless the handler will not have it."""
        self._aborted = True
        if self._transport is not None:
            self._transport.abort()

    def overdue(self, now: float) -> str | None:
        """Return the name of the deadline that is over, if one is; each only once."""
        lifetime = self._context.timeouts.lifetime
        late = lifetime is not None and now - self.opened >= lifetime
        return "lifetime" if late and self._expired is None else None

    def expire(self, deadline: str, task: asyncio.Task[None]) -> None:
        """Act on a deadline."""
        self._expired = deadline
        if deadline == "lifetime":
            task.cancel()

    def release(self) -> tuple[int, int]:
        """Close the socket if it never became a transport; return the bytes received and sent."""
        if self._transport is None:
            self._sock.close()
        if self.connection is None:
            return 0, 0
        return self.connection.bytes_received, self.connection.bytes_sent

    # -- for those who know how to serve it ----------------------------------------------------

    async def _open(self, protocol: AnyProtocol) -> None:
        """Put `protocol` onto the socket, with TLS between them where that is wanted."""
        loop = asyncio.get_running_loop()
        if self._context.tls is None:
            self._transport, _ = await loop.connect_accepted_socket(lambda: protocol, self._sock)
            return
        layer = TLSTransport(self._context.tls)
        seconds = self._context.timeouts.handshake
        try:
            async with asyncio.timeout(seconds):
                self._transport, _ = await loop.connect_accepted_socket(lambda: layer, self._sock)
                if self._aborted:
                    self._transport.abort()  # `ask_to_finish` came too early for it
                await layer.handshake()
        except TimeoutError:
            if seconds is None:
                raise
            raise DeadlineExceededError("handshake", seconds) from None
        self._transport = layer
        protocol.connection_made(layer)
        layer.start(protocol)

    def _tell_failure(self, exc: Exception) -> None:
        """Say what went wrong before a handler had it, or behind its end."""
        if isinstance(exc, HandshakeError | DeadlineExceededError):
            self._emit(events.HandshakeFailed(self.peer, exc))
        elif isinstance(exc, OSError):  # the peer was gone before the loop had it
            self._emit(events.PeerDisconnected(self.peer, exc))
        else:
            self.abort()  # somebody else's protocol did not like its transport
            self._emit(events.HandlerFailed(self.peer, exc))

    def _emit(self, event: events.Event) -> None:
        self._context.observers.emit(event)
