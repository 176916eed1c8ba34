"""How often something may be told: the first few of a kind in a while, and then only how many.

Pure counting, and no timer: the clock is looked at when something comes, or when somebody asks.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

__all__ = ("Rates",)

K = TypeVar("K", bound=Hashable)

MANY: Final = 100  # kinds that are told apart; those beyond share their count


@dataclass(slots=True)
class _Window:
    until: float
    told: int = 0
    left_out: int = 0


class Rates(Generic[K]):
    """Counts what is told of each kind, and what is not.

    Args:
        clock: the time in seconds, of a clock that never goes back.
        few: how many of one kind are told in one window.
        seconds: length of a window, which begins with the first of its kind.

    Attributes:
        left_out: how many were not told, and wait to be reported by `over` or `end`.

    """

    def __init__(self, clock: Callable[[], float], *, few: int, seconds: float) -> None:
        self._clock = clock
        self._few = few
        self._seconds = seconds
        self._windows: dict[K | None, _Window] = {}
        self.left_out = 0

    def admit(self, kind: K) -> int | None:
        """Return how many more of this kind may follow; `None` if this one is too many already.

        Call `over` before, or what was left out of an older window is counted into the new one.
        """
        now = self._clock()
        known = self._known(kind, now)
        window = self._windows.get(known)
        if window is None or (now >= window.until and not window.left_out):
            window = self._windows[known] = _Window(now + self._seconds)
        if window.told < self._few:
            window.told += 1
            return self._few - window.told
        window.left_out += 1
        self.left_out += 1
        return None

    def over(self) -> list[tuple[K | None, int]]:
        """Return what was left out of the windows that are over, and forget these."""
        now = self._clock()
        return self._take([kind for kind, each in self._windows.items() if now >= each.until])

    def end(self) -> list[tuple[K | None, int]]:
        """Return all that was left out, and begin anew."""
        return self._take(list(self._windows))

    def _take(self, kinds: list[K | None]) -> list[tuple[K | None, int]]:
        taken = [(kind, self._windows.pop(kind).left_out) for kind in kinds]
        self.left_out -= sum(count for _, count in taken)
        return [each for each in taken if each[1]]

    def _known(self, kind: K, now: float) -> K | None:
        """Return `kind`, or `None` for one too many, so that kinds are not memory without end."""
        if kind not in self._windows and len(self._windows) >= MANY:
            for old, window in list(self._windows.items()):
                if now >= window.until and not window.left_out:
                    del self._windows[old]
            if len(self._windows) >= MANY:
                return None
        return kind
