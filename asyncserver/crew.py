"""Those at work: the sessions and the datagram handlers of a server, each in a task of its own.

It starts them, gives back what they held when they end, looks at their deadlines, and sends them home.
"""

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final

from asyncserver import events
from asyncserver.address import PeerAddress
from asyncserver.drain import Drain, once_read, read
from asyncserver.gate import Gate
from asyncserver.pace import Pace
from asyncserver.packets import EAGERLY, Packets, unheard
from asyncserver.session import Session, Terms

__all__ = ("Crew",)

# Those whose handlers this context belongs to. A task that a handler starts inherits it.
_crews: Final[ContextVar[tuple["Crew", ...]]] = ContextVar("asyncserver_crews", default=())


class Crew:
    """The owner of all tasks that run handlers.

    Args:
        terms: what all sessions have in common.
        gate: has counted a connection in before `take` gets it; `Crew` counts it out.
        left: called after a connection has left.

    Attributes:
        packets: those at work on datagrams.

    """

    def __init__(self, terms: Terms, gate: Gate, left: Callable[[], object]) -> None:
        self._terms = terms
        self._gate = gate
        self._left = left
        self._sessions: dict[asyncio.Task[None], Session] = {}
        self._watch: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._pace = Pace(self._loop)
        self._context = copy_context()  # of what is done when a session has ended
        self._handlers_context = self._make_context()
        self._on_end = self._forget  # one bound method for all, since each session's task holds it
        self._going_home: int | None = None  # how many do, once it is time
        self._spared: dict[
            Session, asyncio.TimerHandle | None
        ] = {}  # to be told when they are old enough
        self.packets = Packets(terms, self._handlers_context)

    def __iter__(self) -> Iterator[Session]:
        """Iterate over the sessions of now."""
        return iter(list(self._sessions.values()))

    @property
    def calls(self) -> bool:
        """Whether a handler is calling, or a task that it has started."""
        return self in _crews.get()

    def _make_context(self) -> Context:
        context = copy_context()
        context.run(_crews.set, (*_crews.get(), self))
        return context

    # -- connections ---------------------------------------------------------------------------

    def take(self, sock: socket.socket, peer: PeerAddress) -> None:
        """Start the session of an admitted connection."""
        session = Session(sock, peer, self._terms, self._handlers_context.copy())
        self._terms.observers.emit(events.Opened(peer))
        try:
            task = self._make_task(session)
        except BaseException:  # a task factory's
            session.release()
            self._gate.leave(session.host)
            raise
        self._sessions[task] = session
        task.add_done_callback(self._on_end, context=self._context)
        if self._going_home is not None:
            self._going_home += 1
            self._tell(session)

    def _make_task(self, session: Session) -> "asyncio.Task[None]":
        coroutine, context = session.coroutine(self._pace), session.context
        if self._loop.get_task_factory() is None:
            return asyncio.Task(coroutine, loop=self._loop, context=context, **EAGERLY)
        return self._loop.create_task(coroutine, context=context)  # a tracer's, perhaps

    def _forget(self, task: asyncio.Task[None]) -> None:
        """Give back what a session held. The one place where a slot is released."""
        session = self._sessions.pop(task, None)
        if session is None:
            return  # given up before
        if self._spared:
            timer = self._spared.pop(session, None)
            if timer is not None:
                timer.cancel()
        received, sent = session.release()
        self._gate.leave(session.host)
        self._left()
        error = unheard(task)
        if error is not None:
            self._terms.observers.emit(events.Failed(session.peer, error))
        self._terms.observers.emit(events.Closed(session.peer, received, sent))

    # -- deadlines -----------------------------------------------------------------------------

    def watch(self) -> None:
        """End whoever is over a deadline, now and from now on."""
        self._watch = self._loop.call_later(self._terms.timeouts.tick, self.watch)
        once_read(self._loop, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        for task, session in self._sessions.items():
            deadline = session.overdue(now)
            if deadline is not None:
                self._terms.observers.emit(events.Expired(session.peer, deadline))
                session.expire(deadline, task)
        self.packets.expire(now)

    # -- the end -------------------------------------------------------------------------------

    async def go_home(
        self, drain: Drain, last_guests: Callable[[], Awaitable[None]]
    ) -> events.Drained:
        """Tell everybody that the server is closing, and see them out."""
        self._going_home = len(self._tasks())
        await read(self._loop)  # what has come in time is served, and not cut off
        for session in self:
            self._tell(session)
        self.packets.dismiss()
        cancelled, aborted = await drain.run(
            last_guests, self._tasks, self._tell_the_spared, self._give_up
        )
        if self._watch is not None:
            self._watch.cancel()
        return events.Drained(self._going_home - cancelled - aborted, cancelled, aborted)

    def cut_off(self) -> None:
        """Close all connections and cancel all tasks, and wait for none."""
        if self._watch is not None:
            self._watch.cancel()
        for task in self._tasks():
            task.cancel()
        for session in self:
            session.abort()

    def _tasks(self) -> Collection[asyncio.Task[Any]]:
        return [*self._sessions, *self.packets.waiting]

    def _tell(self, session: Session) -> None:
        """Ask a session to finish; one that has just connected has some time for its first words."""
        first = self._terms.timeouts.first
        due = math.inf if first is None else session.opened + first
        spared = self._loop.time() < due
        if spared:
            self._spared[session] = (
                None
                if first is None
                else self._loop.call_at(due, once_read, self._loop, self._tell_at_last, session)
            )
        session.ask_to_finish(spared=spared)

    def _tell_at_last(self, session: Session) -> None:
        if session in self._spared:
            del self._spared[session]
            session.ask_to_finish(spared=False)

    def _tell_the_spared(self) -> None:
        for session, timer in list(self._spared.items()):
            if timer is not None:
                timer.cancel()
            self._tell_at_last(session)

    def _give_up(self, task: asyncio.Task[Any]) -> None:
        """Close the connection of a handler that would not be cancelled."""
        session = self._sessions.get(task)
        if session is not None:
            session.abort()
            self._forget(task)
