"""A handler to try things out with: it sends back what it gets, in upper case."""

from asyncserver._datagram.datagram import Datagram
from asyncserver._stream.connection import Connection

__all__ = ("upper",)


async def upper(request: Connection | Datagram) -> None:
    """Send every line, or the datagram, back in upper case."""
    if isinstance(request, Datagram):
        await request.reply(request.data.upper())
    else:
        async for line in request.lines():
            await request.send(line.upper())
