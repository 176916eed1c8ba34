"""Those at work: the sessions and the datagram handlers of a server, each in a task of its own.

It starts them, gives back what they held when they end, looks at their deadlines, and sends them home.
"""

import asyncio
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context
from typing import Any, Final

from asyncserver import events
from asyncserver.address import PeerAddress
from asyncserver.datagram import Datagram
from asyncserver.drain import Drain
from asyncserver.errors import AsyncServerError
from asyncserver.gate import Gate
from asyncserver.session import Session, Terms

__all__ = ("Crew",)

EAGERLY: Final[dict[str, Any]] = {"eager_start": True} if sys.version_info >= (3, 12) else {}


class Crew:
    """The owner of all tasks that run handlers.

    Args:
        terms: what all sessions have in common.
        gate: has counted a connection in before `take` gets it; `Crew` counts it out.
        left: called after a connection has left.

    """

    def __init__(self, terms: Terms, gate: Gate, left: Callable[[], object]) -> None:
        self._terms = terms
        self._gate = gate
        self._left = left
        self._sessions: dict[asyncio.Task[None], Session] = {}
        self._packets: dict[asyncio.Task[None], tuple[float, Datagram]] = {}  # and when they came
        self._watch: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._on_end = self._forget  # one bound method for all, since each session's task holds it
        self._starting = False  # a task runs that is in neither of them yet

    def __contains__(self, task: object) -> bool:
        return self._starting or task in self._sessions or task in self._packets

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
            task = _start(self._loop, session.run(), session.context)
        finally:
            self._starting = False
        self._sessions[task] = session
        task.add_done_callback(self._on_end, context=session.context)

    def _forget(self, task: asyncio.Task[None]) -> None:
        """Give back what a session held. The one place where a slot is released."""
        session = self._sessions.pop(task, None)
        if session is None:
            return  # given up before
        received, sent = session.release()
        self._gate.leave(session.host)
        self._left()
        self._terms.observers.emit(events.Closed(session.peer, received, sent))
        _retrieve(task)

    # -- datagrams -----------------------------------------------------------------------------

    def take_datagram(self, datagram: Datagram) -> bool:
        """Start the handler of a datagram, or return `False` if too many run."""
        limit = self._terms.limits.datagrams
        if limit is not None and len(self._packets) >= limit:
            return False
        self._starting = True
        try:
            task = _start(self._loop, self._handle_datagram(datagram))
        finally:
            self._starting = False
        if task.done():
            _retrieve(task)
        else:
            self._packets[task] = self._loop.time(), datagram
            task.add_done_callback(self._forget_datagram)
        return True

    async def _handle_datagram(self, datagram: Datagram) -> None:
        assert self._terms.service.datagram is not None
        try:
            await self._terms.service.datagram(datagram)
        except AsyncServerError as exc:  # about the reply: the sender has gone, or has no name
            self._terms.observers.emit(events.Disconnected(datagram.peer, exc))
        except Exception as exc:
            self._terms.observers.emit(events.Failed(datagram.peer, exc))

    def _forget_datagram(self, task: asyncio.Task[None]) -> None:
        self._packets.pop(task, None)
        _retrieve(task)

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
        lifetime = self._terms.timeouts.lifetime
        for task, (since, datagram) in self._packets.items():
            if lifetime is None or now - since < lifetime:
                break  # the others came later
            self._terms.observers.emit(events.Expired(datagram.peer, "lifetime"))
            task.cancel()

    # -- the end -------------------------------------------------------------------------------

    async def go_home(self, drain: Drain) -> events.Drained:
        """Tell everybody that the server is closing, and see them out."""
        for session in self:
            session.ask_to_finish()
        drained = await drain.run([*self._sessions, *self._packets], self._give_up)
        if self._watch is not None:
            self._watch.cancel()
        return drained

    def _give_up(self, task: asyncio.Task[Any]) -> None:
        """Close the connection of a handler that would not be cancelled."""
        session = self._sessions.get(task)
        if session is not None:
            session.abort()
            self._forget(task)


def _start(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, None],
    context: Context | None = None,
) -> asyncio.Task[None]:
    """Run it in a task, at once: many have ended when this returns, and no loop heard of them."""
    return asyncio.Task(coroutine, loop=loop, context=context, **EAGERLY)


def _retrieve(task: asyncio.Task[None]) -> None:
    """Look at how a task ended, so that asyncio does not report it as never looked at.

    Only what stops the whole program gets this far, and it is on its way already.
    """
    if task.done() and not task.cancelled():
        task.exception()
