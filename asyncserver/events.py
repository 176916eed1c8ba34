"""What happened: the few facts that a server tells its observers.

An observer is any callable that takes one event. `stats` and `logs` are two of them; a test or a
metrics exporter is a third. Observers run on the event loop, at once and in order, and must not
block; what they raise is logged and goes no further.
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

__all__ = (
    "Bound",
    "Closed",
    "Disconnected",
    "Drained",
    "Draining",
    "Event",
    "Exhausted",
    "Expired",
    "Failed",
    "HandshakeFailed",
    "Observer",
    "Observers",
    "Opened",
    "Refused",
    "Saturated",
)

logger = logging.getLogger("asyncserver")

Peer = tuple[str, int] | str


class Bound(NamedTuple):
    """The server listens on this address (with the real port)."""

    address: str


class Opened(NamedTuple):
    """A connection was admitted; a TLS handshake is still to come."""

    peer: Peer


class Refused(NamedTuple):
    """A connection was closed at once, because of the limit named."""

    peer: Peer
    limit: str


class Saturated(NamedTuple):
    """`Limits.connections` is reached: clients wait until a connection ends.

    Once an episode, which is over when nobody waits any more.
    """

    connections: int


class Exhausted(NamedTuple):
    """The system has no descriptor or memory for one more connection; accepting pauses."""

    error: OSError
    first: bool  # of an episode, which is over when nobody waits any more


class HandshakeFailed(NamedTuple):
    """A TLS handshake failed or took too long."""

    peer: Peer
    error: Exception


class Disconnected(NamedTuple):
    """The peer went away, or broke the rules, in the middle of a handler."""

    peer: Peer
    error: Exception


class Expired(NamedTuple):
    """A deadline ended a connection."""

    peer: Peer
    deadline: str


class Failed(NamedTuple):
    """A handler raised an exception of its own."""

    peer: Peer
    error: BaseException


class Closed(NamedTuple):
    """A connection is gone, and its slot is free."""

    peer: Peer
    received: int  # bytes
    sent: int  # bytes


class Draining(NamedTuple):
    """The listeners are closed; handlers have `grace` seconds to finish."""

    connections: int
    grace: float | None


class Drained(NamedTuple):
    """The server is closed: how the handlers that ran when it began ended."""

    finished: int
    cancelled: int
    aborted: int  # they ignored even that


Event = (
    Bound
    | Opened
    | Refused
    | Saturated
    | Exhausted
    | HandshakeFailed
    | Disconnected
    | Expired
    | Failed
    | Closed
    | Draining
    | Drained
)
Observer = Callable[[Event], object]


class Observers:
    """Those who listen to one server."""

    __slots__ = ("_observers",)

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def emit(self, event: Event) -> None:
        """Tell everybody; nobody's exception reaches the server."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                logger.exception("observer %r failed on %r", observer, event)
