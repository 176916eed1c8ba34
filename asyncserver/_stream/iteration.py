"""Loops over what comes in, and where they end.

When the server drains, a handler shall leave between two messages and never inside of one: whoever
takes the end of a loop for the end of a message would act on half of it. That a loop waits does not
tell where a message ends, so a drain ends a loop over lines or chunks only where

- it is not inside of another such loop of the connection, nor of `async with connection.message()`;
- what was read last has been answered: something was sent since. At the very beginning of a connection
  nothing has to be;
- and nothing is buffered.

Two cases are left that may be either: something was read and answered, and then a loop has begun that
has taken nothing; and a loop over chunks, which are no messages. They end, but the handler can send
nothing any more, so that it cannot confirm what it has not got.

`lines(messages=True)` says that every line is a message, `lines(messages=False)` that none is, and
`idle()` asks where the handler itself knows that it is between two.
"""

from typing import Final, Protocol, Self

from asyncserver._stream.protocol import StreamProtocol
from asyncserver._stream.states import Asked, Receiving

__all__ = ("Chunks", "Lines", "Message")

NO: Final = Asked.NO  # a name of the module is found faster than one of an enum
OPEN: Final = Receiving.OPEN
CHUNK: Final = 65_536  # bytes, as anyio's streams


class Ends(Protocol):
    """What a loop asks its connection for, when it ends."""

    def check_nothing_left(self) -> None: ...


class Loop:
    """An iteration: lighter than an asynchronous generator, in bytes and in time.

    Attributes:
        outermost: it does not stand inside another one of the same connection.
        confirms: what it gives are messages, so that its end does not cut one short.

    """

    __slots__ = ("_begin", "_ends", "_limit", "_messages", "_protocol", "outermost")

    confirms: bool

    def __init__(
        self, ends: Ends, protocol: StreamProtocol, limit: int | None, *, messages: bool | None
    ) -> None:
        self._ends = ends
        self._protocol = protocol
        self._limit = limit
        self._messages = messages
        self._begin = protocol.received - protocol.buffer.size
        self.outermost = not protocol.iterating
        protocol.iterating = True

    def __del__(self) -> None:
        if self.outermost:  # also after a `break`: whoever loops holds nothing but this
            self._protocol.iterating = False

    def __aiter__(self) -> Self:
        return self

    def _may_leave(self) -> bool:
        """Whether this is the place to stop, since the server drains."""
        protocol = self._protocol
        if protocol.buffer.size or not protocol.may_finish:
            return False
        if self._messages is not None:
            return self._messages
        return self.outermost and protocol.answered

    def _leave(self) -> None:
        """Stop; unless what the loop gives are messages, nothing can be confirmed behind it."""
        nothing_taken = 0 < self._begin == self._protocol.received
        if not self.confirms or (nothing_taken and not self._messages):
            self._protocol.mute()


class Lines(Loop):
    """A loop over lines."""

    __slots__ = ()
    confirms = True

    async def __anext__(self) -> bytes:
        protocol = self._protocol
        budget = protocol.budget - 1
        if budget < 0:
            await protocol.next_turn()
            budget = protocol.budget - 1
        protocol.budget = budget
        while (line := protocol.buffer.take_until(b"\n", self._limit)) is None:
            if protocol.asked is not NO and self._may_leave():
                if await protocol.hears_nothing() and self._may_leave():
                    self._leave()
                    raise StopAsyncIteration
                continue
            if protocol.receiving is not OPEN:
                self._ends.check_nothing_left()
                raise StopAsyncIteration
            await protocol.more()
        protocol.answered = False
        return line


class Chunks(Loop):
    """A loop over whatever comes."""

    __slots__ = ()
    confirms = False

    async def __anext__(self) -> bytes:
        protocol = self._protocol
        budget = protocol.budget - 1
        if budget < 0:
            await protocol.next_turn()
            budget = protocol.budget - 1
        protocol.budget = budget
        while not protocol.buffer.size:
            if protocol.asked is not NO and self._may_leave():
                if await protocol.hears_nothing() and self._may_leave():
                    self._leave()
                    raise StopAsyncIteration
                continue
            if protocol.receiving is not OPEN:
                self._ends.check_nothing_left()
                raise StopAsyncIteration
            await protocol.more()
        protocol.answered = False
        return protocol.buffer.take(CHUNK)


class Message:
    """What is read in `async with` it belongs together."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: StreamProtocol) -> None:
        self._protocol = protocol

    async def __aenter__(self) -> None:
        protocol = self._protocol
        if not protocol.messages:
            protocol.consumed = protocol.received - protocol.buffer.size
        protocol.messages += 1

    async def __aexit__(self, *_: object) -> None:
        self._protocol.messages -= 1
