"""Datagrams over UDP and Unix sockets: bounded, counted, and answered from where they came to."""

import array
import asyncio
import contextlib
import errno
import socket
import sys

import pytest

import asyncserver
from asyncserver import (
    Address,
    ConnectionBroken,
    DeadlineExceeded,
    Limits,
    NoReplyAddressError,
    ServerStateError,
    Timeouts,
)
from asyncserver.datagram import BATCH, LEAST, STEPS
from asyncserver.events import Disconnected, Failed
from tests.conftest import descriptors, serving


@pytest.fixture(params=["udp", "udp6", "unixgram", "abstract"])
def dgram(request, directory):
    """A datagram address to bind, of every family in turn."""
    return {
        "udp": "udp://127.0.0.1:0",
        "udp6": "udp://[::1]:0",
        "unixgram": f"unixgram://{directory}/server.sock",
        "abstract": f"unixgram:@{directory}",
    }[request.param]


@contextlib.contextmanager
def client(address: Address, directory: str, name="client", host=None):
    """A connected datagram socket, with a name of its own on Unix."""
    if address.is_unix:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if name:
            sock.bind(f"{directory}/{name}")
        sock.connect("\0" + address.path[1:] if address.path[0] == "@" else address.path)
    else:
        family = socket.AF_INET6 if ":" in (host or address.host) else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.connect((host or address.host, address.port))
    sock.setblocking(False)
    with sock:
        yield sock


async def receive(sock: socket.socket, size=70_000) -> bytes:
    """Receive one datagram; add_reader, since uvloop has no sock_recvfrom."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(sock, lambda: ready.set_result(None) if not ready.done() else None)
    try:
        await ready
    finally:
        loop.remove_reader(sock)
    return sock.recv(size)


async def upper(datagram):
    await datagram.reply(datagram.data.upper())


async def test_one_call_and_one_reply_a_datagram(dgram, directory):
    async with serving(upper, dgram) as server:
        with client(server.addresses[0], directory) as sock:
            for word in (b"hello", b"", b"x" * 65_507):
                sock.send(word)
                assert await receive(sock) == word.upper()
        assert (server.stats.datagrams_in, server.stats.datagrams_out) == (3, 3)
        assert server.stats.datagrams_truncated == server.stats.datagrams_dropped == 0


async def test_peer_and_local_address(dgram, directory):
    seen = []

    async def handler(datagram):
        seen.append((datagram.peer, datagram.local))
        await datagram.reply(repr(datagram).encode())

    async with serving(handler, dgram) as server:
        address = server.addresses[0]
        with client(address, directory) as sock:
            sock.send(b"hello")
            said = await receive(sock)
            name = sock.getsockname()
            peer = name if address.is_unix else name[:2]
            local = address.path if address.is_unix else (address.host, address.port)
            assert seen == [(peer, local)]
            assert said == f"<Datagram 5 bytes, peer {peer!r}>".encode()


async def test_handlers_in_flight_are_bounded_and_the_rest_is_counted(dgram, directory):
    go = asyncio.Event()
    started: asyncio.Queue[bytes] = asyncio.Queue()

    async def handler(datagram):
        started.put_nowait(datagram.data)
        await go.wait()
        await datagram.reply(datagram.data)

    async with serving(handler, dgram, limits=Limits(datagrams=2)) as server:
        with client(server.addresses[0], directory) as sock:
            for number in range(10):
                sock.send(b"%d" % number)
            assert [await started.get(), await started.get()] == [b"0", b"1"]
            while server.stats.datagrams_dropped < 8:
                await asyncio.sleep(0)
            assert server.stats.datagrams_in == 2
            go.set()
            assert {await receive(sock), await receive(sock)} == {b"0", b"1"}
            sock.send(b"next")
            assert await receive(sock) == b"next"


async def test_truncation_is_visible(dgram, directory):
    seen: asyncio.Queue[asyncserver.Datagram] = asyncio.Queue()
    async with serving(seen.put, dgram, limits=Limits(datagram_size=10)) as server:
        with client(server.addresses[0], directory) as sock:
            sock.send(b"0123456789")
            sock.send(b"0123456789a")
            whole, cut = await seen.get(), await seen.get()
            assert (whole.data, whole.truncated) == (b"0123456789", False)
            assert (cut.data, cut.truncated) == (b"0123456789", True)
            assert "truncated" in repr(cut)
            assert server.stats.datagrams_truncated == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
async def test_wildcard_replies_from_the_address_that_was_asked(host, directory):
    seen = []

    async def handler(datagram):
        seen.append(datagram.local[0])
        await upper(datagram)

    async with serving(handler, "udp://:0") as server:
        ports = {address.port for address in server.addresses}
        assert len(server.addresses) == 2
        assert len(ports) == 1
        # A connected socket takes datagrams from the address that it is connected to only.
        with client(server.addresses[0], directory, host=host) as sock:
            sock.send(b"hello")
            assert await receive(sock) == b"HELLO"
    assert seen == [host]


async def test_truncation_is_visible_on_a_wildcard(directory):
    seen: asyncio.Queue[asyncserver.Datagram] = asyncio.Queue()
    async with serving(seen.put, "udp://0.0.0.0:0", limits=Limits(datagram_size=4)) as server:
        with client(server.addresses[0], directory, host="127.0.0.1") as sock:
            sock.send(b"01234")
            cut = await seen.get()
            assert (cut.data, cut.truncated) == (b"0123", True)


async def test_icmp_errors_do_not_stop_it(directory):
    """Replies to ports that are closed by then come back as errors, and nobody minds."""
    async with serving(upper, "udp://127.0.0.1:0") as server:
        address = server.addresses[0]
        for _ in range(50):
            with client(address, directory) as gone:
                gone.send(b"and away")
        while server.stats.datagrams_out < 50:
            await asyncio.sleep(0)
        with client(address, directory) as sock:
            sock.send(b"hello")
            assert await receive(sock) == b"HELLO"


async def test_what_the_kernel_drops_is_counted():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.bind(("127.0.0.1", 0))

    async def ignore(datagram):
        pass

    async with serving(ignore, sock) as server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
            for _ in range(200):
                flood.sendto(b"x" * 500, ("127.0.0.1", server.addresses[0].port))
        stats = server.stats
        while stats.datagrams_in + stats.datagrams_dropped < 200:
            await asyncio.sleep(0)
            stats = server.stats
        assert stats.datagrams_in + stats.datagrams_dropped == 200
        assert stats.datagrams_dropped > 0


async def test_reply_to_a_peer_without_a_name(directory):
    outcome = asyncio.get_running_loop().create_future()

    async def handler(datagram):
        try:
            await upper(datagram)
        except NoReplyAddressError as exc:
            outcome.set_result(exc)

    async with serving(handler, f"unixgram://{directory}/server.sock") as server:
        with client(server.addresses[0], directory, name=None) as nameless:
            nameless.send(b"hello")
            assert "must bind()" in str(await outcome)
        with client(server.addresses[0], directory) as named:
            named.send(b"hello")
            assert await receive(named) == b"HELLO"


async def test_reply_to_a_peer_that_has_gone_is_no_handler_error(directory, recorder):
    go = asyncio.Event()

    async def handler(datagram):
        await go.wait()
        await upper(datagram)

    url = f"unixgram://{directory}/server.sock"
    async with serving(handler, url, observers=[recorder]) as server:
        with client(server.addresses[0], directory) as sock:
            sock.send(b"hello")
        go.set()
        gone = await recorder.wait_for(Disconnected)
        assert isinstance(gone.error, ConnectionBroken)
    assert recorder.of(Failed) == []


async def test_reply_waits_for_a_full_queue(directory):
    burst = 5000

    async def handler(datagram):
        for number in range(burst):
            await datagram.reply(b"%d" % number)

    async with serving(handler, f"unixgram://{directory}/server.sock") as server:
        with client(server.addresses[0], directory) as sock:
            sock.send(b"go")
            while not server.stats.datagrams_out:
                await asyncio.sleep(0)
            assert server.stats.datagrams_out < burst
            got = [await receive(sock) for _ in range(burst)]
            assert got == [b"%d" % number for number in range(burst)]


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_reply_to_a_queue_that_stays_full(directory):
    outcome = asyncio.get_running_loop().create_future()

    async def handler(datagram):
        try:
            while True:
                await datagram.reply(b"more")
        except DeadlineExceeded as exc:
            outcome.set_result(exc.deadline)

    url = f"unixgram://{directory}/server.sock"
    async with serving(handler, url, timeouts=Timeouts(write=5)) as server:
        with client(server.addresses[0], directory) as sock:
            start = asyncio.get_running_loop().time()
            sock.send(b"go")
            assert await outcome == "write"
            assert asyncio.get_running_loop().time() - start == pytest.approx(5, abs=0.5)


async def test_reply_that_is_too_long_is_the_handlers_error(dgram, directory, recorder):
    async def handler(datagram):
        await datagram.reply(b"x" * 10_000_000)

    async with serving(handler, dgram, observers=[recorder]) as server:
        with client(server.addresses[0], directory) as sock:
            sock.send(b"hello")
            failed = await recorder.wait_for(Failed)
            assert isinstance(failed.error, OSError)
            assert failed.error.errno == errno.EMSGSIZE


async def test_in_flight_finish_and_reply_while_draining(dgram, directory):
    before = descriptors()
    go, started = asyncio.Event(), asyncio.Event()

    async def handler(datagram):
        started.set()
        await go.wait()
        await upper(datagram)

    async with serving(handler, dgram) as server:
        with client(server.addresses[0], directory) as sock:
            sock.send(b"hello")
            await started.wait()
            closing = asyncio.create_task(server.close(grace=5))
            await server.closing.wait()
            go.set()
            assert await receive(sock) == b"HELLO"
            await closing
            with pytest.raises(asyncserver.ConnectionClosed):
                server._doors.endpoints[0].try_send(b"late", sock.getsockname(), [])
    assert descriptors() == before


# -- what can be replied -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"bytes", b"bytes"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"view"), b"view"),
        (memoryview(array.array("I", [0x61616161, 0x62626262])), b"aaaabbbb"),
        (memoryview(b"every other")[::2], b"eeyohr"),
        (array.array("H", [0x6161]), b"aa"),
        (b"", b""),
    ],
)
async def test_all_bytes_of_what_has_bytes_are_sent(dgram, directory, data, words):
    async def handler(datagram):
        await datagram.reply(data)

    async with serving(handler, dgram) as server:
        with client(server.addresses[0], directory) as sock:
            sock.send(b"?")
            assert await receive(sock) == words


@pytest.mark.parametrize("data", ["text", None, 5, [1, 2], object()])
@pytest.mark.parametrize("name", ["client", None])
async def test_what_is_no_bytes_is_refused_before_anything_else(directory, data, name):
    outcome = asyncio.get_running_loop().create_future()

    async def handler(datagram):
        try:
            await datagram.reply(data)
        except Exception as exc:
            outcome.set_result(exc)

    async with serving(handler, f"unixgram://{directory}/server.sock") as server:
        with client(server.addresses[0], directory, name=name) as sock:
            sock.send(b"?")
            refused = await outcome
            assert type(refused) is TypeError
            assert type(data).__name__ in str(refused)
            assert ("encode()" in str(refused)) == isinstance(data, str)
            assert server.stats.datagrams_out == 0


@pytest.mark.parametrize(("host", "longest"), [("127.0.0.1", 65_507), ("[::1]", 65_527)])
async def test_longest_reply(host, longest):
    async def handler(datagram):
        with pytest.raises(OSError) as refused:
            await datagram.reply(bytes(longest + 1))
        assert refused.value.errno == errno.EMSGSIZE
        await datagram.reply(bytes(longest))

    async with serving(handler, f"udp://{host}:0") as server:
        with client(server.addresses[0], "") as sock:
            sock.send(b"?")
            assert await receive(sock) == bytes(longest)
            assert server.stats.datagrams_out == 1
            assert server.stats.handler_errors == 0


# -- turns -------------------------------------------------------------------------------------------


class Turns:
    """Counts the turns of the loop."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.count = 0
        self.counting = True
        self.loop.call_soon(self._turn)

    def _turn(self):
        self.count += 1
        if self.counting:
            self.loop.call_soon(self._turn)


@pytest.mark.parametrize("sockets", [1, 2, 32])
async def test_full_queues_are_read_in_several_turns(sockets):
    queued = 4 * BATCH // min(sockets, 8)
    seen = []
    done = asyncio.Event()

    async def handler(datagram):
        seen.append(turns.count)
        if len(seen) == sockets * queued:
            done.set()

    urls = ["udp://127.0.0.1:0"] * sockets
    limits = Limits(datagrams=None)
    async with (
        serving(handler, *urls, limits=limits) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        for address in server.addresses:
            sock = stack.enter_context(client(address, ""))
            for _ in range(queued):
                sock.send(b"x")
        turns = Turns()
        await done.wait()
        turns.counting = False
    late = 1 if sys.version_info >= (3, 12) else 2  # there the first start a turn later
    assert max(seen.count(each) for each in set(seen)) <= late * max(BATCH, sockets * LEAST)


@pytest.mark.parametrize("handlers", [1, 100])
async def test_handlers_that_only_reply_let_others_have_their_turn(handlers):
    replies = 20 * STEPS
    seen = []
    done = asyncio.Event()

    async def handler(datagram):
        for _ in range(replies // handlers):
            await datagram.reply(b"x")
            seen.append(turns.count)
        if len(seen) == replies // handlers * handlers:
            done.set()

    async with serving(handler, "udp://127.0.0.1:0", limits=Limits(datagrams=None)) as server:
        with client(server.addresses[0], "") as sock:
            turns = Turns()
            for _ in range(handlers):
                sock.send(b"x")
            await done.wait()
            turns.counting = False
            # No more than the budget, and one for everybody who has had none yet.
            most = STEPS + 2 * handlers + 1
            assert max(seen.count(each) for each in set(seen)) <= most


async def test_one_reply_to_each_costs_no_turn():
    """The usual handler never waits: the answer is there as soon as the question was read."""
    tasks = set()

    async def handler(datagram):
        tasks.add(asyncio.current_task())
        await datagram.reply(datagram.data)

    async with serving(handler, "udp://127.0.0.1:0") as server:
        with client(server.addresses[0], "") as sock:
            for number in range(2 * STEPS):
                sock.send(b"%d" % number)
            for number in range(2 * STEPS):
                assert await receive(sock) == b"%d" % number
    # Where Python has no eager tasks, all of the first turn need one.
    assert len(tasks) <= (1 if sys.version_info >= (3, 12) else 1 + BATCH)


class EchoProtocol(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


async def test_protocol_factory(dgram, directory):
    before = descriptors()
    async with serving(EchoProtocol, dgram) as server:
        with client(server.addresses[0], directory) as sock:
            sock.send(b"hello")
            assert await receive(sock) == b"hello"
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert descriptors() == before


async def test_a_reply_is_given_on_the_servers_own_loop_only(dgram, directory):
    async def elsewhere(datagram):
        with pytest.raises(ServerStateError, match="belongs to another event loop: write loop"):
            await datagram.reply(b"from elsewhere")

    async def handler(datagram):
        await asyncio.to_thread(asyncio.run, elsewhere(datagram))
        await datagram.reply(b"from here")

    async with serving(handler, dgram) as server:
        with client(server.addresses[0], directory) as sock:
            sock.send(b"x")
            assert await receive(sock) == b"from here"
            assert server.stats.datagrams_out == 1
