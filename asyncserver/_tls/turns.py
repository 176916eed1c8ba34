"""Handshakes take turns: however many clients come at once, the loop stays with the others.

One costs its server some 0.5 ms of arithmetic with an RSA key of 2048 bits, ten times that with one
of 4096; sixty-four that are ready at once would keep everybody waiting for their sum.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Final
from weakref import WeakKeyDictionary

__all__ = ("take_turns",)

SLICE: Final = 0.002  # seconds in a turn of the loop; one handshake step is done in any case


class Queue:
    """Those of one loop, first come, first served."""

    def __init__(self) -> None:
        self._steps: deque[Callable[[], object]] = deque()
        self._running = False

    def put(self, loop: asyncio.AbstractEventLoop, step: Callable[[], object]) -> None:
        self._steps.append(step)
        if not self._running:
            self._running = True
            loop.call_soon(self._run, loop)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        end = perf_counter() + SLICE
        try:
            while self._steps:
                self._steps.popleft()()
                if perf_counter() >= end:
                    break
        finally:
            self._running = bool(self._steps)
            if self._running:
                loop.call_soon(self._run, loop)


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, Queue] = WeakKeyDictionary()


def take_turns(loop: asyncio.AbstractEventLoop, step: Callable[[], object]) -> None:
    """Have `step` called soon."""
    queue = _queues.get(loop)
    if queue is None:
        queue = _queues[loop] = Queue()
    queue.put(loop, step)
