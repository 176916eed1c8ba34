"""One event: the server drains. Every connection of a server has the same."""

import asyncio

__all__ = ("DrainEvent",)


class DrainEvent(asyncio.Event):
    """An event that is true once it is set: `if connection.draining: ...`."""

    def __bool__(self) -> bool:
        return self.is_set()
