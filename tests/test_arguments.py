"""What comes from a peer, or is computed from it, corrupts no connection: every argument is looked at first."""

import asyncio
import socket
import struct
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute

from asyncserver import (
    ConnectionBroken,
    DeadlineExceeded,
    Limits,
    LineTooLongError,
    MessageTooLongError,
    ServerStateError,
    SettingError,
    Timeouts,
)
from asyncserver.events import Closed, Expired, Failed
from tests.conftest import TLS, connect, serving
from tests.test_connection import pair

TCP = "tcp://127.0.0.1:0"
DATA = b"hello\nworld\n"


async def outcome(call: Any, *arguments: Any) -> object:
    """What a call returns, or the kind of what it raises."""
    try:
        return await asyncio.wait_for(call(*arguments), 5)
    except (ValueError, TypeError, EOFError) as exc:
        return type(exc)


WRONG: list[Any] = ["5", None, []]
CALLS: list[tuple[str, tuple[Any, ...]]] = [
    *(("read", (n,)) for n in (0, 1, 5, 100, True)),
    *(("readexactly", (n,)) for n in (-1, -10_000_000, 0, 5, True)),
    *(("readuntil", (separator,)) for separator in (b"", b"\n", b"o\nw", bytearray(b"\n"))),
    *((name, (wrong,)) for name in ("read", "readexactly") for wrong in WRONG),
    *(("readuntil", (each,)) for each in ("\n", 10, None)),
]


@pytest.mark.parametrize("size", [len(DATA), 0], ids=["data", "nothing yet"])
@pytest.mark.parametrize(("name", "arguments"), CALLS)
async def test_reads_answer_as_asyncios_and_leave_what_they_refuse(name, arguments, size, url):
    if not size and name in ("read", "readexactly") and arguments[0] in (1, 5, 100, True):
        return  # waits, and so does asyncio's
    if not size and name == "readuntil" and arguments[0]:
        return  # likewise, even for what it would not find
    theirs = asyncio.StreamReader()
    theirs.feed_data(DATA[:size])
    async with pair(url) as (connection, _, writer):
        if size:
            writer.write(DATA)
            while connection.bytes_received < size:
                await asyncio.sleep(0)
        expected = await outcome(getattr(theirs, name), *arguments)
        if isinstance(expected, type) and not issubclass(expected, ValueError):
            expected = TypeError  # where asyncio trips over it somewhere inside
        found = await outcome(getattr(connection, name), *arguments)
        assert found == expected
        taken = len(found) if isinstance(found, bytes) else 0
        writer.write(b"more")
        writer.write_eof()
        assert await connection.read() == DATA[taken:size] + b"more"


@pytest.mark.parametrize("n", [0, -1, 1.5, "3", None])
async def test_receive_refuses_what_anyio_refuses(n, url):
    async with pair(url) as (connection, _, writer):
        writer.write(b"hello")
        with pytest.raises((ValueError, TypeError)):
            await connection.receive(n)
        assert await connection.receive(3) == b"hel"


@pytest.mark.parametrize("length", [-1, -4, -(2**31)])
async def test_a_negative_length_of_a_peers_replays_nothing(length, recorder):
    async def handler(connection):
        (size,) = struct.unpack("!i", await connection.readexactly(4))
        await connection.readexactly(size)

    async with serving(handler, TCP, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(struct.pack("!i", length) + b"abcdefgh")
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        await recorder.wait_for(Closed)
    (failed,) = recorder.of(Failed)
    assert isinstance(failed.error, ValueError)


async def test_a_peers_length_is_bounded(recorder):
    async with pair(TCP, limits=Limits(exactly=1000)) as (connection, _, writer):
        writer.write(b"x" * 1000)
        with pytest.raises(MessageTooLongError, match=r"1000 bytes \(Limits.exactly\)") as caught:
            await connection.readexactly(1001)
        assert caught.value.limit == 1000
        assert await connection.readexactly(1000) == b"x" * 1000
    async with pair(TCP, limits=Limits(exactly=None)) as (connection, _, writer):
        writer.write(b"x" * 2000)
        assert len(await connection.readexactly(2000)) == 2000


async def test_a_cancelled_read_of_everything_loses_nothing(url):
    async with pair(url) as (connection, _, writer):
        writer.write(b"hello ")
        while connection.bytes_received < 6:
            await asyncio.sleep(0)
        reading = asyncio.create_task(connection.read())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await connection.read(100) == b"hello "
        writer.write(b"x" * 200_000)
        writer.write_eof()
        assert await connection.read() == b"x" * 200_000


async def test_what_came_before_a_reset_is_there_to_be_read():
    async with pair(TCP) as (connection, _, writer):
        writer.write(b"x" * 1000)
        while connection.bytes_received < 1000:
            await asyncio.sleep(0)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        with pytest.raises(ConnectionBroken):
            await connection.readexactly(2000)
        assert await connection.read(5000) == b"x" * 1000


@pytest.mark.parametrize(
    ("item", "sent"),
    [
        (bytearray(b"abc"), b"abc"),
        (memoryview(b"abcdef")[::2], b"ace"),
        (memoryview(struct.pack("=3I", 1, 2, 3)).cast("I"), struct.pack("=3I", 1, 2, 3)),
        (b"", b""),
    ],
)
async def test_all_bytes_of_what_has_bytes_are_sent(item, sent, url):
    async with pair(url) as (connection, reader, _):
        await connection.send(item)
        assert connection.bytes_sent == len(sent)
        await connection.send_eof()
        assert await reader.read() == sent


async def test_a_buffer_may_be_used_again_when_it_was_sent():
    size = 4_000_000
    async with pair(TCP, limits=Limits(write_buffer=2**20)) as (connection, reader, _):
        data = bytearray(b"A" * size)
        reading = asyncio.create_task(reader.readexactly(size))
        await connection.send(data)
        data[:] = b"B" * size
        data.clear()
        assert await reading == b"A" * size


async def test_what_is_left_of_a_dropped_message_is_not_read():
    async with pair(TCP, limits=Limits(line=10)) as (connection, _, writer):
        writer.write(b"x" * 20 + b"\r")
        while connection.bytes_received < 21:
            await asyncio.sleep(0)
        with pytest.raises(LineTooLongError):
            await connection.readuntil(b"\r\n")
        writer.write(b"\nnext\r\n")
        assert await connection.read(4) == b"next"
        assert await connection.readuntil(b"\r\n") == b"\r\n"


@pytest.mark.parametrize("item", ["text", 5, None, [1, 2]])
async def test_what_has_no_bytes_is_refused_by_name(item, url):
    async with pair(url) as (connection, reader, _):
        with pytest.raises(TypeError, match=rf"send\(\) takes bytes.*not {type(item).__name__}"):
            await connection.send(item)
        await connection.send(b"fine")
        assert await reader.readexactly(4) == b"fine"


async def test_no_state_of_the_clear_text_survives_an_upgrade(tls: TLS):
    async def handler(connection):
        with pytest.raises(LineTooLongError):
            await connection.readline()
        await connection.send(b"go\n")
        await connection.start_tls(tls.server)
        await connection.send(await connection.readline())

    async with serving(handler, TCP, limits=Limits(line=100)) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"x" * 150)  # an overlong line, the end of which never comes
            assert await reader.readline() == b"go\n"
            await writer.start_tls(tls.client, server_hostname="localhost")
            writer.write(b"first\n")
            assert await reader.readline() == b"first\n"


async def test_an_abstract_peer_can_be_connected_to(directory):
    async with pair(f"unix:@as-{directory[-8:]}") as (connection, _, writer):
        local = connection.extra(SocketAttribute.local_address)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(local)
        assert connection.local == f"@as-{directory[-8:]}"
        writer.close()


@pytest.mark.parametrize("demanded", [False, True])
@pytest.mark.parametrize("read", ["read", "lines", "receive"])
async def test_an_end_without_close_notify_can_be_told(read, demanded, tls: TLS):
    seen: list[Any] = []

    async def handler(connection):
        connection.standard_compatible = demanded
        assert connection.extra(TLSAttribute.standard_compatible) is demanded
        await connection.readline()
        try:
            if read == "read":
                seen.append(await connection.read())
            elif read == "lines":
                seen.append(b"".join([line async for line in connection.lines()]))
            else:
                await connection.receive()
        except anyio.EndOfStream:
            seen.append(b"")
        except ConnectionBroken as exc:
            seen.append(type(exc.__cause__).__name__)
        seen.append(connection.cut_off)

    options = {"ssl": tls.client, "server_hostname": "localhost"}
    async with serving(handler, TCP, tls=tls.server) as server:
        async with connect(server.addresses[0], **options) as (reader, writer):
            writer.write(b"x\n")
            sock = writer.get_extra_info("socket")
            while not list(server.connections) or next(server.connections).bytes_received < 2:
                await asyncio.sleep(0)
            with socket.socket(fileno=sock.fileno()) as below:
                below.shutdown(socket.SHUT_WR)
                below.detach()
            await reader.read()
    assert seen == ["SSLEOFError" if demanded else b"", True]


@pytest.mark.asyncio(loop_factories=["virtual"])
@pytest.mark.parametrize("read", ["readline", "readexactly", "read", "message", "skipped"])
async def test_a_message_has_a_deadline_however_it_trickles(read, recorder):
    loop = asyncio.get_running_loop()
    reached = asyncio.Event()

    async def handler(connection):
        try:
            if read == "message":
                async with connection.message():
                    while True:
                        await connection.readexactly(1)
            elif read == "skipped":
                with pytest.raises(LineTooLongError):
                    await connection.readline()
                await connection.readline()
            elif read == "read":
                await connection.read()
            elif read == "readexactly":
                await connection.readexactly(100_000)
            else:
                await connection.readline()
        except DeadlineExceeded:
            reached.set()

    timeouts = Timeouts(idle=10, message=30)
    limits = Limits(line=5 if read == "skipped" else 65536)
    async with serving(
        handler, TCP, timeouts=timeouts, limits=limits, observers=[recorder]
    ) as server:
        async with connect(server.addresses[0]) as (_, writer):
            start = loop.time()
            while not reached.is_set():
                writer.write(b"x" * 10)
                await asyncio.sleep(1)
    assert 29 <= loop.time() - start <= 38
    assert recorder.of(Expired)[0].deadline == "message"


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_many_messages_may_take_longer_than_one_may():
    async def handler(connection):
        async for line in connection.lines():
            await connection.send(line)

    async with serving(handler, TCP, timeouts=Timeouts(idle=100, message=5)) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            for _ in range(20):
                writer.write(b"half a ")
                await asyncio.sleep(3)
                writer.write(b"line\n")
                assert await reader.readline() == b"half a line\n"


async def test_a_stall_of_the_loop_expires_nobody_who_has_spoken(url):
    async def handler(connection):
        async for line in connection.lines():
            await connection.send(line)

    async with serving(handler, url, timeouts=Timeouts(idle=0.3)) as server:
        loop = asyncio.get_running_loop()
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"one\n")
            assert await reader.readline() == b"one\n"
            sock = writer.get_extra_info("socket")
            fd = sock.fileno()
            copy = socket.fromfd(fd, sock.family, socket.SOCK_STREAM)
            end = loop.time() + 0.5
            while loop.time() < end:  # a handler that holds up the loop
                pass
            copy.send(b"two\n")
            copy.close()
            assert await reader.readline() == b"two\n"


COUNTS: list[Any] = [1.0, float("nan"), "3", b"3", None, [], 3j, iter(()), int]


@pytest.mark.parametrize("name", ["read", "receive", "readexactly"])
async def test_what_is_no_count_is_refused_by_name(name, url):
    async with pair(url) as (connection, _, writer):
        writer.write(b"fine")
        for count in COUNTS:
            kind = type(count).__name__
            with pytest.raises(TypeError, match=rf"^{name}\(\) takes a whole number .*not {kind}$"):
                await getattr(connection, name)(count)
        assert await getattr(connection, name)(4) == b"fine"


class Number:
    """As numpy has them."""

    def __index__(self):
        return 4


@pytest.mark.parametrize("name", ["read", "receive", "readexactly"])
async def test_whatever_is_a_whole_number_counts(name, url):
    async with pair(url) as (connection, _, writer):
        writer.write(b"fine and good")
        assert await getattr(connection, name)(Number()) == b"fine"


async def test_a_number_that_is_too_long_to_be_written_is_too_long_to_be_read(url):
    async with pair(url) as (connection, _, writer):
        writer.write(b"fine")
        with pytest.raises(MessageTooLongError, match=r"\(Limits.exactly\)"):
            await connection.readexactly(10**5000)
        assert await connection.readexactly(4) == b"fine"


@pytest.mark.parametrize("separator", ["\n", 10, None, [b"\n"]])
async def test_what_is_no_separator_is_refused_by_name(separator, url):
    async with pair(url) as (connection, _, writer):
        writer.write(b"fine\n")
        with pytest.raises(TypeError, match=r"^readuntil\(\) takes bytes"):
            await connection.readuntil(separator)
        assert await connection.readuntil() == b"fine\n"


@pytest.mark.parametrize("messages", ["no", 1, 0, [], object()])
async def test_a_loop_over_lines_is_over_messages_or_not(messages, url):
    async with pair(url) as (connection, _, _):
        with pytest.raises(SettingError, match="write True, False or None"):
            connection.lines(messages=messages)


ELSEWHERE: dict[str, Any] = {
    "read": lambda connection, _: connection.read(1),
    "readline": lambda connection, _: connection.readline(),
    "idle": lambda connection, _: connection.idle(),
    "lines": lambda connection, _: anext(connection.lines()),
    "send": lambda connection, _: connection.send(b"x"),
    "send_eof": lambda connection, _: connection.send_eof(),
    "aclose": lambda connection, _: connection.aclose(),
    "start_tls": lambda connection, tls: connection.start_tls(tls.server),
}


@pytest.mark.parametrize("name", ELSEWHERE)
async def test_a_connection_is_used_on_its_own_loop_only(name, url, tls: TLS):
    async with pair(url) as (connection, reader, writer):

        async def use():
            await ELSEWHERE[name](connection, tls)

        with pytest.raises(ServerStateError, match="belongs to another event loop: write loop"):
            await asyncio.to_thread(asyncio.run, use())
        writer.write(b"fine\n")
        assert await connection.readline() == b"fine\n"
        await connection.send(b"well\n")
        assert await reader.readline() == b"well\n"


@pytest.mark.parametrize("name", ["close", "abort"])
async def test_a_connection_is_closed_on_its_own_loop_only(name, url):
    async with pair(url) as (connection, reader, _):
        with pytest.raises(ServerStateError, match="belongs to another event loop"):
            await asyncio.to_thread(getattr(connection, name))
        await connection.send(b"well\n")
        assert await reader.readline() == b"well\n"


@pytest.mark.parametrize("end", ["aclose", "reset"])
async def test_a_connection_that_is_gone_can_still_be_asked_who_it_was(end, url):
    async with pair(url) as (connection, _, writer):
        local, peer = connection.local, connection.peer
        if end == "aclose":
            await connection.aclose()
        else:
            writer.transport.abort()
            while await connection.read(1):
                pass
            connection.abort()
        for _ in range(3):
            assert (connection.local, connection.peer) == (local, peer)
            assert connection.extra(SocketAttribute.remote_address, None) == peer
            connection.extra(SocketAttribute.family, None)
            connection.extra(SocketAttribute.raw_socket, None)
            assert connection.tls is None
            assert connection.credentials is None or isinstance(peer, str)
            assert not connection.cut_off
            assert "closed" in repr(connection)
            await asyncio.sleep(0)
        assert connection.credentials is None


async def test_an_end_that_a_reset_has_overtaken_is_for_the_reader_to_hear():
    async with pair(TCP) as (connection, _, writer):
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        with socket.socket(fileno=connection.extra(SocketAttribute.raw_socket).fileno()) as ours:
            while True:  # until the kernel knows of it, which the loop does not yet
                try:
                    ours.getpeername()
                except OSError:
                    break
                await asyncio.sleep(0)
            ours.detach()
        if not connection._protocol.lost:
            await connection.send_eof()
        with pytest.raises(ConnectionBroken):
            await connection.read(1)
