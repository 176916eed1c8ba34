"""The bottom of a connection: bytes and flow control, no decisions.

The transport calls `StreamProtocol` from below; `connection` reads its buffer from above and, when
there is not enough in it, waits for `more`: a handler is driven on by the next bytes themselves, any
other task has a future that they resolve. No timer, no lock and no copy on that way.
"""

import asyncio
from asyncio import current_task
from collections.abc import Awaitable
from typing import Final

from asyncserver.buffer import ReceiveBuffer
from asyncserver.driver import Driver, check_loop, park, turn
from asyncserver.errors import ConnectionBusy
from asyncserver.pace import BUDGET, COSTLY, Pace
from asyncserver.settings import octets

__all__ = ("StreamProtocol",)

CORK: Final = 65_536  # bytes that a handler may send in one step before they go to the transport,
PIECE: Final = 1024  # of which each send() takes so many, beside its own
TURNS_TO_READ: Final = 2  # of the loop: one may be in the middle of reading already


class StreamProtocol(Driver, asyncio.Protocol):
    """What one connection has received, and who waits for more: its handler, which it drives.

    Attributes:
        buffer: received and not yet read.
        received: bytes, in all.
        budget: what may still be read and sent in this turn of the loop, see `Pace`.
        sendable: nothing speaks against sending; else the connection knows what does.
        writable: the transport takes bytes; it holds fewer than its high-water mark,
        flowing: and who sends has not spent its budget.
        ended: nothing more will come, whatever the reason,
        whole: and the peer has said so: what came is all that it wanted to send.
        finishing: the server is closing, so that between two messages is the place to stop,
        spared: but not before the first one: it has just connected.
        answered: what was read last has been followed by a `write` of the handler's own task.
        iterating: an iteration goes on, so that another one stands inside its body.
        messages: blocks of `async with connection.message()` that are open.
        consumed: where the message begins that such a block is about, in bytes of the stream.
        lost: the transport is gone in both directions.
        error: why, if it was not an orderly end.
        opened, seen, since, begun, waited, looked: kept for `deadlines`.

    """

    __slots__ = (
        "_high", "_outgoing", "_paused", "_reader", "_room", "_senders", "_written", "answered", "begun", "budget",
        "buffer", "consumed", "ended", "error", "finishing", "flowing", "iterating", "looked", "lost", "messages", "opened", "pace",
        "received", "seen", "sendable", "since", "spared", "transport", "waited", "whole", "writable",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, high: int, pace: Pace) -> None:
        super().__init__(loop)
        self.buffer = ReceiveBuffer()
        self.received = 0
        self.pace = pace
        self.budget = pace.budget
        self.answered = True
        self.iterating = False
        self.messages = 0
        self.consumed = 0
        self.ended = self.whole = False
        self.finishing = False
        self.spared = False
        self.lost = False
        self.error: Exception | None = None
        self.sendable = True
        self.writable = self.flowing = True
        self._high = high
        self._paused = False
        self._outgoing: bytes | bytearray = b""  # of the step that runs
        self._room = CORK
        self._written = 0
        self._reader: asyncio.Future[None] | None = None  # of a task that is not driven
        self._senders: list[asyncio.Future[None]] | None = None
        self.opened = self.since = self.looked = loop.time()
        self.seen = 0
        self.begun: int | None = None
        self.waited = 0.0

    # -- from below: what the transport says ---------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # uvloop's derive from nothing

    def data_received(self, data: bytes) -> None:
        size = len(data)
        self.received += size
        if size >= COSTLY:
            self.budget -= size // COSTLY
        elif self.wakeup is not None:
            # Who waits has let others have their turn; and no loop reads a second time in the same
            # turn after so short a read, which tells it that the kernel has no more.
            self.budget = self.pace.budget
        self.buffer.feed(data)
        if self.wakeup is not None:
            self.go_on()
        elif self._reader is not None:
            self.wake()
        elif self.buffer.size >= self._high:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.ended = self.whole = True
        self.wake()
        return True  # the other direction stays open

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = self.lost = True
        self.sendable = False
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
    def reading(self) -> bool:
        """Whether somebody waits for more bytes."""
        return self.parked or (self._reader is not None and not self._reader.done())

    @property
    def message(self) -> int | None:
        """Where the message begins of which a part has come, in bytes of the stream, if there is one."""
        if self.buffer.skipping:
            return -1  # and it goes on, though nothing of it is kept
        begin = self.consumed if self.messages else self.received - self.buffer.size
        return begin if begin < self.received else None

    @property
    def leaving(self) -> bool:
        """Whether between two messages is the place to stop."""
        return self.told and not self.messages

    @property
    def told(self) -> bool:
        """Whether the handler shall know that the server is closing."""
        return self.finishing and (self.received > 0 or not self.spared)

    @property
    def sent(self) -> int:
        """Bytes given to `write`, in all."""
        return self._written + len(self._outgoing)

    @property
    def moved(self) -> int:
        """Bytes in both directions, in all."""
        return self.received + self.sent

    @property
    def unsent(self) -> int:
        """Bytes that keep senders waiting; 0 while the transport takes more."""
        return 0 if self.writable else self.transport.get_write_buffer_size()

    def more(self) -> Awaitable[None]:
        """Return what to await until something has changed: bytes, the end, or `wake`.

        Raises:
            ConnectionBusy: another task waits already.
            ServerStateError: it is a task of another event loop.

        """
        own = self._reader is None and current_task() is self.task
        if not own:
            check_loop(self.loop, "connection")
            if self.reading:
                raise ConnectionBusy("reading from")
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        if own:
            return park  # the handler itself
        self._reader = reader = self.loop.create_future()
        return reader

    async def hears_nothing(self) -> bool:
        """Whether nothing comes of what the kernel holds by now: the loop is given time to read it."""
        before = self.received
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        for _ in range(TURNS_TO_READ):
            await turn
        return self.received == before

    async def flow(self) -> None:
        """Wait until a sender may go on: in a turn of its own, when the transport takes more."""
        if self.budget <= 0:
            await self.next_turn()
        if not self.writable:
            await self.drained()
        self.flowing = self.writable

    async def next_turn(self) -> None:
        """Let the others on the loop have their turn; then there is a new budget."""
        self.pace.spent()
        await turn
        self.budget = self.pace.budget

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
        if self.transport.is_closing():  # a handler that never waits would never be told
            self.sendable = False

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

    def close_transport(self) -> None:
        """Begin to close; what was written still goes out."""
        self.flush()
        self.transport.close()

    def abort_transport(self) -> None:
        """Close at once; what was written and is still here is lost."""
        self._outgoing = b""
        self.transport.abort()

    def drained(self) -> asyncio.Future[None]:
        """Return a future that resolves when the transport takes bytes again, or is lost."""
        sender = self.loop.create_future()
        if self._senders is None:
            self._senders = []
        self._senders.append(sender)
        return sender

    def wake(self) -> None:
        """Let a waiting reader look again."""
        if self.parked:
            self.wake_task()
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def finish(self, *, spared: bool) -> None:
        """Let the iterations over messages end, at the next place between two."""
        self.finishing = True
        self.spared = spared
        self.wake()

    def stop_reading(self, error: Exception) -> None:
        """End the reading side: whoever reads gets `error`. Sending goes on."""
        if self.error is None:
            self.error = error
        self.ended = True
        self.wake()

    def fail(self, error: Exception) -> None:
        """End the connection: whoever reads or sends gets `error`."""
        self.sendable = False
        self.abort_transport()
        self.stop_reading(error)
