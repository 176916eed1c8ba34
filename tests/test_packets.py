"""A datagram's handler cannot tell the task that is kept for it from a new one."""

import asyncio
import contextvars

import pytest

from asyncserver import Timeouts
from asyncserver.events import Failed
from tests.conftest import serving
from tests.test_datagram import client, receive

UDP = "udp://127.0.0.1:0"
name = contextvars.ContextVar("name", default="nobody")


async def ask(sock, *questions):
    for question in questions:
        sock.send(question)
    return [await receive(sock) for _ in questions]


async def test_context_variables_do_not_reach_the_next():
    async def handler(datagram):
        await datagram.reply(name.get().encode())
        name.set(datagram.data.decode())

    async with serving(handler, UDP) as server:
        with client(server.addresses[0], "") as sock:
            assert await ask(sock, b"ann", b"bob", b"cy") == [b"nobody"] * 3
            assert await ask(sock, b"dan") == [b"nobody"]


async def test_each_has_a_task_and_its_timeouts():
    async def handler(datagram):
        assert asyncio.current_task() is not None
        async with asyncio.timeout(None if datagram.data == b"quick" else 0.001):
            if datagram.data == b"slow":
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    await datagram.reply(b"too late")
                    raise
        await datagram.reply(b"in time")

    async with serving(handler, UDP) as server:
        with client(server.addresses[0], "") as sock:
            assert await ask(sock, b"quick", b"quick") == [b"in time"] * 2
            assert await ask(sock, b"slow", b"quick") == [b"in time", b"too late"]
            assert await ask(sock, b"quick") == [b"in time"]


async def test_those_that_wait_are_side_by_side_each_in_its_own_task():
    met: dict[bytes, asyncio.Task[None] | None] = {}
    both = asyncio.Event()

    async def handler(datagram):
        met[datagram.data] = asyncio.current_task()
        if len(met) == 2:
            both.set()
        await both.wait()
        await datagram.reply(datagram.data)

    async with serving(handler, UDP) as server:
        with client(server.addresses[0], "") as sock:
            assert sorted(await ask(sock, b"1", b"2")) == [b"1", b"2"]
    assert met[b"1"] is not met[b"2"]


async def test_callbacks_of_its_task_are_called_after_each():
    ended = []
    both = asyncio.Event()

    async def handler(datagram):
        def end(_):
            ended.append(datagram.data)
            if len(ended) == 2:
                both.set()

        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(end)
        await datagram.reply(b"")

    async with serving(handler, UDP) as server:
        with client(server.addresses[0], "") as sock:
            await ask(sock, b"1", b"2")
            await both.wait()
    assert sorted(ended) == [b"1", b"2"]


@pytest.mark.parametrize("waits", [False, True])
async def test_one_that_cancels_itself_harms_no_other(waits):
    async def handler(datagram):
        if datagram.data == b"bad":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            if waits:
                await asyncio.Event().wait()
        else:
            await datagram.reply(datagram.data)

    async with serving(handler, UDP) as server:
        with client(server.addresses[0], "") as sock:
            sock.send(b"bad")
            assert await ask(sock, b"1", b"2") == [b"1", b"2"]
            sock.send(b"bad")
            assert await ask(sock, b"3") == [b"3"]


async def test_one_that_raises_is_told_and_the_next_is_served(recorder):
    async def handler(datagram):
        if datagram.data == b"bad":
            raise LookupError("mine")
        await datagram.reply(datagram.data)

    async with serving(handler, UDP, observers=[recorder]) as server:
        with client(server.addresses[0], "") as sock:
            for _ in range(2):
                sock.send(b"bad")
                assert await ask(sock, b"good") == [b"good"]
    assert [str(each.error) for each in recorder.of(Failed)] == ["mine", "mine"]


async def test_no_task_is_left():
    before = asyncio.all_tasks()

    async def handler(datagram):
        await datagram.reply(b"")

    async with serving(handler, UDP, timeouts=Timeouts(lifetime=1)) as server:
        with client(server.addresses[0], "") as sock:
            await ask(sock, b"1", b"2")
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
