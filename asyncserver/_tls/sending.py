"""What goes: from the protocol above into records, and to the transport below.

A long write is encrypted a turn's worth at a time, as the transport below takes it; until then its
bytes wait here, and the protocol above is paused. What ends it stands in `states.Sending`.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable
from typing import Any

from asyncserver._cpython import FlowControlMixin
from asyncserver._tls import states
from asyncserver._tls.engine import RECORD, TURN, Engine
from asyncserver._tls.states import advance

__all__ = ("SendingHalf",)

# Names of this module's own: what every message asks for is found at once.
OPEN, FINISHING, SHUT, CLOSING, CLOSED = states.Sending


class SendingHalf(FlowControlMixin):
    """The half of a `TLSTransport` that sends; and what both have: the engine, and both neighbours."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._loop = asyncio.get_running_loop()
        super().__init__(loop=self._loop)
        self._engine = Engine(context)
        self._below: asyncio.Transport
        self._above: asyncio.Protocol | asyncio.BufferedProtocol | None = None
        self._sending = OPEN
        self._full = False  # says the transport below
        self._protocol_paused = False
        self._unsent: deque[memoryview] = deque()  # not yet encrypted
        self._encrypting = False  # in a turn of its own

    # -- from below ----------------------------------------------------------------------------

    def pause_writing(self) -> None:
        self._full = True
        self._control_writing()

    def resume_writing(self) -> None:
        self._full = False
        if self._unsent:
            self._encrypt_later()
        self._control_writing()

    # -- from above ----------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._sending is not OPEN:
            if self._sending is FINISHING or self._sending is SHUT:
                raise RuntimeError("Cannot call write() after write_eof()")  # asyncio's words
            return
        if not data:
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
        if self._sending is OPEN and not self._below.is_closing():
            self._finish(FINISHING)

    def is_closing(self) -> bool:
        return self._sending is CLOSING or self._sending is CLOSED or self._below.is_closing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size() + sum(map(len, self._unsent))

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._below.get_write_buffer_limits()

    # -- records -------------------------------------------------------------------------------

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
        if not self._unsent:
            self._control_writing()
            if self._sending is FINISHING or self._sending is CLOSING:
                self._say_close_notify()
        elif not self._full:
            self._encrypt_later()

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

    def _flush(self) -> None:
        """Send what OpenSSL says by itself, if it can still be sent."""
        data = self._engine.take()
        if data and self._sending is not SHUT and not self._below.is_closing():
            self._below.write(data)

    # -- the end -------------------------------------------------------------------------------

    def _finish(self, to: states.Sending) -> None:
        """Let what was written go first; then do below what `to` stands for."""
        self._sending = advance(self._sending, to)
        if not self._unsent:
            self._say_close_notify()

    def _say_close_notify(self) -> None:
        """Say it behind all that was written, and shut or close the transport below."""
        self._engine.say_close_notify()
        self._flush()
        if self._sending is CLOSING:
            self._sending = advance(CLOSING, CLOSED)
            self._below.close()
        elif self._sending is FINISHING and not self._below.is_closing():
            self._sending = advance(FINISHING, SHUT)
            self._below.write_eof()

    def _cut(self) -> None:
        """Send nothing more; what waits is lost."""
        self._unsent.clear()
        if self._sending is not CLOSED:
            self._sending = advance(self._sending, CLOSED)

    def _fatal(self, exc: Exception) -> None:
        """End a connection that cannot go on."""
        raise NotImplementedError
