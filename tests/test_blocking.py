"""The socket of a handler in a thread: the server's deadlines raise, and cut nothing short."""

import asyncio
import os
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable
from typing import Any

import pytest

import compat
from asyncserver import DeadlineExceededError, Limits, LineTooLongError, Timeouts
from asyncserver._stream.blocking import HostedSocket, HostedTLSSocket, hosted
from asyncserver.events import DeadlineExpired, PeerDisconnected
from tests.conftest import TLS, connect, serving

NONE = Timeouts(idle=None, write=None)
SHORT = Timeouts(idle=0.05, write=0.05)


@pytest.fixture(params=["clear", "tls"])
def pair(request, tls: TLS):
    """Make a hosted socket with some deadlines, and its peer."""
    open_ones: list[Any] = []

    def make(timeouts: Timeouts = NONE, line: int | None = None) -> tuple[Any, Any]:
        ours, theirs = socket.socketpair()
        if request.param == "tls":
            for each in (ours, theirs):
                each.settimeout(10)
            shaking = threading.Thread(target=lambda: wrapped.append(client()))
            wrapped: list[Any] = []

            def client() -> Any:
                return tls.client.wrap_socket(theirs, server_hostname="localhost")

            shaking.start()
            ours = tls.server.wrap_socket(ours, server_side=True)
            shaking.join()
            theirs = wrapped[0]
            ours.setblocking(False)
        both = hosted(ours, timeouts, line), theirs
        open_ones.extend(both)
        return both

    yield make
    for each in open_ones:
        each.close()


def through(read: Callable[[Any], Any], *mode: Any) -> Callable[[Any], Any]:
    """Read from a file that is made of the socket."""

    def call(sock: Any) -> Any:
        with sock.makefile(*mode) as file:
            return read(file)

    return call


READS = {
    "readline": through(lambda file: file.readline(), "rb"),
    "read": through(lambda file: file.read(10), "rb"),
    "read all": through(lambda file: file.read(), "rb"),
    "readinto": through(lambda file: file.readinto(bytearray(10)), "rb"),
    "iterate": through(list, "rb"),
    "raw": through(lambda file: file.readall(), "rb", 0),
    "text": through(lambda file: file.readline()),
    "recv": lambda sock: [sock.recv(10), sock.recv(10)],
    "recv_into": lambda sock: [sock.recv_into(bytearray(9)), sock.recv_into(bytearray(9))],
}


@pytest.mark.parametrize("line", [None, 100])
@pytest.mark.parametrize("read", READS)
def test_idle_deadline_in_the_middle_raises(read, line, pair):
    ours, theirs = pair(SHORT, line)
    theirs.sendall(b"half")
    with pytest.raises(TimeoutError) as caught:
        READS[read](ours)
    assert isinstance(caught.value, DeadlineExceededError)
    assert (caught.value.deadline, caught.value.seconds) == ("idle", 0.05)
    assert ours.overdue == "idle"


WRITES = {
    "sendall": lambda sock, data: sock.sendall(data),
    "send": lambda sock, data: [sock.send(data) for _ in range(100)],
    "makefile": lambda sock, data: through(lambda file: [file.write(data) for _ in "12"], "wb", 0)(
        sock
    ),
}


@pytest.mark.parametrize("write", WRITES)
def test_write_deadline_raises_and_is_the_writes(write, pair):
    ours, _ = pair(Timeouts(idle=60, write=0.05))
    with pytest.raises(DeadlineExceededError, match=r"Timeouts\.write"):
        WRITES[write](ours, bytes(10_000_000))
    assert ours.overdue == "write"


def test_sendfile_has_the_write_deadline(pair, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(10_000_000))
    ours, _ = pair(Timeouts(idle=60, write=0.05))
    with path.open("rb") as file, pytest.raises(DeadlineExceededError):
        ours.sendfile(file)


def test_writing_leaves_the_idle_deadline_as_it_is(pair):
    ours, theirs = pair(Timeouts(idle=0.05, write=60))
    ours.sendall(b"hello")
    assert theirs.recv(10) == b"hello"
    with pytest.raises(DeadlineExceededError, match=r"Timeouts\.idle"):
        ours.recv(1)


def test_handlers_own_timeout_goes_before(pair):
    ours, theirs = pair(Timeouts(idle=60, write=60))
    ours.settimeout(0.01)
    for _ in range(2):
        with pytest.raises(TimeoutError) as caught:
            ours.recv(1)
        assert type(caught.value) is TimeoutError
        ours.sendall(b"x")
        assert ours.gettimeout() == 0.01
    assert ours.overdue is None
    assert theirs.recv(2)


def test_handler_may_ask_without_waiting(pair):
    ours, theirs = pair(Timeouts(idle=60, write=60))
    ours.setblocking(False)
    with pytest.raises((BlockingIOError, ssl.SSLWantReadError)):
        ours.recv(1)
    if isinstance(ours, HostedSocket):
        ours.setblocking(True)
        with pytest.raises(BlockingIOError):
            ours.recv(1, socket.MSG_DONTWAIT)
    theirs.sendall(b"x")
    assert select.select([ours], [], [], 10)[0] == [ours]
    assert ours.recv(1) == b"x"


def test_socket_is_what_socketserver_gives():
    ours, theirs = socket.socketpair()
    with theirs, hosted(ours, Timeouts(), 10) as sock:
        assert isinstance(sock, socket.socket)
        assert (sock.gettimeout(), os.get_blocking(sock.fileno())) == (None, True)
        assert (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
        with sock.dup() as same:
            assert type(same) is HostedSocket
            same.sendall(b"x")
            assert theirs.recv(1) == b"x"
            theirs.sendall(b"a long line, longer than ten\n")
            with same.makefile("rb") as file, pytest.raises(LineTooLongError):
                file.readline()
        fileno = sock.detach()
        assert sock.fileno() == -1
        os.close(fileno)


def test_encrypted_socket_is_an_ssl_socket(pair):
    ours, _ = pair()
    assert isinstance(ours, ssl.SSLSocket) == isinstance(ours, HostedTLSSocket)


@pytest.mark.parametrize("buffering", [-1, 0, 3])
def test_line_that_is_too_long(buffering, pair):
    ours, theirs = pair(NONE, 10)
    theirs.sendall(
        b"123456789\n" + b"1234567890\n" + b"x" * 100 + b"\nnext\n" + b"y" * 30 + b"\nab"
    )
    with ours.makefile("rb", buffering) as file:
        assert file.readline() == b"123456789\n"
        for start in (b"1234567890", b"x" * 10):
            with pytest.raises(LineTooLongError) as caught:
                file.readline()
            assert (caught.value.partial, caught.value.limit) == (start, 10)
        assert file.readline() == b"next\n"
        assert file.readline(25) == b"y" * 25  # whoever says how much gets it
        assert file.readline() == b"yyyyy\n"
        assert file.read(2) == b"ab"


@pytest.mark.parametrize("method", ["read", "read1", "peek", "readinto", "readinto1", "iterate"])
def test_rest_of_a_line_that_is_too_long_is_dropped(method, pair):
    ours, theirs = pair(NONE, 10)
    theirs.sendall(b"x" * 100_000 + b"\nab\n")
    theirs.shutdown(socket.SHUT_WR)
    into = bytearray(3)
    with ours.makefile("rb") as file:
        with pytest.raises(LineTooLongError):
            file.readline()
        read = {
            "iterate": lambda: next(file), "readinto": lambda: bytes(into[: file.readinto(into)]),
            "readinto1": lambda: bytes(into[: file.readinto1(into)]),
            "peek": lambda: file.peek(3) and file.read(3),
        }.get(method, lambda: getattr(file, method)(3))  # fmt: skip
        assert read() == b"ab\n"


def test_no_limit_no_error(pair):
    ours, theirs = pair(NONE, None)
    theirs.sendall(b"x" * 70_000 + b"\n")
    assert len(READS["readline"](ours)) == 70_001


def test_reader_is_not_late_because_a_writer_is(tls: TLS, pair):
    """One thread reads while another's write waits, each with its own deadline."""
    ours, theirs = pair(Timeouts(idle=60, write=0.05))
    read: list[bytes] = []
    reading = threading.Thread(target=lambda: read.append(ours.recv(5)))
    reading.start()
    with pytest.raises(DeadlineExceededError):
        ours.sendall(bytes(10_000_000))
    theirs.sendall(b"hello")
    reading.join(10)
    assert read == [b"hello"]


# -- on a server -----------------------------------------------------------------------------------


class Remembers(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"ready\n")
        self.rfile.readline()


@pytest.mark.parametrize("swallows", [False, True])
async def test_deadline_is_told_once(swallows, recorder):
    class Handler(Remembers):
        def handle(self):
            try:
                super().handle()
            except TimeoutError:
                if not swallows:
                    raise

    async with (
        serving(
            compat.threaded(Handler), "tcp://127.0.0.1:0", timeouts=SHORT, observers=[recorder]
        ) as server,
        connect(server.addresses[0]) as (reader, writer),
    ):
        writer.write(b"half a line")
        assert await reader.read() == b"ready\n"
        assert server.stats.expired == {"idle": 1}
        assert server.stats.handler_errors == 0
        assert len([each for each in recorder.events if isinstance(each, DeadlineExpired)]) == 1


async def test_write_deadline_counts_as_write():
    def handler(sock):
        sock.sendall(bytes(50_000_000))

    timeouts = Timeouts(idle=60, write=0.05)
    async with (
        serving(compat.threaded(handler), "tcp://127.0.0.1:0", timeouts=timeouts) as server,
        connect(server.addresses[0]) as (_, writer),
    ):
        writer.transport.pause_reading()
        while not server.stats.expired:
            await asyncio.sleep(0)
        assert server.stats.expired == {"write": 1}


async def test_timeout_of_something_else_is_the_handlers_fault():
    def handler(sock):
        raise TimeoutError("the database")

    async with (
        serving(compat.threaded(handler), "tcp://127.0.0.1:0") as server,
        connect(server.addresses[0]) as (reader, _),
    ):
        assert await reader.read() == b""
        assert (server.stats.expired, server.stats.handler_errors) == ({}, 1)


async def test_hosted_handler_keeps_to_the_longest_line(recorder):
    async with (
        serving(
            compat.threaded(Remembers), "tcp://127.0.0.1:0",
            limits=Limits(line=100), observers=[recorder],
        ) as server,
        connect(server.addresses[0]) as (reader, writer),
    ):  # fmt: skip
        writer.write(b"x" * 101)
        assert await reader.readline() == b"ready\n"
        event = await recorder.wait_for(PeerDisconnected)
        assert isinstance(event.error, LineTooLongError)
