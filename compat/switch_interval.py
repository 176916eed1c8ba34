"""How often threads ask each other for the interpreter, when there are thousands of them.

Whoever waits for the interpreter wakes up every few milliseconds to ask for it. Three thousand that do
so, because their clients have vanished together, keep both processors busy with asking: a signal was
heard after half a minute. So the more threads there are, the less often they ask, and still less while
many of them end.
"""

import sys
import time
from typing import Final

__all__ = ("adapt_to",)

QUESTIONS: Final = 100_000  # in a second, of all threads together
IN_A_RUSH: Final = 20_000  # the same, while many end
RUSH: Final = 50  # threads that end in a second

_since = 0.0
_ends = 0  # since then; exact enough without a lock
_usual = sys.getswitchinterval()
_ours: float | None = None  # the interval that we have set


def adapt_to(threads: int, *, ended: bool = False) -> None:
    """Set the switch interval for so many threads, one of which has just begun or ended."""
    wanted = threads / QUESTIONS
    if wanted > _usual:
        _ask_every(threads / IN_A_RUSH if _is_rush(ended=ended) else wanted)
    elif _ours is not None:
        _ask_as_ever()


def _is_rush(*, ended: bool) -> bool:
    global _since, _ends  # noqa: PLW0603 - the interpreter is one
    now = time.monotonic()
    if now - _since >= 1:
        lasts = _ends >= RUSH and now - _since < 2  # noqa: PLR2004 - the second before this one
        _since, _ends = now, RUSH if lasts else 0
    _ends += ended
    return _ends >= RUSH


def _ask_every(seconds: float) -> None:
    global _usual, _ours  # noqa: PLW0603
    if _ours is None:
        _usual = sys.getswitchinterval()
    elif abs(seconds - _ours) < _ours / 4:
        return
    if seconds > _usual:
        sys.setswitchinterval(seconds)
        _ours = sys.getswitchinterval()


def _ask_as_ever() -> None:
    global _ours  # noqa: PLW0603
    if sys.getswitchinterval() == _ours:  # or somebody else has set it
        sys.setswitchinterval(_usual)
    _ours = None
