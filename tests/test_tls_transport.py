"""The TLS layer alone, between a transport and a protocol of the tests, and a client in memory."""

import asyncio
import gc
import os
import socket
import ssl
from array import array

import pytest

from asyncserver import HandshakeError, UpgradeRefusedError
from asyncserver._tls.engine import TURN
from asyncserver._tls.transport import TLSTransport
from tests.conftest import TLS
from tests.tlspeer import Above, Below, BufferedAbove, Peer, put_on, shake, turns

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
OVERHEAD = 1.02  # more than the records' headers and tags add to long records


@pytest.fixture
def peer(authority, tmp_path) -> Peer:
    return Peer(authority, tmp_path)


async def until(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


# -- whole, in pieces, with something behind ------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pieces", [1, 7, 1000, 1_000_000])
@pytest.mark.parametrize("protocol", [Above, BufferedAbove])
async def test_conversation_in_pieces(protocol, pieces, version, tls: TLS, authority, tmp_path):
    peer = Peer(authority, tmp_path, version)
    below, layer = await shake(tls.server, peer, pieces)
    above = put_on(layer, protocol())
    data = os.urandom(3000)
    said = peer.say(data[:1], data[1:20], data[20:]) + peer.say_close_notify()
    for start in range(0, len(said), pieces):
        layer.data_received(said[start : start + pieces])
        await turns(1)
    await until(lambda: "eof" in above.calls)
    assert above.data == data
    assert above.calls.count("eof") == 1
    layer.write(data)
    layer.close()
    await turns()
    assert peer.hear(below.take()) == data
    assert peer.ended
    assert above.calls[-1] == ("lost", None)
    assert below.state == "closed"


async def test_data_right_behind_the_handshake_waits_for_the_protocol(tls: TLS, peer):
    below = Below()
    below.layer = layer = TLSTransport(tls.server)
    layer.connection_made(below)
    layer.data_received(peer.shake())
    await turns()
    finished = peer.shake(below.take())
    layer.data_received(finished + peer.say(b"hello") + peer.say_close_notify()[:10])
    await layer.handshake()
    above = put_on(layer, Above())
    assert above.data == b"hello"
    assert above.calls == [5]


# -- what is told upwards, and done below ---------------------------------------------------------


async def test_full_transport_pauses_and_resumes_the_protocol(tls: TLS, peer):
    _, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    layer.pause_writing()
    layer.resume_writing()
    assert above.calls == ["pause", "resume"]


async def test_protocol_that_comes_later_hears_that_the_transport_is_full(tls: TLS, peer):
    _, layer = await shake(tls.server, peer)
    layer.pause_writing()
    assert put_on(layer, Above()).calls == ["pause"]


async def test_abort(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    layer.abort()
    assert layer.is_closing()
    assert below.state == "aborted"
    layer.data_received(peer.say(b"too late"))
    layer.write(b"too late")
    await turns()
    assert above.calls == [("lost", None)]
    assert not below.written


async def test_data_behind_close_notify_is_ignored(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    by_hand = peer.records(sent=2)  # a record of data, and close_notify
    said = peer.say(b"hello") + peer.say_close_notify()
    layer.data_received(said + by_hand.data(b"evil"))
    for _ in range(3):
        await turns()
        assert below.reading  # so that we hear when it is gone
        layer.data_received(by_hand.data(b"evil"))
        assert not below.reading  # but only once a turn
    assert above.data == b"hello"
    assert above.calls == [5, "eof"]
    assert below.state == "open"


async def test_alert_goes_out_before_a_failed_handshake_closes(tls: TLS):
    below = Below()
    below.layer = layer = TLSTransport(tls.server)
    layer.connection_made(below)
    layer.data_received(b"\x16\x03\x01\x00\x05hello")
    with pytest.raises(HandshakeError) as raised:
        await layer.handshake()
    assert isinstance(raised.value.__cause__, ssl.SSLError)
    assert below.take()[:1] == b"\x15"  # RFC 8446, section 5.1: alert
    assert below.state == "closed"


async def test_alert_goes_out_before_garbage_aborts(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    layer.data_received(peer.say(b"hello") + b"HELO example.org\r\n")
    await turns()
    assert above.calls[0] == 5
    [(lost, error)] = above.calls[1:]
    assert lost == "lost"
    assert isinstance(error, ssl.SSLError)
    assert below.written
    assert below.state == "aborted"


async def test_buffered_protocol_that_pauses_in_the_middle_gets_the_rest(tls: TLS, peer):
    _, layer = await shake(tls.server, peer)
    above = put_on(layer, BufferedAbove())
    data = os.urandom(100)
    above.pause_at = 14
    layer.data_received(peer.say(data) + peer.say_close_notify())
    await turns()
    assert above.data == data[:14]
    assert above.calls == []
    above.pause_at = 28
    layer.resume_reading()
    await turns()
    assert above.data == data[:28]
    layer.resume_reading()
    await turns()
    assert above.data == data
    assert above.calls == ["eof"]


async def test_protocol_that_replaces_a_buffered_one_gets_the_rest(tls: TLS, peer):
    class Replaced(BufferedAbove):
        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            self.transport.set_protocol(second)

    second = Above()
    _, layer = await shake(tls.server, peer)
    first = put_on(layer, Replaced())
    layer.data_received(peer.say(b"1234567the rest"))
    await turns()
    assert first.data == b"1234567"
    assert second.data == b"the rest"


async def test_half_close_while_data_waits(tls: TLS, peer):
    """OpenSSL itself breaks where it finds data when it says close_notify."""
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    layer.pause_reading()
    layer.data_received(peer.say(b"waiting ") + peer.say(b"whole")[:-3])
    layer.write_eof()
    with pytest.raises(RuntimeError, match=r"write_eof\(\)"):
        layer.write(b"more")
    assert below.state == "shut"
    assert peer.hear(below.take()) == b""
    assert peer.ended
    layer.resume_reading()
    await turns()
    assert above.data == b"waiting "
    layer.data_received(peer.say(b"x")[:0])
    layer.close()
    await turns()
    assert above.calls == [8, ("lost", None)]


async def test_error_of_the_protocol_ends_the_connection(tls: TLS, peer):
    class Broken(Above):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            raise ValueError("broken")

    said: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Broken())
    for _ in range(2):
        layer.data_received(peer.say(b"hello"))
        await turns()
    assert len(above.calls) == 2
    assert isinstance(above.calls[1][1], ValueError)
    assert below.state == "aborted"
    assert [context["protocol"] for context in said] == [above]


@pytest.mark.parametrize("notified", [True, False])
async def test_end_without_close_notify_can_be_told(notified, tls: TLS, peer):
    _, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    layer.data_received(peer.say(b"hello") + (peer.say_close_notify() if notified else b""))
    layer.eof_received()
    await turns()
    assert above.calls == [5, "eof"]
    assert layer.truncated is not notified


# -- a turn's worth -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [Above, BufferedAbove])
@pytest.mark.parametrize("size", [16_384, 1])
async def test_flood_is_delivered_a_turn_at_a_time(size, protocol, tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, protocol())
    count = 1_000_000 // max(size, 100)
    said = peer.say(*[b"x" * size] * count)
    seen = 0
    for start in range(0, len(said), 256_000):
        layer.data_received(said[start : start + 256_000])
        while True:
            assert len(above.data) - seen <= TURN // (1 if size > 1 else 1024)
            seen = len(above.data)
            if below.reading:
                break
            await turns(1)
    assert len(above.data) == count * size


async def test_what_waited_for_a_paused_protocol_comes_a_turn_at_a_time(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    layer.pause_reading()
    layer.data_received(peer.say(*[b"x" * 16_384] * 60))
    await turns()
    assert not above.calls
    assert not below.reading
    layer.resume_reading()
    assert not above.calls  # within the call
    await until(lambda: below.reading)
    assert len(above.data) == 60 * 16_384
    assert max(above.calls) <= TURN


async def test_protocol_that_pauses_in_the_middle_of_a_flood_hears_nothing_more(tls: TLS, peer):
    class Pausing(Above):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()

    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Pausing())
    layer.data_received(peer.say(*[b"x" * 16_384] * 60))
    for count in range(1, 4):
        await turns(5)
        assert len(above.calls) == count
        layer.resume_reading()
    assert not below.reading


async def test_long_write_is_encrypted_a_turn_at_a_time(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    data = bytearray(os.urandom(10 * TURN))
    copy = bytes(data)
    layer.write(data)
    data[-1] ^= 1  # is the caller's again
    layer.write(b"behind")
    assert layer.get_write_buffer_size() > 8 * TURN
    assert above.calls == ["pause"]
    layer.close()
    assert layer.is_closing()
    heard = bytearray()
    while below.state == "open":
        assert len(below.written) <= TURN * OVERHEAD
        heard += peer.hear(below.take())
        await turns(1)
    heard += peer.hear(below.take())
    assert heard == copy + b"behind"
    assert peer.ended
    await turns()
    assert above.calls == ["pause", "resume", ("lost", None)]


async def test_long_write_waits_for_the_transport_below(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    layer.write(bytes(3 * TURN))
    layer.write_eof()
    layer.pause_writing()
    written = len(below.written)
    await turns(10)
    assert len(below.written) == written
    layer.resume_writing()
    await until(lambda: below.state == "shut")
    assert len(peer.hear(below.take())) == 3 * TURN
    assert peer.ended
    assert above.calls == ["pause", "resume"]


async def test_small_writes_behind_a_long_one_have_their_price(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    put_on(layer, Above())
    layer.write(bytes(TURN + 1))
    for _ in range(1000):
        layer.write(b"x")
    while layer.get_write_buffer_size():
        before = layer.get_write_buffer_size()
        await turns(1)
        assert before - layer.get_write_buffer_size() <= 100
    assert len(peer.hear(below.take())) == TURN + 1001


async def test_abort_in_the_middle_of_a_long_write(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    layer.write(bytes(3 * TURN))
    layer.abort()
    assert layer.get_write_buffer_size() == 0  # at once
    await turns(10)
    assert len(below.written) <= TURN * OVERHEAD
    assert above.calls[-1] == ("lost", None)


# -- a reset --------------------------------------------------------------------------------------


async def test_what_came_before_a_reset_is_delivered_first(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    layer.data_received(peer.say(*[b"x" * 16_384] * 60) + peer.say_close_notify())
    error = ConnectionResetError()
    below.lose(error)
    await until(lambda: above.calls[-1] == ("lost", error))
    assert len(above.data) == 60 * 16_384
    assert above.calls[-2] == "eof"
    assert not layer.truncated


async def test_paused_protocol_hears_of_a_reset_behind_what_came_before(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    layer.pause_reading()
    layer.data_received(peer.say(b"hello"))
    layer.pause_writing()
    error = ConnectionResetError()
    below.lose(error)
    await turns()
    assert above.calls == ["pause", "resume"]  # whoever waits to send is let go
    assert layer.is_closing()
    layer.resume_reading()
    await turns()
    assert above.calls[2:] == [5, ("lost", error)]


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_paused_protocol_can_end_what_was_reset(end, tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    layer.pause_reading()
    layer.data_received(peer.say(b"hello"))
    error = ConnectionResetError()
    below.lose(error)
    getattr(layer, end)()
    await turns()
    assert above.calls == [("lost", error)]


@pytest.mark.parametrize("error", [ConnectionResetError(), None])
async def test_loss_between_handshake_and_protocol(error, tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    layer.data_received(peer.say(b"hello"))
    below.lose(error)
    above = put_on(layer, Above())
    await turns()
    assert above.calls == [5, ("lost", error)]


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_protocol_that_leaves_when_it_comes_is_told_of_the_end(end, tls: TLS, peer):
    class Leaving(Above):
        def connection_made(self, transport) -> None:
            getattr(transport, end)()

    below, layer = await shake(tls.server, peer)
    layer.data_received(peer.say(b"hello"))
    above = put_on(layer, Leaving())
    assert below.is_closing()
    await turns()
    assert above.calls == [("lost", None)]


async def test_reset_behind_a_cut_end_that_nobody_has_heard_of(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    layer.pause_reading()
    layer.data_received(peer.say(b"hello"))
    layer.eof_received()
    error = ConnectionResetError()
    below.lose(error)
    layer.resume_reading()
    await turns()
    assert above.calls == [5, "eof", ("lost", error)]
    assert layer.truncated


async def test_force_close_is_an_abort_that_says_why(tls: TLS, peer):
    """As `loop.sendfile` does, and TLS inside TLS."""
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    layer._force_close(error := OSError("why"))
    layer._force_close(OSError("not again"))
    assert below.state == "aborted"
    await turns()
    assert above.calls == [("lost", error)]


async def test_protocol_that_will_not_stay_closes(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    above.keep_open = False
    layer.data_received(peer.say_close_notify())
    assert below.state == "closed"
    await turns()
    assert above.calls == ["eof", ("lost", None)]


async def test_close_behind_our_own_end(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    put_on(layer, Above())
    layer.write_eof()
    layer.write_eof()
    assert peer.hear(below.take()) == b""
    layer.close()
    assert below.state == "closed"
    assert not below.written
    layer.write(b"too late")
    assert not below.written


# -- records without data -------------------------------------------------------------------------


@pytest.mark.slow
async def test_key_updates_in_a_row_end_the_connection(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    by_hand = peer.records()
    for _ in range(32):
        layer.data_received(by_hand.key_update(answer=False))
    assert below.state == "open"
    layer.data_received(by_hand.data(b"still here"))
    assert above.data == b"still here"
    layer.data_received(b"".join(by_hand.key_update(answer=True) for _ in range(1000)))
    await until(lambda: len(above.calls) == 2)
    assert below.state == "aborted"
    assert "without data" in str(above.calls[1][1])


async def test_few_key_updates_are_done_in_a_turn(tls: TLS, peer):
    """Each costs as much as a hundred kilobytes of data."""
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    by_hand = peer.records()
    updates = [by_hand.key_update(answer=False) for _ in range(20)]
    layer.data_received(b"".join(updates) + by_hand.data(b"behind"))
    assert not below.reading
    await turns(2)
    assert not above.data
    await until(lambda: below.reading)
    assert above.data == b"behind"


async def test_answers_that_nobody_reads_end_the_connection(tls: TLS, peer):
    """Even if each KeyUpdate has data behind it."""
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    by_hand = peer.records()
    below.take()
    layer.pause_writing()  # the transport below is full
    for _ in range(1000):
        if below.state != "open":
            break
        layer.data_received(by_hand.key_update(answer=True) + by_hand.data(b"x"))
        await turns(1)
    await turns()
    assert below.state == "aborted"
    assert len(below.written) < 10_000
    assert "does not read" in str(above.calls[-1][1])


async def test_empty_records_end_the_connection(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    by_hand = peer.records()
    layer.data_received(b"".join(by_hand.data(b"") for _ in range(1000)))
    await until(lambda: bool(above.calls))
    assert below.state == "aborted"
    assert isinstance(above.calls[0][1], ssl.SSLError)


async def test_answers_that_are_read_end_nothing(tls: TLS, peer):
    """Whether they go at once, or when the transport below takes more."""
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    by_hand = peer.records()
    for number in range(500):
        layer.data_received(by_hand.key_update(answer=True) + by_hand.data(b"x"))
        if number > 200 and number % 100 == 0:
            layer.pause_writing()
        elif number > 200 and number % 100 == 90:
            layer.resume_writing()
        await turns(2)
    assert below.state == "open"
    assert len(above.data) == 500


async def test_nothing_is_answered_behind_our_end(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    by_hand = peer.records()
    layer.write_eof()
    below.take()
    layer.data_received(by_hand.key_update(answer=True) + by_hand.data(b"x"))
    await turns()
    assert above.calls == [1]
    assert not below.written


# -- what asyncio's transports know ---------------------------------------------------------------


async def test_extra_info(tls: TLS, peer):
    _, layer = await shake(tls.server, peer)
    ssl_object = layer.get_extra_info("ssl_object")
    assert layer.get_extra_info("sslcontext") is tls.server
    assert layer.get_extra_info("cipher") == ssl_object.cipher()
    assert layer.get_extra_info("peercert", "none") is None
    assert layer.get_extra_info("compression", "none") is None
    assert layer.get_extra_info("peername", "below's") == "below's"


async def test_protocol_is_the_one_above_once_there_is_one(tls: TLS, peer):
    _, layer = await shake(tls.server, peer)
    assert layer.get_protocol() is layer
    above = put_on(layer, Above())
    assert [layer.get_protocol()] == [above]
    layer.set_protocol(second := Above())
    layer.data_received(peer.say(b"hello"))
    assert second.data == b"hello"
    assert not above.calls


@pytest.mark.parametrize("count", [3, TURN])
async def test_items_are_written_as_bytes(count, tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    put_on(layer, Above())
    items = array("I", range(count))
    layer.write(memoryview(items))
    assert len(below.written) <= TURN * OVERHEAD  # and count as bytes, too
    layer.writelines([b"be", b"hind"])
    await until(lambda: not layer.get_write_buffer_size())
    assert peer.hear(below.take()) == items.tobytes() + b"behind"


async def test_failure_to_encrypt_ends_the_connection(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    with pytest.raises(ssl.SSLError):
        layer.get_extra_info("ssl_object").unwrap()  # behind our back
    layer.write(b"hello")
    assert below.state == "aborted"
    await turns()
    [(lost, error)] = above.calls
    assert lost == "lost"
    assert isinstance(error, ssl.SSLError)


async def test_nothing_is_delivered_while_the_transport_below_closes(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    above = put_on(layer, Above())
    layer.pause_reading()
    layer.data_received(peer.say(b"hello"))
    below.close()
    layer.resume_reading()
    await turns()
    assert above.calls == [("lost", None)]


# -- the handshake --------------------------------------------------------------------------------


async def test_tickets_wait_for_the_first_answer(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    layer.start(Above())
    assert not below.written
    layer.write(b"answer")
    assert peer.hear(below.take()) == b"answer"
    assert peer.tls.session is not None
    assert peer.tls.session.has_ticket


class Socket:
    """What a transport's own looks like, which writes down the options that are set."""

    def __init__(self, family: socket.AddressFamily) -> None:
        self.family = family
        self.options: list[tuple[int, int, int]] = []

    def setsockopt(self, *option: int) -> None:
        self.options.append(option)  # type: ignore[arg-type]
        raise OSError("not every kernel has it")


@pytest.mark.parametrize("family", [socket.AF_INET6, socket.AF_UNIX])
async def test_end_of_the_handshake_is_acknowledged_at_once(family, tls: TLS, peer, monkeypatch):
    sock = Socket(family)
    monkeypatch.setattr(Below, "get_extra_info", lambda *_: sock)
    await shake(tls.server, peer)
    quick = (socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    assert sock.options == ([] if family == socket.AF_UNIX else [quick])


async def test_handshake_that_was_lost_before_its_turn_is_not_gone_on_with(tls: TLS, peer):
    wrong: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
    below = Below()
    below.layer = layer = TLSTransport(tls.server)
    layer.connection_made(below)
    layer.data_received(peer.shake())
    await turns()
    layer.data_received(peer.shake(below.take()))  # all that it needs
    below.lose(ConnectionResetError("reset"))
    await turns()
    with pytest.raises(HandshakeError, match="lost: reset"):
        await layer.handshake()
    assert wrong == []


async def test_handshake_that_fails_and_nobody_waits_for_is_no_news(tls: TLS):
    wrong: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
    below = Below()
    below.layer = layer = TLSTransport(tls.server)
    layer.connection_made(below)
    layer.data_received(b"rubbish")
    await turns()
    assert below.state == "closed"
    del below, layer
    gc.collect()
    assert wrong == []


async def test_handshake_that_is_cancelled_aborts(tls: TLS):
    below = Below()
    below.layer = layer = TLSTransport(tls.server)
    layer.connection_made(below)
    waiting = asyncio.create_task(layer.handshake())
    await turns(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert below.state == "aborted"
    await turns()


async def test_endless_hello_is_refused_and_never_piled_up(tls: TLS):
    below = Below()
    below.layer = layer = TLSTransport(tls.server)
    layer.connection_made(below)
    record = b"\x16\x03\x01\x40\x00"
    hello = record + b"\x01\xff\xff\xff\x03\x03" + bytes(0x4000 - 6)
    sent = 0
    while below.state == "open" and sent < 100_000_000:
        while below.reading and sent < 100_000_000:  # as libuv does, in one turn
            layer.data_received(hello)
            sent += len(hello)
            hello = record + bytes(0x4000)
        await turns(2)
    with pytest.raises(HandshakeError):
        await layer.handshake()
    assert sent < 1_000_000


async def test_data_before_the_protocol_is_never_piled_up(tls: TLS, peer):
    below, layer = await shake(tls.server, peer)
    said = peer.say(*[b"x" * 16_384] * 60)
    sent = 0
    while below.reading and sent < len(said):
        layer.data_received(said[sent : sent + 100_000])
        sent += 100_000
    assert sent <= 200_000
    above = put_on(layer, Above())
    await until(lambda: below.reading)
    layer.data_received(said[sent:])
    await until(lambda: below.reading and len(above.data) == 60 * 16_384)


async def test_upgrade_of_a_transport_that_was_paused(tls: TLS, peer):
    below = Below()
    below.pause_reading()
    layer = TLSTransport(tls.server)
    hello = peer.shake()
    upgrading = asyncio.create_task(layer.upgrade(below, hello[:100]))
    await turns()
    assert below.reading
    assert below.layer is layer
    layer.data_received(hello[100:])
    await turns()
    layer.data_received(peer.shake(below.take()))
    await upgrading
    above = put_on(layer, Above())
    layer.data_received(peer.say(b"secret"))
    assert above.calls == [6]


async def test_upgrade_refuses_clear_text_and_leaves_the_transport(tls: TLS):
    below = Below()
    with pytest.raises(UpgradeRefusedError):
        await TLSTransport(tls.server).upgrade(below, b"EVIL\r\n")
    assert below.layer is None
    assert not below.written


@pytest.mark.parametrize("ended", [True, False])
async def test_upgrade_of_a_stream_that_has_ended(ended, tls: TLS, peer):
    below = Below()
    layer = TLSTransport(tls.server)
    upgrading = asyncio.create_task(layer.upgrade(below, peer.shake()[:50], ended=ended))
    await turns()
    if not ended:
        layer.eof_received()
    with pytest.raises(HandshakeError, match="left in the middle"):
        await upgrading
    assert below.state == "closed"
