"""Events as log records, on the logger "asyncserver".

What every server on the internet sees all day (resets, failed handshakes, idle peers) is DEBUG;
a handler's own exception is one ERROR with its traceback; running out of something is one WARNING
per episode. What clients can bring about again and again is told a few times a minute, and then
counted: `Stats` has all of it.
"""

import logging
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from asyncserver import events
from asyncserver._observe.rates import Rates

__all__ = ("Log", "show")

logger = logging.getLogger("asyncserver")

EVERY_DAY: Final = (
    events.ConnectionOpened,
    events.ConnectionClosed,
)  # so common that they have to be told apart fast
FEW: Final = 10  # records of one kind
MINUTE: Final = 60.0  # seconds


class Kind(NamedTuple):
    """What records have in common that are one and the same trouble."""

    level: int
    text: str


SATURATED: Final = Kind(logging.WARNING, "Limits.connections is reached")
EXHAUSTED: Final = Kind(logging.WARNING, "cannot accept")


class Log:
    """The observer that writes a server's events to the log.

    Args:
        clock: for the rate of records; seconds that never go back.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._rates: Rates[Kind] = Rates(clock, few=FEW, seconds=MINUTE)

    def __call__(self, event: events.Event) -> None:  # noqa: PLR0912 - one case an event
        if self._rates.left_out:
            self._say_what_was_left_out(self._rates.over())
        if type(event) in EVERY_DAY and not logger.isEnabledFor(logging.DEBUG):
            return
        match event:
            case events.ConnectionOpened() | events.ConnectionClosed():
                logger.debug("%s: %s", show(event.peer), _one_word(event))
            case events.HandlerFailed(peer, error):
                kind = Kind(logging.ERROR, f"the handler failed with {_whereabouts(error)}")
                self._say(kind, "%s: the handler failed", show(peer), error=error)
            case events.PeerDisconnected(peer, error):
                logger.debug("%s: disconnected: %s", show(peer), _line(error))
            case events.HandshakeFailed(peer, error):
                logger.debug("%s: TLS handshake failed: %s", show(peer), _line(error))
            case events.DeadlineExpired(peer, deadline):
                logger.debug("%s: closed, the %s deadline is over", show(peer), deadline)
            case events.ConnectionRefused(peer, limit):
                logger.debug("%s: refused, Limits.%s is reached", show(peer), limit)
            case events.ConnectionLimitReached(connections):
                text = "Limits.connections is reached (%d): new clients wait in the backlog"
                self._say(SATURATED, text, connections)
            case events.ResourcesExhausted(error, first):
                if first:
                    self._say(
                        EXHAUSTED, "cannot accept: %s; trying again until it works", _line(error)
                    )
            case events.AddressBound(address):
                logger.info("listening on %s", address)
            case events.DrainStarted(connections, grace):
                limit = "without a limit" if grace is None else f"for up to {grace:g} s"
                logger.debug("draining %d connections %s", connections, limit)
            case events.DrainFinished(finished, cancelled, aborted):
                self._say_what_was_left_out(self._rates.end())
                logger.log(
                    logging.WARNING if cancelled or aborted else logging.INFO,
                    "closed: %d handlers finished, %d cancelled, %d aborted",
                    finished,
                    cancelled,
                    aborted,
                )

    def _say(
        self, kind: Kind, text: str, *values: object, error: BaseException | None = None
    ) -> None:
        """Write a record, if there were not too many of its kind."""
        more = self._rates.admit(kind)
        if more is None:
            return
        if more == 0:
            text += f" (the {FEW}th like it within {MINUTE:g} s: more are only counted)"
        logger.log(kind.level, text, *values, exc_info=error)

    def _say_what_was_left_out(self, counts: list[tuple[Kind | None, int]]) -> None:
        for kind, count in counts:
            level, text = kind or (logging.ERROR, "of many kinds")
            logger.log(level, "%d more records were left out: %s", count, text)


def show(peer: events.Peer) -> str:
    """Write a peer's address as people read it: one line, which every log can hold.

    A Unix peer gives itself any name that it likes, so what is not plain ASCII is escaped, and a
    backslash too, as in a literal of Python.
    """
    if isinstance(peer, str):
        return _plain(peer) or "unix peer"
    host, port = peer
    return _plain(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _plain(text: str) -> str:
    is_plain = text.isascii() and text.isprintable() and "\\" not in text
    return text if is_plain else ascii(text)[1:-1]


def _line(error: BaseException) -> str:
    text = str(error)
    return text if text.isprintable() else ascii(text)[1:-1]


def _whereabouts(error: BaseException) -> str:
    """Name the class of `error`, and the line that raised it."""
    place, traceback = "", error.__traceback__
    while traceback is not None:
        place = f" at {traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return f"{type(error).__qualname__}{place}"


def _one_word(event: events.ConnectionOpened | events.ConnectionClosed) -> str:
    if isinstance(event, events.ConnectionOpened):
        return "opened"
    return f"closed, {event.received} bytes in, {event.sent} out"
