"""The states of a connection: the tables, and that whatever happens to one is a move that they have."""

import asyncio
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncserver._stream.budget import TurnBudget
from asyncserver._stream.protocol import StreamProtocol
from asyncserver._stream.states import MOVES, Asked, Receiving, Sending, move

KINDS: tuple[type[Enum], ...] = (Receiving, Sending, Asked)


def test_every_state_is_in_the_table_and_moves_to_its_own_kind():
    assert set(MOVES) == {state for kind in KINDS for state in kind}
    for state, following in MOVES.items():
        assert all(type(each) is type(state) for each in following)
        assert state not in following


@pytest.mark.parametrize("kind", KINDS)
def test_every_state_can_be_reached_and_there_is_an_end(kind):
    first = next(iter(kind))
    reached, fresh = {first}, [first]
    while fresh:
        for each in MOVES[fresh.pop()] - reached:
            reached.add(each)
            fresh.append(each)
    assert reached == set(kind)
    assert any(not MOVES[state] for state in kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_move_that_is_not_in_the_table_is_refused(kind):
    for state in kind:
        for to in kind:
            if to in MOVES[state]:
                assert move(state, to) is to
            else:
                with pytest.raises(AssertionError, match=f"{state} cannot become {to}"):
                    move(state, to)


class Transport:
    """Bytes that go nowhere."""

    def __init__(self):
        self.closing = False

    def is_closing(self):
        return self.closing

    def close(self):
        self.closing = True

    abort = close

    def write(self, data):
        pass

    def write_eof(self):
        pass

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass

    def get_write_buffer_size(self):
        return 0


# What the transport, the handler and the server may do, in any order.
DEEDS = {
    "data": lambda it: it.data_received(b"x"),
    "end": lambda it: it.eof_received(),
    "lost": lambda it: it.connection_lost(None),
    "reset": lambda it: it.connection_lost(ConnectionResetError()),
    "write": lambda it: it.write(b"x") if it.sending is Sending.OPEN else None,
    "transport closes": lambda it: it.transport.close(),
    "shut": lambda it: it.shut() if it.sending is Sending.OPEN else None,
    "mute": lambda it: it.mute(),
    "close": lambda it: it.close_transport(),
    "abort": lambda it: it.abort_transport(),
    "upgrade": lambda it: it.begin_upgrade() if it.sending is Sending.OPEN else None,
    "upgraded": lambda it: it.end_upgrade(Transport()),
    "idle": lambda it: it.stop_reading(TimeoutError()),
    "fail": lambda it: it.fail(TimeoutError()),
    "spare": lambda it: it.finish(spared=True) if it.asked is Asked.NO else None,
    "ask": lambda it: it.finish(spared=False),
}


@settings(deadline=None)
@given(st.lists(st.sampled_from(sorted(DEEDS)), max_size=30))
def test_whatever_happens_is_a_move_of_the_table(deeds):
    loop = asyncio.new_event_loop()
    try:
        protocol: Any = StreamProtocol(loop, 2**16, TurnBudget(loop))
        protocol.connection_made(Transport())
        for deed in deeds:
            before = protocol.receiving, protocol.sending, protocol.asked
            DEEDS[deed](protocol)
            after = protocol.receiving, protocol.sending, protocol.asked
            for old, new in zip(before, after, strict=True):
                assert new is old or is_reachable(old, new)
            closed = protocol.sending in {Sending.CLOSING, Sending.CLOSED}
            assert closed == (protocol.receiving is Receiving.CLOSED)
            assert not protocol.ended or protocol.receiving is not Receiving.OPEN
    finally:
        loop.close()


def is_reachable(old: Enum, new: Enum) -> bool:
    return new in MOVES[old] or any(is_reachable(each, new) for each in MOVES[old])
