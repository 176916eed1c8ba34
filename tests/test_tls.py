"""TLS: the handshake off the accept path, the same bytes in clear, and STARTTLS."""

import asyncio
import contextlib
import datetime as dt
import logging
import os
import re
import shutil
import socket
import socketserver
import ssl
import struct
import threading
from pathlib import Path

import pytest
from anyio.streams.tls import TLSAttribute
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

import compat
from asyncserver import (
    ConnectionBusyError,
    HandshakeError,
    Limits,
    Server,
    SettingError,
    Timeouts,
    UpgradeRefusedError,
)
from asyncserver._tls.context import server_context
from asyncserver._tls.engine import TURN
from asyncserver.events import ConnectionClosed, DeadlineExpired, HandshakeFailed
from tests.conftest import TLS, connect, descriptors, serving, upper
from tests.tlspeer import Peer

TCP = "tcp://127.0.0.1:0"


def client_options(url_or_context, tls=None):
    return {"ssl": url_or_context, "server_hostname": "localhost"}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_echo_of_every_size_in_both_directions_at_once(url, version, tls: TLS, authority):
    async def echo(connection):
        async for chunk in connection:
            await connection.send(chunk)

    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.minimum_version = context.maximum_version = version
    data = os.urandom(2_000_000)
    async with serving(echo, url, tls=tls.server) as server:
        async with connect(server.addresses[0], **client_options(context)) as (reader, writer):
            for size in (1, 1024, 16_384, 65_536):
                writer.write(data[:size])
                assert await reader.readexactly(size) == data[:size]
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
        assert server.stats.bytes_in == server.stats.bytes_out


async def test_slow_handler_pauses_the_peer_and_loses_nothing(tls: TLS):
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
    async with serving(handler, TCP, tls=tls.server, limits=limits) as server:
        async with connect(server.addresses[0], **client_options(tls.client)) as (_, writer):
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


async def test_what_was_negotiated_can_be_read(tls: TLS, authority):
    context = server_context(tls.server)
    mutual = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    mutual.load_cert_chain(tls.certificate, tls.key)
    mutual.verify_mode = ssl.CERT_REQUIRED
    mutual.set_alpn_protocols(["upper/1"])
    authority.configure_trust(mutual)
    assert context is tls.server
    client = ssl.create_default_context()
    authority.configure_trust(client)
    client.set_alpn_protocols(["upper/1"])
    seen = {}

    async def handler(connection):
        seen["names"] = connection.tls.getpeercert()["subjectAltName"]
        seen["alpn"] = connection.extra(TLSAttribute.alpn_protocol)
        seen["version"] = connection.extra(TLSAttribute.tls_version)
        seen["binary"] = connection.extra(TLSAttribute.peer_certificate_binary)[:1]
        await connection.send(b"ok")

    async with serving(handler, TCP, tls=mutual) as server:
        authority.issue_cert("client@example.org").configure_cert(client)
        async with connect(server.addresses[0], **client_options(client)) as (reader, _):
            assert await reader.read() == b"ok"
    assert seen == {
        "names": (("email", "client@example.org"),),
        "alpn": "upper/1",
        "version": "TLSv1.3",
        "binary": b"0",
    }


async def test_client_without_the_required_certificate_never_reaches_the_handler(
    tls: TLS, authority, recorder
):
    mutual = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    mutual.load_cert_chain(tls.certificate, tls.key)
    mutual.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(mutual)
    calls = []

    async def handler(connection):
        calls.append(connection)

    async with serving(handler, TCP, tls=mutual, observers=[recorder]) as server:
        with contextlib.suppress(OSError):
            async with connect(server.addresses[0], **client_options(tls.client)) as (reader, _):
                await reader.read()
        failed = await recorder.wait_for(HandshakeFailed)
    assert "certificate" in str(failed.error)
    assert calls == []


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
async def test_failed_handshake_is_a_counter_and_nothing_on_stderr(
    say, end, tls: TLS, recorder, caplog, capfd
):
    calls = []

    async def handler(connection):
        calls.append(connection)

    caplog.set_level(logging.DEBUG, "asyncserver")
    async with serving(handler, TCP, tls=tls.server, observers=[recorder]) as server:
        address = server.addresses[0]
        with socket.create_connection((address.host, address.port)) as sock:
            say(sock)
            if end == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await recorder.wait_for(HandshakeFailed)
        await recorder.wait_for(ConnectionClosed)
        assert server.stats.handshakes_failed == 1
        assert server.stats.active == 0
    assert calls == []
    records = [each for each in caplog.records if "TLS handshake failed" in each.getMessage()]
    assert [each.levelno for each in records] == [logging.DEBUG]
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert capfd.readouterr().err == ""


async def test_good_client_among_fifty_silent_ones(tls: TLS, recorder):
    before = descriptors()
    calls = 0

    async def handler(connection):
        nonlocal calls
        calls += 1
        await upper(connection)

    timeouts = Timeouts(handshake=1)
    async with serving(
        handler, TCP, tls=tls.server, timeouts=timeouts, observers=[recorder]
    ) as server:
        listening = descriptors()
        address = server.addresses[0]
        silent = [socket.create_connection((address.host, address.port)) for _ in range(50)]
        async with connect(address, **client_options(tls.client)) as (reader, writer):
            writer.write(b"hello\n")
            assert await reader.readline() == b"HELLO\n"
            assert not recorder.of(HandshakeFailed)  # it did not wait for them
        await recorder.wait_for(HandshakeFailed, 50)
        await recorder.wait_for(ConnectionClosed, 51)
        assert server.stats.handshakes_failed == 50
        for sock in silent:
            assert sock.recv(1) == b""
            sock.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert descriptors() == listening
    assert calls == 1
    await asyncio.sleep(0)
    assert descriptors() == before


async def test_half_close(tls: TLS):
    async def handler(connection):
        await connection.send(b"last words")
        await connection.send_eof()
        assert await connection.readline() == b"still talking\n"
        done.set_result(await connection.read(10))

    done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    async with serving(handler, TCP, tls=tls.server) as server:
        address = server.addresses[0]

        def talk():
            with (
                socket.create_connection((address.host, address.port), 10) as plain,
                tls.client.wrap_socket(plain, server_hostname="localhost") as sock,
            ):
                said = sock.recv(100) + sock.recv(100)
                sock.sendall(b"still talking\n")
                sock.unwrap()
                return said

        assert await asyncio.to_thread(talk) == b"last words"
        assert await done == b""


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.said = [transport.get_extra_info("cipher")[1], transport.get_extra_info("peername")[0]]

    def data_received(self, data):
        self.transport.write(" ".join(self.said).encode() + b" " + data)

    def eof_received(self):
        return False


class BufferedEcho(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray(5)
        self.said = [transport.get_extra_info("cipher")[1], transport.get_extra_info("peername")[0]]

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.transport.write(" ".join(self.said).encode() + b" " + self.buffer[:nbytes])

    def eof_received(self):
        return False


@pytest.mark.parametrize("factory", [Echo, BufferedEcho])
async def test_protocol_factory(factory, tls: TLS):
    async with serving(factory, TCP, tls=tls.server) as server:
        async with connect(server.addresses[0], **client_options(tls.client)) as (reader, writer):
            writer.write(b"hello")
            assert await reader.readexactly(23) == b"TLSv1.3 127.0.0.1 hello"
            await server.close(grace=0)
            assert await reader.read() == b""


# -- STARTTLS ------------------------------------------------------------------------------------


def starttls(context, outcome):
    async def handler(connection):
        await connection.send(b"220 hello\r\n")
        try:
            async for line in connection.lines():
                if line.strip().upper() == b"STARTTLS":
                    await connection.send(b"220 go ahead\r\n")
                    await connection.start_tls(context)
                elif line[:4].upper() == b"EHLO":
                    await connection.send(b"250 STARTTLS\r\n")
                else:
                    secure = b"secret " if connection.tls else b"clear "
                    await connection.send(secure + line)
        except Exception as exc:
            outcome.append(exc)
            raise

    return handler


def smtp(address, tls, before=b"STARTTLS\r\n", sneak=b""):
    """Talk to the handler above as a client; return what it says over TLS."""
    with socket.create_connection((address.host, address.port), 10) as plain:
        plain.recv(100)
        plain.sendall(before)
        assert plain.recv(100) == b"220 go ahead\r\n"
        if sneak:
            plain.sendall(sneak)
        with tls.client.wrap_socket(plain, server_hostname="localhost") as sock:
            sock.sendall(b"data\n")
            return sock.recv(100)


async def test_starttls(tls: TLS, recorder):
    outcome: list[Exception] = []
    handler = starttls(tls.server, outcome)
    async with serving(handler, TCP, observers=[recorder]) as server:
        said = await asyncio.to_thread(smtp, server.addresses[0], tls)
        await recorder.wait_for(ConnectionClosed)
    assert said == b"secret data\n"
    assert outcome == []


@pytest.mark.parametrize("before", [b"STARTTLS\r\nEVIL\r\n", b"STARTTLS\r\nEV"])
async def test_clear_text_behind_starttls_is_refused(tls: TLS, before, recorder):
    outcome: list[Exception] = []
    async with serving(starttls(tls.server, outcome), TCP, observers=[recorder]) as server:
        with pytest.raises(OSError):
            await asyncio.to_thread(smtp, server.addresses[0], tls, before)
        await recorder.wait_for(ConnectionClosed)
        assert server.stats.handshakes_failed == 1
    assert isinstance(outcome[0], UpgradeRefusedError)
    assert outcome[0].pending == len(before) - 10


async def test_clear_text_after_the_reply_is_never_read_as_encrypted(tls: TLS, recorder):
    outcome: list[Exception] = []
    async with serving(starttls(tls.server, outcome), TCP, observers=[recorder]) as server:
        with pytest.raises(OSError):
            await asyncio.to_thread(smtp, server.addresses[0], tls, sneak=b"EVIL\r\n")
        await recorder.wait_for(ConnectionClosed)
        assert server.stats.bytes_in == len(b"STARTTLS\r\n")
    assert isinstance(outcome[0], HandshakeError)


async def test_hello_in_the_same_segment_as_starttls_is_taken(tls: TLS):
    """No client should, some do: the bytes go to the handshake, not to the handler."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls.client.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    async with serving(starttls(tls.server, []), TCP) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"STARTTLS\r\n" + outgoing.read())
            assert await reader.readuntil(b"ahead\r\n")
            while True:
                incoming.write(await reader.read(10_000))
                with contextlib.suppress(ssl.SSLWantReadError):
                    client.do_handshake()
                    break
            client.write(b"data\n")
            writer.write(outgoing.read())
            said = b""
            while not said:
                incoming.write(await reader.read(10_000))
                with contextlib.suppress(ssl.SSLWantReadError):
                    said = client.read()
            assert said == b"secret data\n"


async def test_starttls_while_reading_or_twice_is_a_mistake(tls: TLS):
    mistakes: asyncio.Queue[Exception] = asyncio.Queue()

    async def handler(connection):
        reading = asyncio.create_task(connection.readline())
        await asyncio.sleep(0)
        try:
            await connection.start_tls(tls.server)
        except ConnectionBusyError as exc:
            mistakes.put_nowait(exc)
        assert await reading == b"go on\n"

    async with serving(handler, TCP) as server:
        async with connect(server.addresses[0]) as (_, writer):
            assert isinstance(await mistakes.get(), ConnectionBusyError)
            writer.write(b"go on\n")

    async def twice(connection):
        with pytest.raises(ConnectionBusyError):
            await connection.start_tls(tls.server)
        await connection.send(b"ok")

    async with serving(twice, TCP, tls=tls.server) as server:
        async with connect(server.addresses[0], **client_options(tls.client)) as (reader, _):
            assert await reader.read() == b"ok"


@pytest.mark.parametrize("source", [[1, 2], (b"x",), "a\0b", None, 7])
async def test_starttls_with_what_is_no_context(source, tls: TLS):
    """It is told in the words of `Server`, and nothing has happened."""
    if source is None:
        words = "tls= is None: write an SSLContext"
    else:
        with pytest.raises(SettingError) as raised:
            Server(upper, TCP, tls=source)
        words = str(raised.value)

    async def handler(connection):
        with pytest.raises(SettingError, match=re.escape(words)):
            await connection.start_tls(source)
        await connection.send(await connection.readline())

    async with serving(handler, TCP) as server, connect(server.addresses[0]) as (reader, writer):
        writer.write(b"hello\n")
        assert await reader.read() == b"hello\n"


async def test_send_eof_during_starttls_is_refused_and_works_behind_it(tls: TLS):
    async def handler(connection):
        await connection.send(b"go\n")
        upgrading = asyncio.create_task(connection.start_tls(tls.server))
        await asyncio.sleep(0)
        with pytest.raises(ConnectionBusyError, match="encrypting"):
            await connection.send_eof()
        begin.set()
        await upgrading
        await connection.send(b"secret\n")
        await connection.send_eof()
        assert await connection.readline() == b"bye\n"

    begin = asyncio.Event()
    async with serving(handler, TCP) as server, connect(server.addresses[0]) as (reader, writer):
        assert await reader.readline() == b"go\n"
        await begin.wait()
        await writer.start_tls(tls.client, server_hostname="localhost")
        writer.write(b"bye\n")
        assert await reader.read() == b"secret\n"


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
        await recorder.wait_for(ConnectionClosed, 2)
    assert len(recorder.of(HandshakeFailed)) == 2
    assert "handshake deadline of 10 s" in str(outcome[0])


# -- clients that do not keep to it ---------------------------------------------------------------


def send_only(address, peer, data):
    with socket.create_connection((address.host, address.port), 10) as sock:
        sock.sendall(peer.shake())
        while not peer.shaken:
            sock.sendall(peer.shake(sock.recv(10_000)))
        sock.sendall(peer.say(data) + peer.say_close_notify())


async def test_client_that_sends_and_closes_without_reading_loses_nothing(
    tls: TLS, authority, tmp_path
):
    """What is left unread in its kernel would make that reset the connection (RFC 2525, 2.17)."""
    data = b"line\n" * 20_000
    closed, got = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def handler(connection):
        await closed.wait()
        got.set_result(await connection.read())

    tickets = tls.server.num_tickets
    limits = Limits(read_buffer=len(data))
    async with serving(handler, TCP, tls=tls.server, limits=limits) as server:
        await asyncio.to_thread(send_only, server.addresses[0], Peer(authority, tmp_path), data)
        closed.set()
        assert await got == data
    assert tls.server.num_tickets == tickets > 0  # somebody else's, and left as it was


async def test_threads_lose_nothing_either_with_a_context_from_files(tls: TLS, authority, tmp_path):
    data = b"line\n" * 1000
    closed, got = threading.Event(), asyncio.get_running_loop().create_future()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            closed.wait(10)
            got.get_loop().call_soon_threadsafe(got.set_result, self.rfile.read())

    files = (tls.certificate, tls.key)
    async with serving(compat.threaded(Handler), TCP, tls=files) as server:
        await asyncio.to_thread(send_only, server.addresses[0], Peer(authority, tmp_path), data)
        closed.set()
        assert await got == data


async def test_sessions_are_resumed(tls: TLS):
    def talk(address, session):
        with (
            socket.create_connection((address.host, address.port), 10) as plain,
            tls.client.wrap_socket(plain, server_hostname="localhost", session=session) as sock,
        ):
            sock.sendall(b"hello\n")
            assert sock.recv(100) == b"HELLO\n"
            return sock.session, sock.session_reused

    async with serving(upper, TCP, tls=tls.server) as server:
        session, reused = await asyncio.to_thread(talk, server.addresses[0], None)
        assert not reused
        assert (await asyncio.to_thread(talk, server.addresses[0], session))[1]


@pytest.mark.parametrize("buffered", [False, True])
async def test_flood_is_taken_a_turn_at_a_time(buffered, tls: TLS):
    """Libuv calls 32 times in a row, 256 kB each, unless it is paused from within."""
    loop = asyncio.get_running_loop()
    size = 20_000_000
    done = loop.create_future()
    in_turn = [0, 0]  # now, and at most

    def count(nbytes):
        if not in_turn[0]:
            loop.call_soon(in_turn.__setitem__, 0, 0)
        in_turn[0] += nbytes
        in_turn[1] = max(in_turn)
        received[0] += nbytes
        if received[0] == size:
            done.set_result(None)

    received = [0]

    class Sink(asyncio.Protocol):
        def data_received(self, data):
            count(len(data))

    class BufferedSink(asyncio.BufferedProtocol):
        def get_buffer(self, sizehint):
            return bytearray(sizehint)

        def buffer_updated(self, nbytes):
            count(nbytes)

    def flood(address):
        with (
            socket.create_connection((address.host, address.port), 10) as plain,
            tls.client.wrap_socket(plain, server_hostname="localhost") as sock,
        ):
            sock.sendall(bytes(size))
            sock.recv(1)

    async with serving(BufferedSink if buffered else Sink, TCP, tls=tls.server) as server:
        flooding = asyncio.create_task(asyncio.to_thread(flood, server.addresses[0]))
        await done
    with contextlib.suppress(OSError):
        await flooding
    assert in_turn[1] <= 2 * TURN  # what waited here, and what libuv then has read at once


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_records_without_data_do_not_feed_the_idle_deadline(
    tls: TLS, authority, tmp_path, recorder
):
    async def handler(connection):
        await connection.readline()

    loop = asyncio.get_running_loop()
    timeouts = Timeouts(idle=10)
    peer = Peer(authority, tmp_path)
    async with serving(
        handler, TCP, tls=tls.server, timeouts=timeouts, observers=[recorder]
    ) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(peer.shake())
            while not peer.shaken:
                writer.write(peer.shake(await reader.read(10_000)))
            start = loop.time()
            by_hand = peer.records()
            while not recorder.of(DeadlineExpired) and loop.time() < start + 60:
                writer.write(by_hand.key_update(answer=True))
                await asyncio.sleep(1)
            assert [expired.deadline for expired in recorder.of(DeadlineExpired)] == ["idle"]
            assert loop.time() - start < 10 * 1.2 + 2


# -- what the loops do with a transport -----------------------------------------------------------


class Sender(asyncio.Protocol):
    """Sends a file, and closes."""

    file: str
    failed: "asyncio.Future[Exception | None]"

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.task = asyncio.ensure_future(self.send())

    async def send(self):
        try:
            with open(self.file, "rb") as file:
                await asyncio.get_running_loop().sendfile(self.transport, file)
        except Exception as exc:
            self.failed.set_result(exc)
        else:
            self.failed.set_result(None)
        self.transport.close()


async def test_sendfile(tls: TLS, tmp_path):
    loop = asyncio.get_running_loop()
    data = os.urandom(1_000_000)

    class Here(Sender):
        file = str(tmp_path / "file")
        failed = loop.create_future()

    Path(Here.file).write_bytes(data)
    async with serving(Here, TCP, tls=tls.server) as server:
        async with connect(server.addresses[0], **client_options(tls.client)) as (reader, writer):
            writer.write(b"go")
            got = await reader.read()
            error = await Here.failed
    if isinstance(loop, asyncio.SelectorEventLoop):
        assert error is None
        assert got == data
    else:  # uvloop has no sendfile() at all
        assert isinstance(error, NotImplementedError)


class Nested(asyncio.Protocol):
    """Starts TLS inside TLS."""

    context: ssl.SSLContext
    failed: "asyncio.Future[Exception | None]"

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data == b"STARTTLS\n":
            self.transport.write(b"go\n")
            self.task = asyncio.ensure_future(self.start_tls())
        else:
            self.transport.write(data.upper())

    async def start_tls(self):
        try:
            self.transport = await asyncio.get_running_loop().start_tls(
                self.transport, self, self.context, server_side=True
            )
        except Exception as exc:
            self.failed.set_result(exc)
            self.transport.close()
        else:
            self.failed.set_result(None)


async def test_start_tls_of_the_loop(tls: TLS):
    loop = asyncio.get_running_loop()

    class Here(Nested):
        context = tls.server
        failed = loop.create_future()

    async with serving(Here, TCP, tls=tls.server) as server:
        async with connect(server.addresses[0], **client_options(tls.client)) as (reader, writer):
            writer.write(b"STARTTLS\n")
            assert await reader.readline() == b"go\n"
            if isinstance(loop, asyncio.SelectorEventLoop):
                await writer.start_tls(tls.client, server_hostname="localhost")
                assert await Here.failed is None
                writer.write(b"hello\n")
                assert await reader.readline() == b"HELLO\n"
            else:  # uvloop takes its own transports only
                error = await Here.failed
                assert isinstance(error, TypeError)
                assert "TLSTransport" in str(error)


# -- real clients --------------------------------------------------------------------------------


async def program(*arguments):
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe, stderr=pipe)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
@pytest.mark.parametrize("options", [["-tls1_2"], ["-tls1_3"], ["-starttls", "smtp"]])
async def test_openssl_s_client(options, tls: TLS):
    handler, secure = (starttls(tls.server, []), None) if "smtp" in options else (upper, tls.server)
    async with serving(handler, TCP, tls=secure) as server:
        address = server.addresses[0]
        openssl = await program(
            "openssl", "s_client", "-connect", f"{address.host}:{address.port}", *options,
            "-CAfile", tls.authority, "-verify_return_error", "-quiet",
        )  # fmt: skip
        assert openssl.stdin is not None
        assert openssl.stdout is not None
        openssl.stdin.write(b"hello\n")
        answer = await openssl.stdout.readline()
        assert answer == (b"HELLO\n" if secure else b"secret hello\n")
        openssl.kill()  # with -quiet it stays until the server leaves
        await openssl.communicate()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
async def test_curl(tls: TLS):
    async def http(connection):
        await connection.readuntil(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi\n")

    async with serving(http, TCP, tls=tls.server) as server:
        port = server.addresses[0].port
        curl = await program("curl", "-sS", "--cacert", tls.authority, f"https://127.0.0.1:{port}/")
        assert await curl.communicate() == (b"hi\n", b"")
        assert curl.returncode == 0


# -- what tls= takes -----------------------------------------------------------------------------


def test_files_and_contexts(tls: TLS, tmp_path):
    both = tmp_path / "both.pem"
    both.write_bytes(Path(tls.key).read_bytes() + Path(tls.certificate).read_bytes())
    for source in (both, str(both), (tls.certificate, tls.key), tls.server):
        assert isinstance(server_context(source), ssl.SSLContext)


def test_files_that_do_not_work(tls: TLS, tmp_path, authority):
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    other = tmp_path / "other.pem"
    authority.issue_cert("other").private_key_pem.write_to_path(other)
    for source, why in (
        ("/nowhere.pem", "does not exist"),
        (str(rubbish), "rubbish.pem do not work"),
        ((tls.certificate, str(other)), "key values mismatch"),
        ((tls.certificate, tls.key, tls.key), "3 files"),
        (ssl.create_default_context(), "client's context"),
    ):
        with pytest.raises(SettingError, match=why):
            server_context(source)


def test_file_that_cannot_be_read(tls: TLS, monkeypatch):
    monkeypatch.setattr(os, "access", lambda file, mode: (file, mode) != (tls.key, os.R_OK))
    with pytest.raises(SettingError, match=r"the TLS file .*key\.pem cannot be read"):
        server_context((tls.certificate, tls.key))


def test_encrypted_key_is_refused_without_a_prompt(tls: TLS, tmp_path):
    key = load_pem_private_key(Path(tls.key).read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    with pytest.raises(SettingError, match="the key is encrypted; load it into an SSLContext"):
        server_context((tls.certificate, locked))


@pytest.mark.parametrize(("source", "why"), [((), "has 0 files"), ([None], "has None for a file")])
def test_what_is_no_file(source, why):
    with pytest.raises(SettingError, match=why):
        server_context(source)


def test_tickets_of_a_context_that_we_make(tls: TLS):
    files = (tls.certificate, tls.key)
    assert server_context(files).num_tickets == ssl.create_default_context().num_tickets > 0
    assert server_context(files, tickets=False).num_tickets == 0
    assert server_context(tls.server, tickets=False).num_tickets > 0  # somebody else's


def test_context_that_we_make_asks_no_client_for_a_certificate(tls: TLS):
    context = server_context((tls.certificate, tls.key))
    assert context.verify_mode is ssl.CERT_NONE
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_files_are_read_once(tls: TLS, authority, tmp_path, monkeypatch):
    """Another working directory, or none of the files any more, changes nothing."""
    for name, source in (("certificate.pem", tls.certificate), ("key.pem", tls.key)):
        shutil.copy(source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    context = server_context(("certificate.pem", "key.pem"))
    for name in ("certificate.pem", "key.pem"):
        Path(name).unlink()
    monkeypatch.chdir("/")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    peer = Peer(authority, tmp_path)
    incoming.write(peer.shake())
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    incoming.write(peer.shake(outgoing.read()))
    server.do_handshake()
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_expired_certificate_is_for_the_clients_to_judge(authority, tmp_path):
    past = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
    both = tmp_path / "both.pem"
    leaf = authority.issue_cert("localhost", not_before=past, not_after=past.replace(year=2002))
    leaf.private_key_and_cert_chain_pem.write_to_path(both)
    assert isinstance(server_context(both), ssl.SSLContext)


def test_datagrams_are_not_encrypted(tls: TLS):
    with pytest.raises(SettingError, match="tls= is for stream addresses"):
        Server(upper, "udp://127.0.0.1:0", tls=tls.server)
