"""Sending everybody home: wait, cancel, wait a little, give up.

Knows tasks and the clock, not what the tasks are about.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

from asyncserver._cpython import abandon

__all__ = ("Drain", "once_read", "read")

# A handler's clean-up takes the processor, too, and they all want it at once.
CLEANUP_EACH: Final = 0.001  # seconds
CLEANUP_MOST: Final = 10  # times what one of them may take

Task = asyncio.Task[Any]


class Drain:
    """The end of a number of tasks. Its deadline can be moved nearer, also while it runs.

    Args:
        cleanup: seconds that tasks which were cancelled have to end; see `Timeouts.cleanup`.

    """

    def __init__(self, cleanup: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._cleanup = cleanup
        self._deadline: float | None = None
        self._timeout: asyncio.Timeout | None = None

    def shorten(self, grace: float | None) -> None:
        """Allow `grace` seconds from now, if that is less than what is allowed already."""
        if grace is None:
            return
        deadline = self._loop.time() + grace
        if self._deadline is None or deadline < self._deadline:
            self._deadline = deadline
            if self._timeout is not None:
                self._timeout.reschedule(deadline)

    async def run(
        self,
        last_guests: Callable[[], Awaitable[None]],
        tasks: Callable[[], Collection[Task]],
        last_call: Callable[[], object],
        abort: Callable[[Task], object],
    ) -> tuple[int, int]:
        """See everybody out; return how many had to be cancelled, and how many aborted.

        Args:
            last_guests: returns when nobody will begin any more.
            tasks: those that run now.
            last_call: called at the deadline, for those who do not know yet that they should go.
            abort: called with each task that will not even be cancelled.

        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._deadline) as self._timeout:
                await last_guests()
                while running := tasks():
                    await asyncio.wait(running)
        self._timeout = None
        last_call()
        await read(self._loop)
        late = [task for task in tasks() if not task.done()]
        stubborn = await self._cancel(late)
        for task in stubborn:
            abort(task)
            abandon(task)
        return len(late) - len(stubborn), len(stubborn)

    async def _cancel(self, late: Collection[Task]) -> list[Task]:
        """Cancel `late`, and return those that do not end."""
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=self._time_to_clean_up(len(late)))
        return [task for task in late if not task.done()]

    def _time_to_clean_up(self, tasks: int) -> float | None:
        if self._cleanup is None:
            return None
        return max(self._cleanup, min(tasks * CLEANUP_EACH, CLEANUP_MOST * self._cleanup))


def once_read(
    loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object
) -> None:
    """Call `callback` when the loop has read what the kernel holds for it by now.

    After a stall, what peers have sent meanwhile is still there, and libuv calls timers before it
    looks. One turn is not enough, since a callback may belong to the turn that looks.
    """
    loop.call_soon(loop.call_soon, callback, *args)


async def read(loop: asyncio.AbstractEventLoop) -> None:
    """Return when the loop has read what the kernel holds for it by now."""
    done = loop.create_future()
    once_read(loop, _set, done)
    await done


def _set(done: "asyncio.Future[None]") -> None:
    if not done.done():
        done.set_result(None)
