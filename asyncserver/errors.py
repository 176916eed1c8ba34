"""The exceptions of asyncserver: each says whose fault it was, and carries the data to act on.

All derive from `AsyncServerError`, and each also from what a careful caller catches already: the
anyio stream errors (so that anyio's wrappers understand ours) and the builtin that asyncio or the
`socket` module would have raised.
"""

from anyio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    DelimiterNotFound,
    IncompleteRead,
)

__all__ = (
    "AddressError",
    "AsyncServerError",
    "BindError",
    "ConnectionBrokenError",
    "ConnectionBusyError",
    "ConnectionClosedError",
    "DeadlineExceededError",
    "HandlerError",
    "HandshakeError",
    "IncompleteReadError",
    "LineTooLongError",
    "MessageTooLongError",
    "NoReplyAddressError",
    "ServerStateError",
    "SettingError",
    "UpgradeRefusedError",
)


class AsyncServerError(Exception):
    """The root: everything that asyncserver raises on its own account."""


# -- your fault: the program asked for something that cannot be --------------------------------


class SettingError(AsyncServerError, ValueError):
    """A limit, a deadline or a TLS setting has a value that cannot work."""


class AddressError(AsyncServerError, ValueError):
    """An address is not one of the URLs that asyncserver understands."""


class HandlerError(AsyncServerError, TypeError):
    """The handler is of no kind that can be served; the message says what to write instead."""


class ServerStateError(AsyncServerError, RuntimeError):
    """The server cannot do that in the state that it is in."""


class ConnectionClosedError(AsyncServerError, ClosedResourceError):
    """The connection was closed on this side, by the handler or by the server."""


class ConnectionBusyError(AsyncServerError, BusyResourceError, RuntimeError):
    """Two tasks read from one connection at the same time."""


class NoReplyAddressError(AsyncServerError, ValueError):
    """The sender of a Unix datagram has no name to reply to; it must `bind()` its own socket."""


# -- the system's fault ------------------------------------------------------------------------


class BindError(AsyncServerError, OSError):
    """An address cannot be listened on; `errno` says why, the message says which."""


# -- the peer's or the network's fault ---------------------------------------------------------


class ConnectionBrokenError(AsyncServerError, BrokenResourceError, ConnectionError):
    """The peer reset the connection, or the network lost it; `__cause__` has the system's word."""


class HandshakeError(AsyncServerError, ConnectionError):
    """A TLS handshake failed: garbage, no common cipher, a certificate that was refused."""


class UpgradeRefusedError(AsyncServerError, ConnectionError):
    """Clear text arrived between a request to start TLS and the handshake (RFC 3207, section 6).

    Attributes:
        pending: how many bytes had arrived.

    """

    def __init__(self, pending: int) -> None:
        super().__init__(
            f"{pending} bytes of clear text arrived before the TLS handshake: the peer must wait"
            " for the reply to its STARTTLS; anything else may be command injection"
        )
        self.pending = pending


class IncompleteReadError(AsyncServerError, IncompleteRead, EOFError):
    """The peer stopped sending in the middle of what was asked for.

    Attributes:
        partial: the bytes that did arrive.
        expected: how many bytes were asked for; `None` when reading up to a separator.

    """

    def __init__(self, partial: bytes, expected: int | None = None) -> None:
        wanted = "the separator" if expected is None else f"all of {expected} bytes"
        Exception.__init__(self, f"the stream ended after {len(partial)} bytes, before {wanted}")
        self.partial = partial
        self.expected = expected


# -- policy: a limit or a deadline that you set ------------------------------------------------


class MessageTooLongError(AsyncServerError, ValueError):
    """What was to be read is longer than one of the `Limits` allows; nothing of it was taken.

    Attributes:
        limit: the limit, in bytes.

    """

    def __init__(self, what: str, name: str, limit: int) -> None:
        Exception.__init__(self, f"{what} exceeds the limit of {limit} bytes (Limits.{name})")
        self.limit = limit


class LineTooLongError(MessageTooLongError, DelimiterNotFound):
    """A line is longer than the limit; the rest of it is dropped, the next read starts after it.

    Attributes:
        partial: the first bytes of the line, at most `limit`.

    """

    def __init__(self, partial: bytes, limit: int) -> None:
        super().__init__("a line", "line", limit)
        self.partial = partial


class DeadlineExceededError(AsyncServerError, TimeoutError):
    """One of the `Timeouts` ran out.

    Attributes:
        deadline: which one: "handshake", "idle", "message", "write" or "lifetime".
        seconds: its value.

    """

    def __init__(self, deadline: str, seconds: float) -> None:
        super().__init__(f"the {deadline} deadline of {seconds:g} s is over (Timeouts.{deadline})")
        self.deadline = deadline
        self.seconds = seconds
