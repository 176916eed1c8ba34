"""What happened is told, and told to the right one; tools that look at a task see its handler."""

import asyncio
import io
import logging
import socket
import time
from typing import Any

import anyio
import pytest

import asyncserver
from asyncserver.events import Closed, Disconnected, Failed
from tests.conftest import connect, serving

TCP = "tcp://127.0.0.1:0"


class Panic(BaseException):
    """What a library's own BaseException may be: PyO3's PanicException, say."""


async def cancelled_child():
    child = asyncio.create_task(asyncio.Event().wait())
    await asyncio.sleep(0)
    child.cancel()
    await child


async def panic():
    raise Panic("called unwrap() on a None value")


async def panic_in_a_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(panic())


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (panic, Panic),
        (panic_in_a_group, BaseExceptionGroup),
        (cancelled_child, asyncio.CancelledError),
    ],
)
async def test_whatever_a_handler_lets_out_is_told_once(trouble, kind, url, recorder, caplog):
    async def handler(connection):
        await connection.readline()
        await connection.send(b"partial answer\n")
        await trouble()

    async with serving(handler, url, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"x\n")
            assert await reader.read() == b"partial answer\n"
        await recorder.wait_for(Closed)
        assert server.stats.handler_errors == 1
    (failed,) = recorder.of(Failed)
    assert isinstance(failed.error, kind)
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert record.exc_info is not None


@pytest.mark.parametrize("waits", [False, True])
async def test_an_end_of_the_program_that_ends_nothing_is_told(waits, url, recorder, caplog):
    async def handler(connection):
        await connection.readline()
        if waits:
            await asyncio.sleep(0)
        raise GeneratorExit  # which asyncio keeps in the task

    async with serving(handler, url, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"x\n")
            assert await reader.read() == b""
        await recorder.wait_for(Closed)
        assert server.stats.handler_errors == 1
    (failed,) = recorder.of(Failed)
    assert isinstance(failed.error, GeneratorExit)
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert record.exc_info is not None


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_program_passes(ending):
    async def handler(connection):
        raise ending

    async def main():
        async with serving(handler, TCP) as server, connect(server.addresses[0]) as (reader, _):
            await reader.read()
            await asyncio.Event().wait()

    with pytest.raises(ending):
        asyncio.run(main())


async def test_using_what_it_has_closed_itself_is_a_handlers_own_fault(url, recorder):
    async def handler(connection):
        await connection.aclose()
        await connection.send(b"too late")

    async with serving(handler, url, observers=[recorder]) as server:
        async with connect(server.addresses[0]):
            failed = await recorder.wait_for(Failed)
    assert isinstance(failed.error, asyncserver.ConnectionClosed)
    assert recorder.of(Disconnected) == []


async def test_being_closed_by_somebody_else_is_not(url, recorder):
    async def handler(connection):
        await connection.readline()

    async with serving(handler, url, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"half")
            while not (found := list(server.connections)) or not found[0].bytes_received:
                await asyncio.sleep(0)
            await found[0].aclose()
            assert await reader.read() == b""
        await recorder.wait_for(Disconnected)
    assert recorder.of(Failed) == []


async def test_a_failed_send_tells_the_systems_reason():
    async def handler(connection):
        await connection.readline()
        with pytest.raises(asyncserver.ConnectionBroken) as caught:
            while True:
                await connection.send(b"x" * 100_000)
        causes.append(caught.value.__cause__)

    causes: list[Any] = []
    async with serving(handler, TCP) as server:
        client = socket.create_connection((server.addresses[0].host, server.addresses[0].port))
        client.sendall(b"x\n")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        while not causes:
            await asyncio.sleep(0)
    assert isinstance(causes[0], OSError)


# -- what looks at a task --------------------------------------------------------------------------


async def inner(connection):
    return await connection.readline()


async def my_handler(connection):
    await inner(connection)


class MyHandler(asyncserver.StreamRequestHandler):
    async def handle(self):
        await self.rfile.readline()


@pytest.mark.parametrize("handler", [my_handler, MyHandler])
async def test_tools_see_the_handler_that_waits(handler):
    async with serving(handler, TCP) as server, connect(server.addresses[0]) as (_, writer):
        await anyio.wait_all_tasks_blocked()
        (task,) = [each for each in asyncio.all_tasks() if each is not asyncio.current_task()
                   and "handle" in repr(each)]  # fmt: skip
        assert __file__ in repr(task)
        (frame,) = task.get_stack()
        assert frame.f_code.co_filename == __file__
        printed = io.StringIO()
        task.print_stack(file=printed)
        assert __file__ in printed.getvalue()
        names = []
        step: Any = task.get_coro()
        while hasattr(step, "cr_code"):
            names.append(step.cr_code.co_name)
            step = step.cr_await
        assert "readline" in names
        assert names[-1] == "_until"
        writer.write(b"x\n")


async def test_a_handler_that_holds_up_the_loop_is_named_in_debug_mode(caplog):
    loop = asyncio.get_running_loop()
    debug, slow = loop.get_debug(), loop.slow_callback_duration
    loop.set_debug(True)
    loop.slow_callback_duration = 0.02

    async def my_slow_handler(connection):
        async for line in connection.lines():
            end = time.perf_counter() + 0.03
            while time.perf_counter() < end:
                pass
            await connection.send(line)

    try:
        async with serving(my_slow_handler, TCP) as server:
            async with connect(server.addresses[0]) as (reader, writer):
                for _ in range(2):
                    writer.write(b"x\n")
                    assert await reader.readline() == b"x\n"
    finally:
        loop.set_debug(debug)
        loop.slow_callback_duration = slow
    assert "my_slow_handler() running at" in caplog.text  # as it was put down then


async def test_the_loops_task_factory_makes_the_handlers_tasks(url):
    made = []
    loop = asyncio.get_running_loop()

    def factory(loop, coro, **options):
        task = asyncio.Task(coro, loop=loop, **options)
        made.append(coro.__qualname__)
        return task

    async with serving(my_handler, url) as server:
        loop.set_task_factory(factory)
        try:
            async with connect(server.addresses[0]) as (reader, writer):
                writer.write(b"x\n")
                assert await reader.read() == b""
        finally:
            loop.set_task_factory(None)
    assert any("_run" in each or "my_handler" in each for each in made)


async def test_a_cancel_reaches_whatever_future_like_a_handler_has_begun_to_wait_for():
    class Like:
        """Future-like, and no future: as asyncio's documentation allows."""

        _asyncio_future_blocking = False

        def __init__(self):
            self.cancelled = False
            self.real = asyncio.get_running_loop().create_future()

        def get_loop(self):
            return self.real.get_loop()

        def add_done_callback(self, callback, *, context):
            self.real.add_done_callback(lambda _: callback(self), context=context)

        def cancel(self, msg=None):
            self.cancelled = True
            return self.real.cancel()

        def done(self):
            return self.real.done()

        def result(self):
            return self.real.result()

        def __await__(self):
            self._asyncio_future_blocking = True
            yield self
            return self.real.result()

    async def handler(connection):
        await connection.readline()
        asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)  # type: ignore[union-attr]
        likes.append(Like())
        try:
            await likes[0]
        finally:
            over.set()

    likes: list[Like] = []
    over = asyncio.Event()
    async with serving(handler, TCP) as server, connect(server.addresses[0]) as (_, writer):
        writer.write(b"x\n")
        await over.wait()
    assert likes[0].cancelled
