"""What we keep on a server, and what can be told from it.

Two attributes, with names of our own because subclasses use all others.
"""

import socketserver
from threading import get_ident
from typing import TYPE_CHECKING, Final

from compat.pool import Pool

if TYPE_CHECKING:  # the engine knows this room, not the other way round
    from compat.engine import Engine

__all__ = (
    "ENGINE",
    "POOL",
    "SHUTDOWN_REQUEST",
    "at_work",
    "engine_here",
    "engine_of",
    "engines_of",
    "limit_of",
    "pool_of",
)

ENGINE: Final = "_asyncserver_engine"
POOL: Final = "_asyncserver_pool"
SHUTDOWN_REQUEST: Final = "_BaseServer__shutdown_request"  # the standard library's own


def engines_of(server: socketserver.BaseServer) -> "tuple[Engine, ...]":
    """Return all that drive `server` now: one for each `serve_forever` that has not returned."""
    engines: tuple[Engine, ...] = vars(server).get(ENGINE, ())
    return engines


def engine_of(server: socketserver.BaseServer) -> "Engine | None":
    """Return what drives `server` now, if something does."""
    engines = engines_of(server)
    return engines[-1] if engines else None


def engine_here(server: socketserver.BaseServer) -> "Engine | None":
    """Return what drives `server` in this thread."""
    me = get_ident()
    for engine in vars(server).get(ENGINE, ())[::-1]:
        if engine.thread == me:
            return engine  # type: ignore[no-any-return]
    return None


def pool_of(server: socketserver.BaseServer) -> Pool | None:
    """Return the threads of `server`, if it has had any."""
    return vars(server).get(POOL)


def limit_of(server: object) -> int | None:
    """Return `max_threads`, if that is a number of threads."""
    limit = getattr(server, "max_threads", None)
    return limit if type(limit) is int and limit >= 1 else None


def at_work(server: socketserver.BaseServer) -> tuple[int, int | None]:
    """Return how many requests are in other hands, and how many may be."""
    if isinstance(server, socketserver.ForkingMixIn):
        return len(server.active_children or ()), server.max_children
    pool = pool_of(server)
    return (0, None) if pool is None else (len(pool.jobs), pool.limit)
