"""The stream that a handler holds: an `anyio.abc.ByteStream` with the words of asyncio beside it.

It sends, closes, upgrades to TLS, and tells about both ends. Reading stands in `reader`, moving bytes
in `protocol`; who closes it, and when, is the server's business.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final

from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute

from asyncserver.address import PeerAddress, peer_address
from asyncserver.attributes import (
    Credentials,
    credentials,
    socket_attributes,
    tls_attributes,
)
from asyncserver.buffer import ReceiveBuffer
from asyncserver.closing import Closing
from asyncserver.contexts import server_context
from asyncserver.driver import check_loop
from asyncserver.errors import (
    ConnectionBusy,
    ConnectionClosed,
    DeadlineExceeded,
    HandshakeError,
)
from asyncserver.limits import Limits, Timeouts
from asyncserver.protocol import StreamProtocol
from asyncserver.reader import Reader
from asyncserver.settings import octets
from asyncserver.tls import TLSTransport

__all__ = ("Connection",)

MUTED: Final = (
    "the server drains, and a loop has ended before its first line: what was to come may have been the"
    " rest of a message, so nothing can be confirmed any more"
)


class Connection(Reader, ByteStream):
    """One accepted connection.

    Reads take from what has arrived; a read that is cancelled loses no byte. `send` returns when
    the transport has room, so a peer that does not read slows its handler down and nobody else.
    One task may read at a time; any number may send.

    Attributes:
        peer: the other end: `(host, port)`, or the path of a Unix socket, mostly empty.
        closed_by_handler: its own task has closed it, so that using it afterwards is a mistake there.
        standard_compatible: demand that a peer ends a stream over TLS with close_notify: an end without
            it raises `ConnectionBroken`, caused by an `ssl.SSLEOFError`, and does not pass for an
            orderly one. Default: false, as many peers just close.

    """

    __slots__ = (
        "_closed", "_closing", "_limits", "_muted", "_protocol", "_timeouts", "closed_by_handler", "peer",
        "standard_compatible",
    )  # fmt: skip

    def __init__(
        self, protocol: StreamProtocol, peer: PeerAddress, limits: Limits, timeouts: Timeouts
    ) -> None:
        self._protocol = protocol
        self._limits = limits
        self._timeouts = timeouts
        self._closed = False
        self._muted = False  # a loop has ended because of a drain, before its first line
        self._closing: Closing | None = None  # made when somebody asks for it
        self.closed_by_handler = False
        self.peer = peer
        self.standard_compatible = False

    def __repr__(self) -> str:
        state = "closed" if self._closed or self._protocol.lost else "open"
        return f"<{type(self).__name__} {state}, peer {self.peer!r}>"

    # -- writing -------------------------------------------------------------------------------

    async def send(self, item: bytes | bytearray | memoryview) -> None:
        """Send all of `item`; return when fewer than `Limits.write_buffer` bytes wait to go.

        Raises:
            ConnectionBroken: the connection was lost; its cause is the system's word for it.
            ConnectionClosed: it was closed, or `send_eof` was called, on this side.
            DeadlineExceeded: the peer took nothing for `Timeouts.write`; the connection is
                aborted.
            TypeError: `item` is not bytes, but text, say.

        """
        protocol = self._protocol
        if not protocol.sendable:
            octets("send()", item)
            await self._wait_for_the_reason()
            raise self._why_not_send()
        protocol.write(item)
        if not protocol.flowing:
            await protocol.flow()
            if protocol.lost:
                raise self._why_not()

    async def send_eof(self) -> None:
        """Tell the peer that nothing more will be sent; reading goes on.

        Over TLS this is a close_notify (RFC 8446, section 6.1).
        """
        if self._closed or self._protocol.lost:
            raise self._why_not()
        protocol = self._protocol
        check_loop(protocol.loop, "connection")
        if protocol.sendable:
            protocol.sendable = False
            protocol.answered = True
            protocol.flush()
            with contextlib.suppress(OSError):  # the peer has gone, as whoever reads will hear
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
        check_loop(protocol.loop, "connection")
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
                protocol.buffer = ReceiveBuffer()  # which knows of nothing that came in clear
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
    def closing(self) -> Closing:
        """Set when the server asks this handler to finish: `await connection.closing.wait()`.

        A connection that has not spoken yet is asked when it is `Timeouts.first` old.
        """
        if self._closing is None:
            self._closing = Closing()
        if self._protocol.told:
            self._closing.set()
        return self._closing

    def finish(self, *, spared: bool) -> None:
        """Ask the handler to finish; if `spared`, not before its first message."""
        self._protocol.finish(spared=spared)
        if self._closing is not None and self._protocol.told:
            self._closing.set()

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
        """The process at the other end of a Unix socket; `None` elsewhere, and when it is closed."""
        return credentials(self._protocol.transport.get_extra_info("socket"))

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Anyio's typed attributes: `connection.extra(SocketAttribute.remote_address)`."""
        attributes = socket_attributes(
            self._protocol.transport.get_extra_info("socket"), self.local, self.peer
        )
        if self.tls is not None:
            attributes |= tls_attributes(self.tls)
            attributes[TLSAttribute.standard_compatible] = lambda: self.standard_compatible
        return attributes

    async def _wait_for_the_reason(self) -> None:
        """Wait for what the transport will say when it has failed: why."""
        protocol = self._protocol
        known = self._closed or protocol.lost or protocol.error is not None
        if not known and protocol.transport.is_closing():
            await protocol.drained()

    def _why_not_send(self) -> Exception:
        """Tell why nothing can be sent."""
        protocol = self._protocol
        if self._closed or protocol.lost or protocol.transport.is_closing():
            return self._why_not()
        if self._muted:
            return ConnectionClosed(MUTED)
        return ConnectionClosed("send_eof() was called, or start_tls() is at work")

    def mute(self) -> None:
        """Let nothing be sent any more: it might confirm a message that has not come."""
        self._muted = True
        self._protocol.sendable = False

    def _end(self) -> None:
        """End it on this side: nothing is left to read, nothing more is sent, nobody waits."""
        protocol = self._protocol
        check_loop(protocol.loop, "connection")
        if not self._closed:
            self._closed = True
            self.closed_by_handler = asyncio.current_task(protocol.loop) is protocol.task
        protocol.sendable = False
        protocol.ended = True
        protocol.buffer.take(protocol.buffer.size)
        protocol.wake()
