"""The receiving half of a connection: the bytes that came, and who waits for more.

The transport calls it from below; `reader` takes from its buffer from above and, when there is not
enough in it, waits for `more`: a handler is stepped on by the next bytes themselves, any other task has
a future that they resolve. No timer, no lock and no copy on that way.
"""

import asyncio
from asyncio import current_task
from collections.abc import Awaitable
from typing import Final

from asyncserver._stream.budget import COSTLY, TurnBudget
from asyncserver._stream.buffer import ReceiveBuffer
from asyncserver._stream.states import Asked, Receiving, move
from asyncserver._stream.stepping import Stepper, check_loop, suspend, turn
from asyncserver.errors import ConnectionBusyError

__all__ = ("ReceivingHalf",)

TURNS_TO_READ: Final = 2  # of the loop: one may be in the middle of reading already


class ReceivingHalf(Stepper, asyncio.Protocol):
    """What a connection has received, and the handler, which it steps.

    Attributes:
        buffer: received and not yet read.
        received: bytes, in all.
        receiving: where this half stands, see `states`.
        asked: whether the handler was asked to finish; then between two messages is the place to stop.
        turn_budget, budget: what may still be read and sent in this turn of the loop.
        answered: what was read last has been followed by a `write` of the handler's own task.
        iterating: an iteration goes on, so that another one stands inside its body.
        messages: blocks of `async with connection.message()` that are open.
        consumed: where the message begins that such a block is about, in bytes of the stream.
        error: why the connection has ended, if it was not an orderly end.

    """

    __slots__ = (
        "_high", "_paused", "_reader", "answered", "asked", "budget", "buffer", "consumed", "error", "iterating", "messages",
        "received", "receiving", "transport", "turn_budget",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, high: int, turn_budget: TurnBudget) -> None:
        super().__init__(loop)
        self.buffer: ReceiveBuffer = ReceiveBuffer()
        self.received: int = 0
        self.receiving: Receiving = Receiving.OPEN
        self.asked: Asked = Asked.NO
        self.turn_budget: TurnBudget = turn_budget
        self.budget: int = turn_budget.budget
        self.answered: bool = True
        self.iterating: bool = False
        self.messages: int = 0
        self.consumed: int = 0
        self.error: Exception | None = None
        self._high = high
        self._paused = False
        self._reader: asyncio.Future[None] | None = None  # of a task that is not stepped

    # -- from below: what the transport says ---------------------------------------------------

    def data_received(self, data: bytes) -> None:
        size = len(data)
        self.received += size
        if size >= COSTLY:
            self.budget -= size // COSTLY
        elif self.wakeup is not None:
            # Who waits has let others have their turn; and no loop reads a second time in the same
            # turn after so short a read, which tells it that the kernel has no more.
            self.budget = self.turn_budget.budget
        self.buffer.feed(data)
        if self.wakeup is not None:
            self.resume_now()
        elif self._reader is not None:
            self.wake()
        elif self.buffer.size >= self._high:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        if self.receiving is Receiving.OPEN:
            self.receiving = move(self.receiving, Receiving.EOF)
        self.wake()
        return True  # the other direction stays open

    # -- from above: what the reader asks ------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether nothing more will come, whatever the reason."""
        return self.receiving is not Receiving.OPEN

    @property
    def closed(self) -> bool:
        """Whether it was closed on this side."""
        return self.receiving is Receiving.CLOSED

    @property
    def reading(self) -> bool:
        """Whether somebody waits for more bytes."""
        return self.suspended or (self._reader is not None and not self._reader.done())

    @property
    def message(self) -> int | None:
        """Where the message begins of which a part has come, in bytes of the stream, if there is one."""
        if self.buffer.skipping:
            return -1  # and it goes on, though nothing of it is kept
        begin = self.consumed if self.messages else self.received - self.buffer.size
        return begin if begin < self.received else None

    @property
    def may_finish(self) -> bool:
        """Whether between two messages is the place to stop."""
        return self.asked_now and not self.messages

    @property
    def asked_now(self) -> bool:
        """Whether the handler shall know that the server drains."""
        asked = self.asked
        return asked is Asked.NOW or (asked is Asked.AFTER_FIRST and self.received > 0)

    def more(self) -> Awaitable[None]:
        """Return what to await until something has changed: bytes, the end, or `wake`.

        Raises:
            ConnectionBusyError: another task waits already.
            ServerStateError: it is a task of another event loop.

        """
        own = self._reader is None and current_task() is self.task
        if not own:
            check_loop(self.loop, "connection")
            if self.reading:
                raise ConnectionBusyError("reading from")
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        if own:
            return suspend  # the handler itself
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

    async def next_turn(self) -> None:
        """Let the others on the loop have their turn; then there is a new budget."""
        self.turn_budget.spent()
        await turn
        self.budget = self.turn_budget.budget

    def take_clear_text(self) -> bytes:
        """Return what has come and was not read, and know nothing of it any more."""
        received = self.buffer.take(self.buffer.size)
        self.buffer = ReceiveBuffer()
        return received

    def wake(self) -> None:
        """Let a waiting reader look again."""
        if self.suspended:
            self.wake_task()
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def finish(self, *, spared: bool) -> None:
        """Let the iterations over messages end, at the next place between two."""
        to = Asked.AFTER_FIRST if spared else Asked.NOW
        if self.asked is not to:
            self.asked = move(self.asked, to)
        self.wake()

    def stop_reading(self, error: Exception) -> None:
        """End the reading side: whoever reads gets `error`. Sending goes on."""
        if self.error is None:
            self.error = error
        if self.receiving is Receiving.OPEN:
            self.receiving = move(self.receiving, Receiving.FAILED)
        self.wake()
