"""A peer that does not read costs nothing to wait for, and takes nothing from the others."""

import asyncio
import contextlib
import itertools
import socket
from collections import deque

import pytest

from asyncserver import ConnectionBroken, ConnectionClosed, DeadlineExceeded, Limits, Timeouts
from asyncserver.datagram import DatagramEndpoint
from asyncserver.events import Disconnected, Failed
from asyncserver.outbox import BURST, PROBES, Outbox
from tests.conftest import descriptors, serving
from tests.test_datagram import receive

CONNECTED = pytest.mark.parametrize("connected", [True, False], ids=["connected", "unconnected"])
COUNT = 300


class Peer:
    """A client of a Unix datagram server; it is the kernel's matter whether it has connected."""

    numbers = itertools.count()

    def __init__(self, server, directory, *, connected):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.name = f"{directory}/peer{next(self.numbers)}"
        self.sock.bind(self.name)
        self.path = server.addresses[0].path
        if connected:
            self.sock.connect(self.path)
        self.connected = connected

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    async def send(self, data):
        """Send as soon as the server's own queue has room."""
        while True:
            try:
                if self.connected:
                    self.sock.send(data)
                else:
                    self.sock.sendto(data, self.path)
            except BlockingIOError:
                await asyncio.sleep(0)
            else:
                return

    async def ask(self, data):
        await self.send(data)
        return await receive(self.sock)


async def taken(server, count):
    """Wait until the server has had so many datagrams."""
    while server.stats.datagrams_in + server.stats.datagrams_dropped < count:
        await asyncio.sleep(0)


async def echo(datagram):
    await datagram.reply(datagram.data)


@contextlib.asynccontextmanager
async def echoing(directory, handler=echo, **options):
    async with serving(handler, f"unixgram://{directory}/server.sock", **options) as server:
        yield server


@CONNECTED
@pytest.mark.parametrize("flooding", [1, 8, 50])
async def test_others_are_served_while_some_read_nothing(directory, connected, flooding):
    async with echoing(directory) as server, contextlib.AsyncExitStack() as stack:
        floods = [Peer(server, directory, connected=connected) for _ in range(flooding)]
        good = [Peer(server, directory, connected=each) for each in (True, False)]
        for each in floods + good:
            stack.enter_context(each)
        for number in range(60):
            for each in floods * (50 // flooding):
                await each.send(b"flood %d" % number)
            for each in good:
                assert await each.ask(b"good %d" % number) == b"good %d" % number
        assert server.stats.datagrams_dropped > 0


async def test_others_have_places_while_all_handlers_of_some_are_slow(directory):
    go = asyncio.Event()

    async def handler(datagram):
        if datagram.data == b"slow":
            await go.wait()
        await datagram.reply(datagram.data)

    async with echoing(directory, handler) as server, contextlib.AsyncExitStack() as stack:
        slow = [Peer(server, directory, connected=True) for _ in range(50)]
        for each in slow:
            stack.enter_context(each)
            for _ in range(100):
                await each.send(b"slow")
        with Peer(server, directory, connected=True) as good:
            assert await good.ask(b"quick") == b"quick"
        go.set()


@pytest.mark.parametrize("limit", [3, 10, 64, 1000])
async def test_no_peer_has_all_places(limit):
    go = asyncio.Event()

    async def handler(datagram):
        if datagram.data == b"slow":
            await go.wait()
        await datagram.reply(datagram.data)

    async with serving(handler, "udp://127.0.0.1:0", limits=Limits(datagrams=limit)) as server:
        address = server.addresses[0]
        with contextlib.ExitStack() as stack:
            slow, good = [
                stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in "12"
            ]
            for sock in (slow, good):
                sock.connect((address.host, address.port))
            for number in range(2 * limit):
                slow.send(b"slow")
                await taken(server, number + 1)
            assert 0 < server.stats.datagrams_in < limit
            assert server.stats.datagrams_dropped == 2 * limit - server.stats.datagrams_in
            good.setblocking(False)
            good.send(b"quick")
            assert await receive(good) == b"quick"
            go.set()


async def test_those_without_a_name_share(directory):
    go = asyncio.Event()

    async def handler(datagram):
        if not datagram.peer:
            await go.wait()
        await datagram.reply(datagram.data)

    async with echoing(directory, handler, limits=Limits(datagrams=10)) as server:
        for number in range(20):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
                nameless.connect(server.addresses[0].path)
                nameless.send(b"slow")
            await taken(server, number + 1)
        assert server.stats.datagrams_in < 10
        with Peer(server, directory, connected=True) as good:
            assert await good.ask(b"quick") == b"quick"
        go.set()


@CONNECTED
async def test_nothing_is_lost_and_nothing_overtakes(directory, connected):
    """However long it waits, a peer gets its replies in the order of its questions."""
    async with echoing(directory, limits=Limits(datagrams=None)) as server:
        with Peer(server, directory, connected=connected) as late:
            for number in range(COUNT * 10):
                await late.send(b"%d" % number)
            await taken(server, COUNT * 10)
            assert server.stats.datagrams_out < COUNT * 10
            for number in range(COUNT * 10):
                assert await receive(late.sock) == b"%d" % number


@CONNECTED
async def test_a_later_reply_does_not_overtake_one_that_waits(directory, connected):
    parts = COUNT * 10

    async def handler(datagram):
        for number in range(parts if datagram.data == b"many" else 1):
            await datagram.reply(b"%s %d" % (datagram.data, number))

    async with echoing(directory, handler) as server:
        with Peer(server, directory, connected=connected) as late:
            await late.send(b"many")
            out = -1
            while server.stats.datagrams_out != out:  # until it waits
                out = server.stats.datagrams_out
                for _ in range(5):
                    await asyncio.sleep(0)
            await late.send(b"one")
            await taken(server, 2)
            got = [await receive(late.sock) for _ in range(parts + 1)]
            many = [each for each in got if each.startswith(b"many")]
            assert many == [b"many %d" % number for number in range(parts)]
            assert got.index(b"one 0") >= out


@CONNECTED
@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_waiting_for_one_that_does_not_read_is_free(
    directory, connected, monkeypatch, recorder
):
    tries = 0
    send = DatagramEndpoint.try_send

    def counting(*args):
        nonlocal tries
        tries += 1
        return send(*args)

    monkeypatch.setattr(DatagramEndpoint, "try_send", counting)
    timeouts = Timeouts(write=30)
    async with echoing(directory, timeouts=timeouts, observers=[recorder]) as server:
        with Peer(server, directory, connected=connected) as flood:
            for number in range(1000):
                await flood.send(b"%d" % number)
            await taken(server, 1000)
            for _ in range(100):
                await asyncio.sleep(0)
            tried, waiting = tries, len(server._crew.packets.waiting)
            assert waiting > 10
            await asyncio.sleep(29)
            assert tries == tried
            assert len(server._crew.packets.waiting) == waiting
            await asyncio.sleep(2)
            assert not server._crew.packets.waiting
            assert tries == tried
    expired = recorder.of(Disconnected)
    assert len(expired) == waiting
    assert all(isinstance(each.error, DeadlineExceeded) for each in expired)
    assert {each.error.deadline for each in expired} == {"write"}


@CONNECTED
async def test_one_that_goes_while_replies_wait(directory, connected, recorder):
    async with echoing(directory, observers=[recorder]) as server:
        with Peer(server, directory, connected=connected) as gone:
            for number in range(1000):
                await gone.send(b"%d" % number)
            await taken(server, 1000)
        told = await recorder.wait_for(Disconnected)
        assert isinstance(told.error, ConnectionBroken)
        while server._crew.packets.waiting:
            await asyncio.sleep(0)
    assert recorder.of(Failed) == []


@CONNECTED
async def test_one_that_is_cancelled_while_it_waits_sends_nothing(directory, connected):
    waiting: asyncio.Queue[asyncio.Task[None]] = asyncio.Queue()

    async def handler(datagram):
        task = asyncio.current_task()
        assert task is not None
        if datagram.data == b"wait":
            waiting.put_nowait(task)
        await datagram.reply(datagram.data)

    async with echoing(directory, handler, limits=Limits(datagrams=None)) as server:
        with Peer(server, directory, connected=connected) as late:
            for _ in range(COUNT * 10):
                await late.send(b"fill")
            await late.send(b"wait")
            await late.send(b"last")
            await taken(server, COUNT * 10 + 2)
            (await waiting.get()).cancel()
            got = [await receive(late.sock) for _ in range(COUNT * 10 + 1)]
            assert got == [b"fill"] * COUNT * 10 + [b"last"]


@CONNECTED
async def test_nothing_is_left(directory, connected):
    before, tasks = descriptors(), asyncio.all_tasks()
    outcomes = []

    async def stubborn(datagram):
        for _ in range(2):  # the second time, nobody cancels it any more
            try:
                while True:
                    await datagram.reply(datagram.data)
            except (asyncio.CancelledError, ConnectionClosed) as exc:
                outcomes.append(type(exc))

    with contextlib.ExitStack() as stack:
        async with echoing(directory, stubborn, timeouts=Timeouts(cleanup=0.01)) as server:
            for _ in range(PROBES + 10):
                peer = stack.enter_context(Peer(server, directory, connected=connected))
                await peer.send(b"x")
            await taken(server, PROBES + 10)
            for _ in range(1000):
                await asyncio.sleep(0)
            assert descriptors() <= before + 2 * (PROBES + 10)  # ours, and those of the peers
    while asyncio.all_tasks() != tasks:
        await asyncio.sleep(0)
    assert descriptors() == before
    assert outcomes.count(asyncio.CancelledError) == outcomes.count(ConnectionClosed) == PROBES + 10


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_a_socket_that_has_no_room_though_it_says_so_is_asked_now_and_then():
    tries = []

    def send(data, peer, control):
        tries.append(data)
        return asyncio.get_running_loop().time() - start > 1  # as with ENOBUFS

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        outbox = Outbox(sock, send)
        start = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for data in (b"1", b"2", b"3"):
                group.create_task(outbox.wait(data, ("127.0.0.1", 9), [], 30))
            await asyncio.sleep(0)
            assert outbox.watchful
            assert not outbox.try_send(b"4", ("127.0.0.1", 10), [])
        assert len(tries) < 30
        assert [tries[0], *tries[-2:]] == [b"1", b"2", b"3"]
        outbox.close()


# -- without a server ------------------------------------------------------------------------------


@pytest.fixture
def bound(directory):
    """A bound Unix socket, and the path of another one."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer,
    ):
        sock.setblocking(False)
        sock.bind(f"{directory}/ours")
        peer.bind(f"{directory}/peer")
        yield sock, f"{directory}/peer"


@pytest.fixture
def datagrams():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        yield sock


async def test_only_so_many_lines_have_a_descriptor_of_their_own(bound):
    sock, peer = bound
    outbox = Outbox(sock, lambda *_: False)
    outbox._probes = dict.fromkeys(range(PROBES - 1), sock)
    probe = outbox._probe(peer)
    assert probe is not None
    outbox._probes[peer] = probe
    assert outbox._probe(peer) is None
    probe.close()


async def test_a_long_line_that_may_go_on_goes_on_to_its_end(bound):
    """A burst a turn, though nothing more happens to the socket."""
    sock, peer = bound
    sent = []

    def send(data, *_):
        sent.append(data)
        return True

    outbox = Outbox(sock, send)
    loop = asyncio.get_running_loop()
    replies = [b"%d" % number for number in range(3 * BURST)]
    outbox._lines[peer] = deque((loop.create_future(), each, peer, []) for each in replies)
    outbox._advance(peer)
    assert len(sent) == BURST
    for _ in range(4):
        await asyncio.sleep(0)
    assert sent == replies
    assert not outbox._lines
    outbox.close()


async def test_when_no_line_is_held_nobody_looks_who_has_read(bound):
    sock, peer = bound
    outbox = Outbox(sock, lambda *_: True)
    for key in (peer, "another"):
        outbox._hold(key)
    assert outbox._reads is not None
    fileno = outbox._reads.fileno()
    for key in (peer, "another"):
        outbox._unwatch(key)
    assert not asyncio.get_running_loop().remove_reader(fileno)
    outbox.close()


async def test_whatever_sending_raises_reaches_who_waits(datagrams):
    outcomes = [False, LookupError("no")]

    def send(*_):
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    outbox = Outbox(datagrams, send)
    with pytest.raises(LookupError, match="no"):
        async with asyncio.timeout(10):
            await outbox.wait(b"x", ("127.0.0.1", 1), [], None)
    assert not outbox._lines


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_who_does_not_wait_any_more_leaves_nothing_behind(datagrams):
    """Neither a timer that goes on, nor a reply that will never be sent."""
    loop = asyncio.get_running_loop()
    answers = [False, True]
    outbox = Outbox(datagrams, lambda *_: answers.pop(0) if answers else False)
    await outbox.wait(b"x", ("127.0.0.1", 1), [], 1000)
    assert not [each for each in loop._scheduled if not each.cancelled()]  # type: ignore[attr-defined]
    with pytest.raises(DeadlineExceeded):
        await outbox.wait(b"x", ("127.0.0.1", 1), [], 10)
    assert not outbox._lines
    assert not outbox._probes
    assert not outbox.watchful
