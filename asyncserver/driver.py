"""Driving a handler straight from the bytes that it waits for, while its real task is parked.

A task is woken by a future, a callback and another turn of the loop, which costs as much as all else
that is done for a small request. A driver spares it that: the task awaits the driver, the driver
runs the handler, and a handler that waits for bytes goes on inside `data_received` itself. It runs
as its task all the same: `current_task()`, context variables, timeouts and cancellation are the
task's. Whatever else the handler awaits, the task awaits.
"""

import asyncio
import types
from collections.abc import Coroutine, Generator
from contextvars import Context
from typing import Any, Final

__all__ = ("Driver", "park")

PARKED: Final = object()  # what a coroutine yields when it waits for its driver
NOTHING: Final = object()


class Driver:
    """Runs one coroutine in the task that awaits `drive`.

    Looks like a future to whoever wakes it: `done` and `set_result`.

    Attributes:
        task: the one that awaits `drive`.
        stepping: the coroutine runs now; if it awaits `park()`, it waits to be driven.

    Args:
        loop: the loop of the task.
        context: the one that the task runs in.

    """

    __slots__ = ("_context", "_end", "_handed", "_loop", "_parked", "_send", "stepping", "task")

    task: "asyncio.Task[Any] | None"

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Context) -> None:
        self._loop = loop
        self._context = context
        self.stepping = False
        self._parked: asyncio.Future[None] | None = None  # what the task waits for meanwhile
        self._handed: object = NOTHING  # what the task shall await next
        self._end: BaseException | None = None  # how the coroutine ended

    @types.coroutine
    def drive(self, coroutine: Coroutine[Any, Any, object]) -> Generator[Any, Any, object]:
        """Await `coroutine`."""
        self.task = asyncio.current_task()
        self._send = coroutine.send
        failure: BaseException | None = None
        while True:
            self.stepping = True
            try:
                waiter = coroutine.send(None) if failure is None else coroutine.throw(failure)
            except StopIteration as stop:
                return stop.value
            finally:
                self.stepping = False
                failure = None
            while True:
                if waiter is PARKED:
                    waiter = self._parked = self._loop.create_future()
                    self._parked._asyncio_future_blocking = True  # as `await` would set it
                try:
                    yield waiter
                except BaseException as exc:
                    failure = exc
                if self._end is not None:
                    end, self._end = self._end, None
                    if isinstance(end, StopIteration):
                        return end.value
                    raise end
                if self._handed is NOTHING:
                    break
                waiter, self._handed = self._handed, NOTHING
                if failure is not None:
                    if not (isinstance(waiter, asyncio.Future) and waiter.cancel()):
                        break
                    failure = None  # it comes back from what was cancelled, as in any task

    def done(self) -> bool:
        """Whether nobody waits for the driver."""
        return self._parked is None or self._parked.done()

    def set_result(self, _: None) -> None:
        """Let the coroutine go on: here and now from a callback, through its task from another task."""
        parked = self._parked
        assert parked is not None
        if asyncio.current_task() is not None:
            parked.set_result(None)
            return
        asyncio._enter_task(self._loop, self.task)  # type: ignore[arg-type]
        self.stepping = True
        try:
            waiter = self._context.run(self._send, None)
        except BaseException as exc:  # ends in the task, where somebody looks at it
            self._end = exc
            parked.set_result(None)
        else:
            if waiter is not PARKED:
                self._handed = waiter
                parked.set_result(None)
        finally:
            self.stepping = False
            asyncio._leave_task(self._loop, self.task)  # type: ignore[arg-type]


@types.coroutine
def park() -> Generator[object, None, None]:
    """Wait for the driver. Only for its own coroutine, and its own task."""
    yield PARKED
