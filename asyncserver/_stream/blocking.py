"""A blocking socket with the server's deadlines, for handlers that run in threads.

It is what `socketserver` would have given the handler: a socket that blocks, without a timeout of its
own. A deadline that is over raises, as a timeout would, and never cuts short what a file made from
the socket reads. What the handler sets itself (`settimeout`, `setblocking`) goes before.

In clear text the kernel keeps the deadlines (SO_RCVTIMEO, socket(7)), one for each direction. OpenSSL
would try again after the kernel's, so with TLS they are the socket's timeout.
"""

import functools
import io
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any, Final

from asyncserver._cpython import send_file_by_sends
from asyncserver._settings.limits import Timeouts
from asyncserver.errors import DeadlineExceededError, LineTooLongError

__all__ = ("HostedSocket", "HostedTLSSocket", "hosted")

READS: Final = ("recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into")
WRITES: Final = ("send", "sendall", "sendmsg", "sendto")
FOREVER: Final = 1e6  # seconds; poll(2) counts milliseconds in 31 bits
CHUNK: Final = 64 * 1024  # bytes in which the rest of a line is dropped


def hosted(
    sock: socket.socket, timeouts: Timeouts, line: int | None
) -> "HostedSocket | HostedTLSSocket":
    """Make `sock` one for a handler; with TLS it has shaken hands.

    Args:
        sock: not to be used any more.
        timeouts: of which `idle` and `write` are kept.
        line: most bytes of a line that is read without a size.

    """
    mine: HostedSocket | HostedTLSSocket
    if isinstance(sock, ssl.SSLSocket):
        sock.__class__ = HostedTLSSocket  # of one layout, by intention
        assert isinstance(sock, HostedTLSSocket)
        mine = sock
    else:
        mine = HostedSocket(sock.family, sock.type, sock.proto, fileno=sock.detach())
    mine.seconds = {"idle": timeouts.idle, "write": timeouts.write}
    mine.line = line
    mine.apply()
    return mine


class _Deadlines(socket.socket):
    """What both kinds have in common.

    Attributes:
        seconds: the deadlines, by name.
        overdue: the name of the first one that was over.

    """

    seconds: dict[str, float | None] = {"idle": None, "write": None}  # noqa: RUF012 - replaced, not changed
    line: int | None = None
    overdue: str | None = None

    def over(self, deadline: str) -> DeadlineExceededError:
        """Note that a deadline is over, and return what says so."""
        self.overdue = self.overdue or deadline
        return DeadlineExceededError(deadline, self.seconds[deadline] or 0)

    def makefile(self, mode: Any = "r", buffering: int | None = None, **text: Any) -> Any:
        """Return a file, as ever; one of bytes to read from reads no line that is too long."""
        if self.line is None or sorted(mode) != ["b", "r"]:
            return super().makefile(mode, buffering, **text)
        raw: Any = super().makefile(mode, 0)
        if buffering == 0:
            raw.__class__ = _RawLines
            raw.line = self.line
            return raw
        size = io.DEFAULT_BUFFER_SIZE if buffering is None or buffering < 0 else buffering
        return _Lines(raw, size, self.line)


class HostedSocket(_Deadlines):
    """A socket for a handler, in clear text."""

    def apply(self) -> None:
        """Have the kernel keep the deadlines."""
        self.setblocking(True)
        for option, deadline in ((socket.SO_RCVTIMEO, "idle"), (socket.SO_SNDTIMEO, "write")):
            seconds = self.seconds[deadline] or 0  # which is the kernel's "none"
            value = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
            self.setsockopt(socket.SOL_SOCKET, option, value)

    def dup(self) -> "HostedSocket":
        """Return another one, with the same deadlines."""
        same = super().dup()
        same.seconds, same.line = self.seconds, self.line
        return same

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send a file. Not by os.sendfile(), after which Python would wait without a deadline."""
        return send_file_by_sends(self, file, offset, count)


def _on_time(name: str, deadline: str) -> Callable[..., Any]:
    """Make a method that raises when the kernel says that a deadline is over."""
    original = getattr(socket.socket, name)

    @functools.wraps(original)
    def method(self: HostedSocket, *args: Any, **options: Any) -> Any:
        begin = time.monotonic()
        try:
            return original(self, *args, **options)
        except BlockingIOError:
            seconds = self.seconds[deadline]
            # Not if it did not wait: a handler may ask a socket without waiting.
            if seconds is None or time.monotonic() - begin < seconds / 2:
                raise
        raise self.over(deadline)

    return method


for _names, _deadline in ((READS, "idle"), (WRITES, "write")):
    for _name in _names:
        setattr(HostedSocket, _name, _on_time(_name, _deadline))


class HostedTLSSocket(_Deadlines, ssl.SSLSocket):
    """A socket for a handler, with TLS."""

    def apply(self) -> None:
        """Wait no longer than a read may; a write changes that for as long as it takes."""
        self.settimeout(self.seconds["idle"])

    def read(self, *args: Any) -> Any:
        idle, begin = self.seconds["idle"], time.monotonic()
        while True:
            try:
                return super().read(*args)
            except TimeoutError:
                if self._has_its_own():
                    raise
                if idle is not None and time.monotonic() - begin >= idle:
                    raise self.over("idle") from None
                # or it was the deadline of a write, in another thread: read on

    def write(self, data: Any) -> int:
        return self._write(super().write, data)

    def send(self, data: Any, flags: int = 0) -> int:
        return self._write(super().send, data, flags)

    def _write(self, function: Callable[..., int], *args: Any) -> int:
        if self._has_its_own() or self.seconds["idle"] == self.seconds["write"] is None:
            return function(*args)
        self.settimeout(self._write_timeout)
        try:
            return function(*args)
        except TimeoutError:
            if self.gettimeout() != self._write_timeout:
                raise
            raise self.over("write") from None
        finally:
            if self.gettimeout() == self._write_timeout:
                self.apply()

    @property
    def _write_timeout(self) -> float:
        return self.seconds["write"] or FOREVER

    def _has_its_own(self) -> bool:
        """Whether the handler has set a timeout."""
        return self.gettimeout() not in {self.seconds["idle"], self._write_timeout}


class _LimitedLines(io.IOBase):
    """Lines that are not too long: of one that is, the rest is dropped, and the next read goes on."""

    line: int
    _in_the_middle = False

    def readline(self, size: int | None = -1, /) -> bytes:
        self._skip()
        if size is not None and size >= 0:
            return super().readline(size)
        line = super().readline(self.line + 1)
        if len(line) <= self.line:
            return line
        self._in_the_middle = not line.endswith(b"\n")
        raise LineTooLongError(line[:-1], self.line)

    def _skip(self) -> None:
        while self._in_the_middle:
            rest = super().readline(CHUNK)
            self._in_the_middle = bool(rest) and not rest.endswith(b"\n")


class _RawLines(_LimitedLines, socket.SocketIO):
    """A file without a buffer."""


class _Lines(_LimitedLines, io.BufferedReader):
    """A file with a buffer."""

    def __init__(self, raw: Any, size: int, line: int) -> None:
        super().__init__(raw, size)
        self.line = line

    def read(self, size: int | None = -1, /) -> bytes:
        self._skip()
        return super().read(size)

    def read1(self, size: int = -1, /) -> bytes:
        self._skip()
        return super().read1(size)

    def peek(self, size: int = 0, /) -> bytes:
        self._skip()
        return super().peek(size)

    def readinto(self, buffer: Any, /) -> int:
        self._skip()
        return super().readinto(buffer)

    def readinto1(self, buffer: Any, /) -> int:
        self._skip()
        return super().readinto1(buffer)
