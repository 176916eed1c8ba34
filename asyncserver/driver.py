"""Driving a handler straight from the bytes that it waits for, while its real task is parked.

A task is woken by a future, a callback and another turn of the loop, which costs as much as all else
that is done for a small request. A driver spares it that: the task awaits the driver, the driver
runs the handler, and a handler that waits for bytes goes on inside `data_received` itself. It runs
as its task all the same: `current_task()`, context variables, timeouts and cancellation are the
task's. Whatever else the handler awaits, the task awaits.
"""

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import Context
from typing import Any, Final, Self

__all__ = ("Driver", "park")

PARKED: Final = object()  # what a coroutine yields when it waits for its driver
ONCE: Final = (PARKED,)
NOTHING: Final = object()


class _Park:
    """Yields `PARKED`, once each time that it is awaited."""

    def __await__(self) -> Generator[object, None, None]:
        return iter(ONCE)  # type: ignore[return-value] # an iterator is all that `await` wants


park: Final = _Park()  # to be awaited by the coroutine that is driven, in its own task


class Driver(Generator[object, None, object]):
    """Runs one coroutine in the task that awaits `drive`.

    It is itself what that task steps, a generator without a frame: an idle connection holds enough
    of them.

    Attributes:
        loop: the loop of that task.
        task: the task.
        stepping: the coroutine runs now; if it awaits `park`, it waits for `go_on()`.

    """

    __slots__ = (
        "_context",
        "_coroutine",
        "_end",
        "_handed",
        "_parked",
        "_send",
        "loop",
        "stepping",
        "task",
    )

    task: "asyncio.Task[Any] | None"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.stepping = False
        self._parked: asyncio.Future[None] | None = None  # what the task waits for meanwhile
        self._handed: object = NOTHING  # what the task shall await next
        self._end: BaseException | None = None  # how the coroutine ended

    def drive(self, coroutine: Coroutine[Any, Any, object], context: Context) -> Self:
        """Return what to await to run `coroutine`; `context` is that of the current task."""
        self._coroutine = coroutine
        self._send = coroutine.send
        self._context = context
        self.task = asyncio.current_task()
        return self

    def after_step(self) -> None:
        """Do what is to be done whenever the coroutine has run for a while."""

    # -- what the task calls: it is stepped, and awaits what it gets ------------------------------

    def __await__(self) -> Self:
        return self

    def send(self, _: None) -> object:
        return self._step(None)

    def throw(self, error: Any, *_: object) -> object:
        return self._step(error)

    def _step(self, error: BaseException | None) -> object:
        if self._end is not None:
            raise self._end
        if self._handed is not NOTHING:
            waiter, self._handed = self._handed, NOTHING
            if error is None:
                return waiter
            if isinstance(waiter, asyncio.Future) and waiter.cancel():
                return waiter  # the error comes back from what was cancelled, as in any task
        self.stepping = True
        try:
            waiter = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        finally:
            self.stepping = False
            self.after_step()
        if waiter is PARKED:
            waiter = self._parked = self.loop.create_future()
            self._parked._asyncio_future_blocking = True  # as `await` would set it
        return waiter

    # -- what the protocol calls: something has come ----------------------------------------------

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
