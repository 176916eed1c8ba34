"""The owner of all tasks that run handlers: those of connections, and those of datagrams.

It starts them, gives back what they held when they end, looks at their deadlines, and drains them.
"""

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final

from asyncserver import events
from asyncserver._datagram.tasks import EAGERLY, DatagramTasks, unheard
from asyncserver._handlers.kinds import AsyncHandler, Kind, ProtocolFactory
from asyncserver._listen.address import PeerAddress
from asyncserver._listen.admission import Admission
from asyncserver._server.drain import Drain, once_read, read
from asyncserver._settings.context import ServerContext
from asyncserver._stream.blocking_task import BlockingTask
from asyncserver._stream.budget import TurnBudget
from asyncserver._stream.protocol_task import ProtocolTask
from asyncserver._stream.stream_task import StreamTask
from asyncserver._stream.task import ConnectionTask

__all__ = ("Supervisor",)

# Those whose handlers this context belongs to. A task that a handler starts inherits it.
_supervisors: Final[ContextVar[tuple["Supervisor", ...]]] = ContextVar(
    "asyncserver_supervisors", default=()
)


class Supervisor:
    """Serves connections and datagrams.

    Args:
        context: what all of them share.
        kind: of the handler.
        admission: has a slot for each connection that is started, which is released at its end.
        released: called after a slot was released.

    Attributes:
        datagrams: serves those, if the handler takes them.

    """

    def __init__(
        self,
        context: ServerContext,
        kind: Kind,
        admission: Admission,
        released: Callable[[], object],
    ) -> None:
        self._context = context
        self._kind = kind
        self._admission = admission
        self._released = released
        self._connections: dict[asyncio.Task[None], ConnectionTask] = {}
        self._watch: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._budget = TurnBudget(self._loop)
        self._own_variables = copy_context()  # of what is done when a connection has ended
        self._variables = self._handlers_variables()
        self._on_end = self._release  # one bound method for all, since each task holds it
        self._drained: int | None = None  # how many there were and have come since it began
        # Too young to be told that the server drains; and the timer that tells them.
        self._spared: dict[ConnectionTask, asyncio.TimerHandle | None] = {}
        self.datagrams: DatagramTasks | None = None
        if not isinstance(kind, ProtocolFactory) and kind.datagram is not None:
            self.datagrams = DatagramTasks(context, self._variables, kind.datagram)

    def __iter__(self) -> Iterator[ConnectionTask]:
        """Iterate over the connections of now."""
        return iter(list(self._connections.values()))

    @property
    def calls(self) -> bool:
        """Whether a handler is calling, or a task that it has started."""
        return self in _supervisors.get()

    def _handlers_variables(self) -> Context:
        variables = copy_context()
        variables.run(_supervisors.set, (*_supervisors.get(), self))
        return variables

    # -- connections ---------------------------------------------------------------------------

    def start(self, sock: socket.socket, peer: PeerAddress) -> None:
        """Serve an admitted connection, in a task of its own."""
        connection = self._connection_task(sock, peer)
        self._context.observers.emit(events.ConnectionOpened(peer))
        try:
            task = self._make_task(connection)
        except BaseException:  # a task factory's
            connection.release()
            self._admission.release(connection.host)
            raise
        self._connections[task] = connection
        task.add_done_callback(self._on_end, context=self._own_variables)
        if self._drained is not None:
            self._drained += 1
            self._ask_to_finish(connection)

    def _connection_task(self, sock: socket.socket, peer: PeerAddress) -> ConnectionTask:
        kind, context, variables = self._kind, self._context, self._variables.copy()
        assert kind.stream is not None, "the server has checked its addresses"
        if isinstance(kind, AsyncHandler):
            return StreamTask(sock, peer, context, variables, kind.stream, budget=self._budget)
        if isinstance(kind, ProtocolFactory):
            return ProtocolTask(sock, peer, context, variables, kind.stream)
        return BlockingTask(sock, peer, context, variables, kind.stream)

    def _make_task(self, connection: ConnectionTask) -> "asyncio.Task[None]":
        coroutine, variables = connection.coroutine(), connection.variables
        if self._loop.get_task_factory() is None:
            return asyncio.Task(coroutine, loop=self._loop, context=variables, **EAGERLY)
        return self._loop.create_task(coroutine, context=variables)  # a tracer's, perhaps

    def _release(self, task: asyncio.Task[None]) -> None:
        """Give back what a connection held. The one place where a slot is released."""
        connection = self._connections.pop(task, None)
        if connection is None:
            return  # aborted before
        if self._spared:
            timer = self._spared.pop(connection, None)
            if timer is not None:
                timer.cancel()
        received, sent = connection.release()
        self._admission.release(connection.host)
        self._released()
        error = unheard(task)
        if error is not None:
            self._context.observers.emit(events.HandlerFailed(connection.peer, error))
        self._context.observers.emit(events.ConnectionClosed(connection.peer, received, sent))

    # -- deadlines -----------------------------------------------------------------------------

    def watch(self) -> None:
        """End whoever is over a deadline, now and from now on."""
        self._watch = self._loop.call_later(self._context.timeouts.tick, self.watch)
        once_read(self._loop, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        for task, connection in self._connections.items():
            deadline = connection.overdue(now)
            if deadline is not None:
                self._context.observers.emit(events.DeadlineExpired(connection.peer, deadline))
                connection.expire(deadline, task)
        if self.datagrams is not None:
            self.datagrams.expire(now)

    # -- the end -------------------------------------------------------------------------------

    async def drain(
        self, drain: Drain, admit_backlog: Callable[[], Awaitable[None]]
    ) -> events.DrainFinished:
        """Ask all handlers to finish, and see them out."""
        self._drained = len(self._tasks())
        await read(self._loop)  # what has come in time is served, and not cut off
        for connection in self:
            self._ask_to_finish(connection)
        if self.datagrams is not None:
            self.datagrams.end_idle()
        cancelled, aborted = await drain.run(
            admit_backlog, self._tasks, self._ask_the_spared, self._abort
        )
        if self._watch is not None:
            self._watch.cancel()
        return events.DrainFinished(self._drained - cancelled - aborted, cancelled, aborted)

    def abort_all(self) -> None:
        """Close all connections and cancel all tasks, and wait for none."""
        if self._watch is not None:
            self._watch.cancel()
        for task in self._tasks():
            task.cancel()
        for connection in self:
            connection.abort()

    def _tasks(self) -> Collection[asyncio.Task[Any]]:
        datagrams = () if self.datagrams is None else self.datagrams.waiting
        return [*self._connections, *datagrams]

    def _ask_to_finish(self, connection: ConnectionTask) -> None:
        """Ask it to finish; one that has just connected has some time for its first words."""
        first = self._context.timeouts.first
        due = math.inf if first is None else connection.opened + first
        spared = self._loop.time() < due
        if spared:
            timer = None
            if first is not None:
                timer = self._loop.call_at(
                    due, once_read, self._loop, self._ask_at_last, connection
                )
            self._spared[connection] = timer
        connection.ask_to_finish(spared=spared)

    def _ask_at_last(self, connection: ConnectionTask) -> None:
        if connection in self._spared:
            del self._spared[connection]
            connection.ask_to_finish(spared=False)

    def _ask_the_spared(self) -> None:
        for connection, timer in list(self._spared.items()):
            if timer is not None:
                timer.cancel()
            self._ask_at_last(connection)

    def _abort(self, task: asyncio.Task[Any]) -> None:
        """Close the connection of a handler that would not be cancelled."""
        connection = self._connections.get(task)
        if connection is not None:
            connection.abort()
            self._release(task)
