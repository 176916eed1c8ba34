"""A drain loses nobody whom the kernel has let in, and cuts no message short."""

import asyncio
import contextlib
import errno
import socket
import struct
import threading
from typing import Any

import pytest

import asyncserver
from asyncserver import Limits, Server, ServerState, ServerStateError, SettingError, Timeouts
from asyncserver.drain import Drain, read
from asyncserver.events import Drained, Draining, Opened, Refused
from tests.conftest import TLS, connect, descriptors, serving, upper

TCP = "tcp://127.0.0.1:0"


def dial(address):
    """A client that the kernel lets in at once, while the loop has no turn."""
    if address.is_unix:
        sock = socket.socket(socket.AF_UNIX)
    else:
        sock = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
    try:
        sock.connect(address.path if address.is_unix else (address.host, address.port))
    except OSError:
        sock.close()
        raise
    return sock


async def answers(socks):
    """What each client hears until the end."""
    return [await answer(sock) for sock in socks]


async def answer(sock):
    loop = asyncio.get_running_loop()
    heard = b""
    with sock:
        sock.setblocking(False)
        while data := await loop.sock_recv(sock, 1000):
            heard += data
    return heard


# -- who waits in the queue ------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [None, 3], ids=["room", "full"])
async def test_everybody_in_the_queue_is_served(url, capacity, recorder):
    before = descriptors()
    limits = Limits(connections=capacity)
    server = Server(upper, url, limits=limits, observers=[recorder], timeouts=Timeouts(first=0.05))
    await server.start()
    (address,) = server.addresses
    clients = [dial(address) for _ in range(100)]
    for client in clients:
        client.sendall(b"hello\n")
        client.shutdown(socket.SHUT_WR)
    server.begin_close(grace=20)
    if not address.is_unix:
        with pytest.raises(ConnectionRefusedError):
            dial(address)
    assert await answers(clients) == [b"HELLO\n"] * 100
    await server.wait_closed()
    assert recorder.of(Drained) == [Drained(finished=100, cancelled=0, aborted=0)]
    assert descriptors() == before


async def test_guests_that_find_no_room_within_the_grace_are_refused_and_counted(recorder):
    async def forever(connection):
        await asyncio.Event().wait()

    limits = Limits(connections=1)
    server = Server(forever, TCP, limits=limits, observers=[recorder])
    await server.start()
    clients = [dial(server.addresses[0]) for _ in range(4)]
    await recorder.wait_for(Opened)
    await server.close(grace=0.01)
    assert len(recorder.of(Opened)) == 1
    assert server.stats.refused == {"connections": 3}
    assert len(recorder.of(Refused)) == 3
    for client in clients:
        client.close()


async def test_a_queue_is_emptied_when_descriptors_are_there_again(monkeypatch):
    monkeypatch.setattr("asyncserver.doors.BACK_OFF", 0.001)
    server = Server(upper, TCP, timeouts=Timeouts(first=0.05))
    await server.start()
    (door,) = server._doors._doors
    tries = [OSError(errno.EMFILE, "Too many open files")] * 3

    def accept():
        if tries:
            raise tries.pop()
        return door.accept()

    server._doors._doors[:] = [door._replace(accept=accept)]
    client = dial(server.addresses[0])
    client.sendall(b"hello\n")
    client.shutdown(socket.SHUT_WR)
    server.begin_close(grace=20)
    assert await answers([client]) == [b"HELLO\n"]
    await server.wait_closed()
    assert tries == []


async def test_a_queue_that_others_hold_too_is_left_to_them():
    listener = socket.create_server(("127.0.0.1", 0))
    other = listener.dup()
    server = Server(upper, listener)
    await server.start()
    client = dial(server.addresses[0])
    await server.close(grace=5)
    other.settimeout(5)
    accepted, _ = other.accept()
    for sock in (accepted, client, other):
        sock.close()


async def test_without_grace_the_queue_is_not_emptied(recorder):
    server = Server(upper, TCP, observers=[recorder])
    await server.start()
    client = dial(server.addresses[0])
    await server.close(grace=0)
    assert recorder.of(Opened) == []
    client.close()


# -- who is inside, and has not been heard ---------------------------------------------------------


async def test_a_request_that_the_kernel_holds_is_answered(url):
    async with serving(upper, url) as server:
        client = dial(server.addresses[0])
        client.sendall(b"one\n")
        client.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(client, 100) == b"ONE\n"
        client.sendall(b"two\n")  # the loop has no turn before it is told to close
        server.begin_close(grace=5)
        assert await answers([client]) == [b"TWO\n"]
        await server.wait_closed()


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
async def test_a_client_that_has_just_connected_may_speak(url, encrypted, tls: TLS, recorder):
    options = {"ssl": tls.client, "server_hostname": "localhost"} if encrypted else {}
    server = Server(upper, url, observers=[recorder], tls=tls.server if encrypted else None)
    await server.start()
    async with connect(server.addresses[0], **options) as (reader, writer):
        closing = asyncio.create_task(server.close(grace=20))
        await recorder.wait_for(Draining)
        for _ in range(5):
            await asyncio.sleep(0)
        writer.write(b"hello\n")
        assert await reader.readline() == b"HELLO\n"
        assert await reader.read() == b""  # then it is between two messages
        await closing
    assert recorder.of(Drained) == [Drained(finished=1, cancelled=0, aborted=0)]


async def test_a_handshake_may_begin_when_the_drain_has_begun(tls: TLS, recorder):
    server = Server(upper, TCP, tls=tls.server, observers=[recorder])
    await server.start()
    client = dial(server.addresses[0])
    await recorder.wait_for(Opened)
    closing = asyncio.create_task(server.close(grace=20))
    await recorder.wait_for(Draining)
    for _ in range(5):
        await asyncio.sleep(0)
    reader, writer = await asyncio.open_connection(
        sock=client, ssl=tls.client, server_hostname="localhost"
    )
    writer.write(b"hello\n")
    assert await reader.readline() == b"HELLO\n"
    writer.transport.abort()
    await closing


@pytest.mark.asyncio(loop_factories=["virtual"])
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(("first", "grace", "seconds"), [(5, 30, 5), (5, 2, 2), (None, 3, 3)])
async def test_who_never_speaks_does_not_eat_the_grace(
    first, grace, seconds, encrypted, tls: TLS, recorder
):
    loop = asyncio.get_running_loop()
    server = Server(
        upper, TCP, tls=tls.server if encrypted else None, observers=[recorder],
        timeouts=Timeouts(first=first),
    )  # fmt: skip
    await server.start()
    client = dial(server.addresses[0])
    await recorder.wait_for(Opened)
    start = loop.time()
    await server.close(grace=grace)
    assert loop.time() - start == pytest.approx(seconds, abs=0.1)
    assert recorder.of(Drained) == [Drained(finished=1, cancelled=0, aborted=0)]
    client.close()


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_who_has_been_silent_for_long_is_told_at_once(recorder):
    loop = asyncio.get_running_loop()
    server = Server(upper, TCP, observers=[recorder])
    await server.start()
    client = dial(server.addresses[0])
    await recorder.wait_for(Opened)
    await asyncio.sleep(6)
    start = loop.time()
    await server.close(grace=30)
    assert loop.time() - start == pytest.approx(0, abs=0.1)
    client.close()


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_a_guest_of_the_queue_leaves_when_it_was_answered():
    """As it is told while it opens, and has no need to be told again."""
    loop = asyncio.get_running_loop()
    server = Server(upper, TCP, limits=Limits(connections=1), timeouts=Timeouts(first=20))
    await server.start()
    clients = [dial(server.addresses[0]) for _ in range(3)]
    for client in clients:
        client.sendall(b"hello\n")
    start = loop.time()
    await server.close(grace=60)
    assert loop.time() - start == pytest.approx(0, abs=0.5)
    assert await answers(clients) == [b"HELLO\n"] * 3


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_without_first_words_guests_of_the_queue_need_not_shake_hands(tls: TLS, recorder):
    loop = asyncio.get_running_loop()
    server = Server(
        upper, TCP, tls=tls.server, observers=[recorder],
        limits=Limits(connections=1), timeouts=Timeouts(first=1e-9),
    )  # fmt: skip
    await server.start()
    clients = [dial(server.addresses[0]) for _ in range(3)]
    start = loop.time()
    await server.close(grace=60)
    assert loop.time() - start == pytest.approx(0, abs=0.5)
    assert await answers(clients) == [b""] * 3
    assert len(recorder.of(Opened)) == 3


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_bytes_that_came_during_a_stall_count_as_first_words(recorder):
    loop = asyncio.get_running_loop()
    server = Server(upper, TCP, observers=[recorder], timeouts=Timeouts(first=1))
    await server.start()
    client = dial(server.addresses[0])
    await recorder.wait_for(Opened)
    closing = asyncio.create_task(server.close(grace=30))
    await recorder.wait_for(Draining)
    await asyncio.sleep(0.5)
    client.sendall(b"hello\n")
    loop._jumped += 10  # type: ignore[attr-defined] # a handler has held up the loop for so long
    assert await answers([client]) == [b"HELLO\n"]
    await closing


@pytest.mark.parametrize("how", ["lines", "idle"])
async def test_all_that_came_in_time_is_answered_however_it_was_read(how, url):
    count = 20_000  # messages of 64 bytes: several reads, each of which ends between two messages

    async def handler(connection):
        if how == "idle":
            while await connection.idle():
                await connection.send((await connection.readexactly(64))[-1:])
        else:
            async for line in connection.lines():
                await connection.send(line[-1:])

    async with serving(handler, url) as server:
        client = dial(server.addresses[0])
        with contextlib.suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 2**20)
        client.setblocking(False)
        line, sent = b"x" * 63 + b"\n", 0
        with contextlib.suppress(BlockingIOError):
            while sent < count * 64:
                sent += client.send((line * count)[sent:])
        if sent % 64:
            await asyncio.get_running_loop().sock_sendall(client, line[sent % 64 :])
        server.begin_close(grace=20)
        assert len(await answer(client)) == -(-sent // 64)
        await server.wait_closed()


async def test_who_cancels_all_tasks_closes_the_server(url, recorder):
    async def forever(connection):
        await asyncio.Event().wait()

    server = Server(forever, url, "udp://127.0.0.1:0", observers=[recorder])
    await server.start()
    client = dial(server.addresses[0])
    await recorder.wait_for(Opened)
    server.begin_close(grace=None)
    await asyncio.sleep(0)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await server.close()
    assert server.state is ServerState.CLOSED
    client.close()


# -- where a message ends --------------------------------------------------------------------------


async def smtp(connection):
    await connection.send(b"220 hello\r\n")
    async for line in connection.lines():
        if line == b"DATA\r\n":
            await connection.send(b"354 go\r\n")
            message = []
            async for part in connection.lines():
                if part == b".\r\n":
                    break
                message.append(part)
            await connection.send(b"250 %d lines\r\n" % len(message))
        else:
            await connection.send(b"250 ok\r\n")


async def smtp_by_readline(connection):
    while line := await connection.readline():
        if line == b"DATA\r\n":
            await connection.send(b"354 go\r\n")
            message = []
            async for part in connection.lines():
                if part == b".\r\n":
                    break
                message.append(part)
            await connection.send(b"250 %d lines\r\n" % len(message))
        else:
            await connection.send(b"250 ok\r\n")


async def http(connection):
    while await connection.readline():
        length = 0
        async for header in connection.lines():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            if header == b"\r\n":
                break
        body = await connection.readexactly(length)
        await connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Got: %d\r\n\r\n" % len(body)
        )


async def http_from_the_first_line(connection):
    head = []
    async for line in connection.lines():
        if line == b"\r\n":
            break
        head.append(line)
    await connection.send(b"HTTP/1.0 200 OK\r\n\r\n%d" % len(head))


async def upload(connection):
    data = b""
    async for chunk in connection:
        data += chunk
    await connection.send(b"stored %d" % len(data))


async def upload_with_a_name(connection):
    await connection.readline()
    await upload(connection)


async def frames(connection):
    while await connection.idle():
        (size,) = struct.unpack("!I", await connection.readexactly(4))
        async with connection.message():
            await connection.send(b"%d;" % len(await connection.readexactly(size)))


async def in_a_message(connection):
    async for _ in connection.lines():
        async with connection.message():
            rows = []
            async for row in connection.lines(messages=None):
                if row == b"end\n":
                    break
                rows.append(row)
                await connection.send(b"+")  # answered, but not the end
            await connection.send(b"%d rows\n" % len(rows))


PARTS = {
    # What is sent and what is heard before the drain; then the rest, and what is heard to the end.
    "smtp": (smtp, b"DATA\r\npay 100 dollars\r\n", b"220 hello\r\n354 go\r\n", b"to nobody\r\n.\r\n", b"250 2 lines\r\n"),
    "smtp, nothing yet": (smtp, b"DATA\r\n", b"220 hello\r\n354 go\r\n", b"a\r\nb\r\n.\r\n", b"250 2 lines\r\n"),
    "smtp by readline": (smtp_by_readline, b"DATA\r\none\r\n", b"354 go\r\n", b"two\r\n.\r\n", b"250 2 lines\r\n"),
    "http": (http, b"POST / HTTP/1.1\r\nHost: x\r\n", b"", b"Content-Length: 3\r\n\r\nabc", b"X-Got: 3\r\n\r\n"),
    "http, first line": (http, b"POST / HTTP/1.1\r\n", b"", b"Content-Length: 3\r\n\r\nabc", b"X-Got: 3\r\n\r\n"),
    "http in one loop": (http_from_the_first_line, b"GET / HTTP/1.0\r\nHost: x\r\n", b"", b"A: b\r\n\r\n", b"3"),
    "upload": (upload, b"x" * 1000, b"", b"y" * 500, b"stored 1500"),
    "upload with a name": (upload_with_a_name, b"name\n" + b"x" * 1000, b"", b"y" * 500, b"stored 1500"),
    "frames": (frames, b"\0\0\0\5ab", b"", b"cde", b"5;"),
    "frames, half a length": (frames, b"\0\0", b"", b"\0\5abcde", b"5;"),
    "in a message": (in_a_message, b"begin\n1\n", b"+", b"2\nend\n", b"+2 rows\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
async def test_a_drain_cuts_no_message_short(name, url, recorder):
    handler, begin, heard, rest, answer = PARTS[name]
    server = Server(handler, url, observers=[recorder])
    await server.start()
    async with connect(server.addresses[0]) as (reader, writer):
        writer.write(begin)
        assert await reader.readexactly(len(heard)) == heard
        await received(server, len(begin))
        closing = asyncio.create_task(server.close(grace=20))
        await recorder.wait_for(Draining)
        for _ in range(5):
            await asyncio.sleep(0)
        writer.write(rest)
        writer.write_eof()
        assert (await reader.read()).endswith(answer)
        await closing
    assert recorder.of(Drained) == [Drained(finished=1, cancelled=0, aborted=0)]


async def received(server, size):
    """Return when the one connection of a server has received so many bytes."""
    while not (found := list(server.connections)) or found[0].bytes_received < size:
        await asyncio.sleep(0)


@pytest.mark.parametrize("loop", ["lines", "chunks", "messages", "login", "idle", "after login"])
async def test_between_two_messages_a_loop_ends_by_itself(loop, url, recorder):
    ended = []

    async def handler(connection):
        if loop in ("login", "after login"):
            await connection.send(await connection.readline())
        if loop == "idle":
            while await connection.idle():
                await connection.send(await connection.readexactly(6))
        elif loop == "chunks":
            async for chunk in connection:
                await connection.send(chunk)
        else:
            async for line in connection.lines(messages=True if loop == "messages" else None):
                if loop != "messages":
                    await connection.send(line)
                else:
                    ended.append(line)
        ended.append(connection.at_eof())

    server = Server(handler, url, observers=[recorder])
    await server.start()
    async with connect(server.addresses[0]) as (reader, writer):
        for _ in range(2 if loop == "login" else 1):
            writer.write(b"hello\n")
            if loop != "messages":
                assert await reader.readexactly(6) == b"hello\n"
        while loop == "messages" and not ended:
            await asyncio.sleep(0)
        await server.close(grace=20)
        assert await reader.read() == b""
    assert ended[-1] is False  # and not the peer's end
    assert recorder.of(Drained) == [Drained(finished=1, cancelled=0, aborted=0)]


async def test_the_peers_end_can_be_told_from_the_drains(url):
    seen = []

    async def handler(connection):
        async for line in connection.lines():
            await connection.send(line)
        seen.append((connection.at_eof(), bool(connection.closing)))

    async with serving(handler, url) as server, connect(server.addresses[0]) as (reader, writer):
        writer.write(b"hello\n")
        writer.write_eof()
        assert await reader.read() == b"hello\n"
    assert seen == [(True, False)]


@pytest.mark.parametrize("messages", [None, False])
async def test_what_was_not_answered_is_waited_for(messages, recorder):
    lines = []

    async def sink(connection):
        async for line in connection.lines(messages=messages):
            lines.append(line)  # noqa: PERF401 - a loop is what this is about

    server = Server(sink, TCP, observers=[recorder])
    await server.start()
    async with connect(server.addresses[0]) as (_, writer):
        writer.write(b"one\n")
        while not lines:
            await asyncio.sleep(0)
        closing = asyncio.create_task(server.close(grace=20))
        await recorder.wait_for(Draining)
        for _ in range(5):
            await asyncio.sleep(0)
        writer.write(b"two\n")
        writer.write_eof()
        await closing
    assert lines == [b"one\n", b"two\n"]


async def test_a_handler_that_may_be_inside_a_message_can_confirm_nothing(url, recorder):
    stored = []

    async def mail_without_a_loop_around_it(connection):
        await connection.readline()
        await connection.send(b"354 go\r\n")
        body = [line async for line in connection.lines()]
        stored.append(body)
        with pytest.raises(asyncserver.ConnectionClosed, match="server drains"):
            await connection.send(b"250 ok\r\n")

    server = Server(mail_without_a_loop_around_it, url, observers=[recorder])
    await server.start()
    async with connect(server.addresses[0]) as (reader, writer):
        writer.write(b"DATA\r\n")
        assert await reader.readline() == b"354 go\r\n"
        await server.close(grace=20)
        assert await reader.read() == b""
    assert stored == [[]]
    assert server.stats.handler_errors == 0


async def test_a_chunk_is_no_message(url, recorder):
    stored = []

    async def upload_with_progress(connection):
        async for chunk in connection:
            stored.append(chunk)
            await connection.send(b"%d;" % len(chunk))
        await connection.send(b"201 created\r\n")

    server = Server(upload_with_progress, url, observers=[recorder])
    await server.start()
    async with connect(server.addresses[0]) as (reader, writer):
        writer.write(b"half of it")
        assert await reader.readexactly(3) == b"10;"
        await server.close(grace=20)
        assert await reader.read() == b""


async def test_what_another_task_sends_is_no_answer(recorder):
    async def handler(connection):
        async def ping():
            await connection.send(b"ping")

        body = []
        async for line in connection.lines():
            body.append(line)
            await asyncio.create_task(ping())
        await connection.send(b"%d lines" % len(body))

    server = Server(handler, TCP, observers=[recorder])
    await server.start()
    async with connect(server.addresses[0]) as (reader, writer):
        writer.write(b"one\n")
        assert await reader.readexactly(4) == b"ping"
        closing = asyncio.create_task(server.close(grace=20))
        await recorder.wait_for(Draining)
        for _ in range(8):
            await asyncio.sleep(0)
        writer.write(b"two\n")
        writer.write_eof()
        assert await reader.read() == b"ping2 lines"
        await closing


async def test_a_loop_that_was_left_makes_room_for_the_next(url, recorder):
    async def handler(connection):
        async for line in connection.lines():
            await connection.send(line)
            break
        async for line in connection.lines():
            await connection.send(line)

    server = Server(handler, url, observers=[recorder])
    await server.start()
    async with connect(server.addresses[0]) as (reader, writer):
        for _ in range(2):
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
        await server.close(grace=20)
        assert await reader.read() == b""


# -- who closes, and how long it takes -------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["5", -1, float("nan"), True, object()])
async def test_a_wrong_grace_changes_nothing(wrong):
    async with serving(upper, TCP) as server:
        with pytest.raises(SettingError, match="grace is"):
            await server.close(wrong)
        with pytest.raises(SettingError, match="grace is"):
            server.begin_close(wrong)
        assert server.state is ServerState.SERVING
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"hello\n")
            assert await reader.readline() == b"HELLO\n"
        await server.close(5)
    assert repr(server).startswith("<Server closed")


async def test_another_thread_is_told_how_to_close():
    async with serving(upper, TCP) as server:
        errors = []

        def close():
            async def close_it():
                await server.close()

            try:
                asyncio.run(close_it())
            except ServerStateError as exc:
                errors.append(str(exc))

        thread = threading.Thread(target=close)
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0)
        thread.join()
        assert server.state is ServerState.SERVING
    (error,) = errors
    assert "call_soon_threadsafe(server.begin_close" in error


def test_a_server_that_was_made_before_the_loop():
    server = Server(upper, TCP)

    async def main():
        async with server, connect(server.addresses[0]) as (reader, writer):
            writer.write(b"hello\n")
            return await reader.readline()

    assert asyncio.run(main()) == b"HELLO\n"


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_handlers_have_time_to_clean_up(recorder):
    cleaned = []

    async def handler(connection):
        try:
            await connection.readline()
        finally:
            await asyncio.sleep(1)
            cleaned.append(1)

    async with serving(handler, TCP, observers=[recorder], timeouts=Timeouts(cleanup=2)) as server:
        clients = [dial(server.addresses[0]) for _ in range(20)]
        await recorder.wait_for(Opened, 20)
        await server.close(grace=0)
        for client in clients:
            client.close()
    assert len(cleaned) == 20
    assert recorder.of(Drained) == [Drained(finished=0, cancelled=20, aborted=0)]


async def test_time_to_clean_up_grows_with_the_number_up_to_ten_times():
    seconds = [Drain(0.5)._time_to_clean_up(tasks) for tasks in (1, 500, 1000, 5000, 100_000)]
    assert seconds == [0.5, 0.5, 1.0, 5.0, 5.0]
    assert Drain(None)._time_to_clean_up(1) is None


async def test_who_gives_up_waiting_for_the_loop_leaves_no_error(caplog):
    loop = asyncio.get_running_loop()
    waiting = asyncio.create_task(read(loop))
    await asyncio.sleep(0)
    waiting.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert waiting.cancelled()
    assert not caplog.records


@pytest.mark.asyncio(loop_factories=["virtual"])
@pytest.mark.parametrize("speaks", [False, True])
@pytest.mark.parametrize("way", ["closed", "cut off"])
async def test_a_server_that_is_closed_leaves_no_timer(speaks, way, recorder):
    loop: Any = asyncio.get_running_loop()
    server = Server(upper, TCP, observers=[recorder], timeouts=Timeouts(first=100))
    await server.start()
    client = dial(server.addresses[0])
    await recorder.wait_for(Opened)
    if way == "closed":
        closing = asyncio.create_task(server.close(grace=10))
        await recorder.wait_for(Draining)
        if speaks:
            client.sendall(b"hello\n")
        await closing
    else:
        server.begin_close(grace=None)
        await asyncio.sleep(0)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await server.close()
    client.close()
    assert not [each for each in loop._scheduled if not each.cancelled()]


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_a_protocol_is_told_once_though_two_deadlines_are_over_at_once(recorder):
    told = []

    class Protocol(asyncio.Protocol):
        def closing(self):
            told.append(1)

    server = Server(Protocol, TCP, observers=[recorder], timeouts=Timeouts(first=5))
    await server.start()
    client = dial(server.addresses[0])
    await recorder.wait_for(Opened)
    closing = asyncio.create_task(server.close(grace=10))
    await recorder.wait_for(Draining)
    for _ in range(5):
        await asyncio.sleep(0)
    asyncio.get_running_loop()._jumped += 20  # type: ignore[attr-defined] # held up for so long
    await closing
    client.close()
    assert told == [1]


async def test_a_task_factory_that_fails_costs_one_client_and_no_place(recorder, caplog):
    loop = asyncio.get_running_loop()

    def factory(loop, coro, **_):
        coro.close()
        raise LookupError("no task")

    limits = Limits(connections=1)
    async with serving(upper, TCP, limits=limits, observers=[recorder]) as server:
        client = dial(server.addresses[0])
        loop.set_task_factory(factory)
        try:
            heard = await answer(client)
        finally:
            loop.set_task_factory(None)
        assert heard == b""
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"hello\n")
            assert await reader.readline() == b"HELLO\n"
    assert "no task" in caplog.text


async def test_the_second_of_two_loops_inside_of_a_loop_is_no_outermost_one(recorder):
    """It has taken nothing when the drain comes, and all has been answered."""

    async def handler(connection):
        async for _ in connection.lines():
            for _ in range(2):
                await connection.send(b"go on\n")
                async for line in connection.lines():
                    if line == b".\n":
                        break
            await connection.send(b"ok\n")

    async with serving(handler, TCP, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"begin\n.\n")
            assert await reader.readexactly(12) == b"go on\ngo on\n"
            server.begin_close(10)
            await recorder.wait_for(Draining)
            for _ in range(20):
                await asyncio.sleep(0)
            writer.write(b"the rest\n.\n")
            assert await reader.read() == b"ok\n"


async def test_who_was_never_spoken_to_may_be_told_goodbye(url):
    """Nothing was taken, so nothing can be confirmed by mistake."""

    async def handler(connection):
        async for _ in connection.lines():
            pass
        await connection.send(b"bye\n")

    async with serving(handler, url, timeouts=Timeouts(first=1e-9)) as server:
        async with connect(server.addresses[0]) as (reader, _):
            while not server.stats.active:
                await asyncio.sleep(0)
            server.begin_close(10)
            assert await reader.read() == b"bye\n"


@pytest.mark.parametrize("how", ["task", "gather", "wait_for", "group"])
async def test_close_by_a_task_that_a_handler_awaits(how, url, recorder):
    async def handler(connection):
        await connection.readline()
        if how == "task":
            await asyncio.create_task(server.close(20))
        elif how == "gather":
            await asyncio.gather(server.close(20), asyncio.sleep(0))
        elif how == "wait_for":
            await asyncio.wait_for(server.close(20), 60)
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(server.close(20))
        await connection.send(b"closing\n")

    server = Server(handler, url, observers=[recorder])
    await server.start()
    async with connect(server.addresses[0]) as (reader, writer):
        writer.write(b"close\n")
        assert await reader.read() == b"closing\n"
    await server.wait_closed()
    assert recorder.of(Drained) == [Drained(finished=1, cancelled=0, aborted=0)]
