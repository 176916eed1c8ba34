"""The handshake of a bare socket, for whoever wants a socket and no transport: a thread's handler."""

import asyncio
import ssl
from collections.abc import Callable

__all__ = ("shake_hands",)


async def shake_hands(sock: ssl.SSLSocket) -> None:
    """Do the handshake of a non-blocking socket.

    Raises:
        OSError: it failed; `ssl.SSLError` is one.

    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(sock.fileno(), loop.add_reader, loop.remove_reader)
        except ssl.SSLWantWriteError:
            await _ready(sock.fileno(), loop.add_writer, loop.remove_writer)
        else:
            return


async def _ready(fileno: int, add: Callable[..., object], remove: Callable[[int], object]) -> None:
    ready = asyncio.get_running_loop().create_future()
    add(fileno, _set, ready)
    try:
        await ready
    finally:
        remove(fileno)


def _set(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
