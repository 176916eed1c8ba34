"""The stream that a handler holds: reading, the end, limits, back-pressure, and anyio's words."""

import asyncio
import contextlib
import os
import socket
import struct

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.text import TextStream

import asyncserver
from asyncserver import (
    ConnectionBroken,
    ConnectionBusy,
    ConnectionClosed,
    IncompleteReadError,
    Limits,
    LineTooLongError,
    MessageTooLongError,
)
from tests.conftest import connect, serving


@contextlib.asynccontextmanager
async def pair(url, **options):
    """A connection as a handler holds it, and the client's reader and writer."""
    held: asyncio.Future[asyncserver.Connection] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def handler(connection):
        held.set_result(connection)
        await done.wait()

    async with serving(handler, url, **options) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            connection = await held
            try:
                yield connection, reader, writer
            finally:
                done.set()


def reset(writer):
    """End the client's connection with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


TCP = "tcp://127.0.0.1:0"


async def test_reads_take_what_was_asked_for(url):
    async with pair(url) as (connection, _, writer):
        writer.write(b"line\nseparated;exactlyrest\nmore")
        assert await connection.readline() == b"line\n"
        assert await connection.readuntil(b";") == b"separated;"
        assert await connection.readexactly(7) == b"exactly"
        assert await connection.receive(2) == b"re"
        assert await connection.read(100) == b"st\nmore"
        writer.write_eof()
        assert await connection.read(100) == b""
        assert await connection.readline() == b""
        with pytest.raises(anyio.EndOfStream):
            await connection.receive()


async def test_read_without_size_goes_to_the_end():
    async with pair(TCP) as (connection, _, writer):
        writer.write(b"a" * 300_000)
        writer.write_eof()
        assert await connection.read() == b"a" * 300_000


async def test_read_without_size_has_a_limit():
    async with pair(TCP, limits=Limits(read_all=1000)) as (connection, _, writer):
        writer.write(b"a" * 5000)
        with pytest.raises(MessageTooLongError, match="read_all") as caught:
            await connection.read()
        assert caught.value.limit == 1000
        assert await connection.read(10) == b"a" * 10  # nothing of it was taken


async def test_iteration_gives_lines_or_chunks(url):
    async with pair(url) as (connection, _, writer):
        writer.write(b"one\ntwo\n")
        lines = connection.lines()
        assert [await anext(lines), await anext(lines)] == [b"one\n", b"two\n"]
        writer.write(b"chunk")
        assert await anext(connection) == b"chunk"
        writer.write_eof()
        assert [line async for line in lines] == []
        assert [chunk async for chunk in connection] == []


@pytest.mark.parametrize("method", ["readline", "readuntil", "readexactly", "lines"])
async def test_end_in_the_middle_is_an_error_that_carries_what_came(url, method):
    async with pair(url) as (connection, _, writer):
        writer.write(b"half")
        writer.write_eof()
        with pytest.raises(IncompleteReadError) as caught:
            match method:
                case "readexactly":
                    await connection.readexactly(10)
                case "lines":
                    await anext(connection.lines())
                case _:
                    await getattr(connection, method)()
        assert caught.value.partial == b"half"
        assert caught.value.expected == (10 if method == "readexactly" else None)


@pytest.mark.parametrize("piece", [1, 7, 1000])
async def test_overlong_line_is_dropped_and_the_next_is_read(piece):
    async with pair("tcp://127.0.0.1:0", limits=Limits(line=16)) as (connection, _, writer):
        data = b"short\n" + b"x" * 40 + b"\nnext\n"
        errors: list[LineTooLongError] = []
        lines: list[bytes] = []

        async def read():
            while len(lines) < 2:
                try:
                    async for line in connection.lines():
                        lines.append(line)
                        if len(lines) == 2:
                            return
                except LineTooLongError as exc:
                    errors.append(exc)

        reading = asyncio.create_task(read())
        for start in range(0, len(data), piece):
            writer.write(data[start : start + piece])
            await writer.drain()
            await asyncio.sleep(0)
        await reading
        assert lines == [b"short\n", b"next\n"]
        assert [error.limit for error in errors] == [16]
        assert errors[0].partial == b"x" * len(errors[0].partial) != b""


async def test_cancelled_read_loses_no_byte(url):
    sent = os.urandom(3000)
    got = b""
    async with pair(url) as (connection, _, writer):
        for start in range(0, len(sent), 100):
            reading = asyncio.create_task(connection.readexactly(100))
            writer.write(sent[start : start + 50])
            for _ in range(start % 700 // 100):  # cancelled sooner or later
                await asyncio.sleep(0)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                got += await reading
            writer.write(sent[start + 50 : start + 100])
            if len(got) <= start:
                got += await connection.readexactly(100)
    assert got == sent


async def test_second_reader_is_told_and_the_first_goes_on(url):
    async with pair(url) as (connection, _, writer):
        first = asyncio.create_task(connection.readline())
        await asyncio.sleep(0)
        with pytest.raises(ConnectionBusy):
            await connection.receive()
        writer.write(b"for the first\n")
        assert await first == b"for the first\n"


async def test_reset_by_the_peer():
    async with pair(TCP) as (connection, _, writer):
        reset(writer)
        with pytest.raises(ConnectionBroken) as caught:
            await connection.readline()
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        with pytest.raises(ConnectionBroken):
            await connection.send(b"too late")
        await connection.aclose()  # never raises


async def test_reset_while_sending():
    async with pair(TCP) as (connection, _, writer):
        sending = asyncio.create_task(connection.send(b"x" * 10_000_000))
        await asyncio.sleep(0)
        reset(writer)
        with pytest.raises(ConnectionBroken):
            await sending


async def test_sending_to_a_lost_connection_ends_a_busy_handler(caplog):
    """Also one that has so much in its buffer that it never gives the loop a turn."""
    async with pair(TCP, limits=Limits(read_buffer=1_000_000)) as (connection, _, writer):
        writer.write(b"line\n" * 50_000)
        await writer.drain()
        await connection.readexactly(50_000)
        reset(writer)
        with pytest.raises(ConnectionBroken):
            async for line in connection.lines():
                await connection.send(line)
    assert "socket.send() raised exception" not in caplog.text


async def test_everything_after_closing_says_so(url):
    async with pair(url) as (connection, reader, writer):
        writer.write(b"read\nbuffered")
        assert await connection.readline() == b"read\n"
        await connection.send(b"goodbye")
        await connection.aclose()
        await connection.aclose()
        assert await reader.read() == b"goodbye"
        for use in (connection.receive(), connection.send(b""), connection.readline(),
                    connection.send_eof(), anext(connection)):  # fmt: skip
            with pytest.raises(ConnectionClosed):
                await use
        assert "closed" in repr(connection)


async def test_closing_wakes_a_reader(url):
    async with pair(url) as (connection, _, _writer):
        reading = asyncio.create_task(connection.readline())
        await asyncio.sleep(0)
        await connection.aclose()
        with pytest.raises(ConnectionClosed):
            await reading


async def test_close_sends_what_was_written(url):
    async with pair(url) as (connection, reader, _):
        sending = asyncio.create_task(connection.send(b"x" * 3_000_000))
        await asyncio.sleep(0)
        closing = asyncio.create_task(connection.aclose())
        assert len(await reader.read()) == 3_000_000
        await closing
        with contextlib.suppress(ConnectionClosed):
            await sending


async def test_half_close_in_both_directions(url):
    async with pair(url) as (connection, reader, writer):
        await connection.send(b"last words")
        await connection.send_eof()
        assert await reader.read() == b"last words"
        with pytest.raises(ConnectionClosed):
            await connection.send(b"more")
        writer.write(b"still talking\n")
        assert await connection.readline() == b"still talking\n"
        writer.write_eof()
        assert await connection.readline() == b""


async def test_send_waits_for_a_peer_that_does_not_read(url):
    limits = Limits(write_buffer=32_768)
    async with pair(url, limits=limits) as (connection, reader, writer):
        writer.transport.pause_reading()
        sent = 0
        highest = 0

        async def send():
            nonlocal sent, highest
            for _ in range(400):
                await connection.send(b"x" * 32_768)
                sent += 32_768
                highest = max(highest, connection._protocol.transport.get_write_buffer_size())

        sending = asyncio.create_task(send())
        before = -1
        while sent != before:  # until it sticks: a hundred turns of the loop without a byte
            before = sent
            for _ in range(100):
                await asyncio.sleep(0)
        assert not sending.done()
        assert connection._protocol.transport.get_write_buffer_size() <= 2 * limits.write_buffer
        writer.transport.resume_reading()
        await reader.readexactly(400 * 32_768)
        await sending
        assert highest <= 2 * limits.write_buffer


async def test_cancelled_sender_does_not_disturb_another():
    async with pair(TCP) as (connection, reader, _):
        first = asyncio.create_task(connection.send(b"a" * 8_000_000))
        second = asyncio.create_task(connection.send(b"b" * 10))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        await reader.readexactly(8_000_010)
        await second
        assert first.cancelled()


async def test_peer_is_paused_while_the_handler_does_not_read(url):
    data = os.urandom(1_000_000) * 8
    async with pair(url, limits=Limits(read_buffer=65_536)) as (connection, _, writer):
        writer.write(data)
        before = -1
        while connection.bytes_received != before or before == 0:
            before = connection.bytes_received
            for _ in range(100):
                await asyncio.sleep(0)
        assert connection.bytes_received <= 65_536 + 262_144
        assert await connection.readexactly(len(data)) == data


@pytest.mark.parametrize("stack", ["buffered", "text", "receive_exactly"])
async def test_anyio_wrappers_take_it(stack):
    async with pair(TCP) as (connection, reader, writer):
        assert isinstance(connection, ByteStream)
        writer.write(b"hello\nworld")
        if stack == "text":
            text = TextStream(connection)
            assert await text.receive() == "hello\nworld"
            await text.send("answer")
            assert await reader.readexactly(6) == b"answer"
        elif stack == "buffered":
            buffered = BufferedByteReceiveStream(connection)
            assert await buffered.receive_until(b"\n", 100) == b"hello"
        else:
            buffered = BufferedByteReceiveStream(connection)
            writer.write_eof()
            with pytest.raises(anyio.IncompleteRead):
                await buffered.receive_exactly(100)


async def test_addresses_of_both_ends(url):
    async with pair(url) as (connection, _, writer):
        if url.startswith("unix"):
            assert connection.peer == ""
            assert connection.local == url.removeprefix("unix://")
            assert connection.credentials == (os.getpid(), os.getuid(), os.getgid())
        else:
            assert connection.peer == writer.get_extra_info("sockname")[:2]
            assert connection.local == writer.get_extra_info("peername")[:2]
            assert connection.credentials is None
            assert connection.extra(SocketAttribute.remote_port) == connection.peer[1]
            assert connection.extra(SocketAttribute.local_port) == connection.local[1]
        assert connection.extra(SocketAttribute.remote_address) == connection.peer
        assert connection.extra(SocketAttribute.local_address) == connection.local
        assert (
            connection.extra(SocketAttribute.family)
            == connection.extra(SocketAttribute.raw_socket).family
        )
        assert connection.tls is None
        assert repr(connection) == f"<Connection open, peer {connection.peer!r}>"


async def test_ipv4_peer_of_a_dual_stack_socket_is_shown_as_ipv4():
    sock = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    peers = []

    async def handler(connection):
        peers.append(connection.peer[0])

    async with serving(handler, sock) as server:
        port = server.addresses[0].port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
    assert peers == ["127.0.0.1"]


@pytest.mark.parametrize("proto", [0, socket.IPPROTO_TCP])
async def test_what_is_sent_does_not_wait_for_more(proto):
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, proto)
    sock.bind(("127.0.0.1", 0))
    async with pair(sock) as (connection, _, _):
        raw = connection.extra(SocketAttribute.raw_socket)
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("loop", ["lines", "chunks"])
async def test_a_loop_over_a_connection_that_is_reset_does_not_end_as_if_all_had_come(loop):
    async with pair(TCP) as (connection, _, writer):
        writer.write(b"line\n")
        with pytest.raises(ConnectionBroken):
            async for _ in connection.lines() if loop == "lines" else connection:
                reset(writer)
