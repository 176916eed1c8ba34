"""Those at work: the sessions and the datagram handlers of a server, each in a task of its own.

It starts them, gives back what they held when they end, looks at their deadlines, and sends them home.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

from asyncserver import events
from asyncserver.address import PeerAddress
from asyncserver.drain import Drain
from asyncserver.gate import Gate
from asyncserver.packets import EAGERLY, Packets, retrieve
from asyncserver.session import Session, Terms

__all__ = ("Crew",)


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
        self.packets = Packets(terms)
        self._watch: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()  # of what is done when a session has ended
        self._on_end = self._forget  # one bound method for all, since each session's task holds it
        self._starting = False  # a task runs that is in neither of them yet

    def __contains__(self, task: object) -> bool:
        return self._starting or task in self._sessions or task in self.packets

    def __iter__(self) -> Iterator[Session]:
        """Iterate over the sessions of now."""
        return iter(list(self._sessions.values()))

    # -- connections ---------------------------------------------------------------------------

    def take(self, sock: socket.socket, peer: PeerAddress) -> None:
        """Start the session of an admitted connection."""
        session = Session(sock, peer, self._terms)
        self._terms.observers.emit(events.Opened(peer))
        self._starting = True
        try:
            task = asyncio.Task(session.run(), loop=self._loop, context=session.context, **EAGERLY)
        finally:
            self._starting = False
        self._sessions[task] = session
        task.add_done_callback(self._on_end, context=self._context)

    def _forget(self, task: asyncio.Task[None]) -> None:
        """Give back what a session held. The one place where a slot is released."""
        session = self._sessions.pop(task, None)
        if session is None:
            return  # given up before
        received, sent = session.release()
        self._gate.leave(session.host)
        self._left()
        self._terms.observers.emit(events.Closed(session.peer, received, sent))
        retrieve(task)

    # -- deadlines -----------------------------------------------------------------------------

    def watch(self) -> None:
        """End whoever is over a deadline, now and from now on."""
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(self._terms.timeouts.tick, self.watch)
        now = loop.time()
        for task, session in self._sessions.items():
            deadline = session.overdue(now)
            if deadline is not None:
                self._terms.observers.emit(events.Expired(session.peer, deadline))
                session.expire(deadline, task)
        self.packets.expire(now)

    # -- the end -------------------------------------------------------------------------------

    async def go_home(self, drain: Drain) -> events.Drained:
        """Tell everybody that the server is closing, and see them out."""
        for session in self:
            session.ask_to_finish()
        self.packets.dismiss()
        drained = await drain.run([*self._sessions, *self.packets.waiting], self._give_up)
        if self._watch is not None:
            self._watch.cancel()
        return drained

    def _give_up(self, task: asyncio.Task[Any]) -> None:
        """Close the connection of a handler that would not be cancelled."""
        session = self._sessions.get(task)
        if session is not None:
            session.abort()
            self._forget(task)
