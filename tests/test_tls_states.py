"""The tables of the TLS transport, and that it keeps to them whatever happens in whatever order."""

import asyncio
import random
import re
from collections.abc import Callable
from enum import Enum

import pytest

from asyncserver import HandshakeError
from asyncserver._tls.engine import TURN
from asyncserver._tls.states import MOVES, Receiving, Sending, Wire, advance
from asyncserver._tls.transport import TLSTransport
from tests.conftest import TLS
from tests.tlspeer import Above, Below, BufferedAbove, Peer, put_on, shake, turns

STATES = [*Receiving, *Sending, *Wire]


@pytest.fixture
def peer(authority, tmp_path) -> Peer:
    return Peer(authority, tmp_path)


def states(layer: TLSTransport) -> list[str]:
    """What its repr() says: what comes, what goes, and the transport below."""
    found = re.fullmatch(r"<TLSTransport receiving (\w+), sending (\w+), wire (\w+)>", repr(layer))
    assert found is not None, repr(layer)
    return list(found.groups())


@pytest.mark.parametrize("kind", [Receiving, Sending, Wire])
def test_every_state_has_its_moves_within_its_own_table(kind):
    for state in kind:
        assert state not in MOVES[state]
        assert all(isinstance(to, kind) for to in MOVES[state])


@pytest.mark.parametrize("kind", [Receiving, Sending, Wire])
def test_every_state_can_be_reached_and_none_twice(kind):
    """But for a transport below that is paused and resumed."""
    first = next(iter(kind))
    seen, edge = {first}, {first}
    while edge:
        edge = {to for state in edge for to in MOVES[state]} - seen
        seen |= edge
    assert seen == set(kind)

    def circle(state: Enum, way: tuple[Enum, ...] = ()) -> bool:
        return state in way or any(circle(to, (*way, state)) for to in MOVES[state] - {Wire.HELD})

    assert not circle(first)


@pytest.mark.parametrize("state", STATES)
def test_illegal_moves_raise(state):
    for to in STATES:
        if to in MOVES[state]:
            assert advance(state, to) is to
        else:
            with pytest.raises(RuntimeError, match=f"{to.value}: it is {state.value}"):
                advance(state, to)


def test_an_end_is_the_end():
    for state in (Receiving.ENDED, Receiving.TRUNCATED, Receiving.FAILED, Receiving.CLOSED):
        assert not MOVES[state]
    assert not MOVES[Sending.CLOSED]
    assert Sending.OPEN not in MOVES[Sending.SHUT] | MOVES[Sending.CLOSING]


async def test_an_illegal_move_of_the_transport_below_raises(tls: TLS, peer):
    _, layer = await shake(tls.server, peer)
    put_on(layer, Above())
    layer.eof_received()
    with pytest.raises(RuntimeError, match="wire cannot become ended"):
        layer.eof_received()
    layer.connection_lost(None)
    with pytest.raises(RuntimeError, match="wire cannot become lost"):
        layer.connection_lost(None)


# -- a life ---------------------------------------------------------------------------------------


async def test_a_life_in_states(tls: TLS, peer):
    below = Below()
    below.layer = layer = TLSTransport(tls.server)
    layer.connection_made(below)
    assert states(layer) == ["handshaking", "open", "flowing"]
    layer.data_received(peer.shake())
    await turns()
    layer.data_received(peer.shake(below.take()))
    await layer.handshake()
    assert states(layer) == ["waiting", "open", "flowing"]
    above = put_on(layer, Above())
    assert states(layer) == ["open", "open", "flowing"]
    layer.pause_reading()
    assert states(layer) == ["open", "open", "held"]
    layer.resume_reading()
    assert states(layer) == ["open", "open", "flowing"]
    layer.data_received(peer.say_close_notify())
    assert states(layer) == ["ended", "open", "flowing"]
    layer.write(bytes(2 * TURN))
    layer.write_eof()
    assert states(layer) == ["ended", "finishing", "flowing"]
    await turns(9)
    assert states(layer) == ["ended", "shut", "flowing"]
    layer.eof_received()
    assert states(layer) == ["ended", "shut", "ended"]
    layer.close()
    assert states(layer) == ["ended", "closed", "ended"]
    await turns()
    assert states(layer) == ["ended", "closed", "gone"]
    assert above.calls == ["eof", "pause", "resume", ("lost", None)]


async def test_states_of_a_transport_that_closes(tls: TLS, peer):
    _, layer = await shake(tls.server, peer)
    put_on(layer, Above())
    layer.write(bytes(2 * TURN))
    layer.close()
    assert states(layer) == ["closed", "closing", "flowing"]
    layer.close()
    await turns(9)
    assert states(layer) == ["closed", "closed", "lost"]


async def test_states_of_a_stream_that_is_cut(tls: TLS, peer):
    _, layer = await shake(tls.server, peer)
    put_on(layer, Above())
    layer.eof_received()
    assert states(layer) == ["truncated", "open", "ended"]
    layer.close()
    await turns()
    assert states(layer) == ["truncated", "closed", "gone"]
    assert layer.truncated


async def test_states_of_what_fails(tls: TLS, peer):
    _, layer = await shake(tls.server, peer)
    put_on(layer, Above())
    layer.data_received(b"EVIL\r\n")
    assert states(layer) == ["failed", "closed", "flowing"]
    failing = TLSTransport(tls.server)
    below = Below()
    below.layer = failing
    failing.connection_made(below)
    failing.data_received(b"EVIL\r\n")
    with pytest.raises(HandshakeError):
        await failing.handshake()
    await turns()
    assert states(layer) == states(failing) == ["failed", "closed", "lost"]


async def test_states_of_a_reset_with_data_that_waits(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    put_on(layer, Above())
    layer.pause_reading()
    layer.data_received(peer.say(b"hello"))
    below.lose(ConnectionResetError())
    assert states(layer) == ["open", "closed", "lost"]
    layer.resume_reading()
    await turns()
    assert states(layer) == ["closed", "closed", "lost"]


# -- at random ------------------------------------------------------------------------------------


class Walk:
    """A conversation in which things happen in any order, and what must hold in the end."""

    def __init__(self, dice: random.Random, below: Below, layer: TLSTransport, peer: Peer) -> None:
        self.dice, self.below, self.layer, self.peer = dice, below, layer, peer
        self.above = put_on(layer, dice.choice([Above, BufferedAbove])())
        self.above.keep_open = dice.random() < 0.8
        self.said = self.heard = self.wrote = b""
        self.full = self.ended = self.finished = self.failed = False

    def happenings(self) -> list[Callable[[], object]]:
        layer, below = self.layer, self.below
        free: list[Callable[[], object]] = [layer.pause_reading, layer.resume_reading]
        free += [self.change_flow, lambda: None]
        if self.dice.random() < 0.3:
            free += [self.finish, layer.close, layer.abort]
        if not self.finished:
            free += [self.write] * 4
        if below.reading and not self.ended and not below.is_closing():
            free += [self.say] * 6
            if self.dice.random() < 0.3:
                free += [self.say_close_notify, self.end, self.say_rubbish]
        if not below.is_closing() and self.dice.random() < 0.2:
            free += [lambda: below.lose(ConnectionResetError())]
        return free

    def say(self) -> None:
        if self.peer.said_close_notify:
            self.layer.data_received(bytes(9))  # is ignored, whatever it is
            return
        size = self.dice.choice([1, 100, 16_384])
        data = [self.dice.randbytes(size) for _ in range(self.dice.choice([1, 2, 20]))]
        self.said += b"".join(data)
        self.layer.data_received(self.peer.say(*data))

    def say_close_notify(self) -> None:
        self.layer.data_received(self.peer.say_close_notify())

    def say_rubbish(self) -> None:
        self.failed = True
        self.layer.data_received(b"rubbish")

    def end(self) -> None:
        self.ended = True
        self.layer.eof_received()

    def write(self) -> None:
        data = self.dice.randbytes(self.dice.choice([1, 100, 16_384, 3 * TURN]))
        if not self.layer.is_closing():
            self.wrote += data
        self.layer.write(data)

    def finish(self) -> None:
        self.finished = True
        self.layer.write_eof()

    def change_flow(self) -> None:
        if not self.below.is_closing():
            self.full = not self.full
            (self.layer.pause_writing if self.full else self.layer.resume_writing)()

    async def go(self) -> None:
        for _ in range(self.dice.randrange(60)):
            self.dice.choice(self.happenings())()
            if self.dice.random() < 0.5:
                await turns(1)
            self.heard += self.peer.hear(self.below.take())
        if self.full and not self.below.is_closing():
            self.layer.resume_writing()
        if self.dice.random() < 0.5:
            self.layer.close()
        self.layer.resume_reading()
        await turns(90)
        self.layer.abort()
        await turns(90)
        self.heard += self.peer.hear(self.below.take())

    def check(self) -> None:
        calls = self.above.calls
        assert self.said.startswith(self.above.data)
        assert self.wrote.startswith(self.heard)
        if self.peer.ended and not self.peer.alert:
            assert self.heard == self.wrote  # whole, in front of close_notify
        assert self.failed or not self.peer.alert
        assert calls[-1][0] == "lost"
        assert [call[0] for call in calls if isinstance(call, tuple)] == ["lost"]
        assert calls.count("eof") <= 1
        if "eof" in calls and not self.layer.truncated:
            assert self.above.data == self.said
        flow = [call for call in calls if call in ("pause", "resume")]
        assert flow == ["pause", "resume"] * (len(flow) // 2) + ["pause"] * (len(flow) % 2)
        receiving, sending, wire = states(self.layer)
        assert receiving in {"ended", "truncated", "failed", "closed"}
        assert sending == "closed"
        assert wire in {"lost", "gone"}


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_happens_in_whatever_order(seed, tls: TLS, authority, tmp_path):
    wrong: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
    dice = random.Random(seed)  # to be had again
    for _ in range(5):
        peer = Peer(authority, tmp_path)
        walk = Walk(dice, *await shake(tls.server, peer), peer)
        await walk.go()
        walk.check()
    assert wrong == []
