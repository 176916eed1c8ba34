"""What comes: from the transport below out of its records, and to the protocol above.

It is decrypted a turn's worth at a time, while the transport below is paused. What ends it stands in
`states.Receiving`; how the transport below is, in `states.Wire`.
"""

import asyncio
import ssl
from typing import Final

from asyncserver._tls import states
from asyncserver._tls.sending import SendingHalf
from asyncserver._tls.states import Wire, advance

__all__ = ("ReceivingHalf",)

HELLO: Final = 64 * 1024  # bytes that may wait for a handshake, or its end, with the peer unpaused
ANSWERS: Final = 4 * 1024  # bytes of our answers (27 a KeyUpdate) on top of a full write buffer

# Names of this module's own: what every message asks for is found at once.
HANDSHAKING, WAITING, OPEN, ENDED, TRUNCATED, _, CLOSED = states.Receiving
FLOWING: Final = Wire.FLOWING


class ReceivingHalf(SendingHalf, asyncio.Protocol):
    """The half of a `TLSTransport` that receives. It sends what OpenSSL answers by itself.

    Nothing is decrypted before somebody is there to have it.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context)
        self._receiving = HANDSHAKING
        self._wire = FLOWING
        self._plain = b""  # decrypted, and not yet delivered: a BufferedProtocol has paused
        self._paused = False  # by the protocol above
        self._going_on = False  # in a turn of its own
        self._answers = 0  # bytes of our answers since the transport below is full
        self._error: Exception | None = None  # what connection_lost() will say

    # -- from below ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = transport  # type: ignore[assignment] # uvloop's derive from nothing

    def data_received(self, data: bytes) -> None:
        if self._receiving is OPEN and not self._paused and not self._going_on:
            self._deliver(data)
        elif self._engine.ended:
            self._later()  # what is dropped, one read a turn, holds nobody up either
        else:
            self._engine.feed(data)
            if self._receiving is HANDSHAKING:
                self._shake_later()
            self._control_reading()

    def eof_received(self) -> bool:
        self._wire = advance(self._wire, Wire.ENDED)
        if self._receiving is HANDSHAKING:
            self._shake_later()  # with what is left
        elif not self._going_on:
            self._go_on()  # likewise
        return True

    def resume_writing(self) -> None:
        self._answers = 0
        super().resume_writing()

    # -- from above ----------------------------------------------------------------------------

    @property
    def truncated(self) -> bool:
        """Whether the stream ended without close_notify (RFC 8446, section 6.1).

        So whoever sits between may have cut it short. Known before `eof_received()` is called.
        """
        return self._receiving is TRUNCATED

    def is_reading(self) -> bool:
        return not self._paused and not self.is_closing()

    def pause_reading(self) -> None:
        self._paused = True
        self._control_reading()

    def resume_reading(self) -> None:
        if not self._paused:
            return
        self._paused = False
        engine = self._engine
        if engine.waiting or not engine.calm or self._plain or self._has_ended():
            self._later()  # because the caller is about to wait for just these bytes
        else:
            self._control_reading()

    # -- a turn's worth ------------------------------------------------------------------------

    def _has_ended(self) -> bool:
        """Whether the transport below brings nothing more."""
        return self._wire is not FLOWING and self._wire is not Wire.HELD

    def _has_lost(self) -> bool:
        """Whether the transport below is no more."""
        return self._wire is Wire.LOST or self._wire is Wire.GONE

    def _later(self) -> None:
        if not self._going_on:
            self._going_on = True
            self._loop.call_soon(self._go_on)
            self._control_reading()

    def _go_on(self) -> None:
        self._going_on = False
        wanted = self._receiving is OPEN and not self._paused
        if wanted and (self._has_lost() or not self._below.is_closing()):
            self._deliver()
        else:
            self._control_reading()

    def _deliver(self, came: bytes = b"") -> None:
        """Deliver a turn's worth. An error of the protocol above ends the connection."""
        engine, above = self._engine, self._above
        try:
            data = self._plain or engine.decrypt(came)
            self._plain = b""
            if isinstance(above, asyncio.BufferedProtocol):
                self._deliver_into(above, memoryview(data))
            elif data and above is not None:
                above.data_received(data)
            if self._wire is not FLOWING or not engine.calm:
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
        while view and self._above is protocol and self._receiving is OPEN and not self._paused:
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
        if self._receiving is OPEN and not self._paused:
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

    # -- the end -------------------------------------------------------------------------------

    def _say_end(self) -> None:
        """Say that nothing more comes, if it is so."""
        ended = self._engine.ended
        if self._above is not None and (
            ended or self._wire is Wire.ENDED or self._wire is Wire.GONE
        ):
            self._receiving = advance(self._receiving, ENDED if ended else TRUNCATED)
            if not self._above.eof_received():
                self.close()
        if self._has_lost():
            self._say_lost()

    def _say_lost(self) -> None:
        self._stop_receiving(CLOSED)
        above, self._above = self._above, None  # they hold each other, and OpenSSL's memory
        if above is not None:
            above.connection_lost(self._error)

    def _stop_receiving(self, to: states.Receiving) -> None:
        """Deliver nothing more, if that was still to be."""
        if self._receiving in (HANDSHAKING, WAITING, OPEN):
            self._receiving = advance(self._receiving, to)

    def _control_reading(self) -> None:
        """Let the transport below read while nothing much waits here."""
        hold = self._paused or self._going_on or self._engine.waiting > HELLO
        before, after = (FLOWING, Wire.HELD) if hold else (Wire.HELD, FLOWING)
        if self._wire is before and not self._below.is_closing():
            self._wire = advance(before, after)
            if hold:
                self._below.pause_reading()
            else:
                self._below.resume_reading()

    def _shake_later(self) -> None:
        """Go on with the handshake when it is our turn."""
        raise NotImplementedError
