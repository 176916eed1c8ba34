"""The bottom of a connection: bytes and flow control, no decisions.

The receiving half stands in `incoming`; this adds the sending one, and the end of both. What a handler
sends in one step goes out as one write.
"""

import asyncio
import contextlib
from typing import Final

from asyncserver._settings.checks import octets
from asyncserver._stream.budget import BUDGET, COSTLY, TurnBudget
from asyncserver._stream.incoming import ReceivingHalf
from asyncserver._stream.states import GONE, Receiving, Sending, move
from asyncserver._stream.stepping import check_loop

__all__ = ("StreamProtocol",)

CORK: Final = 65_536  # bytes that a handler may send in one step before they go to the transport,
PIECE: Final = 1024  # of which each send() takes so many, beside its own


class StreamProtocol(ReceivingHalf):
    """Both halves of a connection, and the handler, which it steps.

    Attributes:
        writable: the transport takes bytes; it holds fewer than its high-water mark,
        flowing: and who sends has not spent its budget.
        sending: where this half stands, see `states`.
        opened, last_mark, marked_at, late_with, late_for, looked_at: kept for `deadlines`.

    """

    __slots__ = (
        "_outgoing",
        "_room",
        "_senders",
        "_written",
        "flowing",
        "last_mark",
        "late_for",
        "late_with",
        "looked_at",
        "marked_at",
        "opened",
        "sending",
        "writable",
    )  # fmt: skip

    # Of the receiving half, and set here too: pyright asks for their types again.
    answered: bool
    budget: int
    receiving: Receiving
    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, high: int, turn_budget: TurnBudget) -> None:
        super().__init__(loop, high, turn_budget)
        self.sending: Sending = Sending.OPEN
        self.writable: bool = True
        self.flowing: bool = True
        self._outgoing: bytes | bytearray = b""  # of the step that runs
        self._room = CORK
        self._written = 0
        self._senders: list[asyncio.Future[None]] | None = None
        self.opened: float = loop.time()
        self.marked_at: float = self.opened
        self.looked_at: float = self.opened
        self.last_mark: int = 0
        self.late_with: int | None = None
        self.late_for: float = 0.0

    # -- from below: what the transport says ---------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # uvloop's derive from nothing

    def connection_lost(self, exc: Exception | None) -> None:
        if self.receiving is Receiving.OPEN:
            self.receiving = move(self.receiving, Receiving.FAILED)
        if not self.lost:
            closed = self.sending is Sending.CLOSING
            self.sending = move(self.sending, Sending.CLOSED if closed else Sending.LOST)
        if self.error is None:
            self.error = exc
        self.wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        self.writable = self.flowing = False

    def resume_writing(self) -> None:
        self.writable = self.flowing = True
        senders, self._senders = self._senders, None
        for sender in senders or ():
            if not sender.done():
                sender.set_result(None)

    # -- from above: what the connection asks --------------------------------------------------

    @property
    def lost(self) -> bool:
        """Whether the transport is gone in both directions."""
        return self.sending in GONE

    @property
    def sent(self) -> int:
        """Bytes given to `write`, in all."""
        return self._written + len(self._outgoing)

    @property
    def bytes_moved(self) -> int:
        """Bytes in both directions, in all."""
        return self.received + self.sent

    @property
    def bytes_unsent(self) -> int:
        """Bytes that keep senders waiting; 0 while the transport takes more."""
        return 0 if self.writable else self.transport.get_write_buffer_size()

    async def flow(self) -> None:
        """Wait until a sender may go on: in a turn of its own, when the transport takes more."""
        if self.budget <= 0:
            await self.next_turn()
        if not self.writable:
            await self.drained()
        self.flowing = self.writable

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Give `data` to the transport, at the end of the handler's step if it is in one.

        So what a handler sends without waiting goes out as one write, one segment, one TLS record.
        """
        if self.stepping and type(data) is bytes:
            held = self._outgoing
            if type(held) is bytearray:
                room = self._room - len(data) - PIECE
                if room > 0 and self.writable:
                    held += data
                    self._room = room
                    self.answered = True
                    return
            elif not held and data and len(data) < CORK:
                self._outgoing = data
                self.answered = True
                return
        self._write_more(data if type(data) is bytes else octets("send()", data))

    def _write_more(self, data: bytes | memoryview) -> None:
        """Write what is not the first of a step, nor one of many small ones."""
        if not len(data):
            self.spend(1)
            return
        if self.stepping:  # what other tasks send is no answer of the handler's
            self.answered = True
        else:
            check_loop(self.loop, "connection")
        held = self._outgoing
        if self.stepping and len(held) + len(data) <= CORK:
            if not held:
                self._outgoing = bytes(data)
                return
            self._room -= PIECE * (type(held) is bytes) + len(data) + PIECE
            self._outgoing = bytearray(held) if type(held) is bytes else held
            self._outgoing += data
            if self._room > 0 and self.writable:
                return
            self.spend(BUDGET // 2)
        else:
            self.spend(1 + len(data) // COSTLY)
            self.flush()
            self._written += len(data)
            self.transport.write(bytes(data))  # the caller may use a buffer of his again
        self.flush()
        if self.transport.is_closing() and self.sending is Sending.OPEN:
            self.sending = move(self.sending, Sending.FAILED)  # a handler that never waits is told

    def flush(self) -> None:
        """Give the transport what `write` has held back."""
        outgoing = self._outgoing
        if outgoing:
            self._outgoing = b""
            self._room = CORK
            size = len(outgoing)
            if size >= COSTLY:
                self.spend(size // COSTLY)
            self._written += size
            self.transport.write(outgoing)

    def spend(self, cost: int) -> None:
        """Pay for what was sent; whoever sends waits if there is nothing left."""
        self.budget -= cost
        if self.budget <= 0:
            self.flowing = False

    after_step = flush

    def shut(self) -> None:
        """Send no more; what was written goes out, and then the end of the stream."""
        self.sending = move(self.sending, Sending.SHUT)
        self.answered = True
        self.flush()
        with contextlib.suppress(OSError):  # the peer has gone, as whoever reads will hear
            self.transport.write_eof()

    def mute(self) -> None:
        """Send no more: it might confirm a message that has not come."""
        if self.sending is Sending.OPEN:
            self.sending = move(self.sending, Sending.MUTED)

    def close_transport(self) -> None:
        """Begin to close; what was written still goes out."""
        self._end()
        self.flush()
        self.transport.close()

    def abort_transport(self) -> None:
        """Close at once; what was written and is still here is lost."""
        self._end()
        self._reset()

    def _end(self) -> None:
        """End it on this side: nothing is left to read, nothing more is sent, nobody waits."""
        if not self.closed:
            self.receiving = move(self.receiving, Receiving.CLOSED)
            gone = self.sending is Sending.LOST
            self.sending = move(self.sending, Sending.CLOSED if gone else Sending.CLOSING)
        self.buffer.take(self.buffer.size)
        self.wake()

    def _reset(self) -> None:
        self._outgoing = b""
        self.transport.abort()

    def begin_upgrade(self) -> None:
        """Send no more in clear, not even what another task sends meanwhile."""
        self.flush()
        self.sending = move(self.sending, Sending.UPGRADING)

    def end_upgrade(self, transport: asyncio.Transport) -> None:
        """Go on, on another transport."""
        self.transport = transport
        if self.sending is Sending.UPGRADING:  # and was not closed meanwhile
            self.sending = move(self.sending, Sending.OPEN)

    def drained(self) -> asyncio.Future[None]:
        """Return a future that resolves when the transport takes bytes again, or is lost."""
        sender = self.loop.create_future()
        if self._senders is None:
            self._senders = []
        self._senders.append(sender)
        return sender

    def fail(self, error: Exception) -> None:
        """End the connection: whoever reads or sends gets `error`."""
        if self.sending in {Sending.OPEN, Sending.UPGRADING, Sending.SHUT, Sending.MUTED}:
            self.sending = move(self.sending, Sending.FAILED)
        self._reset()
        self.stop_reading(error)
