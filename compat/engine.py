"""`serve_forever`, in the thread that called it: a loop over poll(2), one request a turn.

It waits for whatever can happen to a server: a client, a child's end, a TLS client's part of its
handshake, a bell that somebody rings. Everything that users wrote (hooks and handlers) is called
right from this loop, as by the standard library's own.

Why no event loop: one needs descriptors of its own, three to seven a server; and a signal that arrives
inside of it comes out as something else, finds a loop running, or takes its wake-up descriptor away.
Here signals find plain Python code and a system call that they interrupt. Needs no asyncio, so that a
program without one does not pay for it.
"""

import contextlib
import errno
import logging
import math
import os
import select
import selectors
import socketserver
import sys
import threading
import time
from bisect import insort
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from compat import bells, late
from compat.state import ENGINE, POOL, SHUTDOWN_REQUEST, at_work, engines_of, limit_of
from compat.waking import wake

if TYPE_CHECKING:  # needs `ssl`, which a program without TLS does without
    from compat.handshakes import Handshake, LateSocket

__all__ = ("BACK_OFF", "OUT_OF_RESOURCES", "Engine", "can_poll", "check_limit")

logger = logging.getLogger("asyncserver")

BACK_OFF: Final = 0.1  # seconds of pause when the system is out; most tries would go to waste
LOOK_AWAY: Final = 0.05  # seconds, when the bell rings for somebody else
WITHOUT_LIMIT: Final = 500  # milliseconds of waiting, where there is no interval
OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Engine:
    """One run of `serve_forever`.

    Args:
        server: what to serve.
        poll_interval: seconds between two calls of `service_actions` while nobody comes; as
            everything that is sent into the thread, exceptions say, waits for that long.

    Attributes:
        asking: the server is in its `get_request`, called by us, and has taken nothing yet.
        thread: the identifier of the thread that serves.
        request: what the server's own thread is handling now.
        turnstile: lets one thread at a time accept, where several serve.

    """

    def __init__(self, server: socketserver.BaseServer, poll_interval: float | None) -> None:
        self.server = server
        self.thread = threading.get_ident()
        self._forks = isinstance(server, socketserver.ForkingMixIn)
        self.asking = False
        self.request: Any = None
        self._poll_interval = poll_interval
        self._tick: int | None = None  # the same in milliseconds
        self._poll = select.poll()
        self._callbacks: dict[int, Callable[[], object]] = {}
        # accepting
        self._listener = -1
        self._accepting = False
        self._refusal: OSError | None = None  # why the last get_request got nothing
        self._told: set[str] = set()  # what was logged, since anybody had to wait
        self._told_when_free = False
        # other threads
        self._bell: bells.Bell | None = None
        self._called = False
        self._waits = False
        self.turnstile: threading.Lock | None = None
        # time
        self._later: dict[Callable[[], object], float] = {}  # what to do, and when at the latest
        # what has begun
        self._parked: list[Handshake] = []  # by deadline
        self._children: dict[int, int] = {}  # process and the descriptor that tells its end

    @property
    def runs_here(self) -> bool:
        """Whether this thread is the one that serves."""
        return threading.get_ident() == self.thread

    def run(self) -> None:
        """Serve until the server's flag says otherwise; raise what a hook raised."""
        asyncio: Any = sys.modules.get("_asyncio")  # is whole as soon as it is there
        # That of a notebook, perhaps. Without this function, it is a module of the program's own.
        outer = getattr(asyncio, "_get_running_loop", lambda: None)()
        if outer is not None:
            asyncio._set_running_loop(None)  # for asyncio.run() in a handler
        try:
            self._serve()
        finally:
            if outer is not None:
                asyncio._set_running_loop(outer)

    def enter(self) -> None:
        """Become one of those that drive the server."""
        with _lock:
            for other in engines_of(self.server):
                if other.thread != self.thread:
                    self.turnstile = other.turnstile = other.turnstile or threading.Lock()
            vars(self.server)[ENGINE] = (*engines_of(self.server), self)
            _running.add(self)

    def leave(self) -> bool:
        """Drive it no more; return whether no other thread does. As often as one likes."""
        with _lock:
            _running.discard(self)
            others = tuple(each for each in engines_of(self.server) if each is not self)
            if others:
                vars(self.server)[ENGINE] = others
            else:
                vars(self.server).pop(ENGINE, None)
        self._let_go()
        self._callbacks.clear()  # or they would keep us, and the server, until somebody collects
        return all(each.thread == self.thread for each in others)

    # -- from other threads and signal handlers ------------------------------------------------

    def wake(self) -> None:
        """Look at the flag, and whether there is room again, now."""
        self._called = True
        bell = self._bell
        if bell is not None and self._waits:
            bell.ring(self)

    def slot_is_free(self) -> None:
        """Accept again, if that had to wait for a thread or a child to end."""
        for engine in engines_of(self.server):
            if engine._told_when_free:
                engine._told_when_free = False
                engine.wake()

    def give_up(self) -> None:
        """Let whoever waits for a peer in this thread, a handshake too, see the end of its stream."""
        for request in (self.request, *(each.sock for each in self._parked.copy())):
            wake(request)

    def detach(self) -> None:
        """In a child that was forked: leave to the parent what is the parent's."""
        vars(self.server)[ENGINE] = tuple(
            each for each in engines_of(self.server) if each.runs_here
        )
        # Nobody in the child would ever set it, where another thread is the one that serves.
        vars(self.server)["_BaseServer__is_shut_down"].set()
        self.turnstile = None
        self._let_go()
        if self.runs_here:  # the handler that forked may return, and the child serve on
            self._later[self._begin_to_listen] = 0

    # -- from the server's own methods ---------------------------------------------------------

    def ask(self, get_request: Callable[[], Any], *, put_off: bool) -> Any:
        """Call the server's `get_request`, which need not wait for anybody.

        With `put_off`, neither for the TLS handshake of whom it accepts and wraps.
        """
        turnstile = self.turnstile
        if turnstile is not None and not turnstile.acquire(timeout=BACK_OFF):
            raise BlockingIOError  # another thread's get_request takes its time
        self.asking = True
        try:
            if turnstile is not None and not _somebody_waits(self._listener):
                raise BlockingIOError  # another thread has taken it: accept() would block
            if not put_off or "ssl" not in sys.modules:
                return get_request()
            return late.handshakes().put_off(get_request, getattr(self.server, "socket", None))
        finally:
            self.asking = False
            if turnstile is not None:
                turnstile.release()

    def back_off(self, exc: OSError) -> None:
        """Note that `get_request` failed with `exc`."""
        self._refusal = exc

    def park(self, request: "LateSocket", go_on: Callable[[], object]) -> None:
        """Call `go_on` when `request` has shaken hands."""
        handshake = late.handshakes().Handshake(request, go_on)
        insort(self._parked, handshake, key=lambda each: each.deadline)
        self._shake_hands(handshake)

    def watch_child(self, pid: int) -> None:
        """Reap the child as soon as it ends."""
        with contextlib.suppress(OSError):  # it has ended already, or service_actions will reap it
            fileno = os.pidfd_open(pid)
            self._children[pid] = fileno
            self._watch(fileno, select.POLLIN, lambda: self._reap(pid))

    def watches(self, pid: int) -> bool:
        """Whether the child's end will be seen without asking for it."""
        return pid in self._children

    # -- the loop ------------------------------------------------------------------------------

    def _serve(self) -> None:
        if self._asked_to_stop():
            return
        try:
            self._listener = _descriptor_of(self.server)
        except ValueError:
            if self._asked_to_stop():  # shut down and closed before it began
                return
            raise
        self._tick = _milliseconds(self._poll_interval)
        self._begin_to_listen()
        self._resume()
        while not self._asked_to_stop():
            self._turn()
        # The standard library shakes hands when it accepts: whom it has let in, it serves.
        self._pause()
        self._listener = -1
        while self._parked:
            self._turn()

    def _turn(self) -> None:
        accepting, timed = self._accepting, self._later or self._parked
        self._waits = True
        # Who calls before we wait sets a flag, and who calls after that rings the bell.
        limit = 0 if self._called else self._rest() if timed else self._tick
        # A signal that another thread has received does not interrupt this one: what handles it runs
        # when we look up, which without an interval would be never.
        ready = self._poll.poll(WITHOUT_LIMIT if limit is None else limit)
        self._waits = False
        if limit is None and not ready and not self._called:
            return
        if self._called:
            self._called = False
            self._resume()
        if self._accepting and self._asked_to_stop():  # meanwhile: who came is left to the backlog
            return
        if self._told and accepting and self._listener not in dict(ready):
            self._told.clear()
        for fileno, _ in ready:
            callback = self._callbacks.get(fileno)
            if callback is not None:
                callback()
        if timed:
            self._look_at_the_clock()
        self.server.service_actions()

    def _rest(self) -> int:
        """How many milliseconds to wait, if there is something to do though nothing happens."""
        due = [*self._later.values(), *(each.deadline for each in self._parked[:1])]
        rest = max(0, math.ceil((min(due) - time.monotonic()) * 1000))
        return min(WITHOUT_LIMIT if self._tick is None else self._tick, rest)

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        for function in [each for each, when in self._later.items() if when <= now]:
            function()
        while self._parked and self._parked[0].deadline <= now:
            first = self._parked[0]
            self._end(first)
            first.fail("the client took too long")

    def _asked_to_stop(self) -> bool:
        return bool(vars(self.server).get(SHUTDOWN_REQUEST))

    def _watch(self, fileno: int, events: int, callback: Callable[[], object]) -> None:
        self._callbacks[fileno] = callback
        self._poll.register(fileno, events)

    def _unwatch(self, fileno: int) -> None:
        if self._callbacks.pop(fileno, None) is not None:
            self._poll.unregister(fileno)

    def _begin_to_listen(self) -> None:
        self._later.pop(self._begin_to_listen, None)
        if self._bell is None:
            self._bell = bells.take(self)
        if self._bell is not None:
            self._watch(self._bell.fileno, select.POLLIN, self._hear)

    def _hear(self) -> None:
        if self._bell is not None and not self._bell.answer(self):
            self._unwatch(self._bell.fileno)  # until whoever is meant has answered
            self._later[self._begin_to_listen] = time.monotonic() + LOOK_AWAY

    def _let_go(self) -> None:
        """Give back what was taken from the system. As often as one likes."""
        self._bell = None
        bells.leave(self)
        while self._children:
            os.close(self._children.popitem()[1])
        while self._parked:
            self._parked.pop().close()
        for fileno in list(self._callbacks):
            if fileno != self._listener:
                self._unwatch(fileno)

    # -- accepting -----------------------------------------------------------------------------

    def _accept(self) -> None:
        if self.full:
            self._pause()
            self._tell(
                "all threads or children are at work (%d): new clients wait in the backlog",
                self.inside,
            )
            return
        self.server._handle_request_noblock()  # type: ignore[attr-defined] # missing in typeshed
        refusal, self._refusal = self._refusal, None
        if refusal is None:
            return
        # Do not spin on a descriptor that stays readable while nothing can be had from it.
        if refusal.errno in OUT_OF_RESOURCES:
            self._pause()
            self._later[self._resume] = time.monotonic() + BACK_OFF
            self._tell("cannot accept: %s; trying again until it works", refusal)
        elif self.server.fileno() < 0:  # type: ignore[attr-defined] # it had one
            self._pause()  # for good: closed, while we serve
            self._listener = -1

    def _pause(self) -> None:
        self._accepting = False
        self._unwatch(self._listener)

    def _resume(self) -> None:
        self._later.pop(self._resume, None)
        if not self._accepting and self._listener >= 0:
            self._accepting = True
            self._watch(self._listener, select.POLLIN, self._accept)

    def _tell(self, message: str, value: object) -> None:
        """Log, but once for all the time in which somebody has to wait."""
        if message not in self._told:
            self._told.add(message)
            logger.warning(message, value)

    @property
    def inside(self) -> int:
        """Requests that threads or children are at, or that shake hands."""
        return len(self._parked) + at_work(self.server)[0]

    @property
    def full(self) -> bool:
        """Whether there is no thread or child for one more; then `slot_is_free` will be called."""
        if not self._forks and POOL not in vars(self.server):
            return False  # the commonest case, asked for every request
        limit = at_work(self.server)[1]
        if limit is None or self.inside < limit:
            return False
        self._told_when_free = True
        return self.inside >= limit  # again, as one may have ended just before we asked to be told

    # -- handshakes and children ---------------------------------------------------------------

    def _shake_hands(self, handshake: "Handshake") -> None:
        events = handshake.step()
        if events:
            self._watch(handshake.fileno, events, lambda: self._shake_hands(handshake))
            return
        self._end(handshake)
        if handshake.succeeded:
            handshake.go_on()

    def _end(self, handshake: "Handshake") -> None:
        self._parked.remove(handshake)
        self._unwatch(handshake.fileno)
        self.slot_is_free()

    def _reap(self, pid: int) -> None:
        fileno = self._children.pop(pid)
        self._unwatch(fileno)
        os.close(fileno)
        with contextlib.suppress(ChildProcessError):  # somebody else has reaped it
            os.waitpid(pid, os.WNOHANG)
        children = getattr(self.server, "active_children", None)
        if children is not None:
            children.discard(pid)
        self.slot_is_free()


def check_limit(server: socketserver.BaseServer) -> None:
    """Raise `SettingError` if nobody would ever be served.

    Not for a class of the standard library's that `install` has changed: there the name is the program's
    own, and may mean anything.
    """
    limit = getattr(server, "max_threads", None)
    ours = any(each.__module__ == "compat" for each in type(server).__mro__)
    if ours and isinstance(server, socketserver.ThreadingMixIn) and limit_of(server) != limit:
        raise late.errors().SettingError(
            f"max_threads is {limit!r}: write at least 1, or None for no limit"
        )


def can_poll() -> bool:
    """Whether poll(2) is there, and is the system's: gevent and eventlet put their own in its place.

    With theirs, waiting in ours would stop all their greenlets for good.
    """
    return type(getattr(select, "poll", None)) is type(os.getpid)


def _descriptor_of(server: object) -> int:
    """Return what to wait for, or raise `ValueError` in the standard library's words."""
    with selectors.PollSelector() as selector:
        return selector.register(server, selectors.EVENT_READ).fd  # type: ignore[arg-type]


def _milliseconds(seconds: float | None) -> int | None:
    """Round as `selectors.PollSelector` does, and raise what it raises for what is no time."""
    if seconds is None:
        return None
    return 0 if seconds <= 0 else math.ceil(seconds * 1e3)


def _somebody_waits(fileno: int) -> bool:
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return bool(poll.poll(0))


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
