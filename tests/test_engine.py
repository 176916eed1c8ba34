"""The TLS engine, which knows no loop: what it takes at a time, and what it says about it."""

import os
import ssl

import pytest

from asyncserver._tls.engine import HEADER, MOST_WITHOUT_DATA, TURN, Engine
from tests.conftest import TLS
from tests.tlspeer import Peer


@pytest.fixture
def peer(authority, tmp_path) -> Peer:
    return Peer(authority, tmp_path)


def shake(context: ssl.SSLContext, peer: Peer) -> Engine:
    engine = Engine(context)
    said = peer.shake()
    while said:
        engine.feed(said)
        engine.shake()
        said = peer.shake(engine.take())
    assert engine.shaken
    return engine


def everything(engine: Engine, said: bytes, pieces: int) -> tuple[bytes, int]:
    """Return all data, and how many calls brought some."""
    data, calls = b"", 0
    for start in range(0, len(said), pieces):
        came = said[start : start + pieces]
        while True:
            plain = engine.decrypt(came)
            data += plain
            calls += bool(plain)
            came = b""
            if not engine.ready:
                break
    return data, calls


@pytest.mark.parametrize("pieces", [1, 4, 5, 6, 100, 16_000, 1_000_000])
def test_data_and_end_in_pieces(pieces, tls: TLS, peer):
    engine = shake(tls.server, peer)
    data = os.urandom(20_000)
    said = peer.say(data[:1], data[1:3000], data[3000:]) + peer.say_close_notify() + b"trailing"
    assert everything(engine, said, pieces)[0] == data
    assert engine.ended
    assert engine.decrypt(peer.records(sent=4).data(b"evil")) == b""
    assert not engine.waiting
    assert not engine.calm
    assert engine.error is None


def test_one_record_is_calm(tls: TLS, peer):
    engine = shake(tls.server, peer)
    assert engine.decrypt(peer.say(b"hello")) == b"hello"
    assert engine.calm
    assert engine.decrypt(peer.say(b"hello")[:HEADER]) == b""
    assert engine.calm


@pytest.mark.parametrize("size", [1, 100, 16_384])
def test_call_returns_a_turns_worth(size, tls: TLS, peer):
    engine = shake(tls.server, peer)
    came = peer.say(*[b"x" * size] * 200)
    calls = [engine.decrypt(came)]
    while engine.ready:
        assert not engine.calm
        calls.append(engine.decrypt())
    assert engine.calm
    assert sum(map(len, calls)) == 200 * size
    assert max(map(len, calls)) <= TURN
    assert len(calls) >= 200 * size / TURN
    assert len(calls) >= 3  # each record has its price


def test_key_updates_are_answered_and_counted(tls: TLS, peer):
    engine = shake(tls.server, peer)
    by_hand = peer.records()
    answers = b""
    for _ in range(2):  # data between them begins the count again
        for _ in range(MOST_WITHOUT_DATA):
            assert engine.decrypt(by_hand.key_update(answer=True)) == b""
            assert not engine.calm
            answers += engine.take()
        assert engine.decrypt(by_hand.data(b"x")) == b"x"
        assert engine.calm
    assert answers
    for _ in range(MOST_WITHOUT_DATA):
        engine.decrypt(by_hand.key_update(answer=False))
    engine.encrypt(b"our data does, too")
    engine.decrypt(by_hand.key_update(answer=False))
    assert engine.error is None
    for _ in range(MOST_WITHOUT_DATA):
        engine.decrypt(by_hand.key_update(answer=False))
    assert engine.error is not None


def test_garbage_is_known_by_its_header(tls: TLS, peer):
    engine = shake(tls.server, peer)
    assert engine.decrypt(peer.say(b"hello") + b"EVIL\r") == b"hello"
    assert isinstance(engine.error, ssl.SSLError)
    assert not engine.ended
    assert engine.pending  # the alert


def test_half_close_in_the_middle_of_a_record(tls: TLS, peer):
    engine = shake(tls.server, peer)
    said = peer.say(b"hello")
    assert engine.decrypt(said[:-1]) == b""
    engine.say_close_notify()
    assert peer.hear(engine.take()) == b""
    assert peer.ended
    assert engine.decrypt(said[-1:]) == b"hello"
