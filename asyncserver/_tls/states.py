"""The states of a TLS transport, as tables: what comes, what goes, and the transport below.

Each of the three goes its own way: a peer may say close_notify and still be sent to, we may shut
and still read (RFC 8446, section 6.1), and what a transport had brought before it was lost may wait
here for a protocol that has paused. All else that there is to know about a connection follows from
them, `is_closing()` among it; only what a turn of the loop is for stays a flag, in its half.
"""

from enum import Enum
from typing import Final, TypeVar

__all__ = ("MOVES", "Receiving", "Sending", "Wire", "advance")


class Receiving(Enum):
    """What comes, as the protocol above has heard it."""

    HANDSHAKING = "handshaking"
    WAITING = "waiting"  # for a protocol; hands are shaken
    OPEN = "open"
    ENDED = "ended"  # by close_notify
    TRUNCATED = "truncated"  # ended without it
    FAILED = "failed"  # the handshake, a record, or the protocol
    CLOSED = "closed"  # on this side, or lost: nothing is delivered any more


class Sending(Enum):
    """What goes."""

    OPEN = "open"
    FINISHING = (
        "finishing"  # write_eof() was called, and close_notify waits behind what was written
    )
    SHUT = "shut"  # close_notify was sent
    CLOSING = "closing"  # close() was called, and waits likewise
    CLOSED = "closed"  # and the transport below was told, or is lost


class Wire(Enum):
    """The transport below, as it brings what comes."""

    FLOWING = "flowing"
    HELD = "held"  # paused from here
    ENDED = "ended"
    LOST = "lost"  # without an end
    GONE = "gone"  # lost behind its end


State = TypeVar("State", Receiving, Sending, Wire)

MOVES: Final[dict[Enum, frozenset[Enum]]] = {
    Receiving.HANDSHAKING: frozenset({Receiving.WAITING, Receiving.FAILED, Receiving.CLOSED}),
    Receiving.WAITING: frozenset({Receiving.OPEN, Receiving.FAILED, Receiving.CLOSED}),
    Receiving.OPEN: frozenset(
        {Receiving.ENDED, Receiving.TRUNCATED, Receiving.FAILED, Receiving.CLOSED}
    ),
    Receiving.ENDED: frozenset(),
    Receiving.TRUNCATED: frozenset(),
    Receiving.FAILED: frozenset(),
    Receiving.CLOSED: frozenset(),
    Sending.OPEN: frozenset({Sending.FINISHING, Sending.CLOSING, Sending.CLOSED}),
    Sending.FINISHING: frozenset({Sending.SHUT, Sending.CLOSING, Sending.CLOSED}),
    Sending.SHUT: frozenset({Sending.CLOSED}),
    Sending.CLOSING: frozenset({Sending.CLOSED}),
    Sending.CLOSED: frozenset(),
    Wire.FLOWING: frozenset({Wire.HELD, Wire.ENDED, Wire.LOST}),
    Wire.HELD: frozenset({Wire.FLOWING, Wire.ENDED, Wire.LOST}),
    Wire.ENDED: frozenset({Wire.GONE}),
    Wire.LOST: frozenset(),
    Wire.GONE: frozenset(),
}


def advance(state: State, to: State) -> State:
    """Return `to`, if it may follow `state`; raise `RuntimeError` if it may not."""
    if to not in MOVES[state]:
        raise RuntimeError(
            f"{type(state).__name__.lower()} cannot become {to.value}: it is {state.value}"
        )
    return to
