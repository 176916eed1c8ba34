"""What can be told of a connection: its peer's process, and what anyio's typed attributes are."""

import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeGuard

from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute

from asyncserver.address import PeerAddress

__all__ = ("Credentials", "credentials", "socket_attributes", "tls_attributes")

Attributes = dict[Any, Callable[[], Any]]
THREE_NUMBERS: Final = struct.Struct("3i")


class Credentials(NamedTuple):
    """The process at the other end of a Unix socket, see SO_PEERCRED in unix(7)."""

    pid: int
    uid: int
    gid: int


def credentials(sock: socket.socket | None) -> Credentials | None:
    """Return who is at the other end of a Unix socket; `None` elsewhere, and of a closed one."""
    if not _is_open(sock) or sock.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return None
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, THREE_NUMBERS.size)
    return Credentials(*THREE_NUMBERS.unpack(raw))


def socket_attributes(
    sock: socket.socket | None, local: PeerAddress, peer: PeerAddress
) -> Attributes:
    """Return what is known of a socket with these two ends; of a closed one, only these."""
    attributes: Attributes = {
        SocketAttribute.local_address: lambda: _connectable(local),
        SocketAttribute.remote_address: lambda: _connectable(peer),
    }
    if _is_open(sock):
        attributes[SocketAttribute.family] = lambda: socket.AddressFamily(sock.family)
        attributes[SocketAttribute.raw_socket] = lambda: sock
    if not isinstance(local, str) and not isinstance(peer, str):
        attributes[SocketAttribute.local_port] = lambda: local[1]
        attributes[SocketAttribute.remote_port] = lambda: peer[1]
    return attributes


def tls_attributes(tls: ssl.SSLObject) -> Attributes:
    """Return what is known of a session that was negotiated."""
    return {
        TLSAttribute.alpn_protocol: tls.selected_alpn_protocol,
        TLSAttribute.channel_binding_tls_unique: tls.get_channel_binding,
        TLSAttribute.cipher: tls.cipher,
        TLSAttribute.peer_certificate: lambda: tls.getpeercert(binary_form=False),
        TLSAttribute.peer_certificate_binary: lambda: tls.getpeercert(binary_form=True),
        TLSAttribute.server_side: lambda: True,
        TLSAttribute.shared_ciphers: tls.shared_ciphers,
        TLSAttribute.ssl_object: lambda: tls,
        TLSAttribute.tls_version: tls.version,
    }


def _is_open(sock: socket.socket | None) -> TypeGuard[socket.socket]:
    """Whether there is one: a transport that is closed may have forgotten its own."""
    return sock is not None and sock.fileno() >= 0


def _connectable(address: PeerAddress) -> PeerAddress:
    """Write an abstract name as `socket.connect` takes it, see unix(7)."""
    if isinstance(address, str) and address.startswith("@"):
        return f"\0{address[1:]}"
    return address
