"""The receive buffer: whatever the pieces, the same messages; each byte is searched once."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncserver._stream.buffer import ReceiveBuffer
from asyncserver.errors import LineTooLongError


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def take_all(buffer: ReceiveBuffer, separator: bytes, limit: int | None) -> list[bytes | None]:
    """All messages that are there; `None` stands for one that was too long."""
    taken: list[bytes | None] = []
    while True:
        try:
            message = buffer.take_until(separator, limit)
        except LineTooLongError:
            taken.append(None)
            continue
        if message is None:
            return taken
        taken.append(message)


def model(data: bytes, separator: bytes, limit: int | None) -> list[bytes | None]:
    *messages, _ = data.split(separator)
    whole = [message + separator for message in messages]
    return [each if limit is None or len(each) <= limit else None for each in whole]


@given(
    st.lists(st.sampled_from([b"a", b"bc", b"\r", b"\n", b"\r\n", b"", b"x" * 9])).map(b"".join),
    st.lists(st.integers(0, 60)),
    st.sampled_from([b"\n", b"\r\n", b"abc"]),
    st.sampled_from([None, 1, 4, 8]),
)
def test_pieces_make_no_difference(data, cuts, separator, limit):
    if limit is not None and limit < len(separator):
        limit = len(separator)
    buffer = ReceiveBuffer()
    taken: list[bytes | None] = []
    for piece in pieces(data, cuts):
        buffer.feed(piece)
        taken += take_all(buffer, separator, limit)
    expected = model(data, separator, limit)
    tail = data[sum(len(each) + len(separator) for each in data.split(separator)[:-1]) :]
    if limit is not None and len(tail) >= limit:
        expected.append(None)  # the unfinished one is too long already
    else:
        assert buffer.take(1000) == tail
    assert taken == expected


@given(st.binary(max_size=50), st.lists(st.integers(0, 50)), st.integers(1, 60))
def test_take_exactly_and_take_give_the_bytes_in_order(data, cuts, size):
    buffer = ReceiveBuffer()
    taken = b""
    for piece in pieces(data, cuts):
        buffer.feed(piece)
        while (chunk := buffer.take_exactly(size)) is not None:
            taken += chunk
    assert buffer.size == len(data) % size
    while chunk := buffer.take(7):
        taken += chunk
    assert taken == data


def test_exactly_one_message_is_the_object_that_came():
    buffer = ReceiveBuffer()
    line = b"just one line\n"
    buffer.feed(line)
    assert buffer.take_until(b"\n", 100) is line
    buffer.feed(line)
    assert buffer.take(100) is line
    buffer.feed(line)
    assert buffer.take_exactly(len(line)) is line


def test_what_is_taken_is_bytes_however_it_came():
    buffer = ReceiveBuffer()
    for piece in (b"in ", b"three ", b"pieces\nand\nmore"):
        buffer.feed(piece)
    assert [type(each) for each in take_all(buffer, b"\n", None)] == [bytes, bytes]
    assert type(buffer.take(2)) is bytes


def test_separators_may_change():
    buffer = ReceiveBuffer()
    buffer.feed(b"a;b\nc")
    assert buffer.take_until(b"|", None) is None
    assert buffer.take_until(b";", None) == b"a;"
    assert buffer.take_until(b"|", None) is None
    assert buffer.take_until(b"\n", None) == b"b\n"


def test_overlong_message_carries_its_beginning_and_the_next_follows():
    buffer = ReceiveBuffer()
    buffer.feed(b"0123456789abc")
    with pytest.raises(LineTooLongError) as caught:
        buffer.take_until(b"\n", 10)
    assert (caught.value.partial, caught.value.limit) == (b"0123456789", 10)
    buffer.feed(b"still the same")
    assert buffer.size == 0
    buffer.feed(b" line\nnext\n")
    assert buffer.take_until(b"\n", 10) == b"next\n"


def test_limit_counts_the_separator():
    buffer = ReceiveBuffer()
    buffer.feed(b"1234\n12345\n")
    assert buffer.take_until(b"\n", 5) == b"1234\n"
    with pytest.raises(LineTooLongError):
        buffer.take_until(b"\n", 5)


def test_each_byte_is_searched_once():
    searched = 0

    class Counting(bytearray):
        def find(self, separator, start=0):  # type: ignore[override]
            nonlocal searched
            searched += len(self) - start
            return super().find(separator, start)

    buffer = ReceiveBuffer()
    buffer._chunk, buffer._data = None, Counting(b".")
    for _ in range(10_000):
        assert buffer.take_until(b"\r\n", None) is None
        buffer.feed(b".")
    assert type(buffer._data) is Counting
    assert searched <= 2 * 10_001  # one byte again a time: it may begin a separator


def test_reading_nothing_does_not_end_the_skipping():
    buffer = ReceiveBuffer()
    buffer.feed(b"0123456789")
    with pytest.raises(LineTooLongError):
        buffer.take_until(b"\n", 10)
    assert buffer.take_exactly(0) == b""
    buffer.feed(b"still the same\nnext\n")
    assert buffer.take_until(b"\n", 10) == b"next\n"
