"""What happened: the few facts that a server tells its observers.

An observer is any callable that takes one event. `stats` and `logs` are two of them; a test or a
metrics exporter is a third. Observers run on the event loop, at once and in order, and must not
block; what they raise is logged, more and more rarely, and goes no further.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

__all__ = (
    "AddressBound",
    "ConnectionClosed",
    "ConnectionLimitReached",
    "ConnectionOpened",
    "ConnectionRefused",
    "DeadlineExpired",
    "DrainFinished",
    "DrainStarted",
    "Event",
    "HandlerFailed",
    "HandshakeFailed",
    "Observer",
    "Observers",
    "PeerDisconnected",
    "ResourcesExhausted",
)

logger: Final = logging.getLogger("asyncserver")

Peer = tuple[str, int] | str


class AddressBound(NamedTuple):
    """The server listens on this address (with the real port)."""

    address: str


class ConnectionOpened(NamedTuple):
    """A connection was admitted; a TLS handshake is still to come."""

    peer: Peer


class ConnectionRefused(NamedTuple):
    """A connection was closed at once, because of the limit named."""

    peer: Peer
    limit: str


class ConnectionLimitReached(NamedTuple):
    """`Limits.connections` is reached: clients wait until a connection ends.

    Once an episode, which is over when nobody waits any more.
    """

    connections: int


class ResourcesExhausted(NamedTuple):
    """The system has no descriptor or memory for one more connection; accepting pauses."""

    error: OSError
    first: bool  # of an episode, which is over when nobody waits any more


class HandshakeFailed(NamedTuple):
    """A TLS handshake failed or took too long."""

    peer: Peer
    error: Exception


class PeerDisconnected(NamedTuple):
    """The peer went away, or broke the rules, in the middle of a handler."""

    peer: Peer
    error: BaseException  # a group of them, perhaps


class DeadlineExpired(NamedTuple):
    """A deadline ended a connection."""

    peer: Peer
    deadline: str


class HandlerFailed(NamedTuple):
    """A handler raised an exception of its own, or let one of a library's out."""

    peer: Peer
    error: BaseException


class ConnectionClosed(NamedTuple):
    """A connection is gone, and its slot is free."""

    peer: Peer
    received: int  # bytes
    sent: int  # bytes


class DrainStarted(NamedTuple):
    """The listeners are closed; handlers have `grace` seconds to finish."""

    connections: int
    grace: float | None


class DrainFinished(NamedTuple):
    """The server is closed: how the handlers that ran when it began ended."""

    finished: int
    cancelled: int
    aborted: int  # they ignored even that


Event = (
    AddressBound
    | ConnectionOpened
    | ConnectionRefused
    | ConnectionLimitReached
    | ResourcesExhausted
    | HandshakeFailed
    | PeerDisconnected
    | DeadlineExpired
    | HandlerFailed
    | ConnectionClosed
    | DrainStarted
    | DrainFinished
)
Observer = Callable[[Event], object]


class Observers:
    """Those who listen to one server."""

    __slots__ = ("_failures", "_observers")

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)
        self._failures = 0

    def emit(self, event: Event) -> None:
        """Tell everybody; nobody's exception reaches the server."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                self._failures += 1
                if _is_worth_telling(self._failures):
                    logger.exception(
                        "observer %r failed on %r (failure %d)", observer, event, self._failures
                    )


def _is_worth_telling(count: int) -> bool:
    """Whether this failure is told: the first ten, the hundredth, the thousandth, and so on."""
    return count <= 10 or str(count).strip("0") == "1"  # noqa: PLR2004 - as said
