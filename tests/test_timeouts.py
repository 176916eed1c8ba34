"""Deadlines over real loopback sockets, on a clock that jumps."""

import asyncio
import socket

import pytest

from asyncserver import DeadlineExceeded, Limits, Timeouts
from asyncserver.events import Closed, Expired, Failed
from tests.conftest import connect, serving, upper

pytestmark = pytest.mark.asyncio(loop_factories=["virtual"])

TCP = "tcp://127.0.0.1:0"


def now():
    return asyncio.get_running_loop().time()


def about(seconds):
    """In time, and not more than a fifth or 2 s late."""
    late = min(seconds / 5, 2.0)
    return pytest.approx(seconds + late / 2, abs=late / 2 + 0.3)


async def test_idle_peer_is_closed_and_counted(url, recorder):
    async with serving(upper, url, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, _):
            start = now()
            assert await reader.read() == b""
            assert now() - start == about(300)
        await recorder.wait_for(Closed)
        assert server.stats.expired == {"idle": 1}
        assert server.stats.handler_errors == server.stats.disconnects == 0
    assert len(recorder.of(Expired)) == 1


async def test_handler_may_say_goodbye_to_an_idle_peer():
    async def polite(connection):
        try:
            await connection.readline()
        except DeadlineExceeded as exc:
            await connection.send(f"{exc.deadline} for {exc.seconds:g} s\n".encode())

    async with serving(polite, TCP, timeouts=Timeouts(idle=10)) as server:
        async with connect(server.addresses[0]) as (reader, _):
            assert await reader.read() == b"idle for 10 s\n"


async def test_activity_in_either_direction_starts_it_again():
    async def ticking(connection):
        async def tick():
            for _ in range(5):
                await asyncio.sleep(8)
                await connection.send(b".")

        ticker = asyncio.create_task(tick())
        async for _ in connection.lines():
            pass
        await ticker

    async with serving(ticking, TCP, timeouts=Timeouts(idle=10)) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            start = now()
            assert await reader.readexactly(5) == b"....."
            for _ in range(5):
                await asyncio.sleep(8)
                writer.write(b"\n")
            assert await reader.read() == b""
            assert now() - start == about(80 + 10)


async def test_handler_that_does_not_read_is_not_idle():
    async def busy(connection):
        await asyncio.sleep(1000)
        await connection.send(b"done")

    async with serving(busy, TCP, timeouts=Timeouts(idle=10)) as server:
        async with connect(server.addresses[0]) as (reader, _):
            assert await reader.read() == b"done"


@pytest.mark.parametrize("talkative", [False, True])
async def test_peer_that_never_reads(url, talkative, recorder):
    """Bounded memory, then the deadline; that it sends all the time does not help it."""
    outcome = asyncio.get_running_loop().create_future()
    highest = 0
    limits = Limits(write_buffer=32_768)

    async def flood(connection):
        nonlocal highest
        try:
            while True:
                await connection.send(b"x" * 32_768)
        except DeadlineExceeded as exc:
            outcome.set_result((exc.deadline, now() - connection._protocol.opened))
            raise
        finally:
            highest = connection._protocol.transport.get_write_buffer_size()

    async with serving(flood, url, limits=limits, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (_reader, writer):
            writer.transport.pause_reading()
            while talkative and not outcome.done():
                writer.write(b"hello\n")
                await asyncio.sleep(1)
            deadline, after = await outcome
            assert deadline == "write"
            assert after == about(30)
        await recorder.wait_for(Closed)
    assert highest <= 2 * limits.write_buffer
    assert [event.deadline for event in recorder.of(Expired)] == ["write"]


async def test_slow_but_steady_reader_is_not_cut_off():
    async def send(connection):
        await connection.send(b"x" * 20_000_000)

    async with serving(send, TCP, timeouts=Timeouts(write=10)) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            got = 0
            while chunk := await reader.read(1_000_000):
                got += len(chunk)
                writer.transport.pause_reading()
                await asyncio.sleep(0.5)
                writer.transport.resume_reading()
            assert got == 20_000_000


async def test_closing_waits_no_longer_than_the_write_deadline(recorder):
    async def leave(connection):
        connection._protocol.transport.write(b"x" * 20_000_000)

    async with serving(leave, TCP, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (_reader, writer):
            writer.transport.pause_reading()
            start = now()
            await recorder.wait_for(Closed)
            assert now() - start == about(30)


async def test_lifetime_cancels_the_handler(url, recorder):
    cancelled = asyncio.Event()

    async def forever(connection):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(
        forever, url, timeouts=Timeouts(lifetime=60), observers=[recorder]
    ) as server:
        async with connect(server.addresses[0]) as (reader, _):
            start = now()
            assert await reader.read() == b""
            assert now() - start == about(60)
        await recorder.wait_for(Closed)
        assert server.stats.expired == {"lifetime": 1}
        assert server.stats.active == 0
    assert cancelled.is_set()


@pytest.mark.parametrize("deadline", ["idle", "lifetime"])
async def test_handler_that_goes_on_is_told_once(deadline, recorder):
    told = []

    async def stubborn(connection):
        try:
            await connection.readline()
        except (DeadlineExceeded, asyncio.CancelledError) as exc:
            told.append(exc)
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError as exc:
            told.append(exc)

    timeouts = Timeouts(**{"idle": None, deadline: 10})
    async with serving(stubborn, TCP, timeouts=timeouts, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, _):
            assert await reader.read() == b""
        await recorder.wait_for(Closed)
        assert server.stats.expired == {deadline: 1}
    assert len(told) == len(recorder.of(Expired)) == 1


async def test_message_inside_of_a_message_does_not_begin_its_deadline_anew(recorder):
    async def handler(connection):
        async with connection.message():
            for _ in range(20):
                async with connection.message():
                    await connection.readline()

    timeouts = Timeouts(message=10)
    async with serving(handler, TCP, timeouts=timeouts, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            for _ in range(4):
                writer.write(b"row\n")
                await asyncio.sleep(2)
            assert await reader.read() == b""
        await recorder.wait_for(Closed)
        assert server.stats.expired == {"message": 1}


async def test_lifetime_of_a_protocol(recorder):
    timeouts = Timeouts(lifetime=60)
    async with serving(asyncio.Protocol, TCP, timeouts=timeouts, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, _):
            start = now()
            assert await reader.read() == b""
            assert now() - start == about(60)
        await recorder.wait_for(Closed)
        assert server.stats.expired == {"lifetime": 1}


async def test_lifetime_of_a_datagram_handler(directory, recorder):
    async def forever(datagram):
        await asyncio.Event().wait()

    async with serving(
        forever, "udp://127.0.0.1:0", timeouts=Timeouts(lifetime=60),
        limits=Limits(datagrams=1), observers=[recorder],
    ) as server:  # fmt: skip
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"hello", ("127.0.0.1", server.addresses[0].port))
            start = now()
            await recorder.wait_for(Expired)
            assert now() - start == about(60)
    assert recorder.of(Failed) == []


async def test_none_lifts_the_idle_deadline():
    endless = Timeouts(handshake=None, idle=None, write=None, lifetime=None)
    async with serving(upper, TCP, timeouts=endless) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            await asyncio.sleep(700)
            writer.write(b"still there\n")
            assert await reader.readline() == b"STILL THERE\n"


async def test_reads_and_writes_start_no_timer(monkeypatch):
    loop = asyncio.get_running_loop()
    async with serving(upper, TCP) as server, connect(server.addresses[0]) as (reader, writer):
        writer.write(b"hello\n")
        await reader.readline()
        timers = []
        call_at = loop.call_at
        assert server._crew is not None
        watch = server._crew.watch

        def note(when, callback, *args, **kwargs):
            if callback != watch:  # one for all, once a tick
                timers.append(callback)
            return call_at(when, callback, *args, **kwargs)

        monkeypatch.setattr(loop, "call_at", note)
        for _ in range(1000):
            writer.write(b"hello\n")
            await reader.readline()
        monkeypatch.undo()
    assert timers == []
