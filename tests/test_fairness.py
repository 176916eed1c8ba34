"""Law 1 and law 4: whoever keeps the loop busy has a budget a turn, and the others have theirs."""

import asyncio
import socket
import struct
from typing import Any

import pytest

from asyncserver.acceptor import BATCH
from asyncserver.events import Opened
from asyncserver.pace import BUDGET, COSTLY, LEAST, TOGETHER, Pace
from tests.conftest import TLS, connect, serving

TURN_OF_LINES = BUDGET // 2  # a line is read, and it is answered
FLOOD = 5000  # lines: some 80 turns


class Turns:
    """Counts what is done in each turn of the loop, until it is told to stop."""

    def __init__(self):
        self.counts = [0]
        self._running = True
        self._next()

    def _next(self):
        if self._running:
            self.counts.append(0)
            asyncio.get_running_loop().call_soon(self._next)

    def count(self):
        self.counts[-1] += 1

    def stop(self):
        self._running = False

    @property
    def most(self):
        return max(self.counts)


READS = {
    "lines": lambda c: anext(c.lines()),
    "readline": lambda c: c.readline(),
    "readuntil": lambda c: c.readuntil(b"\n"),
    "readexactly": lambda c: c.readexactly(2),
    "read": lambda c: c.read(2),
    "receive": lambda c: c.receive(2),
}


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("read", READS)
async def test_a_peer_that_pipelines_has_a_budget_a_turn(read, encrypted, tls: TLS):
    turns = Turns()
    done = asyncio.Event()

    async def handler(connection):
        for _ in range(FLOOD):
            await READS[read](connection)
            turns.count()
            await connection.send(b".")
        done.set()

    options = {"ssl": tls.client, "server_hostname": "localhost"} if encrypted else {}
    server = serving(handler, "tcp://127.0.0.1:0", tls=tls.server if encrypted else None)
    async with (
        server as serving_it,
        connect(serving_it.addresses[0], **options) as (reader, writer),
    ):
        writer.write(b"x\n" * FLOOD)
        assert await reader.readexactly(FLOOD) == b"." * FLOOD
        await done.wait()
    turns.stop()
    # Two budgets may meet in a turn: the end of one, and the next.
    assert turns.most <= 2 * TURN_OF_LINES


async def test_sending_nothing_is_paid_for_too():
    turns = Turns()

    async def handler(connection):
        for _ in range(FLOOD):
            await connection.send(b"")
            turns.count()
        await connection.send(b"done")

    async with serving(handler, "tcp://127.0.0.1:0") as server:
        async with connect(server.addresses[0]) as (reader, _):
            assert await reader.read() == b"done"
    turns.stop()
    assert turns.most <= 2 * BUDGET


@pytest.mark.parametrize("size", [1, 4096, 100_000])
async def test_a_handler_that_only_sends_has_a_budget_a_turn(size, url):
    turns = Turns()
    count = 4_000_000 // max(size, 400)

    async def handler(connection):
        data = bytes(size)
        for _ in range(count):
            await connection.send(data)
            turns.count()

    async with serving(handler, url) as server, connect(server.addresses[0]) as (reader, _):
        received = 0
        while chunk := await reader.read(2**20):
            received += len(chunk)
    turns.stop()
    assert received == count * size
    assert turns.most <= 2 * BUDGET // (1 + size // COSTLY)


async def test_blocks_are_paid_for_by_their_size():
    turns = Turns()
    blocks = 300

    async def echo(connection):
        async for chunk in connection:
            for _ in range(0, len(chunk), COSTLY):
                turns.count()
            await connection.send(chunk)

    async with serving(echo, "tcp://127.0.0.1:0") as server:
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(bytes(65536 * blocks))
            await reader.readexactly(65536 * blocks)
    turns.stop()
    assert turns.most * COSTLY <= 2 * BUDGET * COSTLY + 256 * 1024  # and one read of the loop's


async def test_a_task_of_the_handlers_own_pays_too():
    turns = Turns()

    async def child(connection):
        for _ in range(FLOOD):
            await connection.readline()
            turns.count()

    async def handler(connection):
        await asyncio.create_task(child(connection))
        await connection.send(b"done")

    async with serving(handler, "tcp://127.0.0.1:0") as server:
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"x\n" * FLOOD)
            assert await reader.read() == b"done"
    turns.stop()
    assert turns.most <= 2 * BUDGET


async def test_another_client_is_answered_in_the_middle_of_a_flood(url):
    flooded = 0

    async def handler(connection):
        nonlocal flooded
        async for line in connection.lines():
            flooded += line == b"flood\n"
            await connection.send(line)

    async with serving(handler, url) as server, connect(server.addresses[0]) as (reader, writer):
        writer.write(b"flood\n" * 100_000)
        reading = asyncio.create_task(reader.readexactly(600_000))
        async with connect(server.addresses[0]) as (good_reader, good_writer):
            for _ in range(3):
                good_writer.write(b"good\n")
                assert await good_reader.readline() == b"good\n"
        assert flooded < 100_000  # it did not have to wait for all of them
        await reading


async def test_a_drain_begins_in_the_middle_of_a_flood():
    async def handler(connection):
        async for line in connection.lines():
            await connection.send(line)

    async with serving(handler, "tcp://127.0.0.1:0") as server:
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"x\n" * 100_000)
            assert await reader.readline() == b"x\n"
            await server.close(grace=0)
            assert server.stats.bytes_out < 200_000


async def test_a_read_that_is_cancelled_while_others_have_their_turn_loses_nothing():
    async def handler(connection):
        number = 0
        while number == 0 or connection._protocol.budget > 0:
            assert await connection.readline() == b"%d\n" % number
            number += 1
        task: Any = asyncio.current_task()
        asyncio.get_running_loop().call_soon(task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await connection.readline()
        task.uncancel()
        assert await connection.readline() == b"%d\n" % number
        await connection.send(b"all there")

    async with serving(handler, "tcp://127.0.0.1:0") as server:
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"".join(b"%d\n" % number for number in range(2 * BUDGET)))
            assert await reader.readexactly(9) == b"all there"


async def test_listeners_accept_together_what_one_would():
    accepted = Turns()

    def count(event):
        if isinstance(event, Opened):
            accepted.count()

    async def handler(connection):
        await connection.read()

    urls = ["tcp://127.0.0.1:0"] * 32
    clients = []
    async with serving(handler, *urls, observers=[count]) as server:
        for address in server.addresses:
            for _ in range(10):
                clients.append(socket.socket())
                clients[-1].setblocking(False)
                clients[-1].connect_ex((address.host, address.port))
        while sum(accepted.counts) < len(clients):
            await asyncio.sleep(0)
        accepted.stop()
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
    assert accepted.most <= BATCH


def test_the_more_are_busy_the_less_each_has():
    class Loop:
        later: Any = None

        def call_soon(self, callback):
            assert self.later is None, "once a turn, however many have spent theirs"
            self.later = callback

    loop: Any = Loop()
    pace = Pace(loop)
    assert pace.budget == BUDGET
    for busy, budget in (
        (1, BUDGET),
        (8, BUDGET),
        (32, TOGETHER // 32),
        (10_000, LEAST),
        (1, BUDGET),
    ):
        for _ in range(busy):
            pace.spent()
        later, loop.later = loop.later, None
        later()
        assert pace.budget == budget
