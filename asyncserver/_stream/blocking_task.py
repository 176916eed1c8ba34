"""A connection whose handler blocks: a thread has its bare socket, and its task waits for that."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any

from asyncserver import events
from asyncserver._listen.address import PeerAddress
from asyncserver._settings.context import ServerContext
from asyncserver._stream.blocking import hosted
from asyncserver._stream.faults import told
from asyncserver._stream.task import ConnectionTask
from asyncserver._tls.handshake import shake_hands
from asyncserver.errors import DeadlineExceededError, HandshakeError

__all__ = ("BlockingTask",)


class BlockingTask(ConnectionTask):
    """Serves a connection with a blocking handler."""

    __slots__ = ("_handed_over", "_handle")

    def __init__(
        self,
        sock: socket.socket,
        peer: PeerAddress,
        context: ServerContext,
        variables: Context,
        handle: Callable[[socket.socket, PeerAddress], Awaitable[BaseException | None]],
    ) -> None:
        super().__init__(sock, peer, context, variables)
        self._handle = handle
        self._handed_over = False  # the socket, to a thread

    def coroutine(self) -> Coroutine[Any, Any, None]:
        return self._run()

    async def _run(self) -> None:
        try:
            if self._context.tls is not None:
                await self._wrap(self._context.tls)
            await self._hand_over()
        except Exception as exc:
            self._tell_failure(exc)

    async def _hand_over(self) -> None:
        sock = hosted(self._sock, self._context.timeouts, self._context.limits.line)
        self._sock = sock
        self._handed_over = True
        try:
            raised = await self._handle(sock, self.peer)
            if sock.overdue is not None:
                self._emit(events.DeadlineExpired(self.peer, sock.overdue))
            if raised is not None and (event := told(raised, self.peer, ended=True, own=False)):
                self._emit(event)
        finally:  # a copy of the descriptor may keep it open, as in socketserver
            with contextlib.suppress(OSError):  # the peer may have gone
                sock.shutdown(socket.SHUT_WR)

    async def _wrap(self, context: ssl.SSLContext) -> None:
        seconds = self._context.timeouts.handshake
        try:
            self._sock.getpeername()  # if it has gone; Python 3.11 would leave what it makes open
            sock = context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
            self._sock = sock
            sock.setblocking(False)
            async with asyncio.timeout(seconds):
                await shake_hands(sock)
        except TimeoutError:
            if seconds is None:
                raise
            raise DeadlineExceededError("handshake", seconds) from None
        except OSError as exc:  # ssl.SSLError is one
            raise HandshakeError(str(exc)) from exc

    def ask_to_finish(self, *, spared: bool) -> None:
        if not self._handed_over:  # a thread cannot be told
            super().ask_to_finish(spared=spared)

    def abort(self) -> None:
        super().abort()
        with contextlib.suppress(OSError):  # the loop may watch it, so it is not closed yet
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
