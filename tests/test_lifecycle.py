"""From `new` to `closed`: draining, cancelling, aborting, and leaving nothing behind."""

import asyncio
import contextlib
import logging
import socket
from typing import Any

import anyio
import pytest

import asyncserver
from asyncserver import Server, ServerState, ServerStateError
from asyncserver.events import ConnectionOpened, DrainFinished, DrainStarted
from tests.conftest import connect, descriptors, serving, upper

BIG = 2_000_000  # bytes: more than all the buffers between two ends of a socket


async def tasks_but_this_one() -> set[asyncio.Task[object]]:
    await asyncio.sleep(0)
    return asyncio.all_tasks() - {asyncio.current_task()}


async def refuses(address) -> bool:
    try:
        async with connect(address):
            return False
    except OSError:
        return True


class Stubborn:
    """A handler that swallows its cancellation until the test lets it go."""

    def __init__(self):
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.release = asyncio.Event()
        self.swallowed = 0

    async def __call__(self, connection):
        self.started.set()
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.swallowed += 1
        self.ended.set()


@pytest.mark.slow
async def test_drain_of_idle_busy_and_stubborn_clients(url, recorder, caplog, capfd):
    stubborn = Stubborn()
    writing = asyncio.Event()

    async def handler(connection):
        first = await connection.readline()
        if first == b"stubborn\n":
            await stubborn(connection)
        elif first == b"big\n":
            writing.set()
            await connection.send(b"x" * BIG)
        async for line in connection.lines():
            await connection.send(line)

    timeouts = asyncserver.Timeouts(cleanup=0.25)
    server = Server(handler, url, observers=[recorder], timeouts=timeouts)
    await server.start()
    address = server.addresses[0]
    loop = asyncio.get_running_loop()
    with caplog.at_level(logging.INFO, "asyncserver"):
        caplog.clear()
        async with connect(address) as idle, connect(address) as busy, connect(address) as third:
            idle[1].write(b"idle\nline\n")
            assert await idle[0].readline() == b"line\n"
            busy[1].write(b"big\n")
            third[1].write(b"stubborn\n")
            await writing.wait()
            await stubborn.started.wait()
            start = loop.time()
            closing = asyncio.create_task(server.close(grace=1))
            await recorder.wait_for(DrainStarted)
            assert await refuses(address)
            assert await idle[0].read() == b""  # it ends by itself
            assert len(await busy[0].read()) == BIG  # it gets every byte
            await closing
            assert loop.time() - start <= 1.5
            assert server.state is ServerState.CLOSED
            assert recorder.of(DrainFinished) == [DrainFinished(finished=2, cancelled=0, aborted=1)]
            assert await third[0].read() == b""
    assert stubborn.swallowed == 1
    assert [record.getMessage() for record in caplog.records] == [
        "closed: 2 handlers finished, 0 cancelled, 1 aborted"
    ]
    assert capfd.readouterr().err == ""
    stubborn.release.set()
    await stubborn.ended.wait()


async def test_close_leaves_no_descriptor_and_no_task(url):
    before = descriptors(), await tasks_but_this_one()
    server = Server(upper, url, "udp://127.0.0.1:0")
    await server.start()
    async with connect(server.addresses[0]) as (reader, writer):
        writer.write(b"hello\n")
        assert await reader.readline() == b"HELLO\n"
        await server.close(grace=1)
        assert await reader.read() == b""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (descriptors(), await tasks_but_this_one()) == before


async def test_request_in_progress_is_finished_and_buffered_lines_are_served(url):
    started, go = asyncio.Event(), asyncio.Event()

    async def slow(connection):
        async for line in connection.lines():
            started.set()
            await go.wait()
            await connection.send(line.upper())

    async with serving(slow, url) as server, connect(server.addresses[0]) as (reader, writer):
        writer.write(b"one\ntwo\nthree")
        await started.wait()
        closing = asyncio.create_task(server.close(grace=5))
        await server.draining.wait()
        go.set()
        assert await reader.readexactly(8) == b"ONE\nTWO\n"
        writer.write(b"\n")  # the third is on its way, so it is waited for
        assert await reader.read() == b"THREE\n"
        await closing


async def test_iteration_over_chunks_ends_when_draining(url):
    async def echo(connection):
        async for chunk in connection:
            await connection.send(chunk)

    async with serving(echo, url) as server, connect(server.addresses[0]) as (reader, writer):
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        await server.close(grace=5)
        assert await reader.read() == b""


async def test_closing_can_be_looked_at_and_waited_for():
    seen = []

    async def handler(connection):
        seen.append(bool(connection.draining))
        await connection.send(b".")
        await connection.draining.wait()
        seen.append(bool(connection.draining))

    timeouts = asyncserver.Timeouts(first=0.01)
    async with serving(handler, "tcp://127.0.0.1:0", timeouts=timeouts) as server:
        async with connect(server.addresses[0]) as (reader, _):
            assert await reader.readexactly(1) == b"."
            await server.close(grace=5)
    assert seen == [False, True]


async def test_handler_is_cancelled_after_the_grace(recorder):
    cancelled = asyncio.Event()

    async def forever(connection):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(forever, "tcp://127.0.0.1:0", observers=[recorder]) as server:
        async with connect(server.addresses[0]):
            await recorder.wait_for(ConnectionOpened)
            await server.close(grace=0)
    assert cancelled.is_set()
    assert recorder.of(DrainFinished) == [DrainFinished(finished=0, cancelled=1, aborted=0)]


@pytest.mark.parametrize("where", ["handler", "child"])
async def test_close_from_inside_a_handler(url, where, recorder):
    async def handler(connection):
        server = connection_server[0]
        if where == "handler":
            await server.close(grace=5)
        else:
            await asyncio.wait_for(asyncio.create_task(server.close(grace=5)), 60)
        await connection.send(b"bye\n")

    server = Server(handler, url, observers=[recorder])
    connection_server = [server]
    await server.start()
    async with connect(server.addresses[0]) as (reader, _):
        said = await reader.read()
        await server.wait_closed()
    assert said == b"bye\n"
    assert server.state is ServerState.CLOSED


async def test_second_close_with_less_grace_shortens_the_first(recorder):
    async def forever(connection):
        await asyncio.Event().wait()

    async with serving(forever, "tcp://127.0.0.1:0", observers=[recorder]) as server:
        async with connect(server.addresses[0]):
            await recorder.wait_for(ConnectionOpened)
            patient = asyncio.create_task(server.close(grace=None))
            await recorder.wait_for(DrainStarted)
            await server.close(grace=0)
            await patient
            await server.close()  # and once more is nothing
    assert len(recorder.of(DrainFinished)) == 1


async def test_abort_closes_without_grace(recorder):
    async def forever(connection):
        await asyncio.Event().wait()

    async with serving(forever, "tcp://127.0.0.1:0", observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, _):
            await recorder.wait_for(ConnectionOpened)
            server.abort()
            await server.wait_closed()
            assert await reader.read() == b""


async def test_close_before_serving():
    server = Server(upper, "tcp://127.0.0.1:0")
    await server.close()
    assert server.state is ServerState.CLOSED
    with pytest.raises(ServerStateError, match="closed"):
        await server.start()


async def test_start_twice():
    async with Server(upper, "tcp://127.0.0.1:0") as server:
        with pytest.raises(ServerStateError, match="only once"):
            await server.start()


async def test_close_while_it_starts(monkeypatch):
    before = descriptors()
    server = Server(upper, "tcp://127.0.0.1:0", "tcp://localhost:0")
    looking_up, found = asyncio.Event(), asyncio.Event()

    async def resolve(address):
        if address.host == "localhost":
            looking_up.set()
            await found.wait()
        return ["127.0.0.1"]

    monkeypatch.setattr("asyncserver._server.listeners.resolve", resolve)
    starting = asyncio.create_task(server.start())
    await looking_up.wait()
    closing = asyncio.create_task(server.close())
    await asyncio.sleep(0)
    assert not closing.done()  # something is open still
    found.set()
    await closing
    assert descriptors() == before
    with pytest.raises(ServerStateError):
        await starting


async def test_nobody_is_served_before_all_is_open():
    """Closed in the middle of its start, it leaves nobody behind, though a client has come already."""
    before = descriptors()
    served = []

    class Both(asyncio.Protocol, asyncio.DatagramProtocol):
        def connection_made(self, transport):
            if transport.get_extra_info("socket").type == socket.SOCK_STREAM:
                served.append(transport)
            else:
                server.begin_close(0)

    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server = Server(Both, listener, "udp://127.0.0.1:0")
    with pytest.raises(ServerStateError):
        await server.start()
    await server.wait_closed()
    client.close()
    assert served == []
    assert descriptors() == before


@pytest.mark.parametrize("way", ["task", "scope"])
async def test_cancelling_serve_closes_everything(url, way, recorder):
    before = descriptors(), await tasks_but_this_one()

    async def forever(connection):
        await connection.send(b".")
        await asyncio.Event().wait()

    async with anyio.create_task_group() as group:
        server = await group.start(
            lambda *, task_status: asyncserver.serve(
                forever, url, observers=[recorder], task_status=task_status
            )
        )
        async with connect(server.addresses[0]) as (reader, _):
            assert await reader.readexactly(1) == b"."
            if way == "scope":
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await server.wait_closed()
                    assert await reader.read() == b""
            else:
                task = asyncio.create_task(server.wait_closed())
                await asyncio.sleep(0)
                task.cancel()  # waiting may be cancelled without harm
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                assert server.state is ServerState.SERVING
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    assert await reader.read() == b""
    assert server.state is ServerState.CLOSED
    assert recorder.of(DrainFinished) == [DrainFinished(finished=0, cancelled=1, aborted=0)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (descriptors(), await tasks_but_this_one()) == before


async def test_cancelled_task_of_serve(url):
    before = descriptors()
    listening: asyncio.Future[Server] = asyncio.get_running_loop().create_future()

    class Status:
        def started(self, server):
            listening.set_result(server)

    status: Any = Status()
    task = asyncio.create_task(asyncserver.serve(upper, url, task_status=status))
    server = await listening
    async with connect(server.addresses[0]) as (reader, writer):
        writer.write(b"hello\n")
        assert await reader.readline() == b"HELLO\n"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert server.state is ServerState.CLOSED
        assert await reader.read() == b""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert descriptors() == before


async def test_leaving_the_block_by_an_exception_closes_at_once(recorder):
    async def forever(connection):
        await asyncio.Event().wait()

    with pytest.raises(ZeroDivisionError):
        async with Server(forever, "tcp://127.0.0.1:0", observers=[recorder]) as server:
            async with connect(server.addresses[0]):
                await recorder.wait_for(ConnectionOpened)
                raise ZeroDivisionError
    assert server.state is ServerState.CLOSED


async def test_session_cancelled_before_its_first_step_gives_its_slot_back():
    before = descriptors()
    server = Server(upper, "tcp://127.0.0.1:0")

    def hurry(event):
        if isinstance(event, ConnectionOpened):
            server.abort()

    server._context.observers._observers += (hurry,)
    await server.start()
    async with connect(server.addresses[0]) as (reader, _):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        await server.wait_closed()
        assert server.stats.active == 0
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert descriptors() == before


async def test_handler_exception_is_one_record_and_the_next_client_is_served(url, caplog, capfd):
    async def handler(connection):
        if await connection.readline() == b"bad\n":
            raise ZeroDivisionError("a bug")
        await connection.send(b"fine\n")

    async with serving(handler, url) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"bad\n")
            assert await reader.read() == b""
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"good\n")
            assert await reader.read() == b"fine\n"
        assert server.stats.handler_errors == 1
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
    assert "handler failed" in record.getMessage()
    assert capfd.readouterr().err == ""


async def test_a_connection_that_opens_while_the_server_drains_is_told_to_finish(url):
    def close_when_opened(event):
        if isinstance(event, ConnectionOpened):
            server.begin_close(None)

    server = Server(
        upper, url, observers=[close_when_opened], timeouts=asyncserver.Timeouts(first=0.01)
    )
    await server.start()
    async with connect(server.addresses[0]) as (reader, _):
        assert await reader.read() == b""
        await server.wait_closed()
