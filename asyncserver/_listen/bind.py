"""Addresses to bound sockets.

Nothing here waits: names have been looked up before (`resolve` is the one coroutine), and the
sockets come out non-blocking, bound, and listening where they are stream sockets.
"""

import _socket
import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from asyncserver._cpython import accept_of
from asyncserver._listen import paths
from asyncserver._listen.address import Address
from asyncserver.errors import BindError

__all__ = ("BoundSocket", "accept_plain", "listen", "reason", "resolve")

SAME_PORT_TRIES: Final = 32  # for a port that is free on both IP families; one nearly always does

IPV6_ONLY_ADDRESSES: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """A bound socket and its address; `close()` also gives back its Unix path."""

    socket: socket.socket
    address: Address
    inode: paths.Inode | None = None  # of the path that we made

    def close(self) -> None:
        """Close the socket, and remove its path if that is still ours."""
        paths.give_back(self.address.path, self.inode)
        self.socket.close()


class PlainSocket(socket.socket):
    """A socket that tells its kind in plain numbers.

    The standard class makes an enum of them each time that it is asked, and a loop asks three times
    to make a transport: a tenth of what a short connection costs.
    """

    __slots__ = ()
    family = _socket.socket.family  # type: ignore[assignment]
    type = _socket.socket.type  # type: ignore[assignment]


def accept_plain(listener: socket.socket) -> Callable[[], tuple[PlainSocket, Any]]:
    """Return `listener.accept`, but for sockets of which a loop is to make transports.

    The stock loop sets TCP_NODELAY only for sockets that say what protocol they are of, and those that
    are made without a number do not.
    """
    is_ip = listener.family in {socket.AF_INET, socket.AF_INET6}
    proto = socket.IPPROTO_TCP if is_ip else listener.proto
    kind = int(listener.family), int(listener.type), proto
    accept = accept_of(listener)

    def accept_one() -> tuple[PlainSocket, Any]:
        fileno, peer = accept()
        return PlainSocket(*kind, fileno), peer

    return accept_one


async def resolve(address: Address) -> list[str]:
    """Look up the IP addresses that `address` stands for: IPv6 first, each once."""
    if address.is_unix:
        return []
    if not address.host:
        return ["::", "0.0.0.0"] if socket.has_ipv6 else ["0.0.0.0"]
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(address.host)
        return [address.host]  # nothing to look up, and no thread to do it
    kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            address.host, address.port, type=kind, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as exc:  # UnicodeError: a label that IDNA refuses
        raise BindError(errno.EADDRNOTAVAIL, f"{address}: {reason(exc)}") from exc
    hosts = {socket.getnameinfo(info[4], socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]: info[0]
             for info in found}  # fmt: skip
    return sorted(hosts, key=lambda host: hosts[host] != socket.AF_INET6)


def listen(
    address: Address,
    hosts: Sequence[str],
    *,
    backlog: int,
    mode: int | None = None,
    reuse_port: bool = False,
) -> list[BoundSocket]:
    """Bind `address`; several sockets on one port if it stands for several IP addresses.

    Raises:
        BindError: the address is in use, not this machine's, or not allowed.

    """
    try:
        if address.is_unix:
            return [_listen_unix(address, backlog, mode)]
        for _ in range(SAME_PORT_TRIES - 1 if address.port == 0 and len(hosts) > 1 else 0):
            with contextlib.suppress(OSError):
                return _listen_ip(address, hosts, backlog, reuse_port=reuse_port)
        return _listen_ip(address, hosts, backlog, reuse_port=reuse_port)
    except OSError as exc:
        raise BindError(exc.errno, f"{address}: {reason(exc)}") from exc


def _listen_ip(
    address: Address, hosts: Sequence[str], backlog: int, *, reuse_port: bool
) -> list[BoundSocket]:
    with contextlib.ExitStack() as undo:
        listeners: list[BoundSocket] = []
        port = address.port
        for host in hosts:
            try:
                sock = _bind_ip(address, host, port, reuse_port=reuse_port)
            except OSError as exc:
                # A machine without IPv6 is served by what it has.
                if exc.errno in IPV6_ONLY_ADDRESSES and ":" in host and host != hosts[-1]:
                    continue
                raise
            undo.callback(sock.close)
            port = sock.getsockname()[1]
            if address.is_stream:
                sock.listen(backlog)
            listeners.append(BoundSocket(sock, Address.of_ip(address.scheme, host, port)))
        undo.pop_all()
        return listeners


def _bind_ip(address: Address, host: str, port: int, *, reuse_port: bool) -> socket.socket:
    kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            # IPv4 has a socket of its own, so no peer is ever shown as ::ffff:a.b.c.d.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if address.is_stream:
            # Only for TCP: on UDP it would let a second server share the port (cpython#81407).
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        info = socket.getaddrinfo(host, port, family, kind, flags=socket.AI_NUMERICHOST)
        sock.bind(info[0][4])
    except BaseException:
        sock.close()
        raise
    return sock


def _listen_unix(address: Address, backlog: int, mode: int | None) -> BoundSocket:
    kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
    inode = None
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        sock.setblocking(False)
        length = backlog if address.is_stream else None
        if address.path.startswith("@"):
            sock.bind("\0" + address.path[1:])
            if length is not None:
                sock.listen(length)
        else:
            inode = paths.bind(sock, address.path, mode=mode, backlog=length)
    except BaseException:
        sock.close()
        raise
    return BoundSocket(sock, address, inode)


def reason(exc: BaseException) -> str:
    """Say it without the number that the text of an OSError begins with."""
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
