"""Datagram handlers at work: each is started at once, and most have ended when that returns.

A new task for every datagram would cost as much as all else that is done for a small one. So a task
is kept for the next datagram, if no handler has had to wait in it, set a context variable or left a
callback. Its name stays, and what somebody keeps for it in a dictionary of his own.
"""

import asyncio
import sys
from contextvars import Context
from typing import Any, Final

from asyncserver import events
from asyncserver.datagram import Datagram
from asyncserver.driver import Driver, park
from asyncserver.errors import AsyncServerError
from asyncserver.session import Terms

__all__ = ("EAGERLY", "Packets", "retrieve")

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
        self._loop = asyncio.get_running_loop()
        self._idle: Driver | None = None  # its task waits for the next datagram
        self._next: Datagram | None = None  # which is this
        self._starting = False  # a handler runs that is not in `waiting` yet
        self.waiting: dict[asyncio.Task[None], tuple[float, Datagram]] = {}

    def __contains__(self, task: object) -> bool:
        return self._starting or task in self.waiting

    def take(self, datagram: Datagram) -> bool:
        """Start the handler of a datagram, or return `False` if too many run."""
        if self._limit is not None and len(self.waiting) >= self._limit:
            return False
        self._starting = True
        try:
            driver = self._idle or self._start()
            if driver.wakeup is not None:
                self._idle, self._next = None, datagram
                driver.go_on()
            else:  # on Python 3.11, its task has not begun yet
                self._idle, driver = driver, self._start(datagram)
        finally:
            self._starting = False
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
        untouched = context.copy()
        while True:
            if datagram is None:
                await park
                datagram, self._next = self._next, None
                assert datagram is not None
            try:
                await handle(datagram)
            except AsyncServerError as exc:  # about the reply: the sender has gone, or has no name
                self._terms.observers.emit(events.Disconnected(datagram.peer, exc))
            except Exception as exc:
                self._terms.observers.emit(events.Failed(datagram.peer, exc))
            if self._idle is not None or driver.wakeup is None:
                return  # it had to wait, and runs by itself
            if context != untouched or task._callbacks is not None:
                return
            self._idle, datagram = driver, None

    def _wait_for(self, task: "asyncio.Task[None]", datagram: Datagram) -> None:
        if task.done():
            retrieve(task)
        else:
            self.waiting[task] = self._loop.time(), datagram
            task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        self.waiting.pop(task, None)
        retrieve(task)


def retrieve(task: "asyncio.Task[None]") -> None:
    """Look at how a task ended, so that asyncio does not report it as never looked at.

    Only what stops the whole program gets this far, and it is on its way already.
    """
    if task.done() and not task.cancelled():
        task.exception()
