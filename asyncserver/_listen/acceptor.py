"""Accepting: some at a time, not more than fit in, with a pause when the system is out.

One acceptor a server, so that its listeners take turns. It does not know what accepting is, nor what
becomes of a connection: it knows when to try, and is told to `resume` when somebody has left.
"""

import asyncio
import errno
from collections.abc import Callable
from typing import Final, Protocol

from asyncserver.events import Exhausted, Observers, Saturated

__all__ = ("Acceptor", "Capacity")

# Accepts in a turn of the loop. A connection costs 60 us until its handler waits, so this is 2 ms.
BATCH: Final = 32
BACK_OFF: Final = 0.1  # seconds; nine wake-ups in ten go to waste at most

# accept(2): errors of the connection that was waiting, not of the listener. Take the next one.
PEER_ERRORS: Final = frozenset({
    errno.ECONNABORTED, errno.EPROTO, errno.ENOPROTOOPT, errno.EPERM, errno.EOPNOTSUPP,
    errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
})  # fmt: skip


class Capacity(Protocol):
    """How many are inside, and whether one more fits in."""

    @property
    def inside(self) -> int: ...
    @property
    def full(self) -> bool: ...


class Acceptor:
    """Accepts from the listeners of a server, one after the other.

    Args:
        loop: the loop to run on.
        capacity: asked before each is accepted whether one more fits in; `None`: always.
        observers: are told when it is full, and when the system is out.
        batch: most accepts in a turn of the loop.

    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        capacity: Capacity | None,
        observers: Observers,
        *,
        batch: int = BATCH,
    ) -> None:
        self._loop = loop
        self._capacity = capacity
        self._observers = observers
        self._batch = batch
        self._listeners: dict[int, Callable[[], object]] = {}
        self._waited_for: dict[int, None] = {}  # listeners where somebody waits, in their order
        self._turn: asyncio.Handle | None = None
        self._accepting = False
        self._exhausted = False
        self._saturated = False
        self._again: asyncio.TimerHandle | None = None

    @property
    def paused(self) -> bool:
        """Whether nothing is accepted for now."""
        return not self._accepting

    def add(self, fileno: int, accept: Callable[[], object]) -> None:
        """Accept from one more listener, from the next `resume()` on.

        `fileno` is readable while somebody waits; the caller closes it, after `close()`. `accept`
        accepts one and sees to it. It raises `BlockingIOError` if nobody waits, another `OSError` if
        accepting failed.
        """
        self._listeners[fileno] = accept

    def resume(self) -> None:
        """Accept from now on. Does nothing if it does already, or is closed."""
        if self._accepting:
            return
        self._cancel_timer()
        for fileno in self._listeners:
            self._accepting = True
            self._loop.add_reader(fileno, self._found, fileno)

    def close(self) -> None:
        """Accept no more. Does not close the listeners."""
        self._pause()
        self._cancel_timer()
        self._listeners.clear()

    def _found(self, fileno: int) -> None:
        self._waited_for[fileno] = None
        if self._turn is None:
            self._turn = self._loop.call_soon(self._accept)

    def _accept(self) -> None:
        self._turn = None
        for _ in range(self._batch):
            if self._capacity is not None and self._capacity.full:
                if not self._saturated:
                    self._observers.emit(Saturated(self._capacity.inside))
                self._saturated = True
                self._pause()
                return
            fileno = next(iter(self._waited_for))
            del self._waited_for[fileno]
            try:
                self._listeners[fileno]()
            except (BlockingIOError, InterruptedError):
                if not self._waited_for:
                    self._saturated = self._exhausted = False
                    return
                continue
            except OSError as exc:
                if exc.errno not in PEER_ERRORS:
                    self._back_off(exc)
                    return
            if not self._accepting:
                return  # whoever was accepted closed the server
            self._waited_for[fileno] = None  # behind the others
        self._turn = self._loop.call_soon(self._accept)

    def _back_off(self, exc: OSError) -> None:
        """Stop looking: a listener that stays readable and cannot be served would spin the CPU."""
        self._observers.emit(Exhausted(exc, first=not self._exhausted))
        self._exhausted = True
        self._pause()
        self._again = self._loop.call_later(BACK_OFF, self.resume)

    def _pause(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._waited_for.clear()
        if self._accepting:
            self._accepting = False
            for fileno in self._listeners:
                self._loop.remove_reader(fileno)

    def _cancel_timer(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
