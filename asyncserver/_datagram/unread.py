"""How much the Unix peers of a socket have not read yet of what it has sent them, and who of them.

All of it is charged to our send buffer, so one peer that reads nothing could take that from all others,
and the kernel tells only the sum (SIOCOUTQ). As long as the sum is small, nobody is asked. Beyond, what
is sent is put down for each peer; and whenever the sum falls somebody has read: most likely who was
sent something last, since those who do not read are sent nothing more. No peer may have more than a
sixteenth of what is left, so that a wrong guess costs little; who has nothing may always have one.
"""

import array
import contextlib
import fcntl
import socket
import termios
from typing import Any, Final

__all__ = ("Unread",)

SEND_BUFFER: Final = 2**20  # bytes, of which the system may grant less (net.core.wmem_max)
OVERHEAD: Final = 1024  # bytes, more than the kernel charges for a datagram beside twice its length


class Unread:
    """Tells who may be sent something more through one socket.

    Attributes:
        calm: bytes that can be sent to anybody before it is time to look; more than 0 as long as
            nothing has to be put down.

    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._outstanding = array.array("i", [0])
        self.calm = 0
        self._read_to = 0  # the sum when it was looked at last, and all read was put down
        self._shares: dict[Any, int] = {}
        with contextlib.suppress(OSError):
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < SEND_BUFFER:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        # The socket polls writable only below a quarter of it, and we must hear of what is read.
        self._most = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 4

    def may_have(self, peer: Any, size: int) -> bool:
        """Whether the peer may be sent `size` more bytes now."""
        if self.calm > 0:
            self.calm -= 2 * size + OVERHEAD
            if self.calm > 0:
                return True
        outstanding = self.look()
        self.calm = self._most // 2 - outstanding - 2 * size - OVERHEAD
        if self.calm > 0:
            self._shares.clear()
            return True
        return self.fits(peer, outstanding)

    def fits(self, peer: Any, outstanding: int) -> bool:
        """Whether the peer may be sent something while so many bytes have not been read."""
        share = self._shares.get(peer, 0)
        return not share or 16 * share < self._most - outstanding

    def put_down(self, peer: Any) -> None:
        """Note that the peer has just been sent something, where it is not calm."""
        before, now = self._read_to, self._sum()
        self._read_to = now
        self._shares[peer] = self._shares.pop(peer, 0) + max(now - before, 1)

    def look(self) -> int:
        """Put down what has been read since the last time; return the bytes that have not."""
        now = self._sum()
        read, self._read_to = self._read_to - now, now
        while read > 0 and self._shares:
            peer, share = self._shares.popitem()
            if share > read:
                self._shares[peer] = share - read
            read -= share
        return now

    def _sum(self) -> int:
        fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, self._outstanding)
        return self._outstanding[0]
