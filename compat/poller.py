"""Waiting for whatever can happen to a server: poll(2), timers, and other threads that wake it.

Why no event loop: one needs descriptors of its own, three to seven a server; and a signal that arrives
inside of it comes out as something else, finds a loop running, or takes its wake-up descriptor away.
Here signals find plain Python code and a system call that they interrupt. Needs no asyncio, so that a
program without one does not pay for it.
"""

import math
import os
import select
import time
from collections.abc import Callable
from typing import Final

from compat import wakeup

__all__ = ("Poller", "can_poll", "is_readable")

LOOK_AWAY: Final = 0.05  # seconds, when a wakeup that is shared is meant for somebody else
WITHOUT_LIMIT: Final = 500  # milliseconds of waiting, where there is no interval


class Poller:
    """What one thread waits for, and what is called then.

    Attributes:
        woken: somebody has called `wake`, and the one who polls has not taken note of it yet.
        waits: it is in poll(2), or just before or after it.

    """

    def __init__(self) -> None:
        self.woken: bool = False
        self.waits: bool = False
        self._poll = select.poll()
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._timers: dict[Callable[[], object], float] = {}  # what to call, and when at the latest
        self._interval: int | None = None  # milliseconds
        self._wakeup: wakeup.Wakeup | None = None

    def start(self, interval: float | None) -> None:
        """Wait for `interval` seconds at most from now on, and let other threads wake this one.

        Rounds as `selectors.PollSelector` does, and raises what it raises for what is no time.
        """
        if interval is not None:
            self._interval = 0 if interval <= 0 else math.ceil(interval * 1e3)
        self.watch_wakeup()

    def wait(self) -> list[tuple[int, int]] | None:
        """Return what is ready; `None`: nothing has happened, and the interval is not over."""
        self.waits = True
        # Who calls before we wait sets a flag, and who calls after that uses the descriptor.
        limit = 0 if self.woken else self._rest() if self._timers else self._interval
        # A signal that another thread has received does not interrupt this one: what handles it runs
        # when we look up, which without an interval would be never.
        ready = self._poll.poll(WITHOUT_LIMIT if limit is None else limit)
        self.waits = False
        return None if limit is None and not ready and not self.woken else ready

    def call(self, ready: list[tuple[int, int]]) -> None:
        """Call what is to be called for `ready`, and by now."""
        for fileno, _ in ready:
            callback = self._callbacks.get(fileno)
            if callback is not None:
                callback()
        if self._timers:
            now = time.monotonic()
            for function in [each for each, when in self._timers.items() if when <= now]:
                self._timers.pop(function, None)
                function()

    def wake(self) -> None:
        """Return from `wait` now. Any thread and any signal handler may."""
        self.woken = True
        held = self._wakeup
        if held is not None and self.waits:
            held.notify(self)

    def watch(self, fileno: int, events: int, callback: Callable[[], object]) -> None:
        """Call `callback` whenever one of `events` is there."""
        self._callbacks[fileno] = callback
        self._poll.register(fileno, events)

    def unwatch(self, fileno: int) -> None:
        """Wait for it no more. As often as one likes."""
        if self._callbacks.pop(fileno, None) is not None:
            self._poll.unregister(fileno)

    def call_at(self, when: float, function: Callable[[], object]) -> None:
        """Call `function` once, at `when` by `time.monotonic`; instead of when it was told before."""
        self._timers[function] = when

    def cancel(self, function: Callable[[], object]) -> None:
        """Do not call it, should it be waiting for its time."""
        self._timers.pop(function, None)

    def watch_wakeup(self) -> None:
        """Let other threads wake this one."""
        if self._wakeup is None:
            self._wakeup = wakeup.acquire(self)
        if self._wakeup is not None:
            self.watch(self._wakeup.fileno, select.POLLIN, self._acknowledge)

    def release(self, *, but: int | None = None) -> None:
        """Give back what was taken from the system, and wait for nothing; only for `but`, if given."""
        self._wakeup = None
        wakeup.release(self)
        for fileno in list(self._callbacks):
            if fileno != but:
                self.unwatch(fileno)
        if but is None:  # or they would keep whom they call until somebody collects
            self._timers.clear()

    def _rest(self) -> int:
        """How many milliseconds to wait, if there is something to do though nothing happens."""
        rest = max(0, math.ceil((min(self._timers.values()) - time.monotonic()) * 1000))
        return min(WITHOUT_LIMIT if self._interval is None else self._interval, rest)

    def _acknowledge(self) -> None:
        if self._wakeup is not None and not self._wakeup.acknowledge(self):
            self.unwatch(self._wakeup.fileno)  # until whoever is meant has acknowledged
            self.call_at(time.monotonic() + LOOK_AWAY, self.watch_wakeup)


def is_readable(fileno: int) -> bool:
    """Whether it can be read now."""
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return bool(poll.poll(0))


def can_poll() -> bool:
    """Whether poll(2) is there, and is the system's: gevent and eventlet put their own in its place.

    With theirs, waiting in ours would stop all their greenlets for good.
    """
    return type(getattr(select, "poll", None)) is type(os.getpid)
