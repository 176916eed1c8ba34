"""The reading half of a connection: what a line, n bytes, or the end means.

It takes from the buffer that `protocol` fills, and waits when there is not enough. Where the bytes
come from, and who closes, is not its business.
"""

from collections.abc import AsyncIterator
from typing import Final, Self

import anyio

from asyncserver.errors import (
    ConnectionBroken,
    ConnectionClosed,
    DeadlineExceeded,
    IncompleteReadError,
    LineTooLongError,
)
from asyncserver.limits import Limits
from asyncserver.protocol import StreamProtocol

__all__ = ("Reader",)

RECEIVE_SIZE: Final = 65_536  # bytes, as anyio's streams


class Reader:
    """The part of a `Connection` that reads. One task may read at a time.

    A read takes from what has arrived; one that is cancelled loses no byte.
    """

    __slots__ = ()

    # What the connection has.
    _closed: bool
    _limits: Limits
    _protocol: StreamProtocol

    async def receive(self, max_bytes: int = RECEIVE_SIZE) -> bytes:
        """Return what has arrived, at least one byte and at most `max_bytes`.

        Raises:
            anyio.EndOfStream: the peer sends no more.
            ConnectionBroken: the connection was lost.
            ConnectionClosed: it was closed on this side.
            DeadlineExceeded: nothing came within `Timeouts.idle`.

        """
        data = await self.read(max_bytes)
        if not data:
            raise anyio.EndOfStream
        return data

    async def read(self, n: int = -1) -> bytes:
        """Return up to `n` bytes as soon as there are any, `b""` at the end of the stream.

        Without `n`, return everything up to the end of the stream, as asyncio does, but not more
        than `Limits.read_all`.

        Raises:
            LineTooLongError: without `n`, there is more than `Limits.read_all`.
            ConnectionBroken, ConnectionClosed, DeadlineExceeded: as in `receive`.

        """
        if n < 0:
            return await self._read_all()
        protocol = self._protocol
        while not protocol.buffer.size:
            if protocol.ended:
                self._check_orderly_end()
                return b""
            await protocol.more()
        return protocol.buffer.take(n)

    async def readexactly(self, n: int) -> bytes:
        """Return `n` bytes.

        Raises:
            IncompleteReadError: the stream ended before; `partial` has what came.
            ConnectionBroken, ConnectionClosed, DeadlineExceeded: as in `receive`.

        """
        protocol = self._protocol
        while (data := protocol.buffer.take_exactly(n)) is None:
            if protocol.ended:
                self._check_orderly_end()
                raise IncompleteReadError(protocol.buffer.take(n), n)
            await protocol.more()
        return data

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        """Return everything up to and including `separator`.

        Raises:
            IncompleteReadError: the stream ended before; `partial` has what came, perhaps nothing.
            LineTooLongError: it takes more than `Limits.line` bytes; the next read starts behind
                the separator.
            ConnectionBroken, ConnectionClosed, DeadlineExceeded: as in `receive`.

        """
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

    def lines(self) -> AsyncIterator[bytes]:
        r"""Iterate over lines, each with its `\n`, to the end of the stream.

        Between two lines is the place to stop: when the server drains and nothing is buffered, the
        iteration ends by itself.

        Raises:
            The same as `readline`.

        """
        return _Lines(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk; when the server drains and nothing is buffered, stop."""
        protocol = self._protocol
        while not protocol.buffer.size:
            if protocol.finishing:
                raise StopAsyncIteration
            if protocol.ended:
                self._check_orderly_end()
                raise StopAsyncIteration
            await protocol.more()
        return protocol.buffer.take(RECEIVE_SIZE)

    # -- inside --------------------------------------------------------------------------------

    async def _until(self, separator: bytes) -> bytes:
        protocol, limit = self._protocol, self._limits.line
        while (data := protocol.buffer.take_until(separator, limit)) is None:
            if protocol.ended:
                self._check_nothing_left()
                return b""
            await protocol.more()
        return data

    async def _read_all(self) -> bytes:
        limit = self._limits.read_all
        chunks: list[bytes] = []
        size = 0
        while chunk := await self.read(RECEIVE_SIZE):
            chunks.append(chunk)
            size += len(chunk)
            if limit is not None and size > limit:
                raise LineTooLongError(b"".join(chunks)[:limit], limit)
        return b"".join(chunks)

    def _check_nothing_left(self) -> None:
        """Raise, unless the stream ended in order, between two messages."""
        self._check_orderly_end()
        partial = self._protocol.buffer.take(self._protocol.buffer.size)
        if partial:
            raise IncompleteReadError(partial)

    def _check_orderly_end(self) -> None:
        """Raise, unless the peer said that it sends no more."""
        if self._closed or self._protocol.error is not None:
            raise self._why_not()

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


class _Lines:
    """What `Reader.lines` returns: lighter than an asynchronous generator, in bytes and in time."""

    __slots__ = ("_limit", "_protocol", "_reader")

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._protocol = reader._protocol
        self._limit = reader._limits.line

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        protocol = self._protocol
        while (line := protocol.buffer.take_until(b"\n", self._limit)) is None:
            if protocol.finishing and not protocol.buffer.size:
                raise StopAsyncIteration
            if protocol.ended:
                self._reader._check_nothing_left()
                raise StopAsyncIteration
            await protocol.more()
        return line
