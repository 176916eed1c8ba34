"""The reading half of a connection: what a line, n bytes, or the end means.

It takes from the buffer that `protocol` fills, and waits when there is not enough. Where the bytes
come from, and who closes, is not its business.
"""

import ssl
from collections.abc import AsyncIterator
from typing import Any, SupportsIndex

import anyio

from asyncserver.errors import (
    ConnectionBroken,
    ConnectionClosed,
    DeadlineExceeded,
    IncompleteReadError,
    MessageTooLongError,
)
from asyncserver.iteration import CHUNK, Chunks, Lines, Message
from asyncserver.limits import Limits
from asyncserver.protocol import StreamProtocol
from asyncserver.settings import check_flag, octets, shown, whole_number

__all__ = ("Reader",)


class Reader:
    """The part of a `Connection` that reads. One task may read at a time.

    A read takes from what has arrived; one that is cancelled loses no byte. However much has arrived,
    whoever reads it lets the others on the loop have their turn now and then.
    """

    __slots__ = ()

    # What the connection has.
    standard_compatible: bool
    _closed: bool
    _limits: Limits
    _protocol: StreamProtocol

    async def receive(self, max_bytes: int = CHUNK) -> bytes:
        """Return what has arrived, at least one byte and at most `max_bytes`.

        Raises:
            anyio.EndOfStream: the peer sends no more.
            ConnectionBroken: the connection was lost.
            ConnectionClosed: it was closed on this side.
            DeadlineExceeded: nothing came within `Timeouts.idle`.
            ValueError: `max_bytes` is less than 1, as in anyio.

        """
        if type(max_bytes) is not int:
            max_bytes = whole_number("receive()", max_bytes)
        if max_bytes < 1:
            raise ValueError("max_bytes must be a positive integer")  # anyio's words
        data = await self.read(max_bytes)
        if not data:
            raise anyio.EndOfStream
        return data

    async def read(self, n: int = -1) -> bytes:
        """Return up to `n` bytes as soon as there are any, `b""` at the end of the stream.

        Without `n`, or with a negative one, return everything up to the end of the stream, as asyncio
        does, but not more than `Limits.read_all`. With 0, return `b""` at once.

        Raises:
            MessageTooLongError: without `n`, there is more than `Limits.read_all`.
            ConnectionBroken, ConnectionClosed, DeadlineExceeded: as in `receive`.

        """
        if type(n) is not int:
            n = whole_number("read()", n)
        if n < 0:
            return await self._read_all()
        protocol = self._protocol
        if protocol.budget <= 0:
            await protocol.next_turn()
        protocol.budget -= 1
        while n and not protocol.buffer.size:
            if protocol.ended:
                self._check_orderly_end()
                return b""
            await protocol.more()
        protocol.answered = False
        return protocol.buffer.take(n)

    async def readexactly(self, n: int) -> bytes:
        """Return `n` bytes.

        Raises:
            IncompleteReadError: the stream ended before; `partial` has what came.
            MessageTooLongError: `n` is more than `Limits.exactly`.
            ValueError: `n` is negative, as in asyncio.
            ConnectionBroken, ConnectionClosed, DeadlineExceeded: as in `receive`.

        """
        n = self._check_size(n)
        protocol = self._protocol
        if protocol.budget <= 0:
            await protocol.next_turn()
        protocol.budget -= 1
        while (data := protocol.buffer.take_exactly(n)) is None:
            if protocol.ended:
                self._check_orderly_end()
                raise IncompleteReadError(protocol.buffer.take(n), n)
            await protocol.more()
        protocol.answered = False
        return data

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        """Return everything up to and including `separator`.

        Raises:
            IncompleteReadError: the stream ended before; `partial` has what came, perhaps nothing.
            LineTooLongError: it takes more than `Limits.line` bytes; the next read starts behind
                the separator.
            ValueError: the separator is empty, as in asyncio.
            ConnectionBroken, ConnectionClosed, DeadlineExceeded: as in `receive`.

        """
        if type(separator) is not bytes:
            separator = bytes(octets("readuntil()", separator))
        if not separator:
            raise ValueError("Separator should be at least one-byte string")  # asyncio's words
        data = await self._until(separator)
        if not data:
            raise IncompleteReadError(b"")
        return data

    async def readline(self) -> bytes:
        r"""Return a line with its `\n`; `b""` at the end of the stream.

        Raises:
            IncompleteReadError: the stream ended in the middle of a line.
            LineTooLongError, ConnectionBroken, ConnectionClosed, DeadlineExceeded: as in
                `readuntil`.

        """
        return await self._until(b"\n")

    def lines(self, *, messages: bool | None = None) -> AsyncIterator[bytes]:
        r"""Iterate over lines, each with its `\n`, to the end of the stream.

        Args:
            messages: whether every line is a message of its own, so that between any two of them is
                the place to stop when the server drains. `False`: the lines are parts of one message,
                and the loop runs on. Default: the place to stop is where everything has been
                answered, if this is not a loop inside another one.

        Raises:
            SettingError: `messages` is neither true, false nor `None`.
            Exception: while iterating, the same as `readline`.

        """
        check_flag("messages", messages, optional=True)
        return Lines(self, self._protocol, self._limits.line, messages=messages)

    def __aiter__(self) -> Any:
        """Iterate over what arrives, in chunks of any size, to the end of the stream.

        When the server drains, it ends where everything has been answered, as `lines` does.
        """
        return Chunks(self, self._protocol, None, messages=None)

    async def __anext__(self) -> bytes:
        """Return the next chunk, without any loop; stop at the end of the stream."""
        data = await self.read(CHUNK)
        if not data:
            raise StopAsyncIteration
        return data

    async def idle(self) -> bool:
        """Wait between two messages: true when the next one begins, false when there is none.

        There is none when the peer sends no more, or when the server drains and nothing has come yet.
        For protocols with a length or a header in front of each message:

            while await connection.idle():
                (size,) = struct.unpack("!I", await connection.readexactly(4))

        Raises:
            ConnectionBroken, ConnectionClosed, DeadlineExceeded: as in `receive`.

        """
        protocol = self._protocol
        while not protocol.buffer.size:
            if protocol.leaving:
                if await protocol.hears_nothing():
                    return False
                continue
            if protocol.ended:
                self._check_orderly_end()
                return False
            await protocol.more()
        return True

    def message(self) -> Message:
        """Keep together what is read in `async with connection.message():`.

        No drain ends a loop in there, and `Timeouts.message` is for all of it together.
        """
        return Message(self._protocol)

    def at_eof(self) -> bool:
        """Whether everything was read that the peer has sent, and it will send no more.

        False after a loop that ended because the server drains.
        """
        return self._protocol.ended and not self._protocol.buffer.size

    # -- inside --------------------------------------------------------------------------------

    async def _until(self, separator: bytes) -> bytes:
        protocol, limit = self._protocol, self._limits.line
        if protocol.budget <= 0:
            await protocol.next_turn()
        protocol.budget -= 1
        while (data := protocol.buffer.take_until(separator, limit)) is None:
            if protocol.ended:
                self.check_nothing_left()
                return b""
            await protocol.more()
        protocol.answered = False
        return data

    async def _read_all(self) -> bytes:
        """Let everything gather in the buffer, where it is safe if this is cancelled."""
        protocol, limit = self._protocol, self._limits.read_all
        while limit is None or protocol.buffer.size <= limit:
            if protocol.ended:
                self._check_orderly_end()
                return protocol.buffer.take(protocol.buffer.size)
            await protocol.more()
        raise MessageTooLongError("what read() gathers", "read_all", limit)

    def mute(self) -> None:
        """Let nothing be sent any more: it might confirm a message that has not come."""
        raise NotImplementedError

    def _check_size(self, n: SupportsIndex) -> int:
        size = whole_number("readexactly()", n)
        if size < 0:
            raise ValueError("readexactly size can not be less than zero")  # asyncio's words
        limit = self._limits.exactly
        if limit is not None and size > limit:
            raise MessageTooLongError(f"readexactly({shown(size)})", "exactly", limit)
        return size

    def check_nothing_left(self) -> None:
        """Raise, unless the stream ended in order, between two messages."""
        self._check_orderly_end()
        partial = self._protocol.buffer.take(self._protocol.buffer.size)
        if partial:
            raise IncompleteReadError(partial)

    def _check_orderly_end(self) -> None:
        """Raise, unless the peer said that it sends no more."""
        protocol = self._protocol
        if self._closed or (protocol.error is not None and not protocol.whole):
            raise self._why_not()
        if self.standard_compatible and self.cut_off:
            raise ConnectionBroken("the peer did not say that it sends no more") from (
                ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred without close_notify")
            )

    @property
    def cut_off(self) -> bool:
        """Whether a stream over TLS ended without close_notify, as if somebody had cut it."""
        return bool(getattr(self._protocol.transport, "truncated", False))

    def _why_not(self) -> Exception:
        """Tell why the connection cannot be used."""
        error = self._protocol.error
        if isinstance(error, DeadlineExceeded):
            return error
        if self._closed:
            return ConnectionClosed("the connection was closed on this side")
        broken = ConnectionBroken(f"the connection was lost: {error or 'the peer is gone'}")
        broken.__cause__ = error
        return broken
