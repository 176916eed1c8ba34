"""Which connections have had their time: a look at each, now and then, instead of a timer a read.

Pure: it is told the time, compares counters that are kept anyway, and says what should be ended.
"""

from typing import Literal, Protocol

from asyncserver._settings.limits import Timeouts

__all__ = ("Watched", "overdue")

Deadline = Literal["idle", "message", "write", "lifetime"]


class Watched(Protocol):
    """What is looked at; all but `opened` is this module's own notes about it."""

    opened: float  # seconds
    last_mark: int
    marked_at: float  # seconds, when `last_mark` was noted
    late_with: int | None  # where the message begins that it was late with when last looked at
    late_for: float  # seconds that it has been waited for
    looked_at: float  # seconds, when that was

    @property
    def reading(self) -> bool: ...
    @property
    def message(self) -> int | None: ...
    @property
    def sent(self) -> int: ...
    @property
    def bytes_moved(self) -> int: ...
    @property
    def bytes_unsent(self) -> int: ...


def overdue(watched: Watched, timeouts: Timeouts, now: float) -> Deadline | None:
    """Return the name of the deadline that is over, if one is.

    A connection whose transport is full waits for its peer to take bytes, one with a waiting reader
    for any byte to move, and for the rest of a message that has begun; in any other, the handler is at
    work and nobody is late.
    """
    if timeouts.lifetime is not None and now - watched.opened >= timeouts.lifetime:
        return "lifetime"
    unsent = watched.bytes_unsent
    if unsent:
        watched.looked_at = now
        # Negative, so that it is never taken for what has moved.
        return "write" if _still(watched, unsent - watched.sent - 1, timeouts.write, now) else None
    if not watched.reading:
        watched.marked_at = watched.looked_at = now
        return None
    if timeouts.message is not None and _late(watched, timeouts.message, timeouts, now):
        return "message"
    return "idle" if _still(watched, watched.bytes_moved, timeouts.idle, now) else None


def _still(watched: Watched, mark: int, limit: float | None, now: float) -> bool:
    """Whether `mark` has not changed for `limit` seconds."""
    if mark != watched.last_mark:
        watched.last_mark = mark
        watched.marked_at = now
        return False
    return limit is not None and now - watched.marked_at >= limit


def _late(watched: Watched, limit: float, timeouts: Timeouts, now: float) -> bool:
    """Whether the rest of one and the same message has been waited for, for `limit` seconds in all."""
    begun, since, watched.looked_at = watched.message, watched.looked_at, now
    if begun is None or begun != watched.late_with:
        watched.late_with = begun
        watched.late_for = 0.0
        return False
    # A loop that was held up for longer than a tick has not waited for the peer all that time.
    watched.late_for += min(now - since, 2 * timeouts.tick)
    return watched.late_for >= limit
