"""The TLS engine, which knows no loop: what it takes at a time, and what it says about it."""

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator

import pytest

from asyncserver._tls.engine import HEADER, MOST_WITHOUT_DATA, TURN, Engine
from tests.conftest import TLS
from tests.tlspeer import Peer


@pytest.fixture
def peer(authority, tmp_path) -> Peer:
    return Peer(authority, tmp_path)


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
PIECES = [1, 4, 5, 6, 100, 16_000, 1_000_000]


def cut(said: bytes, pieces: int) -> Iterator[bytes]:
    return (said[start : start + pieces] for start in range(0, len(said), pieces))


def shake(context: ssl.SSLContext, peer: Peer, pieces: int = 1_000_000) -> Engine:
    """Shake hands with what the client says `pieces` bytes at a time."""
    engine = Engine(context)
    said = peer.shake()
    while said:
        for piece in cut(said, pieces):
            assert not engine.shaken
            engine.feed(piece)
            assert engine.shake() is engine.shaken
        said = peer.shake(engine.take())
    assert engine.shaken
    return engine


def everything(engine: Engine, said: bytes, pieces: int) -> tuple[bytes, int]:
    """Return all data, and how many calls brought some."""
    data, calls = b"", 0
    for piece in cut(said, pieces):
        said_now = [engine.decrypt(piece)]
        while engine.ready:
            said_now.append(engine.decrypt())
        data += b"".join(said_now)
        calls += sum(map(bool, said_now))
    return data, calls


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pieces", PIECES)
def test_handshake_in_pieces(pieces, version, tls: TLS, authority, tmp_path):
    peer = Peer(authority, tmp_path, version)
    engine = shake(tls.server, peer, pieces)
    assert peer.shaken
    assert peer.tls.version() == engine.tls.version()
    assert peer.hear(engine.encrypt(b"hello")) == b"hello"
    assert engine.decrypt(peer.say(b"hello")) == b"hello"


@pytest.mark.parametrize("pieces", PIECES)
def test_what_comes_right_behind_the_handshake_is_decrypted_when_it_is_asked_for(
    pieces, tls: TLS, peer
):
    engine = Engine(tls.server)
    engine.feed(peer.shake())
    assert not engine.shake()
    behind = [b"hello", bytes(20_000)]
    said = peer.shake(engine.take()) + peer.say(*behind) + peer.say_close_notify() + b"trailing"
    for piece in cut(said, pieces):
        engine.feed(piece)
        if not engine.shaken:
            engine.shake()
    assert engine.waiting
    data = b""
    while engine.ready:
        data += engine.decrypt()
    assert data == b"".join(behind)
    assert engine.ended
    assert not engine.waiting


def test_handshake_that_fails_leaves_its_alert(tls: TLS):
    engine = Engine(tls.server)
    engine.feed(b"\x16\x03\x01\x00\x05hello")
    with pytest.raises(ssl.SSLError):
        engine.shake()
    assert engine.take()[:1] == b"\x15"  # RFC 8446, section 5.1: alert
    assert not engine.shaken


def test_tickets_go_out_with_what_is_sent_first(tls: TLS, peer):
    engine = shake(tls.server, peer)
    assert engine.take() == b""
    assert not engine.pending
    engine.say_close_notify()
    size = engine.pending
    assert len(engine.take()) > size + 100  # and they are in front of it
    assert engine.take() == b""


def test_long_and_short_are_encrypted_whole(tls: TLS, peer):
    engine = shake(tls.server, peer)
    for size in (1, 100, 16_384, 16_385, 100_000):
        data = os.urandom(size)
        for kind in (bytes, bytearray, memoryview):
            assert peer.hear(engine.encrypt(kind(data))) == data


def test_nothing_is_encrypted_behind_our_end(tls: TLS, peer):
    engine = shake(tls.server, peer)
    engine.say_close_notify()
    with pytest.raises(ssl.SSLError):
        engine.encrypt(b"late")


@pytest.mark.parametrize("pieces", PIECES)
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


def test_end_of_a_peer_that_heard_ours(tls: TLS, peer):
    engine = shake(tls.server, peer)
    engine.say_close_notify()
    assert peer.hear(engine.take()) == b""
    assert engine.decrypt(peer.say_close_notify()) == b""
    assert engine.ended
    assert engine.error is None
    assert not engine.calm


# -- OpenSSL's own end ----------------------------------------------------------------------------


class SClient:
    """`openssl s_client` on a connection to us."""

    def __init__(self, tls: TLS, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(20)
            self.program = subprocess.Popen(
                [
                    "openssl", "s_client", "-connect", f"127.0.0.1:{listener.getsockname()[1]}",
                    "-CAfile", tls.authority, "-verify_return_error", "-quiet", "-no_ign_eof", *options,
                ],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            self.sock, _ = listener.accept()
        self.sock.settimeout(20)

    def said(self) -> bytes:
        data = self.sock.recv(100_000)
        assert data, "it left without close_notify"
        return data

    def close(self) -> None:
        with self.program, self.sock:
            self.program.kill()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("pieces", [1, 5, 1_000_000])
def test_conversation_with_openssl(pieces, version, tls: TLS):
    engine = Engine(tls.server)
    client = SClient(tls, version)
    program = client.program
    assert program.stdin is not None
    assert program.stdout is not None
    data = b"line of text\n" * 2000
    try:
        while not engine.shaken:
            for piece in cut(client.said(), pieces):
                engine.feed(piece)
                if not engine.shaken:
                    engine.shake()
            client.sock.sendall(engine.take())
        program.stdin.write(data)
        program.stdin.flush()
        got = b""
        while len(got) < len(data):
            got += everything(engine, client.said(), pieces)[0]
        assert got == data
        client.sock.sendall(engine.encrypt(data))
        assert program.stdout.read(len(data)) == data
        program.stdin.close()  # it says close_notify
        while not engine.ended:
            assert everything(engine, client.said(), pieces)[0] == b""
        assert engine.error is None
    finally:
        client.close()
