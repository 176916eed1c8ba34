"""A handler that is driven straight from its bytes is still the handler of an ordinary task."""

import asyncio
import contextvars
import sys
from typing import Any

import anyio
import pytest

from asyncserver import DeadlineExceeded, Limits, Timeouts
from asyncserver.connection import Connection
from asyncserver.pace import Pace
from asyncserver.protocol import CORK, StreamProtocol

number = contextvars.ContextVar("number", default=0)


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self):
        super().__init__()
        self.written = []
        self.closed = False

    def is_closing(self):
        return self.closed

    def write(self, data):
        assert not self.closed
        self.written.append(data)

    def abort(self):
        self.closed = True


class Driven:
    """A handler on a protocol that no socket feeds: the test calls `feed`, outside of any task."""

    def __init__(self, handler):
        self.loop = asyncio.get_running_loop()
        self.protocol = StreamProtocol(self.loop, 2**16, Pace(self.loop))
        self.transport = Transport()
        self.protocol.connection_made(self.transport)
        self.connection = Connection(self.protocol, ("127.0.0.1", 1), Limits(), Timeouts())
        context = contextvars.copy_context()

        driver = self.protocol.drive(handler(self.connection), context)
        self.task = self.loop.create_task(driver, context=context)

    async def feed(self, *data):
        """Let the loop call `data_received`; return what was written in that very call."""
        await asyncio.sleep(0)  # the handler is at its first read
        done = self.loop.create_future()

        def receive():
            for each in data:
                self.protocol.data_received(each)
            done.set_result(list(self.transport.written))

        self.loop.call_soon(receive)
        return await done


async def echo(connection):
    async for line in connection.lines():
        await connection.send(line)


async def test_the_answer_is_there_before_data_received_returns():
    driven = Driven(echo)
    assert await driven.feed(b"one\n") == [b"one\n"]
    assert await driven.feed(b"two\n", b"three\n") == [b"one\n", b"two\n", b"three\n"]
    driven.task.cancel()


async def test_what_is_sent_in_one_step_is_one_write():
    driven = Driven(echo)
    assert await driven.feed(b"1\n2\n3\n") == [b"1\n2\n3\n"]
    driven.task.cancel()


async def test_a_long_step_does_not_hold_back_more_than_the_cork():
    async def handler(connection):
        await connection.read(1)
        for _ in range(3):
            await connection.send(bytes(CORK // 2))

    driven = Driven(handler)
    written = await driven.feed(b"x")
    assert [len(each) for each in written] == [CORK, CORK // 2]
    await driven.task


async def test_what_is_sent_is_what_it_was_then():
    async def handler(connection):
        await connection.read(1)
        data = bytearray(b"before")
        await connection.send(data)
        data[:] = b"after!"

    driven = Driven(handler)
    assert await driven.feed(b"x") == [b"before"]
    await driven.task


async def test_abort_drops_what_was_not_sent():
    async def handler(connection):
        await connection.read(1)
        await connection.send(b"late")
        connection.abort()

    driven = Driven(handler)
    assert await driven.feed(b"x") == []
    await driven.task


async def test_task_and_context_are_those_of_the_task():
    seen = []

    async def handler(connection):
        number.set(1)
        for _ in range(2):
            await connection.read(10)
            seen.append((asyncio.current_task(), number.get()))
            number.set(number.get() + 1)

    driven = Driven(handler)
    await driven.feed(b"x", b"y")
    await driven.task
    assert seen == [(driven.task, 1), (driven.task, 2)]
    assert number.get() == 0


async def test_a_read_that_is_cancelled_loses_no_byte():
    async def handler(connection):
        try:
            await connection.read(10)
        except asyncio.CancelledError:
            driven.task.uncancel()
            return await connection.read(10)

    driven = Driven(handler)
    await asyncio.sleep(0)
    driven.task.cancel()
    driven.protocol.data_received(b"kept")
    assert await driven.task == b"kept"


async def test_a_timeout_ends_a_read():
    async def handler(connection):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await connection.read(10)
        over.set()
        return await connection.read(10)

    over = asyncio.Event()
    driven = Driven(handler)
    await over.wait()
    await driven.feed(b"after it")
    assert await driven.task == b"after it"


async def a_future():
    loop = asyncio.get_running_loop()
    later = loop.create_future()
    loop.call_soon(later.set_result, None)
    await later


@pytest.mark.parametrize("pause", [lambda: asyncio.sleep(0), a_future])
async def test_what_else_is_awaited_the_task_awaits(pause):
    async def handler(connection):
        for _ in range(3):
            await connection.read(1)
            await pause()
        return "done"

    driven = Driven(handler)
    await driven.feed(b"abc")
    assert await driven.task == "done"


async def test_cancelling_reaches_what_is_awaited_even_before_the_task_knows_of_it():
    inner = asyncio.get_running_loop().create_future()
    cancelled = []

    async def handler(connection):
        await connection.read(1)
        try:
            await inner
        except asyncio.CancelledError:
            cancelled.append(inner.cancelled())
            raise

    driven = Driven(handler)
    await asyncio.sleep(0)
    done = driven.loop.create_future()

    def receive_and_cancel():
        driven.protocol.data_received(b"x")
        driven.task.cancel()
        done.set_result(None)

    driven.loop.call_soon(receive_and_cancel)
    await done
    with pytest.raises(asyncio.CancelledError):
        await driven.task
    assert cancelled == [True]


async def test_what_is_raised_in_a_callback_ends_in_the_task():
    async def handler(connection):
        await connection.read(1)
        raise LookupError("mine")

    driven = Driven(handler)
    await driven.feed(b"x")
    with pytest.raises(LookupError, match="mine"):
        await driven.task


async def test_bytes_that_another_task_brings_are_handled_in_the_own_turn():
    driven = Driven(echo)
    await asyncio.sleep(0)
    driven.protocol.data_received(b"x\n")  # as a TLS layer may, from the task that started it
    assert driven.transport.written == []
    await asyncio.sleep(0)
    assert driven.transport.written == [b"x\n"]
    driven.task.cancel()


@pytest.mark.parametrize("eager", [False, True])
async def test_another_task_of_the_handler_reads_as_well(eager):
    eager = eager and sys.version_info >= (3, 12)

    async def handler(connection):
        first = await connection.read(1)
        settings: Any = {"eager_start": True} if eager else {}
        child = asyncio.Task(connection.read(1), loop=asyncio.get_running_loop(), **settings)
        return first + await child

    driven = Driven(handler)
    await driven.feed(b"a")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await driven.feed(b"b")
    assert await driven.task == b"ab"


async def test_a_child_reads_after_a_read_of_the_handler_was_cancelled():
    async def handler(connection):
        try:
            await connection.read(1)
        except asyncio.CancelledError:
            driven.task.uncancel()
        return await asyncio.create_task(connection.read(1))

    driven = Driven(handler)
    await asyncio.sleep(0)
    driven.task.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    await driven.feed(b"x")
    assert await driven.task == b"x"


async def test_the_scope_of_a_task_group_that_is_cancelled_in_a_step_keeps_it():
    async def handler(connection):
        await connection.read(1)
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            group.cancel_scope.cancel()
        return "still here"

    driven = Driven(handler)
    await driven.feed(b"x")
    assert await driven.task == "still here"


@pytest.mark.parametrize("waits", [False, True])
async def test_a_handler_may_cancel_its_own_task(waits):
    async def handler(connection):
        await connection.read(1)
        driven.task.cancel("enough")
        if waits:
            await asyncio.Event().wait()

    driven = Driven(handler)
    await driven.feed(b"x")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await driven.task


async def test_whoever_sends_when_the_connection_has_failed_gets_the_error():
    async def handler(connection):
        with pytest.raises(DeadlineExceeded):
            await connection.read(1)
        with pytest.raises(DeadlineExceeded):
            await connection.send(b"too late")

    driven = Driven(handler)
    await asyncio.sleep(0)
    driven.loop.call_soon(driven.protocol.fail, DeadlineExceeded("write", 1.0))
    await driven.task
    assert driven.transport.written == []


async def test_what_the_task_waits_for_answers_as_a_future_does():
    """A future that is done cannot be cancelled any more."""

    async def handler(connection):
        await connection.readline()

    driven = Driven(handler)
    await asyncio.sleep(0)
    assert (driven.protocol.done(), driven.protocol.cancelled()) == (False, False)
    driven.protocol.wake_task()
    assert (driven.protocol.done(), driven.protocol.cancelled()) == (True, False)
    assert not driven.protocol.cancel()
    assert not driven.protocol.cancelled()
    driven.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await driven.task
