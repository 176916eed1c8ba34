"""One event: the server is closing. Every connection of a server has the same."""

import asyncio

__all__ = ("Closing",)


class Closing(asyncio.Event):
    """An event that is true once it is set: `if connection.closing: ...`."""

    def __bool__(self) -> bool:
        return self.is_set()
