"""Driving a handler straight from the bytes that it waits for, while its real task is parked.

A task is woken by a future, a callback and another turn of the loop, which costs as much as all else
that is done for a small request. A driver spares it that: it is the coroutine that the task steps, it
runs the real one, and when that waits for bytes it goes on inside `data_received` itself. It runs as
its task all the same: `current_task()`, context variables, timeouts and cancellation are the task's.
Whatever else the handler awaits, the task awaits.
"""

import asyncio
import os
from asyncio import _enter_task, _get_running_loop, _leave_task, current_task
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, Final, Self

from asyncserver.errors import ServerStateError

__all__ = ("Driver", "check_loop", "park", "turn")

PARKED: Final = object()  # what a coroutine yields when it waits for its driver
NOTHING: Final = object()

# What repr(task), task.get_stack(), debuggers and tracers ask the coroutine of a task for.
SEEN: Final = frozenset({
    "__name__", "__qualname__", "cr_await", "cr_code", "cr_frame", "cr_origin", "cr_suspended",
})  # fmt: skip
PACKAGE: Final = os.path.dirname(__file__) + os.sep


class _Park:
    """Yields `PARKED`, once each time that it is awaited."""

    __slots__ = ()
    __await__ = (PARKED,).__iter__  # runs no Python code


class _Turn:
    """Yields `None`, which every task takes for "go on in the next turn of the loop"."""

    __slots__ = ()
    __await__ = (None,).__iter__


# To be awaited by the coroutine that is driven, in its own task: until `go_on()`.
park: Final[Awaitable[None]] = _Park()  # type: ignore[assignment] # an iterator is all it takes
# To be awaited in any task: lets the others on the loop have their turn.
turn: Final[Awaitable[None]] = _Turn()  # type: ignore[assignment] # likewise


def check_loop(loop: asyncio.AbstractEventLoop, thing: str) -> None:
    """Raise `ServerStateError`, if `thing` belongs to an event loop that runs elsewhere.

    What is left of it when that loop runs no more, can be closed anywhere.
    """
    here = _get_running_loop()
    if here is not loop and (here is not None or loop.is_running()):
        raise ServerStateError(
            f"this {thing} belongs to another event loop: write loop.call_soon_threadsafe(...) or"
            " asyncio.run_coroutine_threadsafe(..., loop), with that loop"
        )


class Driver(Coroutine[Any, Any, Any]):
    """Runs one coroutine in the task that is made of the driver.

    It is all that an idle connection holds for this: what that task steps; and while the coroutine is
    parked, what the task waits for, a future that can be waited for again and again ("future-like"
    in asyncio's words: it has `_asyncio_future_blocking`). Who looks at the task sees the coroutine:
    the driver has its name, its code and its frame.

    Attributes:
        loop: the loop of that task.
        task: the task, once it has begun.
        wakeup: of the task, while it waits for the driver.
        stepping: the coroutine runs now; if it awaits `park`, it waits for `go_on()`.

    """

    __slots__ = (
        "_asyncio_future_blocking", "_cancelled", "_context", "_coroutine", "_next", "loop", "stepping", "task", "wakeup",
    )  # fmt: skip

    task: "asyncio.Task[Any]"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.stepping = False
        self.task = None  # type: ignore[assignment] # nothing is driven yet
        self.wakeup: Callable[..., object] | None = None
        self._cancelled: asyncio.CancelledError | None = None
        self._asyncio_future_blocking: bool | None = None  # for whoever asks whether it is a future
        # What the task shall await, in a tuple if it was cancelled already; or an exception for it.
        self._next: object = NOTHING

    def drive(self, coroutine: Coroutine[Any, Any, object], context: Context) -> Self:
        """Return what to make a task of, in `context`, to run `coroutine`."""
        self._coroutine = coroutine
        self._context = context
        return self

    def let_go(self) -> None:
        """Forget the task, which holds the driver; to be called when the coroutine ends."""
        self.task = None  # type: ignore[assignment] # likewise

    def after_step(self) -> None:
        """Do what is to be done whenever the coroutine has run for a while."""

    # -- what the protocol calls: something has come ----------------------------------------------

    @property
    def parked(self) -> bool:
        """Whether the coroutine waits for `go_on`."""
        return self.wakeup is not None and not self.stepping

    def go_on(self) -> None:
        """Let a parked coroutine go on at once; if another task runs now, in a turn of its own.

        To be called from a callback of the loop, with another context than the task's.
        """
        loop, task = self.loop, self.task
        try:
            _enter_task(loop, task)
        except RuntimeError:
            self.wake_task()
            return
        self.stepping = True
        try:
            waiter = self._context.run(self._coroutine.send, None)
        except BaseException as exc:  # ends in the task, where somebody looks at it
            self._next, waiter = exc, None  # and not in this frame, which it holds
        finally:
            self.stepping = False
            _leave_task(loop, task)
            self.after_step()
        if self.wakeup is None:
            self._settle(task, waiter)
        elif waiter is not PARKED:
            if waiter is not None:  # else it wants a turn, which is what the task gets anyway
                self._next = waiter
            self.wake_task()

    def _settle(self, task: Any, waiter: Any) -> None:
        """Do what a task does at the end of a step in which it was cancelled; it has been woken."""
        if waiter is not None and waiter is not PARKED:
            self._next = waiter
        if not task._must_cancel:
            return  # somebody has called uncancel(), which counts from Python 3.13 on
        error = asyncio.CancelledError(*_of(task._cancel_message))
        if waiter is PARKED:
            self._cancelled = error
        elif isinstance(self._next, StopIteration):
            self._next = error
        elif asyncio.isfuture(waiter):
            waiter.cancel(msg=task._cancel_message)
            self._next = (waiter,)

    # -- what the task steps ----------------------------------------------------------------------

    def __await__(self) -> Self:
        return self

    def __next__(self) -> object:
        return self._step(None)

    def send(self, _: None) -> object:
        return self._step(None)

    def throw(self, error: Any, *_: object) -> object:
        return self._step(error)

    def close(self) -> None:
        self._coroutine.close()

    def _step(self, error: BaseException | None) -> object:
        waiter, self._next = self._next, NOTHING
        if isinstance(waiter, BaseException):
            try:
                raise waiter
            finally:
                del waiter  # which holds this frame
        if type(waiter) is tuple:
            return waiter[0]  # it knows already, and the error comes back from it
        if waiter is not NOTHING and error is None:
            return waiter
        self.task = current_task()  # type: ignore[assignment] # it is what steps us
        self.stepping = True
        try:
            waiter = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        finally:
            self.stepping = False
            self.after_step()
        if waiter is not PARKED:
            return waiter
        self._asyncio_future_blocking = True  # as `await` would set it
        return self

    # -- what the task waits for: a future that is never done, but wakes whoever waits ------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self.loop

    def add_done_callback(self, wakeup: Callable[..., object], *, context: Context) -> None:  # noqa: ARG002
        self.wakeup = wakeup

    def remove_done_callback(self, wakeup: Callable[..., object]) -> int:
        if self.wakeup != wakeup:
            return 0
        self.wakeup = None
        return 1

    def done(self) -> bool:
        """Whether the task is about to go on."""
        return self.wakeup is None

    def cancelled(self) -> bool:
        """Whether the task is about to be told that it was cancelled."""
        return self._cancelled is not None

    def cancel(self, msg: object = None) -> bool:
        """Cancel what the task would wait for by now, if it had taken the step itself.

        That is `False` where the task shall keep the request in mind and act on it at its next step,
        or forget it when somebody calls `uncancel()` before (from Python 3.13 on).
        """
        if self.wakeup is None:
            waiter = self._next[0] if type(self._next) is tuple else self._next
            if asyncio.isfuture(waiter):
                return bool(waiter.cancel(msg=msg))
            return isinstance(waiter, BaseException)  # it has ended, and nothing can change that
        if self.stepping:
            self.wake_task()
            return False
        self._cancelled = asyncio.CancelledError(*_of(msg))
        self.wake_task()
        return True

    def result(self) -> None:
        error = self.exception()
        if error is not None:
            raise error

    def exception(self) -> BaseException | None:
        error, self._cancelled = self._cancelled, None
        return error

    def wake_task(self) -> None:
        """Let the task go on in a turn of its own, if it waits."""
        wakeup, self.wakeup = self.wakeup, None
        if wakeup is not None:
            self.loop.call_soon(wakeup, self, context=self._context)

    # -- what is seen of the task: the coroutine that is driven -----------------------------------

    @property
    def cr_running(self) -> bool:
        return self.stepping

    def __getattr__(self, name: str) -> Any:
        # Not properties, since a class cannot have one that is called `__qualname__`.
        if name in SEEN:
            return getattr(_users_own(self._coroutine), name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _of(message: object) -> tuple[object, ...]:
    return () if message is None else (message,)


def _users_own(coroutine: Any) -> Any:
    """Return the outermost coroutine that is not of this package, if there is one."""
    found = coroutine
    while found.cr_code.co_filename.startswith(PACKAGE):
        found = found.cr_await
        if not hasattr(found, "cr_code"):
            return coroutine
    return found
