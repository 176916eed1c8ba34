"""The server as a whole: several addresses, and what can be seen of it while it serves."""

import asyncio
import dataclasses
import gc
import socket
from importlib.metadata import version

import pytest

import asyncserver
from asyncserver import Connection, Server, Stats
from asyncserver._server.run import loop_factory
from asyncserver._stream.protocol import StreamProtocol
from asyncserver._stream.task import ConnectionTask
from asyncserver._tls.transport import TLSTransport
from asyncserver.demo import upper as demo
from asyncserver.events import AddressBound, ConnectionClosed
from asyncserver.testing import Recorder
from tests.conftest import TLS, connect, serving, upper
from tests.test_datagram import client, receive

KEPT = (Connection, ConnectionTask, StreamProtocol, TLSTransport)  # as long as a connection lives


async def test_lines_come_back_in_upper_case(url):
    async with serving(upper, url) as server, connect(server.addresses[0]) as (reader, writer):
        writer.write(b"hello\nworld\n")
        assert await reader.readline() == b"HELLO\n"
        assert await reader.readline() == b"WORLD\n"


async def test_one_server_on_addresses_of_every_family(directory, recorder):
    sock = socket.create_server(("127.0.0.1", 0))
    urls = ("tcp://:0", "udp://127.0.0.1:0", f"unix://{directory}/s", f"unixgram://{directory}/d")
    async with serving(demo, *urls, sock, observers=[recorder]) as server:
        kinds = [address.scheme for address in server.addresses]
        assert kinds == ["tcp", "tcp", "udp", "unix", "unixgram", "tcp"]
        assert recorder.of(AddressBound) == [AddressBound(address) for address in server.addresses]
        for address in server.addresses:
            if address.is_stream:
                async with connect(address) as (reader, writer):
                    writer.write(b"hello\n")
                    assert await reader.readline() == b"HELLO\n"
            else:
                with client(address, directory) as sock:
                    sock.send(b"hello")
                    assert await receive(sock) == b"HELLO"
        assert all(str(address) in repr(server) for address in server.addresses)


async def test_stats_are_one_snapshot(url, recorder):
    async with serving(upper, url, observers=[recorder]) as server:
        empty = server.stats
        assert not any(dataclasses.astuple(empty))
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"hello\n")
            assert await reader.readline() == b"HELLO\n"
            live = server.stats
            assert (live.accepted, live.active, live.bytes_in, live.bytes_out) == (1, 1, 6, 6)
        await recorder.wait_for(ConnectionClosed)
        after = server.stats
        assert (after.accepted, after.active, after.bytes_in, after.bytes_out) == (1, 0, 6, 6)
        assert recorder.of(ConnectionClosed)[0][1:] == (6, 6)
    assert isinstance(empty, Stats)
    assert empty.accepted == 0  # it is a snapshot


async def test_connections_can_be_iterated_while_they_come_and_go(url, recorder):
    async with serving(upper, url, observers=[recorder]) as server:
        address = server.addresses[0]
        async with connect(address) as first, connect(address) as second:
            for reader, writer in (first, second):
                writer.write(b"hello\n")
                await reader.readline()
            seen = 0
            for connection in server.connections:
                seen += 1
                await connection.send(b"to all\n")
                await connection.aclose()
            assert seen == 2
            assert await first[0].read() == await second[0].read() == b"to all\n"
            await recorder.wait_for(ConnectionClosed, 2)
            assert list(server.connections) == []


async def test_repr_tells_where_it_stands(url):
    server = Server(upper, url)
    assert repr(server) == "<Server new, nowhere yet, 0 connections>"
    async with server:
        assert repr(server).startswith(f"<Server serving, {server.addresses[0]}, 0")
    assert repr(server).startswith("<Server closed")


async def test_recorder_waits_for_the_event_and_the_count():
    recorder = Recorder()
    waiting = asyncio.create_task(recorder.wait_for(ConnectionClosed, 2))
    await asyncio.sleep(0)
    recorder(ConnectionClosed("a", 0, 0))
    recorder(AddressBound("somewhere"))
    await asyncio.sleep(0)
    assert not waiting.done()
    recorder(ConnectionClosed("b", 0, 0))
    assert await waiting == ConnectionClosed("b", 0, 0)
    assert len(recorder.events) == 3


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_virtual_clock_jumps_over_a_day():
    loop = asyncio.get_running_loop()
    start = loop.time()
    await asyncio.sleep(86_400)
    assert loop.time() - start == pytest.approx(86_400, abs=1)


@pytest.mark.parametrize("name", ["auto", "uvloop"])
def test_uvloop_is_the_default_loop(name):
    loop = loop_factory(name)()
    loop.close()
    assert type(loop).__module__.startswith("uvloop")


def test_version_is_that_of_the_distribution():
    assert version("asyncserver") == asyncserver.__version__


@pytest.mark.slow
@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_connection_that_is_over_needs_no_garbage_collector(encrypted, tls: TLS, recorder):
    async def handler(connection):
        await connection.send(b"ready\n")
        await connection.send(await connection.readline())

    options = {"ssl": tls.client, "server_hostname": "localhost"} if encrypted else {}
    server = serving(
        handler, "tcp://127.0.0.1:0", tls=tls.server if encrypted else None, observers=[recorder]
    )
    gc.collect()
    gc.disable()
    try:
        async with server as serving_one:
            for number in range(1, 4):
                async with connect(serving_one.addresses[0], **options) as (reader, writer):
                    assert await reader.readline() == b"ready\n"  # it waits for us now
                    writer.write(b"x\n")
                    assert await reader.read() == b"x\n"
                await recorder.wait_for(ConnectionClosed, number)
            await asyncio.sleep(0)
            held = [type(each).__name__ for each in gc.get_objects() if isinstance(each, KEPT)]
            assert held == []
    finally:
        gc.enable()
