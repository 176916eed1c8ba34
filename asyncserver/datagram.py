"""Datagrams: one packet in, perhaps some out, from one socket for all peers.

Reads with the socket's own calls when the loop says that it is readable, because uvloop has no
`sock_recvfrom` and both loops' datagram transports hide truncation and the local address.
"""

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from asyncserver.address import Address, PeerAddress, peer_address
from asyncserver.driver import check_loop, turn
from asyncserver.errors import (
    AsyncServerError,
    ConnectionBroken,
    ConnectionClosed,
    NoReplyAddressError,
)
from asyncserver.outbox import Outbox
from asyncserver.pktinfo import (
    ANCILLARY_SIZE,
    Control,
    ask,
    has_many,
    local_address,
    reply_control,
)
from asyncserver.settings import octets

__all__ = ("Datagram", "DatagramEndpoint")

# Steps before others on the loop get their turn, counted and not timed: a clock costs as much as a
# step. Measured on one core of a virtual machine with 10.7 µs of CPU for a datagram and its echo: 32
# sockets with full queues made turns of 31 ms when each read 64 and of 4 ms when each read 8. A turn
# costs as much as one datagram, so reading by 8 is 7 % dearer and by 64 free.
BATCH: Final = 64  # datagrams that all sockets of a server receive
LEAST: Final = 8  # of which each socket may always receive so many
MOST_BATCHES: Final = 64  # that are emptied from a socket at the end
STEPS: Final = (
    64  # replies of all handlers of a socket, at 4 µs each; each datagram's first is free
)

# Linux values that the socket module does not name.
SO_MEMINFO: Final = 55
MEMINFO_DROPS: Final = 8  # sock_diag(7): SK_MEMINFO_DROPS, the ninth 32-bit word

# send(2), unix(7): there is nobody at that address, or no way to it.
PEER_GONE: Final = frozenset({
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOENT, errno.EHOSTUNREACH, errno.ENETUNREACH,
})  # fmt: skip

NO_CONTROL: Final[Control] = []


class Datagram:
    """One datagram, as a handler gets it.

    Attributes:
        data: its bytes, whole unless `truncated`.
        truncated: it was longer than `Limits.datagram_size`, and its end is lost.

    """

    __slots__ = ("_control", "_endpoint", "_raw_peer", "data", "lost", "truncated")

    def __init__(
        self,
        data: bytes,
        truncated: bool,  # noqa: FBT001 - by position is a good deal faster
        endpoint: "DatagramEndpoint",
        raw_peer: Any,
        control: Control,
    ) -> None:
        self.data = data
        self.truncated = truncated
        self._endpoint = endpoint
        self._raw_peer = raw_peer
        self._control = control
        self.lost: tuple[AsyncServerError, ...] | None = None  # why replies did not go out

    def __repr__(self) -> str:
        cut = ", truncated" if self.truncated else ""
        return f"<Datagram {len(self.data)} bytes{cut}, peer {self.peer!r}>"

    @property
    def peer(self) -> PeerAddress:
        """Who sent it: `(host, port)`, or the path of a Unix socket; empty if it has no name."""
        return peer_address(self._raw_peer)

    @property
    def socket(self) -> "socket.socket":
        """The server's own socket, which is non-blocking and must stay so."""
        return self._endpoint.socket

    @property
    def local(self) -> PeerAddress:
        """The address it came to: on a wildcard bind the one that the peer used.

        If that was a multicast group or a broadcast address, the one that replies come from.
        """
        return local_address(self._control, self._endpoint.name, self._raw_peer)

    async def reply(self, data: bytes | bytearray | memoryview) -> None:
        """Send a datagram back, from the address that this one came to.

        Waits while the socket's send buffer (for Unix sockets: the receiver's queue) is full, after
        the replies to the same Unix peer that wait already.

        Raises:
            TypeError: `data` is no bytes.
            ServerStateError: it is called on another event loop than the server's.
            NoReplyAddressError: the sender has no address, as a Unix socket that was not bound.
            DeadlineExceeded: there was no room for `Timeouts.write`.
            ConnectionClosed: the server is closed.
            ConnectionBroken: the sender has gone, or there is no way to it.
            OSError: the system refused it, mostly because it is too long (EMSGSIZE): more than
                65,507 bytes over IPv4, 65,527 over IPv6.

        """
        if type(data) is not bytes:
            data = bytes(octets("reply()", data))
        endpoint, peer, control = self._endpoint, self._raw_peer, self._control
        check_loop(endpoint.loop, "datagram")
        outbox = endpoint.outbox
        try:
            if not peer:
                raise NoReplyAddressError(
                    "the sender has no address; it must bind() its socket first"
                )
            if not (outbox if outbox.watchful else endpoint).try_send(data, peer, control):
                await outbox.wait(data, peer, control, endpoint.write_timeout)
        except AsyncServerError as exc:
            self.lost = (*(self.lost or ()), exc)
            raise
        if self.lost is None:
            self.lost = ()
        elif endpoint.spent():
            await turn


class DatagramEndpoint:
    """Receives on one socket and starts a handler for each datagram.

    Args:
        sock: bound and non-blocking; the caller closes it, after `close()`.
        address: what it is bound to.
        size: longest datagram in bytes; what is beyond is cut.
        write_timeout: seconds that a reply may wait for room.
        take: starts the handler of a datagram; `False` if there are too many, and it is dropped.
        among: all endpoints of the server, this one too when it starts.

    """

    def __init__(
        self,
        sock: socket.socket,
        address: Address,
        *,
        size: int,
        write_timeout: float | None,
        take: Callable[[Datagram], bool],
        among: Sequence["DatagramEndpoint"],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.socket = sock
        self.write_timeout = write_timeout
        self._take = take
        self._among = among
        self._size = size
        self._reading = False
        # The kernel keeps a relative path as it was given to bind(2).
        self.name = address.path if address.is_unix else sock.getsockname()
        self._asks = not address.is_unix and has_many(self.name[0])
        if self._asks:
            ask(sock)
        self.outbox = Outbox(sock, self.try_send)
        self._steps = 0  # of this turn of the loop
        self.received = 0
        self.sent = 0
        self.dropped = 0
        self.truncated = 0

    def start(self) -> None:
        """Receive from now on."""
        self._reading = True
        self.loop.add_reader(self.socket.fileno(), self._receive)

    def stop(self, *, empty: bool = False) -> None:
        """Receive no more, but for what waits already if `empty`; replies can still be sent."""
        for _ in range(MOST_BATCHES if empty and self._reading else 0):
            if not self._receive():
                break
        if self._reading:
            self._reading = False
            self.loop.remove_reader(self.socket.fileno())

    def close(self) -> None:
        """Receive nothing, send nothing: those who wait get `ConnectionClosed`."""
        self.stop()
        self.outbox.close()

    def kernel_drops(self) -> int:
        """Datagrams that the kernel dropped because its buffer was full; 0 where it cannot tell."""
        if self.socket.family == socket.AF_UNIX or self.socket.fileno() < 0:
            return 0
        try:
            raw = self.socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 9 * 4)
            return int(struct.unpack("9I", raw)[MEMINFO_DROPS])
        except (OSError, struct.error):
            return 0

    def _receive(self) -> bool:
        """Receive a batch; return whether more may wait."""
        room = self._size + 1  # one byte more than wanted: who fills it was too long
        for _ in range(max(BATCH // len(self._among), LEAST)):
            try:
                if self._asks:
                    data, control, _, peer = self.socket.recvmsg(room, ANCILLARY_SIZE)
                else:
                    data, peer = self.socket.recvfrom(room)
                    control = NO_CONTROL
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                continue  # an ICMP error about something sent before: nobody's business here
            truncated = len(data) == room
            if truncated:
                self.truncated += 1
                data = data[:-1]
            if self._take(Datagram(data, truncated, self, peer, control)):
                self.received += 1
            else:
                self.dropped += 1
            if not self._reading:
                return False  # the handler has closed the server
        return True

    def try_send(self, data: bytes, peer: Any, control: Control) -> bool:
        """Send one datagram, or return `False` if there is no room. See `Datagram.reply`."""
        try:
            if control:
                self.socket.sendmsg([data], reply_control(control), 0, peer)
            else:
                self.socket.sendto(data, peer)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            if exc.errno == errno.ENOBUFS:
                return False
            if exc.errno == errno.EBADF:
                raise ConnectionClosed("the server is closed") from None
            if exc.errno in PEER_GONE:
                raise ConnectionBroken(f"the datagram cannot be delivered: {exc}") from exc
            raise
        self.sent += 1
        return True

    def spent(self) -> bool:
        """Count a reply beyond a datagram's first; whether it is time for others."""
        if not self._steps:
            self.loop.call_soon(self._begin_turn)
        self._steps += 1
        return self._steps > STEPS

    def _begin_turn(self) -> None:
        self._steps = 0
