"""TLS: the handshake off the accept path, the same bytes in clear, and STARTTLS."""

import array
import asyncio
import contextlib
import gc
import logging
import os
import re
import shutil
import socket
import ssl
import struct
from pathlib import Path

import pytest
from anyio import BusyResourceError
from anyio.streams.tls import TLSAttribute
from cryptography.hazmat.primitives import serialization

from asyncserver import (
    ConnectionBroken,
    ConnectionBusy,
    ConnectionClosed,
    HandshakeError,
    Limits,
    Server,
    SettingError,
    Timeouts,
    UpgradeRefusedError,
)
from asyncserver.events import Closed, Expired, Failed, HandshakeFailed, Opened
from asyncserver.tls import TLSTransport, server_context
from tests.conftest import TLS, connect, descriptors, serving, upper

TCP = "tcp://127.0.0.1:0"


@pytest.fixture(autouse=True)
def _no_noise(caplog):
    """Whatever peers do, nobody has to read about it."""
    yield
    records = [*caplog.get_records("call"), *caplog.get_records("teardown")]
    noise = [each.getMessage() for each in records if each.levelno >= logging.WARNING]
    # A server that is closed without grace says how many handlers it has cancelled.
    assert [each for each in noise if not each.startswith("closed: ")] == []


def secure(context: ssl.SSLContext):
    return {"ssl": context, "server_hostname": "localhost"}


def trusting(authority, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Make a client's context of one test's own."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def demanding(tls: TLS, authority) -> ssl.SSLContext:
    """Make a server's context that wants a certificate of the client."""
    context = server_context((tls.certificate, tls.key))
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    return context


class Client:
    """A client's TLS without a socket: what it says is bytes, to be sent in any pieces."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def shakes(self, heard: bytes = b"") -> bool:
        """Go on with the handshake; tell whether this side is done with it."""
        self.incoming.write(heard)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def says(self, data: bytes = b"") -> bytes:
        for start in range(0, len(data), 16_384):
            self.tls.write(data[start : start + 16_384])
        return self.outgoing.read()

    def hears(self, heard: bytes) -> bytes:
        self.incoming.write(heard)
        said = b""
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while chunk := self.tls.read():
                said += chunk
        return said

    def leaves(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outgoing.read()


async def shake_hands(client: Client, reader, writer) -> None:
    """Shake hands up to, and without, the client's last word."""
    done = client.shakes()
    while not done:
        writer.write(client.says())
        done = client.shakes(await reader.read(65_536))


# -- bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_echo_of_every_size_in_both_directions_at_once(url, version, tls: TLS, authority):
    async def echo(connection):
        async for chunk in connection:
            await connection.send(chunk)

    context = trusting(authority, version)
    data = os.urandom(2_000_000)
    async with serving(echo, url, tls=tls.server) as server:
        async with connect(server.addresses[0], **secure(context)) as (reader, writer):
            for size in (1, 1024, 16_384, 65_536):
                writer.write(data[:size])
                assert await reader.readexactly(size) == data[:size]
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
        assert server.stats.bytes_in == server.stats.bytes_out


async def test_slow_handler_pauses_the_peer_and_loses_nothing(url, tls: TLS):
    data = os.urandom(1_000_000) * 4
    go, done = asyncio.Event(), asyncio.Event()
    got: list[bytes] = []

    async def handler(connection):
        await connection.readexactly(1)
        await go.wait()
        assert connection.bytes_received < len(data) / 2
        while chunk := await connection.read(1000):
            got.append(chunk)
        done.set()

    limits = Limits(read_buffer=50_000)
    async with (
        serving(handler, url, tls=tls.server, limits=limits) as server,
        connect(server.addresses[0], **secure(tls.client)) as (_, writer),
    ):
        writer.write(b"." + data)
        for _ in range(500):
            await asyncio.sleep(0)
        go.set()
        # The end arrives behind everything else, and only then is it the end.
        await finish(writer)
        await done.wait()
    assert b"".join(got) == data


async def finish(writer):
    await writer.drain()
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


async def test_slow_peer_pauses_the_handler_and_gets_everything(tls: TLS):
    data = os.urandom(1_000_000) * 16

    async def handler(connection):
        await connection.send(data[:5_000_000])
        for start in range(5_000_000, len(data), 100_000):
            await connection.send(memoryview(data)[start : start + 100_000])

    def read_slowly(address):
        got = bytearray()
        with (
            socket.create_connection((address.host, address.port), 10) as plain,
            tls.client.wrap_socket(
                plain, server_hostname="localhost", suppress_ragged_eofs=False
            ) as sock,
        ):
            while chunk := sock.recv(10_000):
                got += chunk
        return got

    async with serving(handler, TCP, tls=tls.server) as server:
        assert await asyncio.to_thread(read_slowly, server.addresses[0]) == data


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_peer_that_never_reads_costs_little_memory_and_then_its_connection(
    tls: TLS, recorder
):
    waiting = []

    async def handler(connection):
        while True:
            waiting.append(connection._transport.get_write_buffer_size())
            await connection.send(b"x" * 50_000)

    async with (
        serving(handler, TCP, tls=tls.server, observers=[recorder]) as server,
        connect(server.addresses[0], **secure(tls.client)),
    ):
        assert (await recorder.wait_for(Expired)).deadline == "write"
        await recorder.wait_for(Closed)
    assert 0 < max(waiting) <= 128 * 1024


@pytest.mark.parametrize("size", [10, 300_000])
async def test_send_eof_loses_nothing_that_has_come_and_was_not_read(size, tls: TLS):
    data = os.urandom(size)
    loop = asyncio.get_running_loop()
    first: asyncio.Future[bool] = loop.create_future()
    got: asyncio.Future[bytes] = loop.create_future()

    async def handler(connection):
        await connection.readexactly(1)
        await first
        await connection.send_eof()
        got.set_result(await connection.read())

    limits = Limits(read_buffer=1)
    async with (
        serving(handler, TCP, tls=tls.server, limits=limits) as server,
        connect(server.addresses[0]) as (reader, writer),
    ):
        client = Client(tls.client)
        await shake_hands(client, reader, writer)
        writer.write(client.says() + client.says(b".") + client.says(data) + client.leaves())
        await writer.drain()
        first.set_result(True)
        assert await got == data


async def test_what_comes_right_behind_the_last_word_of_the_handshake_is_not_lost(url, tls: TLS):
    async with (
        serving(upper, url, tls=tls.server) as server,
        connect(server.addresses[0]) as (reader, writer),
    ):
        client = Client(tls.client)
        await shake_hands(client, reader, writer)
        writer.write(client.says() + client.says(b"one\ntwo\n") + client.leaves())
        said = b""
        while chunk := await reader.read(65_536):
            said += client.hears(chunk)
        assert said == b"ONE\nTWO\n"


# -- the end -------------------------------------------------------------------------------------


async def test_half_close(tls: TLS):
    async def handler(connection):
        await connection.send(b"last words")
        await connection.send_eof()
        with pytest.raises(ConnectionClosed):
            await connection.send(b"and more")
        assert await connection.readline() == b"still talking\n"
        done.set_result(await connection.read(10))

    done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    async with serving(handler, TCP, tls=tls.server) as server:
        address = server.addresses[0]

        def talk():
            with (
                socket.create_connection((address.host, address.port), 10) as plain,
                tls.client.wrap_socket(
                    plain, server_hostname="localhost", suppress_ragged_eofs=False
                ) as sock,
            ):
                said = sock.recv(100)
                assert sock.recv(100) == b""
                sock.sendall(b"still talking\n")
                sock.unwrap()
                return said

        assert await asyncio.to_thread(talk) == b"last words"
        assert await done == b""


@pytest.mark.parametrize("way", ["close_notify", "close", "reset"])
async def test_every_way_to_leave_ends_the_reading(way, url, tls: TLS, recorder):
    ends: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def handler(connection):
        await connection.send(await connection.readexactly(5))
        try:
            ends.set_result(await connection.read(1))
        except ConnectionBroken as exc:
            ends.set_result(exc)

    async with serving(handler, url, tls=tls.server, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            client = Client(tls.client)
            await shake_hands(client, reader, writer)
            writer.write(client.says() + client.says(b"hello"))
            while not client.hears(await reader.read(65_536)):
                pass
            if way == "close_notify":  # and the connection below stays open
                writer.write(client.leaves())
                assert await ends == b""
            elif way == "close":
                writer.close()
                assert await ends == b""
            else:
                linger = struct.pack("ii", 1, 0)
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
                assert await ends == b"" or isinstance(await ends, ConnectionBroken)
            await recorder.wait_for(Closed)
        assert server.stats.handler_errors == 0


async def test_leaving_with_the_last_word_of_the_handshake_leaves_nothing_behind(
    tls: TLS, recorder
):
    """The connection may be lost between the handshake and the handler."""

    class Silent(asyncio.Protocol):
        pass

    async def handler(connection):
        with contextlib.suppress(ConnectionBroken):
            await connection.read()

    def leave(address):
        client = Client(tls.client)
        with socket.create_connection((address.host, address.port), 10) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            done = client.shakes()
            while not done:
                sock.sendall(client.says())
                done = client.shakes(sock.recv(65_536))
            sock.sendall(client.says())

    before = descriptors()
    for count, each in enumerate((handler, Silent), 1):
        async with serving(each, TCP, tls=tls.server, observers=[recorder]) as server:
            await asyncio.to_thread(leave, server.addresses[0])
            await recorder.wait_for(Closed, count)
            assert server.stats.active == 0
    await asyncio.sleep(0)
    assert descriptors() <= before + 3  # the thread pool's, perhaps


# -- what was negotiated -------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_what_was_negotiated_can_be_read(version, tls: TLS, authority):
    mutual = demanding(tls, authority)
    mutual.set_alpn_protocols(["upper/1"])
    client = trusting(authority, version)
    client.set_alpn_protocols(["lower/1", "upper/1"])
    authority.issue_cert("client@example.org").configure_cert(client)
    seen = {}

    async def handler(connection):
        seen["names"] = connection.tls.getpeercert()["subjectAltName"]
        seen["alpn"] = connection.extra(TLSAttribute.alpn_protocol)
        seen["version"] = connection.extra(TLSAttribute.tls_version)
        seen["binary"] = connection.extra(TLSAttribute.peer_certificate_binary)[:1]
        seen["same"] = connection.extra(TLSAttribute.peer_certificate)["subjectAltName"]
        seen["side"] = connection.extra(TLSAttribute.server_side)
        seen["object"] = connection.extra(TLSAttribute.ssl_object) is connection.tls
        for attribute in connection.extra_attributes.values():
            attribute()
        await connection.send(b"ok")

    async with (
        serving(handler, TCP, tls=mutual) as server,
        connect(server.addresses[0], **secure(client)) as (reader, _),
    ):
        assert await reader.read() == b"ok"
    names = (("email", "client@example.org"),)
    assert seen == {
        "names": names,
        "alpn": "upper/1",
        "version": version.name.replace("_", "."),
        "binary": b"0",
        "same": names,
        "side": True,
        "object": True,
    }


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_client_without_the_required_certificate_never_reaches_the_handler(
    version, tls: TLS, authority, recorder
):
    calls = []

    async def handler(connection):
        calls.append(connection)

    mutual = demanding(tls, authority)
    async with serving(handler, TCP, tls=mutual, observers=[recorder]) as server:
        with contextlib.suppress(OSError):
            client = secure(trusting(authority, version))
            async with connect(server.addresses[0], **client) as (reader, _):
                await reader.read()
        failed = await recorder.wait_for(HandshakeFailed)
    assert "certificate" in str(failed.error)
    assert calls == []


# -- handshakes that fail ------------------------------------------------------------------------


def garbage(sock):
    sock.sendall(os.urandom(100).replace(b"\x16", b"\x17"))


def plain_http(sock):
    sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


def half_a_hello(sock):
    sock.sendall(bytes.fromhex("16030100c8010000c40303"))


def nothing(sock):
    pass


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("say", [garbage, plain_http, half_a_hello, nothing])
@pytest.mark.usefixtures("_nothing_on_stderr")
async def test_failed_handshake_is_a_counter_and_a_debug_record(
    say, end, tls: TLS, recorder, caplog
):
    calls = 0

    async def handler(connection):
        nonlocal calls
        calls += 1
        await upper(connection)

    caplog.set_level(logging.DEBUG, "asyncserver")
    async with serving(handler, TCP, tls=tls.server, observers=[recorder]) as server:
        address = server.addresses[0]
        with socket.create_connection((address.host, address.port)) as sock:
            say(sock)
            if end == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await recorder.wait_for(HandshakeFailed)
        await recorder.wait_for(Closed)
        assert calls == 0
        assert server.stats.handshakes_failed == 1
        assert server.stats.active == 0
        async with connect(address, **secure(tls.client)) as (reader, writer):
            writer.write(b"next\n")
            assert await reader.readline() == b"NEXT\n"
    records = [each for each in caplog.records if "TLS handshake failed" in each.getMessage()]
    assert [each.levelno for each in records] == [logging.DEBUG]


@pytest.fixture
def _nothing_on_stderr(capfd):
    yield
    assert capfd.readouterr().err == ""


async def test_peer_is_told_why_its_handshake_failed(tls: TLS, authority):
    async with (
        serving(upper, TCP, tls=demanding(tls, authority)) as server,
        connect(server.addresses[0]) as (reader, writer),
    ):
        client = Client(tls.client)
        await shake_hands(client, reader, writer)
        writer.write(client.says())
        with pytest.raises(ssl.SSLError, match="certificate required"):
            client.hears(await reader.read())


@pytest.mark.parametrize("family", ["tcp", "unix"])
async def test_good_client_among_fifty_silent_ones(family, tls: TLS, recorder, directory):
    before = descriptors()
    calls = 0

    async def handler(connection):
        nonlocal calls
        calls += 1
        await upper(connection)

    loop = asyncio.get_running_loop()
    url = {"tcp": TCP, "unix": f"unix://{directory}/silent.sock"}[family]
    async with serving(
        handler, url, tls=tls.server, timeouts=Timeouts(handshake=0.5), observers=[recorder]
    ) as server:
        listening = descriptors()
        address = server.addresses[0]
        silent = [silent_client(address) for _ in range(50)]
        start = loop.time()
        async with connect(address, **secure(tls.client)) as (reader, writer):
            writer.write(b"hello\n")
            assert await reader.readline() == b"HELLO\n"
            took = loop.time() - start
        await recorder.wait_for(HandshakeFailed, 50)
        await recorder.wait_for(Closed, 51)
        assert server.stats.handshakes_failed == 50
        assert server.stats.active == 0
        for sock in silent:
            assert sock.recv(1) == b""
            sock.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        after = descriptors()
    assert took < 0.2
    assert after == listening
    assert calls == 1
    await asyncio.sleep(0)
    assert descriptors() == before


def silent_client(address):
    sock = socket.socket(socket.AF_UNIX if address.is_unix else socket.AF_INET)
    sock.connect(address.path if address.is_unix else (address.host, address.port))
    return sock


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_handshake_that_begins_as_the_server_drains_does_not_keep_it(tls: TLS, recorder):
    loop = asyncio.get_running_loop()

    def close_at_once(event):
        if isinstance(event, Opened):
            server.begin_close(30)

    observers = [recorder, close_at_once]
    async with serving(upper, TCP, tls=tls.server, observers=observers) as server:
        start = loop.time()
        async with connect(server.addresses[0]) as (reader, _):
            assert await reader.read() == b""
        await server.wait_closed()
        assert loop.time() - start < 1


# -- somebody else's protocol --------------------------------------------------------------------


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.said = facts(transport)

    def data_received(self, data):
        self.transport.write(self.said + data)

    def eof_received(self):
        return False


class BufferedEcho(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray(6)
        self.said = facts(transport)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.transport.write(self.said + self.buffer[:nbytes])

    def eof_received(self):
        return False


def facts(transport):
    known = transport.get_extra_info
    assert known("ssl_object").version() == "TLSv1.3"
    assert known("sslcontext").verify_mode == ssl.CERT_REQUIRED
    assert known("compression") is None
    assert known("no such thing", 5) == 5
    assert known("socket").family == socket.AF_INET
    name = known("peercert")["subjectAltName"][0][1]
    return f"{known('cipher')[1]} {known('peername')[0]} {name} ".encode()


@pytest.mark.parametrize("factory", [Echo, BufferedEcho])
async def test_protocol_factory(factory, tls: TLS, authority, recorder):
    client = trusting(authority)
    authority.issue_cert("client@example.org").configure_cert(client)
    said = b"TLSv1.3 127.0.0.1 client@example.org "
    mutual = demanding(tls, authority)
    async with serving(factory, TCP, tls=mutual, observers=[recorder]) as server:
        async with connect(server.addresses[0], **secure(client)) as (reader, writer):
            writer.write(b"hello\n")
            assert await reader.readline() == said + b"hello\n"
        await recorder.wait_for(Closed)  # which eof_received() asked for
        async with connect(server.addresses[0], **secure(client)) as (reader, writer):
            writer.write(b"again\n")
            assert await reader.readline() == said + b"again\n"
            await server.close(grace=0)
            assert await reader.read() == b""


async def test_protocol_that_fails_as_it_is_connected_leaves_no_connection(
    tls: TLS, recorder, caplog
):
    class Broken(asyncio.Protocol):
        def connection_made(self, transport):
            raise RuntimeError("no, thanks")

    async with serving(Broken, TCP, tls=tls.server, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            client = Client(tls.client)
            await shake_hands(client, reader, writer)
            writer.write(client.says())
            with contextlib.suppress(ConnectionResetError):
                while await reader.read(65_536):
                    pass
        await recorder.wait_for(Closed)
        assert [str(each.error) for each in recorder.of(Failed)] == ["no, thanks"]
    caplog.clear()


# -- the transport's contract, between a protocol and a wire of our own --------------------------


class Wire(asyncio.Transport):
    """What stands below: keeps what is written, and complains as the loops' own do."""

    def __init__(self, above: asyncio.Protocol) -> None:
        super().__init__()
        self.above = above
        self.sent = bytearray()
        self.closing = self.finished = False
        self.reading = True

    def write(self, data):
        assert not self.closing
        assert not self.finished
        self.sent += data

    def write_eof(self):
        self.finished = True

    def close(self):
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.above.connection_lost, None)

    abort = close

    def is_closing(self):
        return self.closing

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def is_reading(self):
        return self.reading

    def take(self):
        sent = bytes(self.sent)
        self.sent.clear()
        return sent


class Diary(asyncio.Protocol):
    """Writes down what it is told, and does `then` when there is data."""

    def __init__(self, then=lambda: None):
        self.days = []
        self.then = then

    def data_received(self, data):
        self.days.append(data)
        self.then()

    def eof_received(self):
        self.days.append("end")
        return True

    def connection_lost(self, exc):
        self.days.append(exc)

    def pause_writing(self):
        self.days.append("pause")


class BufferedDiary(Diary, asyncio.BufferedProtocol):
    """Likewise, four bytes at a time."""

    def __init__(self, then=lambda: None):
        super().__init__(then)
        self.buffer = bytearray(4)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.days.append(bytes(self.buffer[:nbytes]))
        self.then()


class OnlyBufferedDiary(asyncio.BufferedProtocol):
    """As a program writes it: not a Protocol at all."""

    def __init__(self, then=lambda: None):
        self.diary = BufferedDiary(then)
        self.days = self.diary.days
        for name in ("get_buffer", "buffer_updated", "eof_received", "connection_lost"):
            setattr(self, name, getattr(self.diary, name))


def wire_up(tls: TLS) -> tuple[TLSTransport, Wire, Client]:
    """Return a layer that has shaken hands, nobody above it yet."""
    layer = TLSTransport(tls.server)
    wire = Wire(layer)
    layer.connection_made(wire)
    client = Client(tls.client)
    done = client.shakes()
    while not done:
        layer.data_received(client.says())
        done = client.shakes(wire.take())
    layer.data_received(client.says())
    client.hears(wire.take())
    return layer, wire, client


async def next_turn():
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_the_end_is_told_once(tls: TLS):
    layer, _, client = wire_up(tls)
    diary = Diary()
    layer.start(diary)
    layer.data_received(client.says(b"one") + client.leaves())
    layer.data_received(b"\x17\x03\x03 ignored, RFC 8446 section 6.1" * 1000)
    layer.eof_received()
    layer.pause_reading()
    layer.resume_reading()
    await next_turn()
    assert diary.days == [b"one", "end"]
    assert layer._incoming.pending == 0  # nobody fills our memory behind the end


async def test_nothing_is_told_while_paused_and_then_all_in_order(tls: TLS):
    layer, wire, client = wire_up(tls)
    diary = Diary()
    layer.start(diary)
    layer.pause_reading()
    assert not layer.is_reading()
    assert not wire.reading
    layer.data_received(client.says(b"one") + client.says(b"two"))  # under way before
    layer.eof_received()
    await next_turn()
    assert diary.days == []
    layer.resume_reading()
    layer.pause_reading()
    await next_turn()
    assert diary.days == []
    layer.resume_reading()
    await next_turn()
    assert diary.days == [b"onetwo", "end"]


@pytest.mark.parametrize("kind", [Diary, OnlyBufferedDiary])
@pytest.mark.parametrize("verb", ["close", "abort"])
async def test_nothing_is_told_after_close(kind, verb, tls: TLS):
    layer, wire, client = wire_up(tls)
    diary = kind(then=getattr(layer, verb))
    layer.start(diary)
    layer.data_received(client.says(b"onetwo") + client.leaves())
    layer.data_received(client.leaves())
    layer.eof_received()
    await next_turn()
    assert diary.days == [b"onetwo" if kind is Diary else b"onet", None]
    layer.write(b"silently dropped, as in asyncio")
    layer.write_eof()
    layer.close()
    assert layer.is_closing()
    assert wire.closing


async def test_buffered_protocol_may_pause_in_the_middle_of_a_record(tls: TLS):
    layer, _, client = wire_up(tls)
    diary = OnlyBufferedDiary(then=layer.pause_reading)
    layer.start(diary)
    layer.data_received(client.says(b"onetwo") + client.says(b"three") + client.leaves())
    for days in ([b"onet"], [b"onet", b"woth"], [b"onet", b"woth", b"ree"]):
        await next_turn()
        assert diary.days == days
        layer.resume_reading()
    await next_turn()
    assert diary.days[-1] == "end"


async def test_buffered_protocol_without_a_buffer_is_an_error_and_no_endless_loop(tls: TLS):
    layer, _, client = wire_up(tls)
    diary = OnlyBufferedDiary()
    layer.start(diary)
    diary.diary.buffer.clear()
    with pytest.raises(RuntimeError, match="empty buffer"):
        layer.data_received(client.says(b"one"))


async def test_protocol_can_be_exchanged_in_the_middle(tls: TLS):
    layer, _, client = wire_up(tls)
    second = Diary()
    first = OnlyBufferedDiary(then=lambda: layer.set_protocol(second))
    layer.start(first)
    assert layer.get_protocol() is first
    layer.data_received(client.says(b"onetwo"))
    layer.data_received(client.says(b"three"))
    assert first.days == [b"onet"]
    assert second.days == [b"wo", b"three"]
    assert layer.get_protocol() is second


async def test_protocol_exchanged_before_the_start_stays(tls: TLS):
    layer, _, client = wire_up(tls)
    first, second = Diary(), Diary()
    layer.set_protocol(second)
    layer.start(first)
    layer.data_received(client.says(b"one"))
    assert (first.days, second.days) == ([], [b"one"])


async def test_loss_between_handshake_and_start_is_told(tls: TLS):
    layer, _, _ = wire_up(tls)
    diary = Diary()
    reset = ConnectionResetError()
    layer.connection_lost(reset)
    layer.start(diary)
    assert diary.days == []
    await next_turn()
    assert diary.days == [reset]


async def test_fullness_between_handshake_and_start_is_told(tls: TLS):
    layer, _, _ = wire_up(tls)
    layer.pause_writing()
    diary = Diary()
    layer.start(diary)
    assert diary.days == ["pause"]


async def test_record_that_makes_no_sense_ends_the_connection_with_an_alert(tls: TLS):
    layer, wire, client = wire_up(tls)
    diary = Diary()
    layer.start(diary)
    layer.data_received(client.says(b"one") + b"\x17\x03\x03\x00\x20" + bytes(32))
    assert diary.days == [b"one"]  # connection_lost() is never called from inside a call
    assert wire.closing
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        client.hears(wire.take())
    await next_turn()
    assert isinstance(diary.days[1], ssl.SSLError)
    assert len(diary.days) == 2


async def test_protocol_that_fails_on_data_that_waited_loses_its_connection(tls: TLS):
    reported = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: reported.append(context["exception"]))
    failure = RuntimeError("no, thanks")

    def fail():
        raise failure

    layer, wire, client = wire_up(tls)
    diary = Diary(then=fail)
    layer.data_received(client.says(b"one"))
    layer.start(diary)
    await next_turn()
    assert reported == [failure]
    assert diary.days == [b"one", failure]
    assert wire.closing


async def test_every_kind_of_bytes_can_be_written(tls: TLS):
    layer, wire, client = wire_up(tls)
    layer.start(Diary())
    numbers = array.array("I", range(10_000))
    big = os.urandom(1_000_000)
    layer.write(b"")
    layer.write(memoryview(b""))
    layer.write(bytearray(b"one"))
    layer.write(memoryview(numbers))
    layer.writelines([b"two", memoryview(b"three"), bytearray(b"four")])
    layer.write(big)
    assert client.hears(wire.take()) == b"one" + numbers.tobytes() + b"twothreefour" + big


async def test_write_after_write_eof_is_a_mistake(tls: TLS):
    layer, wire, client = wire_up(tls)
    diary = Diary()
    layer.start(diary)
    layer.write(b"last words")
    assert layer.can_write_eof()
    layer.write_eof()
    layer.write_eof()
    assert wire.finished
    assert client.hears(wire.take()) == b"last words"
    with pytest.raises(RuntimeError, match="write_eof"):
        layer.write(b"lost")
    layer.data_received(client.says(b"still here"))
    assert diary.days == [b"still here"]
    layer.close()
    await next_turn()
    assert diary.days == [b"still here", None]
    assert wire.take() == b""  # one close_notify is enough


async def test_half_close_loses_nothing_that_was_not_decrypted_yet(tls: TLS):
    """OpenSSL fails for good when it says close_notify before it has read what it was given."""
    layer, _, client = wire_up(tls)
    diary = Diary()
    layer.start(diary)
    layer.pause_reading()
    layer.data_received(client.says(b"one") + client.says(b"two"))
    layer.write_eof()
    layer.data_received(client.says(b"three") + client.leaves())
    layer.resume_reading()
    await next_turn()
    assert diary.days == [b"onetwothree", "end"]


async def test_nothing_is_written_behind_a_half_close_not_even_an_alert(tls: TLS):
    layer, wire, client = wire_up(tls)
    diary = Diary()
    layer.start(diary)
    layer.write_eof()
    layer.data_received(client.says(b"one") + b"\x17\x03\x03\x00\x20" + bytes(32))
    await next_turn()
    assert diary.days[0] == b"one"
    assert isinstance(diary.days[1], ssl.SSLError)
    assert wire.closing


@pytest.mark.parametrize("cut", [1, 5, 100, 10_000])
async def test_record_may_be_cut_anywhere_by_a_half_close(cut, tls: TLS):
    layer, _, client = wire_up(tls)
    diary = Diary()
    layer.start(diary)
    record = client.says(b"x" * 16_000)
    layer.data_received(record[:cut])
    layer.write_eof()
    layer.data_received(record[cut:])
    assert diary.days == [b"x" * 16_000]


# -- STARTTLS ------------------------------------------------------------------------------------


def starttls(context, outcome, ready=None):
    """Make a handler like an SMTP server's, which waits for `ready` before it says "go ahead"."""

    async def handler(connection):
        await connection.send(b"220 hello\r\n")
        try:
            async for line in connection.lines():
                if line.strip().upper() == b"STARTTLS":
                    while ready is not None and connection.bytes_received < ready:
                        await asyncio.sleep(0)
                    await connection.send(b"220 go ahead\r\n")
                    await connection.start_tls(context)
                elif line[:4].upper() == b"EHLO":
                    await connection.send(b"250 STARTTLS\r\n")
                else:
                    how = b"secret " if connection.tls else b"clear "
                    await connection.send(how + line)
        except Exception as exc:
            outcome.append(exc)
            raise

    return handler


def smtp(address, tls, before=b"STARTTLS\r\n", then=b"", sneak=b""):
    """Talk to the handler above as a client; return what it says over TLS."""
    with socket.create_connection((address.host, address.port), 10) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.recv(100)
        plain.sendall(before)
        if then:
            plain.sendall(then)
        assert plain.recv(100) == b"220 go ahead\r\n"
        if sneak:
            plain.sendall(sneak)
        with tls.client.wrap_socket(
            plain, server_hostname="localhost", suppress_ragged_eofs=False
        ) as sock:
            sock.sendall(b"data\n")
            said = sock.recv(100)
            sock.sendall(b"more\n")
            return said + sock.recv(100)


async def test_starttls(tls: TLS, recorder):
    outcome: list[Exception] = []
    handler = starttls(tls.server, outcome)
    async with serving(handler, TCP, observers=[recorder]) as server:
        said = await asyncio.to_thread(smtp, server.addresses[0], tls)
        await recorder.wait_for(Closed)
    assert said == b"secret data\nsecret more\n"
    assert outcome == []


async def test_starttls_with_asyncios_own_client(url, tls: TLS):
    """Large both ways, over every family; in the end the client sees an orderly end."""
    data = os.urandom(1_000_000)

    async def handler(connection):
        assert await connection.readline() == b"STARTTLS\r\n"
        await connection.send(b"220\r\n")
        await connection.start_tls(tls.server)
        assert await connection.readline() == b"all of it\n"
        got = await connection.readexactly(len(data))
        await connection.send(got)
        await connection.aclose()

    async with (
        serving(handler, url) as server,
        connect(server.addresses[0]) as (reader, writer),
    ):
        writer.write(b"STARTTLS\r\n")
        assert await reader.readline() == b"220\r\n"
        await writer.start_tls(tls.client, server_hostname="localhost")
        writer.write(b"all of it\n" + data)
        assert await reader.read(-1) == data


async def test_what_was_sent_before_goes_out_before_the_handshake(tls: TLS):
    data = os.urandom(1_000_000) * 8

    async def handler(connection):
        sending = asyncio.create_task(connection.send(data))
        await asyncio.sleep(0)
        assert not sending.done()
        await connection.start_tls(tls.server)
        await sending
        await connection.send(data)

    def talk(address):
        with socket.create_connection((address.host, address.port), 10) as plain:
            clear = receive(plain, len(data))
            with tls.client.wrap_socket(plain, server_hostname="localhost") as sock:
                return clear == data == receive(sock, len(data))

    def receive(sock, size):
        got = bytearray()
        while len(got) < size and (chunk := sock.recv(min(65_536, size - len(got)))):
            got += chunk
        return got

    async with serving(handler, TCP) as server:
        assert await asyncio.to_thread(talk, server.addresses[0])


@pytest.mark.parametrize("before", [b"STARTTLS\r\nEVIL\r\n", b"STARTTLS\r\nEV"])
async def test_clear_text_behind_starttls_is_refused(tls: TLS, before, recorder):
    outcome: list[Exception] = []
    async with serving(starttls(tls.server, outcome), TCP, observers=[recorder]) as server:
        with pytest.raises(OSError):
            await asyncio.to_thread(smtp, server.addresses[0], tls, before)
        await recorder.wait_for(Closed)
        assert server.stats.handshakes_failed == 1
    assert isinstance(outcome[0], UpgradeRefusedError)
    assert outcome[0].pending == len(before) - 10


async def test_clear_text_in_the_next_segment_is_refused(tls: TLS, recorder):
    outcome: list[Exception] = []
    handler = starttls(tls.server, outcome, ready=16)
    async with serving(handler, TCP, observers=[recorder]) as server:
        with pytest.raises(OSError):
            await asyncio.to_thread(smtp, server.addresses[0], tls, then=b"EVIL\r\n")
        await recorder.wait_for(Closed)
        assert server.stats.handshakes_failed == 1
    assert isinstance(outcome[0], UpgradeRefusedError)
    assert outcome[0].pending == 6


async def test_clear_text_after_the_reply_is_never_read_as_encrypted(tls: TLS, recorder):
    outcome: list[Exception] = []
    async with serving(starttls(tls.server, outcome), TCP, observers=[recorder]) as server:
        with pytest.raises(OSError):
            await asyncio.to_thread(smtp, server.addresses[0], tls, sneak=b"EVIL\r\n")
        await recorder.wait_for(Closed)
        assert server.stats.bytes_in == len(b"STARTTLS\r\n")
    assert isinstance(outcome[0], HandshakeError)


@pytest.mark.parametrize("ready", [None, 100])
async def test_hello_in_the_same_segment_as_starttls_is_taken(ready, tls: TLS):
    """No client should, some do: the bytes go to the handshake, not to the handler."""
    client = Client(tls.client)
    client.shakes()
    async with (
        serving(starttls(tls.server, [], ready), TCP) as server,
        connect(server.addresses[0]) as (reader, writer),
    ):
        writer.write(b"STARTTLS\r\n" + client.says())
        assert await reader.readuntil(b"ahead\r\n")
        while not client.shakes(await reader.read(10_000)):
            writer.write(client.says())
        writer.write(client.says() + client.says(b"data\n"))
        said = b""
        while not said:
            said = client.hears(await reader.read(10_000))
        assert said == b"secret data\n"


@pytest.mark.usefixtures("_nothing_on_stderr")
async def test_handshake_that_fails_after_starttls_leaves_nothing_behind(tls: TLS, recorder):
    """Here it is the client that trusts nobody."""
    outcome: list[Exception] = []
    handler = starttls(tls.server, outcome)
    async with serving(handler, TCP, observers=[recorder]) as server:
        before = descriptors()
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"STARTTLS\r\n")
            await reader.readuntil(b"ahead\r\n")
            with pytest.raises(ssl.SSLCertVerificationError):
                await writer.start_tls(ssl.create_default_context(), server_hostname="localhost")
        await recorder.wait_for(Closed)
        await next_turn()
        assert descriptors() == before
        assert server.stats.handshakes_failed == 1
        assert server.stats.active == 0
    assert isinstance(outcome.pop(), HandshakeError)
    recorder.events.clear()  # it keeps the errors
    gc.collect()  # here a future that nobody asked would complain
    await next_turn()


async def test_handler_may_survive_a_failed_upgrade_but_not_its_connection(tls: TLS):
    errors: asyncio.Queue[BaseException] = asyncio.Queue()

    async def handler(connection):
        await connection.readline()
        for verb in (lambda: connection.start_tls(tls.server), lambda: connection.send(b"clear")):
            try:
                await verb()
            except OSError as exc:
                errors.put_nowait(exc)
        assert await connection.read() == b""

    async with (
        serving(handler, TCP) as server,
        connect(server.addresses[0]) as (reader, writer),
    ):
        writer.write(b"STARTTLS\r\n")
        writer.write(b"\x16 not quite a ClientHello")
        assert isinstance(await errors.get(), HandshakeError)
        assert isinstance(await errors.get(), ConnectionBroken)
        assert b"clear" not in await reader.read()


async def test_starttls_while_reading_is_a_mistake(tls: TLS):
    async def handler(connection):
        reading = asyncio.create_task(connection.readline())
        await asyncio.sleep(0)
        with pytest.raises(ConnectionBusy):
            await connection.start_tls(tls.server)
        await connection.send(b"busy\n")
        assert await reading == b"go on\n"
        await connection.send(b"still in clear")

    async with serving(handler, TCP) as server, connect(server.addresses[0]) as (reader, writer):
        assert await reader.readline() == b"busy\n"
        writer.write(b"go on\n")
        assert await reader.read() == b"still in clear"


async def test_starttls_over_tls_is_a_mistake(tls: TLS):
    async def twice(connection):
        with pytest.raises(BusyResourceError):
            await connection.start_tls(tls.server)
        await connection.send(b"ok")

    async with (
        serving(twice, TCP, tls=tls.server) as server,
        connect(server.addresses[0], **secure(tls.client)) as (reader, _),
    ):
        assert await reader.read() == b"ok"


async def test_starttls_with_the_wrong_context_or_too_late_is_a_mistake(tls: TLS):
    async def handler(connection):
        with pytest.raises(SettingError):
            await connection.start_tls(tls.client)
        await connection.send(b"still in clear")
        await connection.send_eof()
        with pytest.raises(ConnectionClosed):
            await connection.start_tls(tls.server)
        await connection.aclose()
        with pytest.raises(ConnectionClosed):
            await connection.start_tls(tls.server)

    async with serving(handler, TCP) as server:
        async with connect(server.addresses[0]) as (reader, _):
            assert await reader.read() == b"still in clear"
        assert server.stats.handler_errors == 0


async def test_nothing_leaves_in_clear_while_the_handshake_is_under_way(tls: TLS):
    begun = asyncio.Event()

    async def handler(connection):
        await connection.readline()
        upgrade = asyncio.create_task(connection.start_tls(tls.server))
        await asyncio.sleep(0)
        with pytest.raises(ConnectionClosed):
            await connection.send(b"secret")
        with pytest.raises(ConnectionClosed):
            await connection.start_tls(tls.server)
        begun.set()
        await upgrade
        await connection.send(b"secret")

    async with (
        serving(handler, TCP) as server,
        connect(server.addresses[0]) as (reader, writer),
    ):
        writer.write(b"STARTTLS\r\n")
        await begun.wait()
        client = Client(tls.client)
        await shake_hands(client, reader, writer)
        writer.write(client.says())
        said = b""
        while not said:
            said = client.hears(await reader.read(65_536))
        assert said == b"secret"


@pytest.mark.parametrize("verb", ["cancel", "close", "abort"])
async def test_handshake_that_is_given_up_closes_the_connection(verb, tls: TLS, recorder):
    async def handler(connection):
        await connection.readline()
        upgrade = asyncio.create_task(connection.start_tls(tls.server))
        await asyncio.sleep(0)
        getattr(upgrade if verb == "cancel" else connection, verb)()
        with contextlib.suppress(HandshakeError, asyncio.CancelledError):
            await upgrade
        with pytest.raises((ConnectionClosed, ConnectionBroken)):
            await connection.send(b"clear")

    async with serving(handler, TCP, observers=[recorder]) as server:
        before = descriptors()
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"STARTTLS\r\n")
            assert await reader.read() == b""
        await recorder.wait_for(Closed)
        await next_turn()
        assert descriptors() == before
        assert server.stats.handler_errors == 0


@pytest.mark.asyncio(loop_factories=["virtual"])
@pytest.mark.parametrize("known", [True, False])
async def test_peer_that_asks_for_tls_and_leaves_is_not_waited_for(known, tls: TLS, recorder):
    loop = asyncio.get_running_loop()

    async def handler(connection):
        assert await connection.readline() == b"STARTTLS\r\n"
        if known:
            assert await connection.read() == b""
        await connection.start_tls(tls.server)

    async with (
        serving(handler, TCP, observers=[recorder]) as server,
        connect(server.addresses[0]) as (reader, writer),
    ):
        start = loop.time()
        writer.write(b"STARTTLS\r\n")
        writer.write_eof()
        assert await reader.read() == b""
        await recorder.wait_for(Closed)
        assert loop.time() - start < 1
    assert isinstance((await recorder.wait_for(HandshakeFailed)).error, HandshakeError)


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_deadlines_of_handshakes(tls: TLS, recorder):
    loop = asyncio.get_running_loop()
    outcome: list[Exception] = []
    handler = starttls(tls.server, outcome)
    async with (
        serving(handler, TCP, observers=[recorder]) as clear,
        serving(handler, TCP, tls=tls.server, observers=[recorder]) as encrypted,
    ):
        start = loop.time()
        async with connect(encrypted.addresses[0]) as (reader, _):
            assert await reader.read() == b""
        assert loop.time() - start == pytest.approx(10, abs=0.5)
        start = loop.time()
        async with connect(clear.addresses[0]) as (reader, writer):
            writer.write(b"STARTTLS\r\n")
            await reader.readuntil(b"ahead\r\n")
            assert await reader.read() == b""
        assert loop.time() - start == pytest.approx(10, abs=0.5)
        await recorder.wait_for(Closed, 2)
    assert len(recorder.of(HandshakeFailed)) == 2
    assert "handshake deadline of 10 s" in str(outcome[0])


# -- real clients --------------------------------------------------------------------------------


async def program(*arguments):
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe, stderr=pipe)


async def openssl(address, tls, *options):
    return await program(
        "openssl", "s_client", "-connect", f"{address.host}:{address.port}", *options,
        "-CAfile", tls.authority, "-verify_return_error",
    )  # fmt: skip


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing")


@needs_openssl
@pytest.mark.parametrize("options", [["-tls1_2"], ["-tls1_3"], ["-starttls", "smtp"]])
async def test_openssl_s_client(options, tls: TLS):
    plain = "smtp" in options
    handler, source = (
        (starttls(tls.server, []), None) if plain else (upper, (tls.certificate, tls.key))
    )
    async with serving(handler, TCP, tls=source) as server:
        client = await openssl(server.addresses[0], tls, *options, "-quiet")
        client.stdin.write(b"hello\n")
        answer = await client.stdout.readline()
        assert answer == (b"secret hello\n" if plain else b"HELLO\n")
        client.kill()  # with -quiet it stays until the server leaves
        await client.communicate()


@needs_openssl
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssl_s_client_with_a_certificate(version, tls: TLS, authority, tmp_path):
    leaf = authority.issue_cert("client@example.org")
    leaf.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")

    async def handler(connection):
        name = connection.tls.getpeercert()["subjectAltName"][0][1]
        await connection.send(f"hello {name}\n".encode())

    async with serving(handler, TCP, tls=demanding(tls, authority)) as server:
        client = await openssl(
            server.addresses[0], tls, version, "-brief", "-cert", str(tmp_path / "client.pem")
        )
        assert await client.stdout.readline() == b"hello client@example.org\n"
        _, told = await client.communicate()
        assert client.returncode == 0
        assert b"Verification: OK" in told


@needs_openssl
async def test_new_keys_can_be_asked_for_in_mid_connection(tls: TLS):
    """A post-handshake message that has to be answered (RFC 8446, section 4.6.3)."""
    async with serving(upper, TCP, tls=tls.server) as server:
        client = await openssl(server.addresses[0], tls, "-tls1_3", "-msg")
        for line in (b"one\n", b"two\n", b"three\n"):
            client.stdin.write(line)
            while await client.stdout.readline() != line.upper():
                pass
            client.stdin.write(b"K\n")  # "send a key update message and ask for one"
            while not re.match(rb"<<< .*KeyUpdate", await client.stdout.readline()):
                pass
        client.kill()
        await client.communicate()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing")
async def test_curl(tls: TLS, tmp_path):
    both = tmp_path / "both.pem"
    both.write_bytes(Path(tls.key).read_bytes() + Path(tls.certificate).read_bytes())

    async def http(connection):
        await connection.readuntil(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi\n")

    async with serving(http, TCP, tls=both) as server:
        where = f"https://localhost:{server.addresses[0].port}/"
        curl = await program(
            "curl", "-4", "-sS", "--noproxy", "*", "--cacert", tls.authority, where
        )
        assert await curl.communicate() == (b"hi\n", b"")
        assert curl.returncode == 0


# -- what tls= takes -----------------------------------------------------------------------------


def test_files_and_contexts(tls: TLS, tmp_path):
    both = tmp_path / "both.pem"
    both.write_bytes(Path(tls.key).read_bytes() + Path(tls.certificate).read_bytes())
    pair = (tls.certificate, tls.key)
    for source in (both, str(both), (both,), pair, (Path(pair[0]), Path(pair[1]))):
        assert isinstance(server_context(source), ssl.SSLContext)
    assert server_context(tls.server) is tls.server
    assert server_context(both).minimum_version >= ssl.TLSVersion.TLSv1_2


def test_sources_that_do_not_work(tls: TLS, tmp_path, authority):
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    other = tmp_path / "other.pem"
    authority.issue_cert("other").private_key_pem.write_to_path(other)
    for source, why in (
        ("/nowhere.pem", "/nowhere.pem does not exist"),
        ((tls.certificate, "/nowhere.pem"), "/nowhere.pem does not exist"),
        (str(rubbish), "rubbish.pem do not work"),
        ((tls.certificate, rubbish), "rubbish.pem do not work"),
        (tls.certificate, "certificate.pem do not work"),  # and no key
        ((tls.certificate, other), "key values mismatch"),
        (tmp_path, "do not work"),
        ((tls.certificate, tls.key, tls.key), "3 files"),
        ((), "0 files"),
        (5, "tls= is 5"),
        (ssl.create_default_context(), "client's context"),
    ):
        with pytest.raises(SettingError, match=why):
            Server(upper, TCP, tls=source)  # type: ignore[arg-type]


def test_encrypted_key_does_not_ask_on_the_terminal(tls: TLS, tmp_path):
    key = serialization.load_pem_private_key(Path(tls.key).read_bytes(), None)
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(SettingError, match="the key is encrypted"):
        server_context((tls.certificate, encrypted))


def test_datagrams_are_not_encrypted(tls: TLS):
    with pytest.raises(SettingError, match="tls= is for stream addresses"):
        Server(upper, "udp://127.0.0.1:0", tls=tls.server)
