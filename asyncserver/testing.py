"""For tests of servers: wait for an event instead of sleeping, and a clock that jumps.

Use `Recorder` as an observer of a `Server`, and `VirtualClockLoop` where deadlines are tested.
"""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any, TypeVar

from asyncserver.events import Event

__all__ = ("Recorder", "VirtualClockLoop")

E = TypeVar("E")


class Recorder:
    """An observer that keeps all events, and lets a test wait for one.

    Attributes:
        events: all so far, in order.

    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._waiters: list[tuple[Callable[[Event], bool], asyncio.Future[Any]]] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        for waiter in [each for each in self._waiters if each[0](event)]:
            self._waiters.remove(waiter)
            if not waiter[1].done():
                waiter[1].set_result(event)

    def of(self, kind: type[E]) -> list[E]:
        """Return all events of this kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    async def wait_for(self, kind: type[E], count: int = 1) -> E:
        """Return the `count`-th event of this kind; wait until there is one."""
        while len(self.of(kind)) < count:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._waiters.append((lambda event: isinstance(event, kind), future))
            await future
        return self.of(kind)[count - 1]


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer whenever no socket is ready.

    A deadline of half a minute, over real sockets, is over in milliseconds. Not for programs in
    which a thread works: the loop would take its silence for idleness.
    """

    def __init__(self) -> None:
        super().__init__(_JumpingSelector(self))
        self._jumped = 0.0

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return super().time() + self._jumped


class _JumpingSelector(selectors.DefaultSelector):
    """Looks twice before it lets the time pass, since loopback needs a moment to deliver."""

    def __init__(self, loop: VirtualClockLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0 if timeout is None or timeout <= 0 else min(timeout, 0.001))
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None:
            return super().select(None)
        self._loop._jumped += timeout
        return []
