"""Accepting: a batch at a time, not more than fit in, with a pause when the system is out.

One acceptor a listener. It does not know what accepting is, nor what becomes of a connection: it
knows when to try, and is told to `resume` when somebody has left.
"""

import asyncio
import errno
from collections.abc import Callable
from typing import Final, Protocol

from asyncserver.events import Exhausted, Observers, Saturated

__all__ = ("Acceptor", "Capacity")

# Accepts in a row before others on the loop get their turn; of all listeners of a server together. An
# accepted connection costs 60 us until its handler waits, so this is 4 ms of a turn.
BATCH: Final = 64
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
    """Accepts from one listener.

    Args:
        loop: the loop to run on.
        fileno: a descriptor that is readable while somebody waits; the caller closes it, after
            `close()`.
        accept: accepts one and sees to it. Raises `BlockingIOError` if nobody waits, another
            `OSError` if accepting failed.
        capacity: asked before every `accept` whether one more fits in; `None`: always.
        observers: are told when it is full, and when the system is out.
        batch: most accepts in a row.

    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fileno: int,
        accept: Callable[[], object],
        capacity: Capacity | None,
        observers: Observers,
        *,
        batch: int = BATCH,
    ) -> None:
        self._loop = loop
        self._fileno = fileno
        self._accept_one = accept
        self._capacity = capacity
        self._observers = observers
        self._batch = batch
        self._accepting = False
        self._exhausted = False
        self._saturated = False
        self._again: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def paused(self) -> bool:
        """Whether nothing is accepted for now."""
        return not self._accepting

    def resume(self) -> None:
        """Accept from now on. Does nothing if it does already, or is closed."""
        if self._accepting or self._closed:
            return
        self._cancel_timer()
        self._accepting = True
        self._loop.add_reader(self._fileno, self._accept)

    def close(self) -> None:
        """Accept no more. Does not close the listener."""
        self._pause()
        self._closed = True
        self._cancel_timer()

    def _accept(self) -> None:
        for _ in range(self._batch):
            if self._capacity is not None and self._capacity.full:
                if not self._saturated:
                    self._observers.emit(Saturated(self._capacity.inside))
                self._saturated = True
                self._pause()
                return
            try:
                self._accept_one()
            except (BlockingIOError, InterruptedError):
                self._saturated = self._exhausted = False  # nobody waits any more
                return
            except OSError as exc:
                if exc.errno in PEER_ERRORS:
                    continue
                self._back_off(exc)
                return
            if not self._accepting:
                return  # whoever was accepted closed the server

    def _back_off(self, exc: OSError) -> None:
        """Stop looking: a listener that stays readable and cannot be served would spin the CPU."""
        self._observers.emit(Exhausted(exc, first=not self._exhausted))
        self._exhausted = True
        self._pause()
        self._again = self._loop.call_later(BACK_OFF, self.resume)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._fileno)

    def _cancel_timer(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
