"""A connection whose handler is async: it holds a `Connection`, and its task is stepped inline."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from asyncserver._listen.address import PeerAddress
from asyncserver._settings.context import ServerContext
from asyncserver._stream.budget import TurnBudget
from asyncserver._stream.connection import Connection
from asyncserver._stream.deadlines import overdue
from asyncserver._stream.debugging import SlowStepsProtocol
from asyncserver._stream.faults import is_for_the_task, told
from asyncserver._stream.protocol import StreamProtocol
from asyncserver._stream.task import ConnectionTask
from asyncserver.errors import DeadlineExceededError

__all__ = ("StreamTask",)


class StreamTask(ConnectionTask):
    """Serves a connection with an async handler."""

    __slots__ = ("_asked", "_handle", "_protocol")

    def __init__(
        self,
        sock: socket.socket,
        peer: PeerAddress,
        context: ServerContext,
        variables: Context,
        handle: Callable[[Connection], Coroutine[Any, Any, object]],
        *,
        budget: TurnBudget,
    ) -> None:
        super().__init__(sock, peer, context, variables)
        self._handle = handle
        self._asked: bool | None = None  # to finish, and then whether it is spared
        loop = asyncio.get_running_loop()
        kind = SlowStepsProtocol if loop.get_debug() else StreamProtocol
        self._protocol = kind(loop, context.limits.read_buffer, budget)

    def coroutine(self) -> Coroutine[Any, Any, None]:
        return self._protocol.wrap(self._run(), self.variables)

    async def _run(self) -> None:
        protocol = self._protocol
        try:
            connection = await self._connect()
            try:  # not in a method of its own: each is a frame that an idle connection holds
                await self._handle(connection)
            except BaseException as exc:
                if is_for_the_task(exc):  # cancelled, given up, or the program ends: no waiting
                    connection.abort()
                    raise
                self._tell(exc, connection)
            connection.close()
            if protocol.transport.get_write_buffer_size():
                await connection.aclose()
        except Exception as exc:
            self._tell_failure(exc)
        finally:
            protocol.forget_task()

    async def _connect(self) -> Connection:
        context, protocol = self._context, self._protocol
        await self._open(protocol)
        if not protocol.transport.is_closing():  # uvloop raises if the peer has gone already
            protocol.transport.set_write_buffer_limits(context.limits.write_buffer)
        self.connection = Connection(protocol, self.peer, context.limits, context.timeouts)
        protocol.opened = protocol.marked_at = self.opened  # one number for both
        if self._asked is not None:
            self.connection.finish(spared=self._asked)
        return self.connection

    def _tell(self, exc: BaseException, connection: Connection) -> None:
        own = connection.closed_by_handler
        if event := told(exc, self.peer, ended=self._protocol.ended, own=own):
            self._emit(event)

    def ask_to_finish(self, *, spared: bool) -> None:
        self._asked = spared
        if self.connection is not None:
            self.connection.finish(spared=spared)
        else:
            super().ask_to_finish(spared=spared)

    def abort(self) -> None:
        if self.connection is not None:
            self.connection.abort()
        else:
            super().abort()

    def overdue(self, now: float) -> str | None:
        if self.connection is None:
            return super().overdue(now)
        deadline = overdue(self._protocol, self._context.timeouts, now)
        return None if deadline == self._expired else deadline

    def expire(self, deadline: str, task: asyncio.Task[None]) -> None:
        """Act on a deadline: "idle" ends the reading only, so that a handler can say goodbye."""
        super().expire(deadline, task)
        if self.connection is not None:
            error = DeadlineExceededError(deadline, getattr(self._context.timeouts, deadline))
            if deadline == "idle":
                self._protocol.stop_reading(error)
            else:
                self._protocol.fail(error)
