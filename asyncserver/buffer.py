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
    """

    __slots__ = ("_data", "_searched", "_skipping", "_sought", "_start")

    def __init__(self) -> None:
        self._data: bytes | bytearray = b""
        self._start = 0  # the first byte not yet taken
        self._searched = 0  # no separator begins before this
        self._sought = b""  # the separator that _searched speaks of
        self._skipping = b""  # the separator that ends an overlong message, until it comes

    def __len__(self) -> int:
        return len(self._data) - self._start

    def feed(self, data: bytes) -> None:
        """Append what arrived."""
        if not self._data:  # then _start and _searched are 0
            self._data = data
        else:
            self._append(data)
        if self._skipping:
            self._skip()

    def take(self, size: int) -> bytes:
        """Take up to `size` bytes; empty if there are none."""
        return self._cut(min(self._start + size, len(self._data)))

    def take_exactly(self, size: int) -> bytes | None:
        """Take `size` bytes, or `None` while there are fewer."""
        if len(self._data) - self._start < size:
            return None
        return self._cut(self._start + size)

    def take_until(self, separator: bytes, limit: int | None) -> bytes | None:
        """Take everything up to and including `separator`, or `None` while it is not there.

        Raises:
            LineTooLongError: the message is longer than `limit` bytes. It is dropped to its end,
                also what is still to come of it.

        """
        data = self._data
        if not data:
            return None
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
        if end == len(data) and not self._start and type(data) is bytes:  # _cut's commonest case
            self._data = b""
            self._searched = 0
            return data
        return self._cut(end)

    def _cut(self, end: int) -> bytes:
        """Take the bytes up to the position `end`."""
        data, start = self._data, self._start
        if end == len(data):
            self._data = b""
            self._start = self._searched = 0
            if start:
                return bytes(memoryview(data)[start:])
            return data if type(data) is bytes else bytes(data)
        self._start = end
        self._searched = max(self._searched, end)
        return data[start:end] if type(data) is bytes else bytes(memoryview(data)[start:end])

    def _append(self, data: bytes) -> None:
        pending = self._data
        if isinstance(pending, bytearray):
            del pending[: self._start]  # moves an offset, not the bytes
        else:
            self._data = pending = bytearray(memoryview(pending)[self._start :])
        self._searched -= self._start
        self._start = 0
        pending += data

    def _overflow(self, separator: bytes, limit: int) -> None:
        partial = bytes(memoryview(self._data)[self._start : self._start + limit])
        self._skipping = separator
        self._searched = self._start
        self._skip()
        raise LineTooLongError(partial, limit)

    def _skip(self) -> None:
        """Drop an overlong message as far as it is there."""
        separator = self._skipping
        found = self._data.find(separator, self._start)
        if found >= 0:
            self._skipping = b""
            self._cut(found + len(separator))
        else:
            self._cut(max(self._start, len(self._data) - len(separator) + 1))
