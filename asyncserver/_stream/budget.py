"""How much a connection may do before it lets others have their turn: a share of a turn of the loop.

A handler whose bytes are there already, and whose peer takes what it sends, has no reason to wait, and
would keep the loop to itself. So what it reads and sends is paid from a budget; who has spent it waits
for a turn and has a new one. The more connections spend theirs at the same time, the less each has,
so that a turn takes about as long with fifty of them as with ten.
"""

import asyncio
from typing import Final

__all__ = ("TurnBudget",)

# A read or a send costs 1, and each 4 KiB of either another 1. So a peer that pipelines lines has 64 of
# them answered in a turn, which takes 0.2 ms; half as many cost it 3 % more, twice as many save 2 %.
BUDGET: Final = 128
COSTLY: Final = 4096  # bytes
# What all of them have together: 500 to 1,000 lines, which take 2 to 4 ms.
TOGETHER: Final = 1024
LEAST: Final = 16


class TurnBudget:
    """The common measure of all connections of a server.

    Attributes:
        budget: what a connection has for its next turn.

    """

    __slots__ = ("_loop", "_spenders", "budget")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._spenders = 0  # in this turn
        self.budget: int = BUDGET

    def spent(self) -> None:
        """Note that a connection has spent what it had, and waits for the next turn."""
        if not self._spenders:
            self._loop.call_soon(self._share_out)
        self._spenders += 1

    def _share_out(self) -> None:
        self.budget = min(BUDGET, max(LEAST, TOGETHER // self._spenders))
        self._spenders = 0
