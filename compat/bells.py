"""How a thread that waits in poll(2) is woken: by a bell, a descriptor that it waits for as well.

A few bells serve any number of threads, since a program with a thousand servers has not another
thousand descriptors to spare. Who shares a bell also hears it when somebody else is meant, and then
looks away for a moment, until that one has answered.
"""

import contextlib
import os
import threading
import weakref
from typing import Final

__all__ = ("Bell", "leave", "take")

MOST: Final = 8  # bells a process: up to so many servers at once, nobody wakes for somebody else
ONE: Final = b"\1\0\0\0\0\0\0\0"  # what eventfd(2) wants, and a pipe takes as well

# Reentrant, because a signal handler may ring while its thread is in here.
_lock = threading.RLock()
_bells: "list[Bell]" = []


class Bell:
    """One descriptor, and who waits for it.

    Attributes:
        fileno: is readable from `ring` until whoever was meant has answered.
        users: those that wait for it. Weakly, so that one which a signal handler's exception has
            kept from leaving does not hold it.

    """

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self.fileno = self._other_end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self.fileno, self._other_end = os.pipe()
            os.set_blocking(self.fileno, False)
            os.set_blocking(self._other_end, False)
        self.users: weakref.WeakSet[object] = weakref.WeakSet()
        self._meant: set[object] = set()

    def ring(self, user: object) -> None:
        """Wake `user`. Any thread and any signal handler may."""
        with _lock:
            if user in self.users:
                self._meant.add(user)
                with contextlib.suppress(BlockingIOError):  # it is ringing for all it is worth
                    os.write(self._other_end, ONE)

    def answer(self, user: object) -> bool:
        """Say that `user` has heard it; return whether nobody else is meant, and it is quiet."""
        with _lock:
            self._meant.discard(user)
            if not self._meant:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.fileno, 4096)
            return not self._meant

    def close(self) -> None:
        """Give the descriptors back."""
        for fileno in {self.fileno, self._other_end}:
            os.close(fileno)


def take(user: object) -> Bell | None:
    """Return the bell that fewest wait for; `None` if the system has no descriptor left."""
    with _lock:
        _close_unused()
        quietest = min(_bells, key=lambda bell: len(bell.users), default=None)
        if quietest is None or len(_bells) < MOST:
            with contextlib.suppress(OSError):
                quietest = Bell()
                _bells.append(quietest)
        if quietest is not None:
            quietest.users.add(user)
        return quietest


def leave(user: object) -> None:
    """Wait for no bell any more. As often as one likes."""
    with _lock:
        for bell in _bells:
            if user in bell.users:
                bell.answer(user)
                bell.users.discard(user)
        _close_unused()


def _close_unused() -> None:
    for bell in [each for each in _bells if not each.users]:
        _bells.remove(bell)
        bell.close()


def _forget() -> None:
    """Begin anew in a child process: the bells are the parent's."""
    global _lock  # noqa: PLW0603 - some other thread, which the child has not, may hold it
    _lock = threading.RLock()
    for bell in _bells:
        bell.close()
    _bells.clear()


os.register_at_fork(after_in_child=_forget)
