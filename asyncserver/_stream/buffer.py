"""Bytes received and not yet read: take a line, take exactly n, each byte searched once.

Knows no socket and no loop: whoever receives calls `feed`, whoever reads calls `take*` and gets
`None` while there is not enough.
"""

from asyncserver.errors import LineTooLongError

__all__ = ("ReceiveBuffer",)


class ReceiveBuffer:
    """A queue of bytes.

    What arrives while nothing is pending is kept as the very `bytes` object that came, and given
    out untouched if it turns out to be exactly one message: the common case copies nothing. Only a
    remainder that has to grow becomes a `bytearray`.

    Attributes:
        skipping: the separator that ends an overlong message, until it comes; else empty.

    """

    __slots__ = ("_chunk", "_data", "_searched", "_sought", "_start", "skipping")

    def __init__(self) -> None:
        # All that is pending, if it came in one piece and nobody has touched it; else `None`.
        self._chunk: bytes | None = b""
        # Else, all that is pending:
        self._data: bytes | bytearray = b""
        self._start = 0  # the first byte not yet taken
        self._searched = 0  # no separator begins before this
        self._sought = b""  # the separator that _searched speaks of
        self.skipping: bytes = b""

    @property
    def size(self) -> int:
        """How many bytes are pending; of a message that is skipped, none."""
        if self.skipping:
            return 0
        return len(self._data) - self._start if self._chunk is None else len(self._chunk)

    def feed(self, data: bytes) -> None:
        """Append what arrived."""
        if self._chunk == b"":
            self._chunk = data
        else:
            self._append(data)

    def take(self, size: int) -> bytes:
        """Take up to `size` bytes; empty if there are none."""
        chunk = self._chunk
        if chunk is not None and len(chunk) <= size:
            self._chunk = b""
            return chunk
        if self.skipping:
            return b""
        self._open()
        return self._cut(min(self._start + size, len(self._data)))

    def take_exactly(self, size: int) -> bytes | None:
        """Take `size` bytes, or `None` while there are fewer."""
        return self.take(size) if self.size >= size else None

    def take_until(self, separator: bytes, limit: int | None) -> bytes | None:
        """Take everything up to and including `separator`, or `None` while it is not there.

        Raises:
            LineTooLongError: the message is longer than `limit` bytes. It is dropped to its end,
                also what is still to come of it.

        """
        chunk = self._chunk
        if chunk:
            size = len(chunk)
            if 0 <= chunk.find(separator) == size - len(separator) and (
                limit is None or size <= limit
            ):
                self._chunk = b""
                return chunk
        elif chunk is not None:
            return None
        return self._search(separator, limit)

    # -- what did not come as exactly one message ----------------------------------------------

    def _open(self) -> None:
        """Look at the pending bytes as something to cut from."""
        if self._chunk is not None:
            self._data, self._chunk = self._chunk, None
            self._start = self._searched = 0

    def _search(self, separator: bytes, limit: int | None) -> bytes | None:
        if self.skipping:
            return None
        self._open()
        data = self._data
        if separator != self._sought:
            self._sought = separator
            self._searched = self._start
        found = data.find(separator, self._searched)
        if found < 0:
            # The separator's beginning may be there already.
            self._searched = max(self._start, len(data) - len(separator) + 1)
            if limit is not None and len(data) - self._start >= limit:
                self._overflow(separator, limit)
            return None
        end = found + len(separator)
        if limit is not None and end - self._start > limit:
            self._overflow(separator, limit)
        return self._cut(end)

    def _cut(self, end: int) -> bytes:
        """Take the bytes up to the position `end`."""
        data, start = self._data, self._start
        if end == len(data):
            self._data = b""
            self._start = self._searched = 0
            self._chunk = None if self.skipping else b""  # what comes has to be looked at
        else:
            self._start = end
            self._searched = max(self._searched, end)
        return data[start:end] if type(data) is bytes else bytes(memoryview(data)[start:end])

    def _append(self, data: bytes) -> None:
        self._open()
        pending = self._data
        if isinstance(pending, bytearray):
            del pending[: self._start]  # moves an offset, not the bytes
        else:
            self._data = pending = bytearray(memoryview(pending)[self._start :])
        self._searched -= self._start
        self._start = 0
        pending += data
        if self.skipping:
            self._skip()

    def _overflow(self, separator: bytes, limit: int) -> None:
        partial = bytes(memoryview(self._data)[self._start : self._start + limit])
        self._searched = self._start
        self.skipping = separator
        self._skip()
        raise LineTooLongError(partial, limit)

    def _skip(self) -> None:
        """Drop an overlong message as far as it is there."""
        separator = self.skipping
        found = self._data.find(separator, self._start)
        if found >= 0:
            self.skipping = b""
            self._cut(found + len(separator))
        else:
            self._cut(max(self._start, len(self._data) - len(separator) + 1))
