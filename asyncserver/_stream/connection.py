"""The stream that a handler holds: an `anyio.abc.ByteStream` with the words of asyncio beside it.

It sends, closes, upgrades to TLS, and tells about both ends. Reading stands in `reader`, moving bytes
in `protocol`; who closes it, and when, is the server's business.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final

from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute

from asyncserver._listen.address import PeerAddress, peer_address
from asyncserver._settings.checks import octets
from asyncserver._settings.limits import Limits, Timeouts
from asyncserver._stream.attributes import (
    Credentials,
    credentials,
    socket_attributes,
    tls_attributes,
)
from asyncserver._stream.draining import DrainEvent
from asyncserver._stream.protocol import StreamProtocol
from asyncserver._stream.reader import Reader
from asyncserver._stream.states import Sending
from asyncserver._stream.stepping import check_loop
from asyncserver._tls.context import server_context
from asyncserver._tls.transport import TLSTransport
from asyncserver.errors import (
    ConnectionBusyError,
    ConnectionClosedError,
    DeadlineExceededError,
    HandshakeError,
)

__all__ = ("Connection",)

OPEN: Final = Sending.OPEN
WHY_NOT_SEND: Final = {
    Sending.UPGRADING: "start_tls() is at work",
    Sending.SHUT: "send_eof() was called",
    Sending.MUTED: (
        "the server drains, and a loop has ended before its first line: what was to come may have been the"
        " rest of a message, so nothing can be confirmed any more"
    ),
}


class Connection(Reader, ByteStream):
    """One accepted connection.

    Reads take from what has arrived; a read that is cancelled loses no byte. `send` returns when
    the transport has room, so a peer that does not read slows its handler down and nobody else.
    One task may read at a time; any number may send.

    Attributes:
        peer: the other end: `(host, port)`, or the path of a Unix socket, mostly empty.
        closed_by_handler: its own task has closed it, so that using it afterwards is a mistake there.
        standard_compatible: demand that a peer ends a stream over TLS with close_notify: an end without
            it raises `ConnectionBrokenError`, caused by an `ssl.SSLEOFError`, and does not pass for an
            orderly one. Default: false, as many peers just close.

    """

    __slots__ = (
        "_draining", "_timeouts", "closed_by_handler", "peer",
    )  # fmt: skip

    def __init__(
        self, protocol: StreamProtocol, peer: PeerAddress, limits: Limits, timeouts: Timeouts
    ) -> None:
        super().__init__(protocol, limits)
        self._timeouts = timeouts
        self._draining: DrainEvent | None = None  # made when somebody asks for it
        self.closed_by_handler: bool = False
        self.peer: PeerAddress = peer

    def __repr__(self) -> str:
        receiving, sending = self._protocol.receiving.value, self._protocol.sending.value
        state = sending if receiving == sending else f"receiving {receiving}, sending {sending}"
        return f"<{type(self).__name__} {state}, peer {self.peer!r}>"

    # -- writing -------------------------------------------------------------------------------

    async def send(self, item: bytes | bytearray | memoryview) -> None:
        """Send all of `item`; return when fewer than `Limits.write_buffer` bytes wait to go.

        Raises:
            ConnectionBrokenError: the connection was lost; its cause is the system's word for it.
            ConnectionClosedError: it was closed, or `send_eof` was called, on this side.
            DeadlineExceededError: the peer took nothing for `Timeouts.write`; the connection is
                aborted.
            TypeError: `item` is not bytes, but text, say.

        """
        protocol = self._protocol
        if protocol.sending is not OPEN:
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

        Raises:
            ConnectionBusyError: `start_tls` is at work, in another task.
            ConnectionBrokenError, ConnectionClosedError: as in `send`.

        """
        protocol = self._protocol
        if protocol.closed or protocol.lost:
            raise self._why_not()
        check_loop(protocol.loop, "connection")
        if protocol.sending is Sending.UPGRADING:
            raise ConnectionBusyError("encrypting")
        if protocol.sending is OPEN:
            protocol.shut()

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
        self._note_who_closes()
        self._protocol.close_transport()

    def abort(self) -> None:
        """Close at once; what was not sent yet is lost."""
        self._note_who_closes()
        self._protocol.abort_transport()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Upgrade to TLS, as the server, after the peer was told to begin (STARTTLS, RFC 3207).

        Call it right after sending that reply. The connection goes on under the same name.

        Raises:
            UpgradeRefusedError: clear text is waiting to be read; upgrading now would let whoever
                wrote it act in the peer's name. The connection is aborted.
            HandshakeError: the handshake failed; the connection is closed.
            ConnectionBusyError: another task is reading, or the connection is encrypted already.
            DeadlineExceededError: it took longer than `Timeouts.handshake`; likewise.

        """
        protocol = self._protocol
        if protocol.closed or protocol.lost:
            raise self._why_not()
        check_loop(protocol.loop, "connection")
        if protocol.reading:
            raise ConnectionBusyError("reading from")
        if self.tls is not None:
            raise ConnectionBusyError("encrypting")
        if protocol.sending is not OPEN:
            raise self._why_not_send()
        layer = TLSTransport(server_context(context))
        protocol.begin_upgrade()
        try:
            async with asyncio.timeout(self._timeouts.handshake):
                if not protocol.writable:
                    await protocol.drained()
                received = protocol.take_clear_text()
                await layer.upgrade(protocol.transport, received, ended=protocol.ended)
        except BaseException as exc:
            if not isinstance(exc, HandshakeError):  # which has sent its alert, and is closing
                self.abort()
            protocol.connection_lost(None)  # the transport does not know it any more
            if isinstance(exc, TimeoutError) and self._timeouts.handshake is not None:
                raise DeadlineExceededError("handshake", self._timeouts.handshake) from None
            raise
        protocol.end_upgrade(layer)
        layer.start(protocol)

    # -- what is known about it ----------------------------------------------------------------

    @property
    def draining(self) -> DrainEvent:
        """Set when the server asks this handler to finish: `await connection.draining.wait()`.

        A connection that has not spoken yet is asked when it is `Timeouts.first` old.
        """
        if self._draining is None:
            self._draining = DrainEvent()
        if self._protocol.asked_now:
            self._draining.set()
        return self._draining

    def finish(self, *, spared: bool) -> None:
        """Ask the handler to finish; if `spared`, not before its first message."""
        self._protocol.finish(spared=spared)
        if self._draining is not None and self._protocol.asked_now:
            self._draining.set()

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
        known = protocol.closed or protocol.lost or protocol.error is not None
        if not known and protocol.transport.is_closing():
            await protocol.drained()

    def _why_not_send(self) -> Exception:
        """Tell why nothing can be sent."""
        protocol = self._protocol
        if protocol.closed or protocol.lost or protocol.transport.is_closing():
            return self._why_not()
        why = WHY_NOT_SEND.get(protocol.sending)
        return self._why_not() if why is None else ConnectionClosedError(why)

    def _note_who_closes(self) -> None:
        protocol = self._protocol
        check_loop(protocol.loop, "connection")
        if not protocol.closed:
            self.closed_by_handler = asyncio.current_task(protocol.loop) is protocol.task
