"""Events as log records, on the logger "asyncserver".

What every server on the internet sees all day (resets, failed handshakes, idle peers) is DEBUG;
a handler's own exception is one ERROR with its traceback; running out of something is one WARNING
per episode.
"""

import logging
from typing import Final

from asyncserver import events

__all__ = ("log",)

logger = logging.getLogger("asyncserver")

EVERY_DAY: Final = (events.Opened, events.Closed)  # so common that they have to be told apart fast


def log(event: events.Event) -> None:  # noqa: PLR0912 - one case an event
    """Write one event to the log: the observer that every server has."""
    if type(event) in EVERY_DAY and not logger.isEnabledFor(logging.DEBUG):
        return
    match event:
        case events.Opened() | events.Closed():
            logger.debug("%s: %s", show(event.peer), _one_word(event))
        case events.Failed(peer, error):
            logger.error("%s: the handler failed", show(peer), exc_info=error)
        case events.Disconnected(peer, error):
            logger.debug("%s: disconnected: %s", show(peer), error)
        case events.HandshakeFailed(peer, error):
            logger.debug("%s: TLS handshake failed: %s", show(peer), error)
        case events.Expired(peer, deadline):
            logger.debug("%s: closed, the %s deadline is over", show(peer), deadline)
        case events.Refused(peer, limit):
            logger.debug("%s: refused, Limits.%s is reached", show(peer), limit)
        case events.Saturated(connections):
            logger.warning(
                "Limits.connections is reached (%d): new clients wait in the backlog", connections
            )
        case events.Exhausted(error, first):
            if first:
                logger.warning("cannot accept: %s; trying again until it works", error)
        case events.Bound(address):
            logger.info("listening on %s", address)
        case events.Draining(connections, grace):
            limit = "without a limit" if grace is None else f"for up to {grace:g} s"
            logger.debug("draining %d connections %s", connections, limit)
        case events.Drained(finished, cancelled, aborted):
            logger.log(
                logging.WARNING if cancelled or aborted else logging.INFO,
                "closed: %d handlers finished, %d cancelled, %d aborted",
                finished,
                cancelled,
                aborted,
            )


def show(peer: events.Peer) -> str:
    """Write a peer's address as people read it."""
    if isinstance(peer, str):
        return peer or "unix peer"
    host, port = peer
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _one_word(event: events.Opened | events.Closed) -> str:
    if isinstance(event, events.Opened):
        return "opened"
    return f"closed, {event.received} bytes in, {event.sent} out"
