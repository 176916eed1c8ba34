"""Who is let in: limits in all and per host, the backlog, and running out of descriptors."""

import asyncio
import contextlib
import contextvars
import errno
import resource
import socket
import struct
import subprocess
import sys
from typing import Any

import pytest

from asyncserver import Limits, Timeouts
from asyncserver._listen.admission import Admission
from asyncserver._server.acceptor import BATCH, Acceptor
from asyncserver._settings.context import ServerContext
from asyncserver.events import (
    ConnectionClosed,
    ConnectionLimitReached,
    ConnectionOpened,
    ConnectionRefused,
    Observers,
    ResourcesExhausted,
)
from tests.conftest import connect, descriptors, serving

TCP = "tcp://127.0.0.1:0"


async def until_eof(connection):
    await connection.send(b".")
    await connection.read()


def pending(address, count, source=None):
    """Clients whose connect() has been sent and is not waited for."""
    clients = []
    for _ in range(count):
        if address.is_unix:
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            sock.connect(address.path)
        else:
            sock = socket.socket()
            sock.setblocking(False)
            if source:
                sock.bind((source, 0))
            with contextlib.suppress(BlockingIOError):
                sock.connect((address.host, address.port))
        clients.append(sock)
    return clients


async def turns(count=100):
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("family", ["tcp", "unix"])
async def test_thousand_wait_in_the_backlog_without_a_descriptor(family, directory, recorder):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"this machine allows only {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    url = TCP if family == "tcp" else f"unix://{directory}/s"
    async with serving(
        until_eof, url, limits=Limits(connections=2), observers=[recorder]
    ) as server:
        address = server.addresses[0]
        async with connect(address) as first, connect(address) as second:
            await first[0].readexactly(1)
            await second[0].readexactly(1)
            before = descriptors()
            clients = pending(address, 1000)
            try:
                await turns()
                assert descriptors() == before + 1000  # the clients' own
                assert server.stats.accepted == server.stats.active == 2
                await recorder.wait_for(ConnectionLimitReached)
                first[1].write_eof()
                await recorder.wait_for(ConnectionOpened, 3)
                assert (
                    recorder.of(ResourcesExhausted) == []
                )  # whoever left has let it in, and no timer
                assert server.stats.active == 2
                assert recorder.of(ConnectionRefused) == []
                assert len(recorder.of(ConnectionLimitReached)) == 1  # one an episode
            finally:
                for sock in clients:
                    sock.close()


async def test_overflow_close(recorder):
    limits = Limits(connections=1, overflow="close")
    async with serving(until_eof, TCP, limits=limits, observers=[recorder]) as server:
        address = server.addresses[0]
        async with connect(address) as (reader, writer):
            await reader.readexactly(1)
            async with connect(address) as (refused, _):
                assert await refused.read() == b""
            assert server.stats.refused == {"connections": 1}
            writer.write_eof()
            assert await reader.read() == b""
        await recorder.wait_for(ConnectionClosed)
        async with connect(address) as (reader, _):
            assert await reader.readexactly(1) == b"."


async def test_limit_per_host(recorder):
    async with serving(until_eof, TCP, limits=Limits(per_host=1), observers=[recorder]) as server:
        address = server.addresses[0]
        one, again = pending(address, 2, source="127.0.0.2")
        (other,) = pending(address, 1, source="127.0.0.3")
        refused = await recorder.wait_for(ConnectionRefused)
        await recorder.wait_for(ConnectionOpened, 2)
        assert refused.limit == "per_host"
        assert refused.peer == again.getsockname()
        assert server.stats.refused == {"per_host": 1}
        one.close()
        await recorder.wait_for(ConnectionClosed)
        (next_one,) = pending(address, 1, source="127.0.0.2")
        await recorder.wait_for(ConnectionOpened, 3)
        for sock in (again, other, next_one):
            sock.close()


async def test_unix_sockets_have_no_host_to_count(directory, recorder):
    limits = Limits(per_host=1)
    async with serving(
        until_eof, f"unix://{directory}/s", limits=limits, observers=[recorder]
    ) as server:
        clients = pending(server.addresses[0], 3)
        await recorder.wait_for(ConnectionOpened, 3)
        for sock in clients:
            sock.close()


@pytest.mark.parametrize("end", ["return", "raise", "reset", "cancel"])
async def test_slot_is_free_however_the_handler_ends(end, recorder):
    async def handler(connection):
        match end:
            case "raise":
                raise ZeroDivisionError
            case "reset":
                connection.abort()
            case "cancel":
                raise asyncio.CancelledError

    async with serving(handler, TCP, limits=Limits(connections=1), observers=[recorder]) as server:
        for number in range(3):
            (sock,) = pending(server.addresses[0], 1)
            await recorder.wait_for(ConnectionClosed, number + 1)
            sock.close()
        assert server.stats.active == 0
        assert server.stats.accepted == 3


async def test_backlog_is_at_least_1024_or_what_the_system_allows():
    with open("/proc/sys/net/core/somaxconn") as file:
        allowed = int(file.read())
    assert Limits().backlog >= min(1024, allowed)
    async with serving(until_eof, TCP) as server:
        assert backlog_of(server.sockets[0]) == min(4096, allowed)


def backlog_of(sock: socket.socket) -> int:
    """What the kernel has for a listening socket: `tcpi_sacked` of struct tcp_info, see ss(8)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("I", info, 8 + 4 * 5)[0])


# -- the acceptor by itself ----------------------------------------------------------------------


class Listener:
    """A listening socket whose next accepts are written down."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.calls = 0
        self._pair = socket.socketpair()
        self._pair[1].send(b"readable")

    def fileno(self):
        return self._pair[0].fileno()

    def accept(self):
        self.calls += 1
        outcome = self.outcomes.pop(0) if self.outcomes else BlockingIOError()
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    def close(self):
        for sock in self._pair:
            sock.close()


class Accepted:
    """A connection as accept() returns it."""

    def __init__(self):
        self.closed = False

    def close(self):
        self.closed = True


def peer():
    return Accepted(), ("192.0.2.1", 1)


def accepting(listener, take, *observers):
    acceptor = acceptor_for(take, *observers)
    acceptor.add(listener.fileno(), listener.accept)
    return acceptor


def acceptor_for(take, *observers):
    class Supervisor:
        start = staticmethod(take)

    supervisor: Any = Supervisor()
    limits = Limits()
    context = ServerContext(None, limits, Timeouts(), Observers(observers))
    return Acceptor(context, Admission(limits), supervisor)


async def test_errors_of_the_waiting_connection_are_skipped(recorder):
    listener: Any = Listener(
        OSError(errno.ECONNABORTED, "gone"), OSError(errno.EPROTO, "odd"), peer()
    )
    taken = asyncio.Event()
    acceptor = accepting(listener, lambda *_: taken.set(), recorder)
    acceptor.resume()
    await taken.wait()
    acceptor.close()
    listener.close()
    assert recorder.events == []


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EIO]
)
@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_exhaustion_backs_off_and_is_told_once_an_episode(number, recorder):
    listener: Any = Listener(
        *[OSError(number, "no more")] * 5, peer(), BlockingIOError(), OSError(number, "again")
    )
    acceptor = accepting(listener, lambda *_: None, recorder)
    start = asyncio.get_running_loop().time()
    acceptor.resume()
    await recorder.wait_for(ResourcesExhausted, 6)
    acceptor.close()
    listener.close()
    assert [event.first for event in recorder.of(ResourcesExhausted)] == [True] + 4 * [False] + [
        True
    ]
    assert asyncio.get_running_loop().time() - start == pytest.approx(0.5, abs=0.2)
    assert listener.calls == 8  # and not thousands


async def test_one_readiness_accepts_a_bounded_batch():
    listener: Any = Listener(*[peer() for _ in range(2 * BATCH)])
    loop = asyncio.get_running_loop()
    others = []
    taken: list[Accepted] = []

    def take(sock, _):
        if not taken:
            loop.call_soon(lambda: others.append(len(taken)))
        taken.append(sock)

    acceptor = accepting(listener, take)
    acceptor.resume()
    while len(taken) < 2 * BATCH:
        await asyncio.sleep(0)
    acceptor.close()
    listener.close()
    assert others == [BATCH]


async def test_listeners_take_turns():
    """The last of them waits for one of each, not for all that the first ones have."""
    listeners: Any = [Listener(*[peer() for _ in range(BATCH)]) for _ in range(3)]
    acceptor = acceptor_for(lambda *_: None)
    taken: list[int] = []
    for number, listener in enumerate(listeners):

        def accept(number=number, listener=listener):
            taken.append(number)
            return listener.accept()

        acceptor.add(listener.fileno(), accept)
    acceptor.resume()
    while len(taken) < 3 * BATCH:
        await asyncio.sleep(0)
    acceptor.close()
    for listener in listeners:
        listener.close()
    for first in range(0, 3 * BATCH, 3):
        assert set(taken[first : first + 3]) == {0, 1, 2}


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_an_episode_of_exhaustion_lasts_as_long_as_somebody_waits_anywhere(recorder):
    """One listener is empty, the other's client cannot be accepted: it is told once."""
    empty: Any = Listener()
    busy: Any = Listener(*[OSError(errno.EMFILE, "no more")] * 3)
    acceptor = acceptor_for(lambda *_: None, recorder)
    for listener in (empty, busy):
        acceptor.add(listener.fileno(), listener.accept)
    acceptor.resume()
    await recorder.wait_for(ResourcesExhausted, 3)
    acceptor.close()
    for listener in (empty, busy):
        listener.close()
    assert [event.first for event in recorder.of(ResourcesExhausted)] == [True, False, False]


async def test_closing_in_the_middle_of_a_batch_stops_it():
    listener: Any = Listener(peer(), peer(), peer())
    taken: list[Accepted] = []
    acceptor: Acceptor

    def take(sock, _):
        taken.append(sock)
        acceptor.close()

    acceptor = accepting(listener, take)
    acceptor.resume()
    await turns()
    acceptor.resume()  # closed for good
    await turns()
    listener.close()
    assert len(taken) == 1


async def test_context_variables_of_who_left_do_not_reach_who_comes_in():
    name = contextvars.ContextVar("name", default="nobody")

    async def handler(connection):
        await connection.send(name.get().encode() + b"\n")
        name.set("somebody")
        await connection.readline()

    async with serving(handler, "tcp://127.0.0.1:0", limits=Limits(connections=1)) as server:
        async with connect(server.addresses[0]) as (first, writer):
            assert await first.readline() == b"nobody\n"
            async with connect(server.addresses[0]) as (second, _):
                waiting = asyncio.create_task(second.readline())
                await asyncio.sleep(0)
                writer.transport.abort()
                assert await waiting == b"nobody\n"


# -- really out of descriptors -------------------------------------------------------------------

EXHAUSTED = """
import asyncio, logging, os, resource, socket, sys, time
import asyncserver
from asyncserver._server.run import loop_factory
logging.basicConfig(level="WARNING", format="%(message)s")

async def greet(connection):
    await connection.send(b"hello")
    await connection.read()

async def ask(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        assert await reader.readexactly(5) == b"hello"
    finally:
        writer.close()
        await writer.wait_closed()

async def main():
    loop = asyncio.get_running_loop()
    async with asyncserver.Server(greet, "tcp://127.0.0.1:0") as server:
        port = server.addresses[0].port
        await ask(port)
        while server.stats.active:
            await asyncio.sleep(0.005)
        clients = [socket.socket() for _ in range(3)]
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, used + 10))
        hogs = []
        try:
            while True:
                hogs.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        for client in clients:
            client.setblocking(False)
            try:
                client.connect(("127.0.0.1", port))
            except BlockingIOError:
                pass
        cpu, start = time.process_time(), loop.time()
        await asyncio.sleep(1)
        print("cpu", (time.process_time() - cpu) / (loop.time() - start))
        assert server.stats.active == 0
        start = loop.time()
        for _ in clients:
            os.close(hogs.pop())
        while server.stats.active < len(clients):
            await asyncio.sleep(0.005)
        print("back", loop.time() - start)
        print("backoffs", server.stats.accept_backoffs)
        for client in clients:
            client.close()
        await server.close(grace=1)

with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_out_of_descriptors(loop):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXHAUSTED, loop],
        capture_output=True, text=True, timeout=25, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    figures = {name: float(value) for name, value in map(str.split, result.stdout.splitlines())}
    assert figures["cpu"] < 0.05
    assert figures["back"] < 1
    assert figures["backoffs"] > 3
    assert [line for line in result.stderr.splitlines() if "cannot accept" in line] == [
        "cannot accept: [Errno 24] Too many open files; trying again until it works"
    ]
