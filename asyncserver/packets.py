"""Datagram handlers at work: each is started at once, and most have ended when that returns.

A new task for every datagram would cost as much as all else that is done for a small one. So a task
is kept for the next datagram, if no handler has had to wait in it or has left something behind: a
context variable, a callback, a name, a request to cancel it. Only what somebody keeps for it in a
dictionary of his own stays.
"""

import asyncio
import operator
import sys
from contextvars import Context
from typing import Any, Final

from asyncserver import events
from asyncserver.datagram import Datagram
from asyncserver.driver import Driver, park
from asyncserver.session import Terms

__all__ = ("EAGERLY", "Packets", "unheard")

# What one peer may have at most: as many places as are left free to others, in a house of a thousand a
# fourteenth of that (more than the 64 of one turn, which wait for their tasks on Python 3.11). So whoever comes late still finds one: when one peer keeps all that it can get, 933
# of 1,000 are free; when fifty do, one after the other (which is the worst), some 20.
SMALLEST_PART: Final = 14
LOOP_ENDS: Final = (SystemExit, KeyboardInterrupt)  # those that a task lets out into its loop
PROGRAM_ENDS: Final = (*LOOP_ENDS, GeneratorExit)

EAGERLY: Final[dict[str, Any]] = {"eager_start": True} if sys.version_info >= (3, 12) else {}


class Packets:
    """The owner of all tasks that run datagram handlers.

    Attributes:
        waiting: those that did not end at once, since when, and what they handle.

    """

    def __init__(self, terms: Terms, context: Context) -> None:
        self._terms = terms
        self._context = context
        self._limit = terms.limits.datagrams
        self._part = min(1 + (self._limit or 0) // 64, SMALLEST_PART)
        self._loop = asyncio.get_running_loop()
        self._idle: Driver | None = None  # its task waits for the next datagram
        self._next: Datagram | None = None  # which is this
        self._places: dict[Any, int] = {}  # of `waiting`, by peer; those without a name are one
        self.waiting: dict[asyncio.Task[None], tuple[float, Datagram]] = {}

    def take(self, datagram: Datagram) -> bool:
        """Start the handler of a datagram, or return `False` if too many run."""
        if self._places and not self._has_place(datagram._raw_peer):
            return False
        driver = self._idle or self._start()
        if driver.wakeup is not None:
            self._idle, self._next = None, datagram
            driver.go_on()
        else:  # on Python 3.11, its task has not begun yet
            self._idle, driver = driver, self._start(datagram)
        if self._idle is not driver:
            self._wait_for(driver.task, datagram)
        return True

    def expire(self, now: float) -> None:
        """Cancel the handlers that are over their lifetime."""
        lifetime = self._terms.timeouts.lifetime
        for task, (since, datagram) in self.waiting.items():
            if lifetime is None or now - since < lifetime:
                break  # the others came later
            self._terms.observers.emit(events.Expired(datagram.peer, "lifetime"))
            task.cancel()

    def dismiss(self) -> None:
        """Let the task end that is kept for the next datagram: none will come."""
        if self._idle is not None:
            self._idle.task.cancel()
            self._idle = None

    def _start(self, datagram: Datagram | None = None) -> Driver:
        context = self._context.copy()
        driver = Driver(self._loop)
        driver.drive(self._work(driver, context, datagram), context)
        driver.task = asyncio.Task(driver, loop=self._loop, context=context, **EAGERLY)
        return driver

    async def _work(self, driver: Driver, context: Context, datagram: Datagram | None) -> None:
        handle = self._terms.service.datagram
        assert handle is not None
        task: Any = asyncio.current_task()
        untouched, name = context.copy(), task.get_name()
        while True:
            if datagram is None:
                try:
                    await park
                except BaseException:  # somebody has cancelled all tasks that he could find
                    if self._idle is driver:
                        self._idle = None
                    raise
                datagram, self._next = self._next, None
                assert datagram is not None
            try:
                await handle(datagram)
            except BaseException as exc:
                if _must_pass(exc, task):
                    raise
                self._report(datagram, exc)
            if self._idle is not None or driver.wakeup is None:
                return  # it had to wait, and runs by itself
            # One variable is our own, see Crew; most programs have no other.
            if len(context) > 1 and not _same(context, untouched):
                return
            if task._callbacks is not None or task.cancelling() or task.get_name() != name:
                return
            self._idle, datagram = driver, None

    def _report(self, datagram: Datagram, exc: BaseException) -> None:
        """Say whose fault it was: a reply that could not be given is nothing to shout about."""
        if isinstance(exc, Exception) and _is_about_replies(exc, datagram):
            self._terms.observers.emit(events.Disconnected(datagram.peer, exc))
        else:
            self._terms.observers.emit(events.Failed(datagram.peer, exc))

    # -- those that wait ---------------------------------------------------------------------------

    def _has_place(self, peer: Any) -> bool:
        if self._limit is None:
            return True
        free = self._limit - len(self.waiting)
        return free > 0 and self._places.get(peer or None, 0) * self._part <= free

    def _wait_for(self, task: "asyncio.Task[None]", datagram: Datagram) -> None:
        if task.done():
            self._report_end(task, datagram)
            return
        self.waiting[task] = self._loop.time(), datagram
        peer = datagram._raw_peer or None
        self._places[peer] = self._places.get(peer, 0) + 1
        task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        _, datagram = self.waiting.pop(task)
        peer = datagram._raw_peer or None
        self._places[peer] -= 1
        if not self._places[peer]:
            del self._places[peer]
        self._report_end(task, datagram)

    def _report_end(self, task: "asyncio.Task[None]", datagram: Datagram) -> None:
        error = unheard(task)
        if error is not None:
            self._terms.observers.emit(events.Failed(datagram.peer, error))


def _must_pass(exc: BaseException, task: "asyncio.Task[None]") -> bool:
    """Whether this is more than a handler's failure: the program ends, or the task is cancelled.

    A `CancelledError` that nobody asked of this task comes from something that the handler awaited.
    """
    if isinstance(exc, asyncio.CancelledError):
        return task.cancelling() > 0
    return _has(exc, PROGRAM_ENDS)


def _has(exc: BaseException | None, kinds: tuple[type[BaseException], ...]) -> bool:
    """Whether it is one of these, or a group that one of these is in."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.subgroup(kinds) is not None
    return isinstance(exc, kinds)


def _is_about_replies(exc: BaseException, datagram: Datagram) -> bool:
    """Whether the handler only let out what `reply` had raised."""
    if isinstance(exc, BaseExceptionGroup):
        return all(_is_about_replies(each, datagram) for each in exc.exceptions)
    return any(exc is each for each in datagram.lost or ())


def _same(context: Context, untouched: Context) -> bool:
    """Whether no variable was set: the very values count, not what they say of themselves."""
    return len(context) == len(untouched) and all(
        map(operator.is_, context.values(), untouched.values())
    )


def unheard(task: "asyncio.Task[None]") -> BaseException | None:
    """Return what a task has ended with, if nobody else hears of it.

    Only what stops the whole program gets this far, and most of it is on its way already. But asyncio
    keeps a `GeneratorExit` of the handler's own in the task, and nothing stops.
    """
    if not task.done() or task.cancelled():
        return None
    error = task.exception()
    return None if _has(error, LOOP_ENDS) else error
