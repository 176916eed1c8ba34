"""A handler is cancelled as any asyncio task is: each case runs beside a plain task that waits for a future."""

import asyncio
import itertools
import sys
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from tests.test_driver import Driven

TURNS = 8  # of the loop, after which whatever could happen has happened


class Plain:
    """A handler in a plain task, that waits for its bytes as whoever has no driver."""

    def __init__(self, handler):
        self.loop = asyncio.get_running_loop()
        self.bytes = b""
        self.waiter: asyncio.Future[None] | None = None
        self.task = self.loop.create_task(handler(self))

    async def read(self, n):
        while not self.bytes:
            self.waiter = self.loop.create_future()
            try:
                await self.waiter
            finally:
                self.waiter = None
        data, self.bytes = self.bytes[:n], self.bytes[n:]
        return data

    def data_received(self, data):
        """Return whether the handler's step is due, which a driven one has taken by then."""
        self.bytes += data
        if self.waiter is None or self.waiter.done():
            return False
        self.waiter.set_result(None)
        return True


class Inline(Driven):
    """A handler that is driven."""

    def data_received(self, data):
        self.protocol.data_received(data)
        return False


class Case:
    """One run of a handler's program while a script is played from outside of all tasks."""

    def __init__(self, kind: Any, program):
        self.loop = asyncio.get_running_loop()
        self.log: list[Any] = []
        self.other = self.loop.create_future()
        self.children: list[asyncio.Task[None]] = []
        self.program = program
        self.subject = kind(self.handler)

    @property
    def task(self) -> Any:
        return self.subject.task

    async def handler(self, connection):
        for name in ("read", *self.program):
            try:
                found = await getattr(self, name)(connection)
                self.log.append((name, found, self.task.cancelling()))
            except asyncio.CancelledError as exc:
                self.log.append((name, "cancelled", exc.args, self.task.cancelling()))
                if name == "last":
                    raise
        return "returned"

    # -- what the handler does ---------------------------------------------------------------------

    async def read(self, connection):
        return await connection.read(1)

    last = read

    async def future(self, _):
        await self.other

    async def turn(self, _):
        await asyncio.sleep(0)

    async def cancel(self, _):
        self.task.cancel("own")

    async def uncancel(self, _):
        return self.task.uncancel()

    async def child(self, _):
        """Await a task that will not be cancelled at the first request."""

        async def stubborn():
            try:
                await self.other
            except asyncio.CancelledError as exc:
                self.log.append(("child", exc.args))
                await asyncio.sleep(0)

        self.children.append(asyncio.create_task(stubborn()))
        await self.children[-1]

    async def fails(self, _):
        raise LookupError("mine")

    # -- what happens to it ------------------------------------------------------------------------

    def play(self, script, done):
        """Take the steps of a script in one turn, but for those that a plain task needs to catch up."""
        for number, step in enumerate(script):
            if step == "data":
                if self.subject.data_received(b"x"):
                    self.loop.call_soon(self.play, script[number + 1 :], done)
                    return
            elif step == "cancel":
                self.task.cancel("outside")
            elif step == "uncancel":
                self.task.uncancel()
            elif not self.other.done():
                self.other.set_result(None)
        done.set_result(None)

    async def run(self, *scripts):
        await turns()
        for script in (*scripts, ("data",) * 5 + ("other",)):
            done = self.loop.create_future()
            self.loop.call_soon(self.play, script, done)
            await done
            await turns()
        await asyncio.wait([self.task, *self.children], timeout=5)
        assert self.task.done(), (self.program, scripts, self.log)
        self.log.append("cancelled" if self.task.cancelled() else self.task.exception())
        return [repr(each) for each in self.log]


async def turns():
    for _ in range(TURNS):
        await asyncio.sleep(0)


DOES = ("read", "last", "future", "turn", "cancel", "uncancel", "child", "fails")
HAPPENS = ("data", "cancel", "uncancel", "other")
PAIRS = tuple(itertools.product(HAPPENS, repeat=2))
SCRIPTS = [(), *((step,) for step in HAPPENS), *PAIRS, *(("data", *pair) for pair in PAIRS)]


@pytest.mark.parametrize("first", DOES)
async def test_a_handler_is_cancelled_as_a_plain_task_is(first):
    cases = list(
        itertools.product(
            [(first,), *((first, second) for second in DOES)],
            SCRIPTS,
        )
    )
    plain, driven = [
        await asyncio.gather(*(Case(kind, program).run(script) for program, script in cases))
        for kind in (Plain, Inline)
    ]
    for case, expected, found in zip(cases, plain, driven, strict=True):
        assert found == expected, case


class BoomError(Exception):
    """A child's."""


@asynccontextmanager
async def asyncio_timeout(trigger):
    try:
        async with asyncio.timeout(None) as timeout:
            trigger.append(lambda: timeout.reschedule(0))
            yield
    except TimeoutError:
        trigger.append("ended")


@asynccontextmanager
async def asyncio_task_group(trigger):
    failing = asyncio.get_running_loop().create_future()
    trigger.append(lambda: failing.set_exception(BoomError()))

    async def child():
        await failing

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            await asyncio.sleep(0)
            yield
    except* BoomError:
        trigger.append("ended")


@asynccontextmanager
async def anyio_scope(trigger):
    with anyio.CancelScope() as scope:
        trigger.append(scope.cancel)
        yield
    if scope.cancelled_caught:
        trigger.append("ended")


@asynccontextmanager
async def anyio_task_group(trigger):
    failing = asyncio.get_running_loop().create_future()
    trigger.append(lambda: failing.set_exception(BoomError()))

    async def child():
        await failing

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            await asyncio.sleep(0)
            yield
    except* BoomError:
        trigger.append("ended")


BLOCKS: list[Any] = [asyncio_timeout, asyncio_task_group, anyio_scope, anyio_task_group]


@pytest.mark.parametrize(
    "order", ["block, data", "data, block", "data, block, data", "block", "block, data, data"]
)
@pytest.mark.parametrize("after", ["nothing", "turn", "future", "read"])
@pytest.mark.parametrize("block", BLOCKS)
async def test_a_block_that_ends_with_the_data_takes_its_request_back(block, after, order):
    """Whichever came first: no byte is lost, and nothing of the request hits what comes behind it."""
    # Before Python 3.13 a TaskGroup counts on, in a plain task as well; but it harms nothing behind it.
    keeps = block is asyncio_task_group and sys.version_info < (3, 13)
    trigger: list[Any] = []
    read = []
    future = asyncio.get_running_loop().create_future()

    async def handler(connection):
        async with block(trigger):
            read.append(await connection.read(1))
            if after == "turn":
                await asyncio.sleep(0)
            elif after == "future":
                await future
            elif after == "read":
                read.append(await connection.read(1))
        assert keeps or driven.task.cancelling() == 0
        await asyncio.sleep(0)
        while len(read) < 3:
            read.append(await connection.read(1))
        return "done"

    driven = Driven(handler)
    await turns()
    data = iter("abc")

    def happen():
        for step in order.split(", "):
            if step == "data":
                driven.protocol.data_received(next(data).encode())
            else:
                trigger[0]()

    driven.loop.call_soon(happen)
    await turns()
    if not future.done():
        future.set_result(None)
    await turns()
    driven.loop.call_soon(driven.protocol.data_received, "".join(data).encode())
    async with asyncio.timeout(5):
        assert await driven.task == "done"
    assert read == [b"a", b"b", b"c"]
    assert keeps or driven.task.cancelling() == 0
