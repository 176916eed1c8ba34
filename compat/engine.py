"""`serve_forever`, in the thread that called it: a loop over poll(2), one request a turn.

Everything that users wrote (hooks and handlers) is called right from this loop, as by the standard
library's own. What happens to a server has a room each: `poller`, `acceptor`, `handshake_queue`,
`children`.
"""

import functools
import os
import selectors
import socketserver
import threading
from typing import Any

from compat._cpython import IS_SHUT_DOWN, SHUTDOWN_REQUEST, hide_running_loop, show_running_loop
from compat.acceptor import Acceptor
from compat.attributes import ENGINES
from compat.children import Children
from compat.handshake_queue import HandshakeQueue
from compat.poller import Poller
from compat.unblock import unblock

__all__ = ("Engine", "engine_here", "engine_of", "engines_of", "slot_is_free")


class Engine:
    """One run of `serve_forever`.

    Args:
        server: what to serve.
        poll_interval: seconds between two calls of `service_actions` while nobody comes; as
            everything that is sent into the thread, exceptions say, waits for that long.

    Attributes:
        thread: the identifier of the thread that serves.
        request: what the server's own thread is handling now.
        poller: what it waits in. `poller.wake` has it look at the flag, and whether there is room.

    """

    def __init__(self, server: socketserver.BaseServer, poll_interval: float | None) -> None:
        self.server = server
        self.thread: int = threading.get_ident()
        self.request: Any = None
        self._poll_interval = poll_interval
        freed = functools.partial(slot_is_free, server)
        self.poller: Poller = Poller()
        self.handshakes: HandshakeQueue = HandshakeQueue(self.poller, freed)
        self.acceptor: Acceptor = Acceptor(server, self.poller, self.handshakes)
        self.children: Children = Children(server, self.poller, freed)

    @property
    def runs_here(self) -> bool:
        """Whether this thread is the one that serves."""
        return threading.get_ident() == self.thread

    def run(self) -> None:
        """Serve until the server's flag says otherwise; raise what a hook raised."""
        outer = hide_running_loop()  # that of a notebook, perhaps; for asyncio.run() in a handler
        try:
            self._serve()
        finally:
            show_running_loop(outer)

    def enter(self) -> None:
        """Become one of those that drive the server."""
        with _lock:
            for other in engines_of(self.server):
                if other.thread != self.thread:
                    shared = other.acceptor.lock or threading.Lock()
                    self.acceptor.lock = other.acceptor.lock = shared
            vars(self.server)[ENGINES] = (*engines_of(self.server), self)
            _running.add(self)

    def leave(self) -> bool:
        """Drive it no more; return whether no other thread does. As often as one likes."""
        with _lock:
            _running.discard(self)
            others = tuple(each for each in engines_of(self.server) if each is not self)
            if others:
                vars(self.server)[ENGINES] = others
            else:
                vars(self.server).pop(ENGINES, None)
        self.children.close()
        self.handshakes.close()
        self.poller.release()
        return all(each.thread == self.thread for each in others)

    # -- from other threads and signal handlers ------------------------------------------------

    def unblock(self) -> None:
        """Let whoever waits for a peer in this thread, a handshake too, see the end of its stream."""
        for request in (self.request, *self.handshakes.requests()):
            unblock(request)

    def detach(self) -> None:
        """In a child that was forked: leave to the parent what is the parent's."""
        vars(self.server)[ENGINES] = tuple(
            each for each in engines_of(self.server) if each.runs_here
        )
        # Nobody in the child would ever set it, where another thread is the one that serves.
        vars(self.server)[IS_SHUT_DOWN].set()
        self.acceptor.lock = None
        self.children.close()
        self.handshakes.close()
        self.poller.release(but=self.acceptor.fileno)
        if self.runs_here:  # the handler that forked may return, and the child serve on
            self.poller.call_at(0, self.poller.watch_wakeup)

    # -- the loop ------------------------------------------------------------------------------

    def _serve(self) -> None:
        if self._asked_to_stop():
            return
        try:
            fileno = _descriptor_of(self.server)
        except ValueError:
            if self._asked_to_stop():  # shut down and closed before it began
                return
            raise
        self.poller.start(self._poll_interval)
        self.acceptor.start(fileno)
        while not self._asked_to_stop():
            self._turn()
        # The standard library shakes hands when it accepts: whom it has let in, it serves.
        self.acceptor.stop()
        while self.handshakes:
            self._turn()

    def _turn(self) -> None:
        poller, acceptor = self.poller, self.acceptor
        accepting = acceptor.accepting
        ready = poller.wait()
        if ready is None:
            return
        if poller.woken:
            poller.woken = False
            acceptor.resume()
        if (
            acceptor.accepting and self._asked_to_stop()
        ):  # who came meanwhile is left to the backlog
            return
        if acceptor.logged and accepting and acceptor.fileno not in dict(ready):
            acceptor.logged.clear()
        poller.call(ready)
        self.server.service_actions()

    def _asked_to_stop(self) -> bool:
        return bool(vars(self.server).get(SHUTDOWN_REQUEST))


def engines_of(server: socketserver.BaseServer) -> tuple[Engine, ...]:
    """Return all that drive `server` now: one for each `serve_forever` that has not returned."""
    engines: tuple[Engine, ...] = vars(server).get(ENGINES, ())
    return engines


def engine_of(server: socketserver.BaseServer) -> Engine | None:
    """Return what drives `server` now, if something does."""
    engines = engines_of(server)
    return engines[-1] if engines else None


def engine_here(server: socketserver.BaseServer) -> Engine | None:
    """Return what drives `server` in this thread."""
    me = threading.get_ident()
    engines: tuple[Engine, ...] = vars(server).get(ENGINES, ())
    for engine in engines[::-1]:
        if engine.thread == me:
            return engine
    return None


def slot_is_free(server: socketserver.BaseServer) -> None:
    """Accept again, if that had to wait for a thread or a child to end."""
    for engine in engines_of(server):
        if engine.acceptor.wants_slot:
            engine.acceptor.wants_slot = False
            engine.poller.wake()


def _descriptor_of(server: object) -> int:
    """Return what to wait for, or raise `ValueError` in the standard library's words."""
    with selectors.PollSelector() as selector:
        return selector.register(server, selectors.EVENT_READ).fd  # type: ignore[arg-type]


# Reentrant, because a signal handler may begin to serve.
_lock = threading.RLock()
_running: set[Engine] = set()


def _leave_to_parent() -> None:
    global _lock  # noqa: PLW0603 - some other thread, which the child has not, may hold it
    _lock = threading.RLock()
    for engine in _running.copy():
        engine.detach()
        if not engine.runs_here:
            _running.discard(engine)


os.register_at_fork(after_in_child=_leave_to_parent)
