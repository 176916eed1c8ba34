"""TLS between a transport and a protocol: the handshake, and the same bytes in clear.

One layer for every loop, over `engine` (as asyncio's own, PEP 644 and cpython#81744). It exists
because `loop.start_tls()` loses or mixes up bytes at the moment of the upgrade on some loops, and
because a handshake is ours to time and to count: see `upgrade`.

Nobody holds the loop here: what comes is decrypted (`receiving`), and what goes is encrypted
(`sending`), a turn's worth at a time; handshakes take turns (`turns`). `states` has the tables.
"""

import asyncio
import contextlib
import socket
import ssl
from typing import Any, Final

from asyncserver._cpython import SENDFILE_FALLBACK
from asyncserver._tls.engine import reason
from asyncserver._tls.receiving import ReceivingHalf
from asyncserver._tls.states import Receiving, Sending, Wire, advance
from asyncserver._tls.turns import take_turns
from asyncserver.errors import HandshakeError, UpgradeRefusedError

__all__ = ("TLSTransport",)

HANDSHAKE_RECORD: Final = 0x16  # RFC 8446, section 5.1: the first byte of a ClientHello


class TLSTransport(ReceivingHalf):
    """A transport to the protocol above it, a protocol to the transport below it.

    Nothing is decrypted before `start`, so whoever comes above misses no byte.

    On the stock loop, `loop.start_tls` (TLS inside TLS) and `loop.sendfile` (by reading and writing)
    take it; both ask for private marks and for the base class `_FlowControlMixin`, hence these.
    uvloop has no `sendfile`, and its `start_tls` takes its own transports only: both say so, with
    NotImplementedError and TypeError.
    """

    _start_tls_compatible = True
    _sendfile_compatible = SENDFILE_FALLBACK

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context)
        self._context = context
        self._shaken: asyncio.Future[None] = self._loop.create_future()
        self._shaking = False  # when it is our turn

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} receiving {self._receiving.value},"
            f" sending {self._sending.value}, wire {self._wire.value}>"
        )

    # -- the beginning -------------------------------------------------------------------------

    async def upgrade(
        self, transport: asyncio.Transport, received: bytes, *, ended: bool = False
    ) -> None:
        """Take over a transport in clear, `received` being what has come and was not yet read.

        That must be the beginning of a handshake: no clear text of before is ever mixed with what
        comes encrypted, and none is taken for it. `ended` says that nothing comes behind it.

        Raises:
            UpgradeRefusedError: it is something else.
            HandshakeError: the handshake failed.

        """
        if received and received[0] != HANDSHAKE_RECORD:
            raise UpgradeRefusedError(len(received))
        transport.set_protocol(self)
        self.connection_made(transport)
        transport.resume_reading()
        if received:
            self.data_received(received)
        if ended:
            self.eof_received()  # the transport will not say it again
        await self.handshake()

    async def handshake(self) -> None:
        """Wait for the end of the handshake. When cancelled, abort the connection.

        Raises:
            HandshakeError: it failed.

        """
        try:
            await self._shaken
        except asyncio.CancelledError:
            self._below.abort()
            raise

    def start(self, protocol: asyncio.Protocol | asyncio.BufferedProtocol) -> None:
        """Deliver what was decrypted, and what is to come, to `protocol`."""
        if self._above is None:  # else its connection_made() has put another in its place
            self._above = protocol
        if self._receiving is Receiving.WAITING:  # and it has not closed
            self._receiving = advance(self._receiving, Receiving.OPEN)
        if self._protocol_paused:
            self._above.pause_writing()
        if self._has_lost():  # since the handshake
            self._later()
        else:
            self._go_on()

    def _shake_later(self) -> None:
        if not self._shaking:
            self._shaking = True
            take_turns(self._loop, self._shake)

    def _shake(self) -> None:
        self._shaking = False
        if self._receiving is not Receiving.HANDSHAKING:
            return
        try:
            over = self._engine.shake()
        except (ssl.SSLError, ssl.CertificateError) as exc:
            self._flush()  # the alert that tells the peer why
            error = HandshakeError(reason(exc))
            error.__cause__ = exc
            self._fail_handshake(error)
            return
        self._flush()
        if over:
            self._acknowledge()
            self._receiving = advance(self._receiving, Receiving.WAITING)
            self._shaken.set_result(None)
        elif self._has_ended():
            self._fail_handshake(HandshakeError("the peer left in the middle of the handshake"))
        self._control_reading()

    def _acknowledge(self) -> None:
        """Acknowledge the end of the handshake now, not with our answer, nor 40 ms later.

        Nagle's algorithm keeps a client's first request, being short, until that has come.
        """
        sock = self._below.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError, AttributeError):  # Linux has it
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _fail_handshake(self, error: Exception) -> None:
        self._stop_receiving(Receiving.FAILED)
        self._cut()
        self._below.close()
        if not self._shaken.done():  # else somebody has stopped to wait for it
            self._shaken.set_exception(error)
            self._shaken.exception()  # nobody may be left to ask

    # -- the end -------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the protocol above, but of a reset only behind what had come before."""
        self._wire = advance(self._wire, Wire.GONE if self._wire is Wire.ENDED else Wire.LOST)
        if self._error is None:
            self._error = exc
        if not self._shaken.done():
            self._fail_handshake(HandshakeError(f"the connection was lost: {exc}"))
        self._cut()
        self._full = False
        self._control_writing()  # who waits to send sees that it is closing
        if self._receiving is Receiving.WAITING:
            return  # `start` will see it
        if exc is None or self._receiving is not Receiving.OPEN:
            self._say_lost()
        elif not self._going_on:
            self._go_on()

    def close(self) -> None:
        """Send close_notify and what is still to be sent, then close, without waiting for theirs."""
        self._stop_receiving(Receiving.CLOSED)
        if self._has_lost():
            self._loop.call_soon(self._say_lost)
        elif self._sending is Sending.SHUT:
            self._cut()
            self._below.close()
        elif self._sending in (Sending.OPEN, Sending.FINISHING):
            self._finish(Sending.CLOSING)

    def abort(self) -> None:
        self._stop_receiving(Receiving.CLOSED)
        self._cut()
        if self._has_lost():
            self._loop.call_soon(self._say_lost)
        else:
            self._below.abort()

    def _force_close(self, exc: Exception | None) -> None:
        """Abort because of `exc`, which is what asyncio's TLS does to the transport below it."""
        if self._error is None:
            self._error = exc
        self.abort()

    def _fatal(self, exc: Exception) -> None:
        self._error = exc
        self._stop_receiving(Receiving.FAILED)
        self.abort()

    # -- what asyncio's transports tell --------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol | asyncio.BufferedProtocol)
        self._above = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self if self._above is None else self._above

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        tls = self._engine.tls
        match name:
            case "ssl_object":
                return tls
            case "sslcontext":
                return self._context
            case "peercert":
                return tls.getpeercert()
            case "cipher":
                return tls.cipher()
            case "compression":
                return tls.compression()
        return self._below.get_extra_info(name, default)
