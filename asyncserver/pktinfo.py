"""The address that a datagram came to, and the one that its reply goes out from.

A socket that receives for several addresses has to ask with each datagram, and to say so in the reply:
a client that asked one address of this machine does not take an answer from another.
"""

import contextlib
import errno
import ipaddress
import socket
import struct
import sys
from typing import Any, Final

from asyncserver.address import PeerAddress, peer_address

__all__ = ("ANCILLARY_SIZE", "Control", "ask", "has_many", "local_address", "reply_control")

Control = list[tuple[int, int, bytes]]  # ancillary data, as recvmsg() and sendmsg() have it

# Linux's value, which the socket module does not name on every version, see ip(7).
IP_PKTINFO: Final = getattr(socket, "IP_PKTINFO", 8)
IPV4: Final = (socket.IPPROTO_IP, IP_PKTINFO)
IPV6: Final = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)
LENGTHS: Final = {IPV4: 12, IPV6: 20}  # bytes: struct in_pktinfo, struct in6_pktinfo
# A dual-stack socket tells about an IPv4 datagram in both ways; and one that was bound by somebody else
# may have been asked for more, as timestamps, which come first.
ANCILLARY_SIZE: Final = 512


def has_many(host: str) -> bool:
    """Whether who is bound to this IP address receives for others: a wildcard, group or broadcast."""
    host = peer_address((host, 0, 0, 0))[0]  # an IPv4 address is one however it is written
    address = ipaddress.ip_address(host)
    if address.is_unspecified or address.is_multicast:
        return True
    return isinstance(address, ipaddress.IPv4Address) and _is_broadcast(host)


def ask(sock: socket.socket) -> None:
    """Let the kernel tell with each datagram where it came to."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)  # of IPv6 sockets too: they may be dual-stack


def reply_control(control: Control) -> Control:
    """Turn "came to this address" into "send from this address"."""
    told = _told(control)
    if IPV4 in told:
        # ip(7), struct in_pktinfo: interface 0 leaves the route to the kernel; the address of ours
        # that was meant, also by a group or a broadcast; unused.
        return [(*IPV4, struct.pack("=I4s4s", 0, told[IPV4][4:8], bytes(4)))]
    raw = told.get(IPV6)
    if raw is None or _is_group(raw):
        return []  # nothing can come from a group: the kernel has to choose
    # RFC 3542, section 6.1. Link-local addresses need the interface, others must not.
    return [(*IPV6, raw if _is_link_local(raw) else raw[:16] + bytes(4))]


def local_address(control: Control, name: Any, peer: Any) -> PeerAddress:
    """Return where the client can reach us again, on a socket with this `name`."""
    told = _told(control)
    if IPV4 in told:
        return socket.inet_ntop(socket.AF_INET, told[IPV4][4:8]), name[1]
    raw = told.get(IPV6)
    if raw is None:
        return peer_address(name)
    host = socket.inet_ntop(socket.AF_INET6, raw[:16])
    if _is_group(raw):
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock,
        ):
            sock.connect(peer)  # which sends nothing, but finds the way
            host, _, _, scope = sock.getsockname()
            return peer_address((host, name[1], 0, scope))
    scope = int.from_bytes(raw[16:20], sys.byteorder) if _is_link_local(raw) else 0
    return peer_address((host, name[1], 0, scope))


def _told(control: Control) -> dict[tuple[int, int], bytes]:
    """Return what the kernel tells in full: where there is no room, it cuts a message short."""
    return {
        (level, kind): raw for level, kind, raw in control if len(raw) == LENGTHS.get((level, kind))
    }


def _is_broadcast(host: str) -> bool:
    """Whether the kernel takes it for one, as a subnet's last address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((host, 9))  # which sends nothing
        except OSError as exc:
            return exc.errno == errno.EACCES  # ip(7): a broadcast, without SO_BROADCAST
    return False


def _is_group(raw: bytes) -> bool:
    mapped = raw[:12] == bytes(10) + b"\xff\xff"
    return raw[0] == 0xFF or (mapped and raw[12] >= 224)  # noqa: PLR2004 - ff00::/8, 224.0.0.0/4


def _is_link_local(raw: bytes) -> bool:
    return raw[0] == 0xFE and raw[1] & 0xC0 == 0x80  # noqa: PLR2004 - fe80::/10
