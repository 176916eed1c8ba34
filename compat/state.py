"""What we keep on a server, and what can be told from it.

Two attributes, with names of our own because subclasses use all others.
"""

import os
import socketserver
from typing import TYPE_CHECKING, Any, Final

from compat.pool import Pool

if TYPE_CHECKING:  # the engine knows this room, not the other way round
    from compat.engine import Engine

__all__ = ("ENGINE", "POOL", "SHUTDOWN_REQUEST", "at_work", "engine_of", "has_actions", "pool_of")

ENGINE: Final = "_asyncserver_engine"
POOL: Final = "_asyncserver_pool"
SHUTDOWN_REQUEST: Final = "_BaseServer__shutdown_request"  # the standard library's own


def engine_of(server: socketserver.BaseServer) -> "Engine | None":
    """Return what drives `server` now, if something does."""
    return vars(server).get(ENGINE)


def pool_of(server: socketserver.BaseServer) -> Pool | None:
    """Return the threads of `server`, if it has had any."""
    return vars(server).get(POOL)


def at_work(server: socketserver.BaseServer) -> tuple[int, int | None]:
    """Return how many requests are in other hands, and how many may be."""
    if isinstance(server, socketserver.ForkingMixIn):
        return len(server.active_children or ()), server.max_children
    pool = pool_of(server)
    return (0, None) if pool is None else (len(pool.jobs), pool.limit)


def has_actions(server: socketserver.BaseServer) -> bool:
    """Whether `service_actions` does anything that somebody may wait for."""
    quiet: list[Any] = [socketserver.BaseServer.service_actions]
    if hasattr(os, "pidfd_open") and isinstance(server, socketserver.ForkingMixIn):
        quiet.append(socketserver.ForkingMixIn.service_actions)  # the engine reaps
    return getattr(server.service_actions, "__func__", None) not in quiet
