"""The stream that a handler holds: an `anyio.abc.ByteStream` with the words of asyncio beside it.

It sends, closes, upgrades to TLS, and tells about both ends. Reading stands in `reader`, moving bytes
in `protocol`; who closes it, and when, is the server's business.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute

from asyncserver.address import PeerAddress, peer_address
from asyncserver.closing import Closing
from asyncserver.contexts import server_context
from asyncserver.errors import (
    ConnectionBusy,
    ConnectionClosed,
    DeadlineExceeded,
    HandshakeError,
)
from asyncserver.limits import Limits, Timeouts
from asyncserver.protocol import StreamProtocol
from asyncserver.reader import Reader
from asyncserver.tls import TLSTransport

__all__ = ("Connection", "Credentials")


class Credentials(NamedTuple):
    """The process at the other end of a Unix socket, see SO_PEERCRED in unix(7)."""

    pid: int
    uid: int
    gid: int


class Connection(Reader, ByteStream):
    """One accepted connection.

    Reads take from what has arrived; a read that is cancelled loses no byte. `send` returns when
    the transport has room, so a peer that does not read slows its handler down and nobody else.
    One task may read at a time; any number may send.

    Attributes:
        peer: the other end: `(host, port)`, or the path of a Unix socket, mostly empty.
        closing: set when the server asks handlers to finish. `await connection.closing.wait()`.

    """

    __slots__ = (
        "_closed", "_limits", "_protocol", "_timeouts", "closing", "peer",
    )  # fmt: skip

    def __init__(
        self,
        protocol: StreamProtocol,
        peer: PeerAddress,
        closing: Closing,
        limits: Limits,
        timeouts: Timeouts,
    ) -> None:
        self._protocol = protocol
        self._limits = limits
        self._timeouts = timeouts
        self._closed = False
        self.peer = peer
        self.closing = closing

    def __repr__(self) -> str:
        state = "closed" if self._closed or self._protocol.lost else "open"
        return f"<{type(self).__name__} {state}, peer {self.peer!r}>"

    # -- writing -------------------------------------------------------------------------------

    async def send(self, item: bytes | bytearray | memoryview) -> None:
        """Send all of `item`; return when fewer than `Limits.write_buffer` bytes wait to go.

        Raises:
            ConnectionBroken: the connection was lost.
            ConnectionClosed: it was closed, or `send_eof` was called, on this side.
            DeadlineExceeded: the peer took nothing for `Timeouts.write`; the connection is
                aborted.

        """
        protocol = self._protocol
        if not protocol.sendable:
            raise self._why_not_send()
        protocol.write(item)
        if not protocol.writable:
            await protocol.drained()
            if protocol.lost:
                raise self._why_not()

    async def send_eof(self) -> None:
        """Tell the peer that nothing more will be sent; reading goes on.

        Over TLS this is a close_notify (RFC 8446, section 6.1).
        """
        if self._closed or self._protocol.lost:
            raise self._why_not()
        protocol = self._protocol
        if protocol.sendable:
            protocol.sendable = False
            protocol.flush()
            protocol.transport.write_eof()

    async def aclose(self) -> None:
        """Close: what was sent still goes out, for up to `Timeouts.write`. Never raises an error.

        When cancelled, what is left is thrown away.
        """
        self.close()
        protocol = self._protocol
        if not protocol.transport.get_write_buffer_size():  # only the loop has to take its turn
            if not protocol.lost:
                await protocol.drained()
            return
        try:
            async with asyncio.timeout(self._timeouts.write):
                while not protocol.lost:
                    await protocol.drained()
        except TimeoutError:
            self.abort()
        except asyncio.CancelledError:
            self.abort()
            raise

    def close(self) -> None:
        """Begin to close, without waiting for what was sent to go out."""
        self._end()
        self._protocol.close_transport()

    def abort(self) -> None:
        """Close at once; what was not sent yet is lost."""
        self._end()
        self._protocol.abort_transport()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Upgrade to TLS, as the server, after the peer was told to begin (STARTTLS, RFC 3207).

        Call it right after sending that reply. The connection goes on under the same name.

        Raises:
            UpgradeRefusedError: clear text is waiting to be read; upgrading now would let whoever
                wrote it act in the peer's name. The connection is aborted.
            HandshakeError: the handshake failed; the connection is closed.
            ConnectionBusy: another task is reading, or the connection is encrypted already.
            DeadlineExceeded: it took longer than `Timeouts.handshake`; likewise.

        """
        protocol = self._protocol
        if self._closed or protocol.lost:
            raise self._why_not()
        if protocol.reading:
            raise ConnectionBusy("reading from")
        if self.tls is not None:
            raise ConnectionBusy("encrypting")
        if not protocol.sendable:
            raise self._why_not_send()
        layer = TLSTransport(server_context(context))
        protocol.flush()
        protocol.sendable = False  # what another task sends now must not go out in clear
        try:
            async with asyncio.timeout(self._timeouts.handshake):
                if not protocol.writable:
                    await protocol.drained()
                received = protocol.buffer.take(protocol.buffer.size)
                await layer.upgrade(protocol.transport, received, ended=protocol.ended)
        except BaseException as exc:
            if not isinstance(exc, HandshakeError):  # which has sent its alert, and is closing
                self.abort()
            protocol.connection_lost(None)  # the transport does not know it any more
            if isinstance(exc, TimeoutError) and self._timeouts.handshake is not None:
                raise DeadlineExceeded("handshake", self._timeouts.handshake) from None
            raise
        protocol.transport = layer
        protocol.sendable = not (self._closed or protocol.lost)
        layer.start(protocol)

    # -- what is known about it ----------------------------------------------------------------

    @property
    def local(self) -> PeerAddress:
        """Our own end's address: `(host, port)`, or the path of a Unix socket."""
        return peer_address(self._protocol.transport.get_extra_info("sockname"))

    @property
    def bytes_received(self) -> int:
        """Bytes received so far, read or not."""
        return self._protocol.received

    @property
    def bytes_sent(self) -> int:
        """Bytes given to `send` so far."""
        return self._protocol.sent

    @property
    def tls(self) -> ssl.SSLObject | None:
        """What was negotiated: `version()`, `cipher()`, `getpeercert()`; `None` in clear."""
        found: ssl.SSLObject | None = self._protocol.transport.get_extra_info("ssl_object")
        return found

    @property
    def credentials(self) -> Credentials | None:
        """The process at the other end of a Unix socket; `None` elsewhere."""
        sock = self._protocol.transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
            return None
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return Credentials(*struct.unpack("3i", raw))

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Anyio's typed attributes: `connection.extra(SocketAttribute.remote_address)`."""
        sock = self._protocol.transport.get_extra_info("socket")
        attributes: dict[Any, Callable[[], Any]] = {
            SocketAttribute.family: lambda: socket.AddressFamily(sock.family),
            SocketAttribute.local_address: lambda: self.local,
            SocketAttribute.raw_socket: lambda: sock,
            SocketAttribute.remote_address: lambda: self.peer,
        }
        if not isinstance(self.peer, str):
            attributes[SocketAttribute.local_port] = lambda: self.local[1]
            attributes[SocketAttribute.remote_port] = lambda: self.peer[1]
        tls = self.tls
        if tls is not None:
            attributes |= _tls_attributes(tls)
        return attributes

    def _why_not_send(self) -> Exception:
        """Tell why nothing can be sent."""
        protocol = self._protocol
        if self._closed or protocol.lost or protocol.transport.is_closing():
            return self._why_not()
        return ConnectionClosed("send_eof() was called, or start_tls() is at work")

    def _end(self) -> None:
        """End it on this side: nothing is left to read, nothing more is sent, nobody waits."""
        self._closed = True
        protocol = self._protocol
        protocol.sendable = False
        protocol.ended = True
        protocol.buffer.take(protocol.buffer.size)
        protocol.wake()


def _tls_attributes(tls: ssl.SSLObject) -> dict[Any, Callable[[], Any]]:
    return {
        TLSAttribute.alpn_protocol: tls.selected_alpn_protocol,
        TLSAttribute.channel_binding_tls_unique: tls.get_channel_binding,
        TLSAttribute.cipher: tls.cipher,
        TLSAttribute.peer_certificate: lambda: tls.getpeercert(binary_form=False),
        TLSAttribute.peer_certificate_binary: lambda: tls.getpeercert(binary_form=True),
        TLSAttribute.server_side: lambda: True,
        TLSAttribute.shared_ciphers: tls.shared_ciphers,
        TLSAttribute.ssl_object: lambda: tls,
        TLSAttribute.standard_compatible: lambda: False,
        TLSAttribute.tls_version: tls.version,
    }
