"""TLS between a transport and a protocol: the handshake, and the same bytes in clear.

One layer for every loop, over `engine` (as asyncio's own, PEP 644 and cpython#81744). It exists
because `loop.start_tls()` loses or mixes up bytes at the moment of the upgrade on some loops, and
because a handshake is ours to time and to count: see `upgrade`.

Nobody holds the loop here: what comes is decrypted, and what goes is encrypted, a turn's worth at a
time, while the transport below is paused; handshakes take turns (`handshakes`).
"""

import asyncio
import contextlib
import socket
import ssl
from asyncio import constants
from asyncio.transports import _FlowControlMixin
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from asyncserver._tls.engine import RECORD, TURN, Engine, reason
from asyncserver._tls.turns import take_turns
from asyncserver.errors import HandshakeError, UpgradeRefusedError

__all__ = ("TLSTransport", "shake_hands")

HANDSHAKE_RECORD: Final = 0x16  # RFC 8446, section 5.1: the first byte of a ClientHello
HELLO: Final = 64 * 1024  # bytes that may wait for a handshake, or its end, with the peer unpaused
ANSWERS: Final = 4 * 1024  # bytes of our answers (27 a KeyUpdate) on top of a full write buffer


async def shake_hands(sock: ssl.SSLSocket) -> None:
    """Do the handshake of a non-blocking socket, for whoever wants a socket and no transport.

    Raises:
        OSError: it failed; `ssl.SSLError` is one.

    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(sock.fileno(), loop.add_reader, loop.remove_reader)
        except ssl.SSLWantWriteError:
            await _ready(sock.fileno(), loop.add_writer, loop.remove_writer)
        else:
            return


async def _ready(fileno: int, add: Callable[..., object], remove: Callable[[int], object]) -> None:
    ready = asyncio.get_running_loop().create_future()
    add(fileno, _set, ready)
    try:
        await ready
    finally:
        remove(fileno)


def _set(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


class TLSTransport(_FlowControlMixin, asyncio.Protocol):
    """A transport to the protocol above it, a protocol to the transport below it.

    Nothing is decrypted before `start`, so whoever comes above misses no byte.

    On the stock loop, `loop.start_tls` (TLS inside TLS) and `loop.sendfile` (by reading and writing)
    take it; both ask for private marks and for the base class, hence these. uvloop has no `sendfile`,
    and its `start_tls` takes its own transports only: both say so, with NotImplementedError and
    TypeError.

    Attributes:
        truncated: the stream ended without close_notify, so whoever sits between may have cut it
            short (RFC 8446, section 6.1). Set before `eof_received()` is called.

    """

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.FALLBACK

    def __init__(self, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(loop=loop)
        self._loop = loop
        self._protocol_paused = False
        # for a connection's life
        self._context = context
        self._engine = Engine(context)
        self._below: asyncio.Transport
        self._above: asyncio.Protocol | asyncio.BufferedProtocol | None = None
        # for the handshake
        self._shaken: asyncio.Future[None] = self._loop.create_future()
        # of now: what comes
        self._plain = b""  # decrypted, and not yet delivered: a BufferedProtocol has paused
        self._paused = False  # by the protocol above
        self._holding = False  # the transport below is paused
        self._shaking = False  # when it is our turn
        self._going_on = False  # in a turn of its own
        self._eof = False  # of the transport below
        self._told = False  # the protocol above knows of the end
        self.truncated = False
        # of now: what goes
        self._full = False  # says the transport below
        self._answers = 0  # bytes of our answers since then
        self._unsent: deque[memoryview] = deque()  # not yet encrypted
        self._encrypting = False  # in a turn of its own
        self._finished = False  # write_eof() was called
        self._shut = False  # and the transport below was told
        self._closing = False
        # of the end
        self._lost = False
        self._error: Exception | None = None

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
        if self._protocol_paused:
            self._above.pause_writing()
        if self._lost:  # since the handshake
            self._later()
        else:
            self._go_on()

    # -- from below ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = transport  # type: ignore[assignment] # uvloop's derive from nothing

    def data_received(self, data: bytes) -> None:
        engine = self._engine
        if engine.ended:
            self._later()  # what is dropped, one read a turn, holds nobody up either
        elif self._above is not None and not (self._paused or self._going_on or self._closing):
            self._advance(data)
        else:
            engine.feed(data)
            if not engine.shaken:
                self._shake_later()
            self._control_reading()

    def eof_received(self) -> bool:
        self._eof = True
        if not self._engine.shaken:
            self._shake_later()  # with what is left
        elif not self._going_on:
            self._go_on()  # likewise
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the protocol above, but of a reset only behind what had come before."""
        self._lost = True
        if self._error is None:
            self._error = exc
        self._unsent.clear()
        if not self._shaken.done():
            self._fail_handshake(HandshakeError(f"the connection was lost: {exc}"))
        self._full = False
        self._control_writing()  # who waits to send sees that it is closing
        if self._closing or exc is None:
            self._say_lost()
        elif not self._going_on:
            self._go_on()

    def pause_writing(self) -> None:
        self._full = True
        self._control_writing()

    def resume_writing(self) -> None:
        self._full = False
        self._answers = 0
        if self._unsent:
            self._encrypt_later()
        self._control_writing()

    # -- from above ----------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._finished:
            raise RuntimeError("Cannot call write() after write_eof()")  # asyncio's words
        if self._closing or not data:
            return
        if type(data) is memoryview:
            data = data.cast("B")
        if len(data) <= TURN and not self._unsent:
            self._encrypt(data)
        elif not self._below.is_closing():  # in turns, as the transport below takes it
            self._unsent.append(memoryview(data if type(data) is bytes else bytes(data)))
            if not self._encrypting:
                self._encrypt_more()
            self._control_writing()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Send close_notify: nothing more comes from here, but we go on reading (RFC 8446, 6.1)."""
        if self._finished or self.is_closing():
            return
        self._finished = True
        if not self._unsent:
            self._end_writing()

    def close(self) -> None:
        """Send close_notify and what is still to be sent, then close, without waiting for theirs."""
        if self._closing:
            return
        self._closing = True
        if self._lost:
            self._loop.call_soon(self._say_lost)
        elif not self._unsent:
            self._end_writing()

    def abort(self) -> None:
        self._closing = True
        self._unsent.clear()
        if self._lost:
            self._loop.call_soon(self._say_lost)
        else:
            self._below.abort()

    def _force_close(self, exc: Exception | None) -> None:
        """Abort because of `exc`, which is what asyncio's TLS does to the transport below it."""
        if self._error is None:
            self._error = exc
        self.abort()

    def is_closing(self) -> bool:
        return self._closing or self._below.is_closing()

    def is_reading(self) -> bool:
        return not self._paused and not self.is_closing()

    def pause_reading(self) -> None:
        self._paused = True
        self._control_reading()

    def resume_reading(self) -> None:
        if not self._paused:
            return
        self._paused = False
        if self._engine.waiting or not self._engine.calm or self._plain or self._eof or self._lost:
            self._later()  # because the caller is about to wait for just these bytes
        else:
            self._control_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol | asyncio.BufferedProtocol)
        self._above = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self if self._above is None else self._above

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size() + sum(map(len, self._unsent))

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._below.get_write_buffer_limits()

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

    # -- the handshake -------------------------------------------------------------------------

    def _shake_later(self) -> None:
        if not self._shaking:
            self._shaking = True
            take_turns(self._loop, self._shake)
        self._control_reading()

    def _shake(self) -> None:
        self._shaking = False
        if self._shaken.done():
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
            self._shaken.set_result(None)
        elif self._eof:
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
        self._closing = True
        self._below.close()
        self._shaken.set_exception(error)
        self._shaken.exception()  # nobody may be left to ask

    # -- what comes ----------------------------------------------------------------------------

    def _later(self) -> None:
        if not self._going_on:
            self._going_on = True
            self._loop.call_soon(self._go_on)
            self._control_reading()

    def _go_on(self) -> None:
        self._going_on = False
        wanted = self._above is not None and not self._paused and not self._closing
        if wanted and (self._lost or not self._below.is_closing()):
            self._advance()
        else:
            self._control_reading()

    def _advance(self, came: bytes = b"") -> None:
        """Deliver a turn's worth. An error of the protocol above ends the connection."""
        engine, above = self._engine, self._above
        try:
            data = self._plain or engine.decrypt(came)
            self._plain = b""
            if isinstance(above, asyncio.BufferedProtocol):
                self._deliver_into(above, memoryview(data))
            elif data and above is not None:
                above.data_received(data)
            if self._holding or not engine.calm or self._eof or self._lost:
                self._see_to_the_rest()
        except Exception as exc:
            self._fatal(exc)
            self._loop.call_exception_handler(
                {
                    "message": "Fatal error: protocol.data_received() call failed.",
                    "exception": exc,
                    "transport": self,
                    "protocol": self._above,
                }
            )

    def _deliver_into(self, protocol: asyncio.BufferedProtocol, view: memoryview) -> None:
        while view and self._above is protocol and not self._paused and not self._closing:
            buffer = memoryview(protocol.get_buffer(len(view))).cast("B")
            size = min(len(view), len(buffer))
            if not size:
                raise RuntimeError("get_buffer() returned an empty buffer")  # asyncio's words
            buffer[:size] = view[:size]
            view = view[size:]
            protocol.buffer_updated(size)
        self._plain = bytes(view)  # for when it goes on, or for the one that has taken its place
        if view and not self._paused:
            self._later()

    def _see_to_the_rest(self) -> None:
        engine = self._engine
        if engine.pending:
            self._answer()
        if not self._paused and not self._closing:
            if self._plain or engine.ready:
                self._later()
            elif engine.error is not None:
                self._fatal(engine.error)
            else:
                self._say_end()
        self._control_reading()

    def _answer(self) -> None:
        """Send what OpenSSL says by itself, also the alert behind which a connection ends.

        A peer that takes nothing must not pile it up.
        """
        if self._full:
            self._answers += self._engine.pending
            if self._answers > ANSWERS:
                self._fatal(ssl.SSLError("the peer asks for answers and does not read them"))
        self._flush()

    def _say_end(self) -> None:
        """Say once that nothing more comes, if it is so."""
        above, engine = self._above, self._engine
        if (engine.ended or self._eof) and not self._told and above is not None:
            self._told = True
            self.truncated = not engine.ended
            if not above.eof_received():
                self.close()
        if self._lost:
            self._say_lost()

    def _say_lost(self) -> None:
        above, self._above = self._above, None  # they hold each other, and OpenSSL's memory
        if above is not None:
            above.connection_lost(self._error)

    def _control_reading(self) -> None:
        """Let the transport below read while nothing much waits here."""
        hold = self._paused or self._going_on or self._engine.waiting > HELLO
        if hold != self._holding and not self._eof and not self._below.is_closing():
            self._holding = hold
            if hold:
                self._below.pause_reading()
            else:
                self._below.resume_reading()

    # -- what goes -----------------------------------------------------------------------------

    def _encrypt(self, data: bytes | bytearray | memoryview) -> None:
        try:
            data = self._engine.encrypt(data)
        except ssl.SSLError as exc:
            self._fatal(exc)
            return
        if not self._below.is_closing():
            self._below.write(data)

    def _encrypt_later(self) -> None:
        if not self._encrypting:
            self._encrypting = True
            self._loop.call_soon(self._encrypt_more)

    def _encrypt_more(self) -> None:
        """Encrypt another turn's worth, if the transport below takes it."""
        self._encrypting = False
        left = TURN
        while self._unsent and left > 0 and not self._full:
            rest = self._unsent.popleft()
            if len(rest) > left:
                self._unsent.appendleft(rest[left:])
            self._encrypt(rest[:left])
            left -= len(rest) + RECORD
        if self._unsent:
            if not self._full:
                self._encrypt_later()
            return
        self._control_writing()
        if (self._closing or self._finished) and not self._lost:
            self._end_writing()

    def _control_writing(self) -> None:
        """Tell the protocol above whether the one below is full, or something waits to go there."""
        paused = self._full or bool(self._unsent)
        if paused != self._protocol_paused:
            self._protocol_paused = paused
            if self._above is not None:
                if paused:
                    self._above.pause_writing()
                else:
                    self._above.resume_writing()

    def _end_writing(self) -> None:
        """Say close_notify behind all that was written, and do below what was asked for here."""
        if not self._shut:
            self._engine.say_close_notify()
            self._flush()
        if self._closing:
            self._below.close()
        elif not self._shut:
            self._shut = True
            self._below.write_eof()

    def _flush(self) -> None:
        data = self._engine.take()
        if data and not self._shut and not self._below.is_closing():
            self._below.write(data)

    def _fatal(self, exc: Exception) -> None:
        """End a connection that cannot go on."""
        self._error = exc
        self.abort()
