"""Addresses to bound sockets, and who owns the path of a Unix socket.

Nothing here waits: names have been looked up before (`resolve` is the one coroutine), and the
sockets come out non-blocking, bound, and listening where they are stream sockets.
"""

import _socket
import asyncio
import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from asyncserver.address import Address
from asyncserver.errors import BindError

__all__ = ("Listener", "accept_plain", "adopt", "listen", "resolve")

SAME_PORT_TRIES: Final = 32  # for a port that is free on both IP families; one nearly always does

IPV6_ONLY_ADDRESSES: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound socket and its address; `close()` also gives back its Unix path."""

    socket: socket.socket
    address: Address
    inode: tuple[int, int] | None = None  # device and number of the path that we made

    def close(self) -> None:
        """Close the socket, and remove its path if that is still ours (cpython#121252)."""
        if self.inode is not None and _inode(self.address.path) == self.inode:
            with contextlib.suppress(OSError):
                os.unlink(self.address.path)
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
    accept = listener._accept  # type: ignore[attr-defined] # what accept() itself calls

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
        raise BindError(errno.EADDRNOTAVAIL, f"{address}: {_reason(exc)}") from exc
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
) -> list[Listener]:
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
        raise BindError(exc.errno, f"{address}: {_reason(exc)}") from exc


def adopt(sock: socket.socket, backlog: int) -> Listener:
    """Take over a socket that is bound already; from here on the server closes it.

    Raises:
        BindError: the socket is of a kind that cannot be served.

    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        raise BindError(errno.EAFNOSUPPORT, f"{sock!r} is no TCP, UDP or Unix socket")
    if hasattr(sock, "context"):
        raise BindError(errno.EPROTOTYPE, "give the plain socket, and the SSLContext as tls=")
    address = _address_of(sock)
    sock.setblocking(False)
    if address.is_stream and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.listen(backlog)
    return Listener(sock, address)


def _listen_ip(
    address: Address, hosts: Sequence[str], backlog: int, *, reuse_port: bool
) -> list[Listener]:
    with contextlib.ExitStack() as undo:
        listeners: list[Listener] = []
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
            listeners.append(Listener(sock, Address.of_ip(address.scheme, host, port)))
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


def _listen_unix(address: Address, backlog: int, mode: int | None) -> Listener:
    kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        sock.setblocking(False)
        if address.path.startswith("@"):
            sock.bind("\0" + address.path[1:])
            inode = None
        else:
            with _alone_in(os.path.dirname(address.path)):
                _remove_stale(address.path, kind)
                if mode is not None:
                    os.fchmod(sock.fileno(), mode)  # so that it is never wider, not even at first
                sock.bind(address.path)
                inode = _inode(address.path)
                if mode is not None:
                    os.chmod(address.path, mode)  # and is exact, whatever the umask
                if address.is_stream:
                    sock.listen(backlog)  # until then a second server would take it for stale
        if address.is_stream:
            sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return Listener(sock, address, inode)


@contextlib.contextmanager
def _alone_in(directory: str) -> Iterator[None]:
    """Keep other servers from looking for stale sockets in `directory` at the same time."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _remove_stale(path: str, kind: socket.SocketKind) -> None:
    """Unlink a socket that nobody answers. Anything else stays, and `bind` says EADDRINUSE."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return  # EAGAIN: alive, its backlog full; EPROTOTYPE: alive, of the other kind; EACCES


def _address_of(sock: socket.socket) -> Address:
    stream = sock.type == socket.SOCK_STREAM
    name = sock.getsockname()
    if sock.family != socket.AF_UNIX:
        return Address.of_ip("tcp" if stream else "udp", name[0], name[1])
    path = "@" + name[1:].decode() if isinstance(name, bytes) else name
    if not path:
        raise BindError(errno.EINVAL, "a Unix socket must be bound before it is served")
    return Address.of_path("unix" if stream else "unixgram", os.path.abspath(path))


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _reason(exc: BaseException) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
