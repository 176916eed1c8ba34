"""Sending everybody home: wait, cancel, wait a little, give up.

Knows tasks and the clock, not what the tasks are about.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Any, Final

from asyncserver.events import Drained

__all__ = ("Drain",)

CANCEL_GRACE: Final = 0.25  # seconds between cancelling a task and giving up on it


class Drain:
    """The end of a number of tasks. Its deadline can be moved nearer, also while it runs."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
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
        self, tasks: Collection[asyncio.Task[Any]], abort: Callable[[asyncio.Task[Any]], object]
    ) -> Drained:
        """Wait for `tasks` until the deadline, cancel them, and `abort` those that will not end."""
        late = await self._wait(tasks)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=CANCEL_GRACE)
        stubborn = [task for task in late if not task.done()]
        for task in stubborn:
            abort(task)
            _abandon(task)
        return Drained(len(tasks) - len(late), len(late) - len(stubborn), len(stubborn))

    async def _wait(self, tasks: Collection[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
        """Return the tasks that are not done at the deadline."""
        if tasks:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._deadline) as self._timeout:
                    await asyncio.wait(tasks)
            self._timeout = None
        return [task for task in tasks if not task.done()]


def _abandon(task: asyncio.Task[Any]) -> None:
    """Let the loop forget a task that swallowed its cancellation.

    `asyncio.run()` waits for all tasks that it knows of, and would never return.
    """
    asyncio._unregister_task(task)  # documented under "Extending asyncio"
    task._log_destroy_pending = False  # type: ignore[attr-defined] # as asyncio's own runners do
