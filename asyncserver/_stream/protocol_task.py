"""A connection that somebody else's asyncio protocol serves: its task only waits for the end."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from asyncserver import events
from asyncserver._listen.address import PeerAddress
from asyncserver._settings.context import ServerContext
from asyncserver._stream.foreign import AnyProtocol, is_stream_protocol, tell_when_lost
from asyncserver._stream.task import ConnectionTask
from asyncserver.errors import HandlerError

__all__ = ("ProtocolTask",)


class ProtocolTask(ConnectionTask):
    """Serves a connection with a protocol of the factory's."""

    __slots__ = ("_asked", "_lost", "_make", "_protocol")

    def __init__(
        self,
        sock: socket.socket,
        peer: PeerAddress,
        context: ServerContext,
        variables: Context,
        make: Callable[[], AnyProtocol],
    ) -> None:
        super().__init__(sock, peer, context, variables)
        self._make = make
        self._asked = False  # to finish
        self._protocol: AnyProtocol | None = None
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def coroutine(self) -> Coroutine[Any, Any, None]:
        return self._run()

    async def _run(self) -> None:
        try:
            protocol = self._make()
            if not is_stream_protocol(protocol):
                raise HandlerError(
                    f"the factory returned {protocol!r}: it must return an asyncio.Protocol, or be"
                    " `async def handler(connection)`"
                )
            await self._open(tell_when_lost(protocol, self._end))
            self._protocol = protocol
            self._tell_protocol()
            try:
                await self._lost
            except asyncio.CancelledError:
                self.abort()
                raise
        except Exception as exc:
            self._tell_failure(exc)

    def ask_to_finish(self, *, spared: bool) -> None:
        self._asked = not spared
        if self._protocol is not None:
            self._tell_protocol()
        else:
            super().ask_to_finish(spared=spared)

    def _tell_protocol(self) -> None:
        if not self._asked:
            return
        try:
            getattr(self._protocol, "draining", _nothing)()
        except Exception as exc:
            self._emit(events.HandlerFailed(self.peer, exc))

    def overdue(self, now: float) -> str | None:
        if self._transport is not None and self._transport.is_closing():
            self._end()  # it was exchanged by set_protocol(), and we were not told
        return super().overdue(now)

    def _end(self) -> None:
        if not self._lost.done():
            self._lost.set_result(None)


def _nothing() -> None:
    """Stand in for a protocol's `draining()`, which it need not have."""
