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

    Attributes:
        loop: the loop of that task.
        task: the task.
        stepping: the coroutine runs now; if it awaits `park()`, it waits for `go_on()`.

    """

    __slots__ = ("_context", "_end", "_handed", "_parked", "_send", "loop", "stepping", "task")

    task: "asyncio.Task[Any] | None"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.stepping = False
        self._parked: asyncio.Future[None] | None = None  # what the task waits for meanwhile
        self._handed: object = NOTHING  # what the task shall await next
        self._end: BaseException | None = None  # how the coroutine ended

    def after_step(self) -> None:
        """Do what is to be done whenever the coroutine has run for a while."""

    @types.coroutine
    def drive(
        self, coroutine: Coroutine[Any, Any, object], context: Context
    ) -> Generator[Any, Any, object]:
        """Await `coroutine`; `context` is the one that the current task runs in."""
        self._context = context
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
                self.after_step()
            while True:
                if waiter is PARKED:
                    waiter = self._parked = self.loop.create_future()
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

    @property
    def parked(self) -> bool:
        """Whether the coroutine waits for `go_on`."""
        return self._parked is not None and not self._parked.done()

    def go_on(self) -> None:
        """Let a parked coroutine go on: at once from a callback, from another task in its own turn."""
        parked = self._parked
        if parked is None or parked.done():
            return  # its task has been told something else, and will run
        if asyncio.current_task() is not None:
            parked.set_result(None)
            return
        asyncio._enter_task(self.loop, self.task)  # type: ignore[arg-type]
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
            asyncio._leave_task(self.loop, self.task)  # type: ignore[arg-type]
            self.after_step()


@types.coroutine
def park() -> Generator[object, None, None]:
    """Wait for the driver. Only for its own coroutine, and its own task."""
    yield PARKED
