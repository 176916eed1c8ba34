"""The two halves of a connection as tables: which state may follow which, and nothing else.

A TCP connection ends in each direction by itself (RFC 9293, section 3.6), and so do Unix sockets and
TLS. Everything else about its life is derived from where the two halves stand. A move that is in no
table is a fault of ours, and an `AssertionError`.
"""

from enum import Enum
from typing import Final, TypeVar

__all__ = ("GONE", "Asked", "Receiving", "Sending", "move")


class Receiving(Enum):
    """What may still come."""

    OPEN = "open"
    EOF = "end of stream"  # the peer has said that it sends no more
    FAILED = "failed"  # the connection was lost before it said so, or a deadline is over
    CLOSED = "closed"  # on this side


class Sending(Enum):
    """What may still go."""

    OPEN = "open"
    UPGRADING = "upgrading"  # start_tls() is at work
    SHUT = "shut"  # send_eof() was called
    MUTED = "muted"  # the server drains, and a message may not have come as a whole
    FAILED = "failed"  # a deadline is over, or the transport gives up; it will be lost
    CLOSING = "closing"  # closed on this side; what was written still goes out
    CLOSED = "closed"  # and the transport is gone
    LOST = "lost"  # the transport is gone, and nobody has closed it on this side


class Asked(Enum):
    """Whether the handler was asked to finish, since the server drains."""

    NO = "no"
    AFTER_FIRST = "after its first message"  # it has just connected
    NOW = "now"


R, S = Receiving, Sending
MOVES: Final[dict[Enum, frozenset[Enum]]] = {
    R.OPEN: frozenset({R.EOF, R.FAILED, R.CLOSED}),
    R.EOF: frozenset({R.CLOSED}),
    R.FAILED: frozenset({R.CLOSED}),
    R.CLOSED: frozenset(),
    S.OPEN: frozenset({S.UPGRADING, S.SHUT, S.MUTED, S.FAILED, S.CLOSING, S.LOST}),
    S.UPGRADING: frozenset({S.OPEN, S.FAILED, S.CLOSING, S.LOST}),
    S.SHUT: frozenset({S.FAILED, S.CLOSING, S.LOST}),
    S.MUTED: frozenset({S.FAILED, S.CLOSING, S.LOST}),
    S.FAILED: frozenset({S.CLOSING, S.LOST}),
    S.CLOSING: frozenset({S.CLOSED}),
    S.LOST: frozenset({S.CLOSED}),
    S.CLOSED: frozenset(),
    Asked.NO: frozenset({Asked.AFTER_FIRST, Asked.NOW}),
    Asked.AFTER_FIRST: frozenset({Asked.NOW}),
    Asked.NOW: frozenset(),
}
GONE: Final = frozenset({S.CLOSED, S.LOST})  # the transport is

State = TypeVar("State", Receiving, Sending, Asked)


def move(state: State, to: State) -> State:
    """Return `to`, which must be a state that may follow `state`."""
    assert to in MOVES[state], f"{state} cannot become {to}"
    return to
