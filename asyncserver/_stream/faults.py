"""Whose fault an exception is that a handler has let out: the peer's is nothing to shout about."""

import asyncio

import anyio

from asyncserver import events
from asyncserver._listen.address import PeerAddress
from asyncserver.errors import (
    AsyncServerError,
    ConnectionBusyError,
    ConnectionClosedError,
    DeadlineExceededError,
    HandlerError,
    HandshakeError,
    UpgradeRefusedError,
)

__all__ = ("is_for_the_task", "told")

OWN_FAULTS = (ConnectionBusyError, HandlerError)
STREAM_ENDS = (
    anyio.BrokenResourceError,
    anyio.DelimiterNotFound,
    anyio.EndOfStream,
    anyio.IncompleteRead,
    ConnectionError,
    EOFError,
)


def told(exc: BaseException, peer: PeerAddress, *, ended: bool, own: bool) -> events.Event | None:
    """Return the event that says what a handler's exception was; `None` if it was told before.

    Args:
        exc: what the handler has let out.
        peer: of its connection.
        ended: nothing more comes from there.
        own: the handler itself has closed the connection.

    """
    if isinstance(exc, DeadlineExceededError) and exc.deadline != "handshake":
        return None  # told when it ran out
    if isinstance(exc, HandshakeError | UpgradeRefusedError | DeadlineExceededError):
        return events.HandshakeFailed(peer, exc)
    if _is_peers(exc, ended=ended, own=own):
        return events.PeerDisconnected(peer, exc)
    return events.HandlerFailed(peer, exc)


def is_for_the_task(exc: BaseException) -> bool:
    """Whether `exc` is for whoever runs the task, and not the handler's own failure."""
    if isinstance(exc, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0  # else what it awaited was cancelled
    return _ends_the_program(exc)


def _is_peers(exc: BaseException, *, ended: bool, own: bool) -> bool:
    """Whether the handler only tripped over the end of its connection, which was not its `own` doing.

    Our own exceptions can come from nowhere else; those of anyio's wrappers, and builtin ones, may
    be about another stream of the handler's, so they count only if this one is over.
    """
    if isinstance(exc, BaseExceptionGroup):
        return all(_is_peers(each, ended=ended, own=own) for each in exc.exceptions)
    if isinstance(exc, ConnectionClosedError):
        return not own
    if isinstance(exc, AsyncServerError):
        return not isinstance(exc, OWN_FAULTS)
    return isinstance(exc, STREAM_ENDS) and ended


def _ends_the_program(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return any(_ends_the_program(each) for each in exc.exceptions)
    return isinstance(exc, SystemExit | KeyboardInterrupt | GeneratorExit)
