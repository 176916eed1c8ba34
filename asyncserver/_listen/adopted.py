"""Sockets that somebody else has bound: which of them can be served, and what their address is.

All that can be known is asked of the kernel before a server opens anything, since a socket of the
wrong kind fails much later: one that is connected, say, is readable for ever and accepts nobody.
"""

import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final

from asyncserver._listen.address import Address, peer_address
from asyncserver._listen.bind import BoundSocket, reason
from asyncserver.errors import AddressError, BindError

__all__ = ("adopt", "adopt_all")

IPPROTO_MPTCP: Final = 262  # not in the socket module; plain TCP clients can connect to it
IP_KINDS: Final[dict[int, tuple[int, ...]]] = {
    socket.SOCK_STREAM: (socket.IPPROTO_TCP, IPPROTO_MPTCP),
    socket.SOCK_DGRAM: (socket.IPPROTO_UDP,),
}
UNIX: Final = (0, int(socket.AF_UNIX))  # both mean the same
# What can be served: family, type, protocol.
KINDS: Final[dict[int, dict[int, tuple[int, ...]]]] = {
    socket.AF_INET: IP_KINDS,
    socket.AF_INET6: IP_KINDS,
    socket.AF_UNIX: {socket.SOCK_STREAM: UNIX, socket.SOCK_DGRAM: UNIX},
}
NOT_CONNECTED: Final = frozenset({errno.ENOTCONN, errno.EINVAL})  # EINVAL: shut down, on BSD


def adopt_all(
    addresses: Sequence[Address | socket.socket], backlog: int, check: Callable[[Address], None]
) -> list[Address | BoundSocket]:
    """Take over the sockets among `addresses`, if all can be served; `check` may refuse some.

    Raises:
        BindError: see `adopt`; or one was given twice, or cannot listen.

    """
    adopted = [each if isinstance(each, Address) else adopt(each) for each in addresses]
    filenos = set()
    for each in adopted:
        if isinstance(each, BoundSocket):
            check(each.address)
            if each.socket.fileno() in filenos:
                raise BindError(errno.EADDRINUSE, f"{each.socket!r} was given twice")
            filenos.add(each.socket.fileno())
    for each in adopted:
        if isinstance(each, BoundSocket):
            _begin_to_listen(each, backlog)
    return adopted


def adopt(sock: socket.socket) -> BoundSocket:
    """Take over a socket that is bound already; from here on the server closes it.

    It changes nothing but that the socket does not block.

    Raises:
        BindError: the socket is of a kind that cannot be served, or in a state in which it cannot.

    """
    try:
        _check_kind(sock)
        _check_state(sock)
        listener = BoundSocket(sock, _address_of(sock))
        sock.setblocking(False)
    except AddressError as exc:  # a name that no client could write
        raise BindError(errno.EADDRNOTAVAIL, f"{sock!r}: {exc}") from exc
    except OSError as exc:
        raise BindError(exc.errno, f"{sock!r} cannot be served: {reason(exc)}") from exc
    return listener


def _begin_to_listen(listener: BoundSocket, backlog: int) -> None:
    sock = listener.socket
    try:
        if listener.address.is_stream and not _option(sock, "SO_ACCEPTCONN", 0):
            sock.listen(backlog)
    except OSError as exc:
        raise BindError(exc.errno, f"{listener.address}: {reason(exc)}") from exc


def _check_kind(sock: socket.socket) -> None:
    if sock.fileno() < 0:
        raise OSError(errno.EBADF, "it is closed")
    if hasattr(sock, "context"):
        raise OSError(errno.EPROTOTYPE, "give the plain socket, and the SSLContext as tls=")
    family, kind = _option(sock, "SO_DOMAIN", sock.family), _option(sock, "SO_TYPE", sock.type)
    if (family, kind) != (sock.family, sock.type):
        # It was made of a descriptor, with words that are not true.
        raise OSError(errno.EPROTOTYPE, "it is of another kind: write socket.socket(fileno=...)")
    if family not in KINDS or kind not in KINDS[family]:
        raise OSError(errno.ESOCKTNOSUPPORT, "it is no TCP, UDP or Unix socket")
    if _option(sock, "SO_PROTOCOL", sock.proto) not in KINDS[family][kind]:
        raise OSError(errno.EPROTONOSUPPORT, "it is of another protocol than TCP or UDP")


def _check_state(sock: socket.socket) -> None:
    try:
        peer = sock.getpeername()
    except OSError as exc:
        if exc.errno not in NOT_CONNECTED:
            raise
    else:
        where = f" to {peer!r}" if peer else ""
        raise OSError(errno.EISCONN, f"it is connected{where}: a server's is only bound")
    name = sock.getsockname()
    if not name or (isinstance(name, tuple) and name[1] == 0):
        raise OSError(errno.EINVAL, "it must be bound before it is served")


def _option(sock: socket.socket, name: str, default: int) -> int:
    """Return what the kernel says of a socket, or `default` where it has no such option."""
    number = getattr(socket, name, None)
    return default if number is None else sock.getsockopt(socket.SOL_SOCKET, number)


def _address_of(sock: socket.socket) -> Address:
    stream = sock.type == socket.SOCK_STREAM
    name = peer_address(sock.getsockname())
    if isinstance(name, tuple):
        return Address.of_ip("tcp" if stream else "udp", *name)
    if not name.startswith(("@", "/")):
        # The kernel keeps what was given to bind(2), and not where that was.
        name = os.path.abspath(name)
        if not os.path.exists(name):
            raise OSError(errno.ENOENT, f"its relative path leads to nothing at {name}")
    return Address.of_path("unix" if stream else "unixgram", name)
