"""What a server allows: sizes and counts in `Limits`, seconds in `Timeouts`.

Frozen values, checked once when they are made. Every default is finite; `None` lifts a limit.
"""

from dataclasses import dataclass, fields
from typing import Literal

from asyncserver._settings.checks import check_count, check_seconds
from asyncserver.errors import SettingError

__all__ = ("Limits", "Timeouts")

KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a server takes on. Whole numbers, at least 1; `None` means no limit.

    Attributes:
        connections: stream connections open at once, handshakes included.
        per_host: the same for one IP address. The default leaves half of the places to others;
            raise it behind a proxy, where there is only one host, and lower it where clients
            connect directly.
        overflow: what happens at `connections`. "backlog": the server stops accepting and clients
            wait in the kernel's queue; "close": they are accepted and closed at once.
        backlog: length of that queue, see listen(2). Linux cuts it to `net.core.somaxconn`.
        line: longest line (or message of `readuntil`) in bytes, its separator included.
        read_buffer: bytes received ahead of the handler before the peer is paused. One read
            from the socket (up to 256 KiB) may come on top.
        write_buffer: bytes that `send` leaves to the kernel before it waits.
        read_all: most bytes that `read()` without a size gathers until the end of the stream.
        exactly: most bytes that `readexactly` may be asked for, since that number is often one
            that the peer has sent.
        datagrams: datagram handlers running at once; what arrives beyond is dropped and counted, and
            so is what one peer sends beyond its part: a fourteenth of the places that are free; where
            there are fewer than a thousand more, up to half.
        datagram_size: longest datagram in bytes; what is longer is cut and marked `truncated`.

    Raises:
        SettingError: a value is out of range.

    """

    connections: int | None = 10_000
    per_host: int | None = 5_000
    overflow: Literal["backlog", "close"] = "backlog"
    backlog: int = 4096
    line: int | None = 64 * KIB
    read_buffer: int = 64 * KIB
    write_buffer: int = 64 * KIB
    read_all: int | None = 16 * KIB * KIB
    exactly: int | None = 16 * KIB * KIB
    datagrams: int | None = 1000
    datagram_size: int = 64 * KIB

    def __post_init__(self) -> None:
        if self.overflow not in ("backlog", "close"):
            raise SettingError(f"Limits.overflow is {self.overflow!r}: write 'backlog' or 'close'")
        for field in fields(self):
            if field.name != "overflow":
                optional = "None" in str(field.type)
                check_count(f"Limits.{field.name}", getattr(self, field.name), optional=optional)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a server waits, in seconds. More than 0; `None` means without end.

    `idle`, `message`, `write` and `lifetime` are kept by one timer per server and not one per read,
    so they run out up to a fifth late, and never by more than 2 s.

    Attributes:
        handshake: from accept to the end of the TLS handshake.
        idle: how long a read may wait while no byte moves in either direction. A handler that
            does not read is not idle.
        message: how long the reads of one message may wait, from its first byte to its last: a line,
            what `readexactly` was asked for, or all that is read in `async with
            connection.message()`. A peer that sends a byte now and then is not idle, but late.
        write: how long `send` (or closing) may wait for a peer that takes no bytes.
        lifetime: from accept to the end of the handler; then the handler is cancelled.
        first: when the server drains, how long a connection that has not spoken yet, or is still
            shaking hands, has for its first bytes before it counts as idle. Never longer than the
            grace.
        cleanup: how long handlers that were cancelled at the end of the grace have to clean up
            before they are aborted; where there are many, a millisecond for each of them if that is
            more, but at most ten times as long. `close(grace)` takes no longer than both together.

    Raises:
        SettingError: a value is out of range.

    """

    handshake: float | None = 10.0
    idle: float | None = 300.0
    message: float | None = 120.0
    write: float | None = 30.0
    lifetime: float | None = 86_400.0
    first: float | None = 5.0
    cleanup: float | None = 0.45

    def __post_init__(self) -> None:
        for field in fields(self):
            check_seconds(f"Timeouts.{field.name}", getattr(self, field.name))

    @property
    def tick(self) -> float:
        """Seconds between two looks at the connections."""
        finite = [
            each
            for each in (self.idle, self.message, self.write, self.lifetime)
            if each is not None
        ]
        return min([10.0, *finite]) / 10
