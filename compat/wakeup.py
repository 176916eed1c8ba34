"""How a thread that waits in poll(2) is woken: by a descriptor that it waits for as well.

A few such descriptors serve any number of threads, since a program with a thousand servers has not
another thousand to spare. Who shares one also wakes when somebody else is meant, and then looks away
for a moment, until that one has acknowledged.
"""

import contextlib
import os
import threading
import weakref
from typing import Final

__all__ = ("Wakeup", "acquire", "release")

MOST: Final = 8  # descriptors a process: up to so many servers, nobody wakes for somebody else
ONE: Final = b"\1\0\0\0\0\0\0\0"  # what eventfd(2) wants, and a pipe takes as well

# Reentrant, because a signal handler may wake the thread that is in here.
_lock = threading.RLock()
_wakeups: "list[Wakeup]" = []


class Wakeup:
    """One descriptor, and who waits for it.

    Attributes:
        fileno: is readable from `notify` until whoever was meant has acknowledged.
        waiters: those that wait for it. Weakly, so that one which a signal handler's exception has
            kept from releasing it is not held.

    """

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._other_end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self.fileno: int = self._other_end
        else:
            self.fileno, self._other_end = os.pipe()
            os.set_blocking(self.fileno, False)
            os.set_blocking(self._other_end, False)
        self.waiters: weakref.WeakSet[object] = weakref.WeakSet()
        self._meant: set[object] = set()

    def notify(self, waiter: object) -> None:
        """Wake `waiter`. Any thread and any signal handler may."""
        with _lock:
            if waiter in self.waiters:
                self._meant.add(waiter)
                with contextlib.suppress(BlockingIOError):  # it is as readable as can be
                    os.write(self._other_end, ONE)

    def acknowledge(self, waiter: object) -> bool:
        """Say that `waiter` has woken; return whether nobody else is meant, and it is quiet."""
        with _lock:
            self._meant.discard(waiter)
            if not self._meant:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.fileno, 4096)
            return not self._meant

    def close(self) -> None:
        """Give the descriptors back."""
        for fileno in {self.fileno, self._other_end}:
            os.close(fileno)


def acquire(waiter: object) -> Wakeup | None:
    """Return the one that fewest wait for; `None` if the system has no descriptor left."""
    with _lock:
        _close_unused()
        quietest = min(_wakeups, key=lambda each: len(each.waiters), default=None)
        if quietest is None or len(_wakeups) < MOST:
            with contextlib.suppress(OSError):
                quietest = Wakeup()
                _wakeups.append(quietest)
        if quietest is not None:
            quietest.waiters.add(waiter)
        return quietest


def release(waiter: object) -> None:
    """Wait for none any more. As often as one likes."""
    with _lock:
        for wakeup in _wakeups:
            if waiter in wakeup.waiters:
                wakeup.acknowledge(waiter)
                wakeup.waiters.discard(waiter)
        _close_unused()


def _close_unused() -> None:
    for wakeup in [each for each in _wakeups if not each.waiters]:
        _wakeups.remove(wakeup)
        wakeup.close()


def _forget() -> None:
    """Begin anew in a child process: they are the parent's."""
    global _lock  # noqa: PLW0603 - some other thread, which the child has not, may hold it
    _lock = threading.RLock()
    for wakeup in _wakeups:
        wakeup.close()
    _wakeups.clear()


os.register_at_fork(after_in_child=_forget)
