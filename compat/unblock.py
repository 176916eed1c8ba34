"""How a thread that waits for its peer is made to go on."""

import contextlib
import socket
from typing import Any

__all__ = ("unblock",)


def unblock(request: Any = None) -> None:
    """Make a handler that waits for its peer see the end of the stream. Closing would not do it."""
    with contextlib.suppress(OSError, AttributeError):
        if isinstance(request, socket.socket):
            # Not SSLSocket's own, which would take the TLS layer away under the handler's feet.
            socket.socket.shutdown(request, socket.SHUT_RDWR)
        else:
            request.shutdown(socket.SHUT_RDWR)
