"""Which connections have had their time: a look at each, now and then, instead of a timer a read.

Pure: it is told the time, compares counters that are kept anyway, and says what should be ended.
"""

from typing import Literal, Protocol

from asyncserver.limits import Timeouts

__all__ = ("Watched", "overdue")


class Watched(Protocol):
    """What is looked at; `seen` and `since` are this module's own notes about it."""

    seen: int
    since: float  # seconds, when `seen` was noted
    opened: float  # seconds

    @property
    def reading(self) -> bool: ...
    @property
    def moved(self) -> int: ...
    @property
    def unsent(self) -> int: ...


def overdue(
    watched: Watched, timeouts: Timeouts, now: float
) -> Literal["idle", "write", "lifetime"] | None:
    """Return the name of the deadline that is over, if one is.

    A connection whose transport is full waits for its peer to take bytes, one with a waiting reader
    for any byte to move; in any other, the handler is at work and nobody is late.
    """
    if timeouts.lifetime is not None and now - watched.opened >= timeouts.lifetime:
        return "lifetime"
    unsent = watched.unsent
    if unsent:
        return "write" if _still(watched, -unsent, timeouts.write, now) else None
    if watched.reading:
        return "idle" if _still(watched, watched.moved, timeouts.idle, now) else None
    watched.since = now
    return None


def _still(watched: Watched, mark: int, limit: float | None, now: float) -> bool:
    """Whether `mark` has not changed for `limit` seconds."""
    if mark != watched.seen:
        watched.seen = mark
        watched.since = now
        return False
    return limit is not None and now - watched.since >= limit
