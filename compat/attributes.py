"""What we keep on a server, and what can be told from it.

Two attributes, with names of our own because subclasses use all others.
"""

import socketserver
from typing import TYPE_CHECKING, Final

from compat.lazy_imports import lazy_module
from compat.pool import Pool

if TYPE_CHECKING:
    from asyncserver import errors
else:
    errors = lazy_module("asyncserver.errors")

__all__ = ("ENGINES", "POOL", "at_work", "check_limit", "limit_of", "pool_of")

ENGINES: Final = "_asyncserver_engines"
POOL: Final = "_asyncserver_pool"


def pool_of(server: socketserver.BaseServer) -> Pool | None:
    """Return the threads of `server`, if it has had any."""
    return vars(server).get(POOL)


def limit_of(server: object) -> int | None:
    """Return `max_threads`, if that is a number of threads."""
    limit = getattr(server, "max_threads", None)
    return limit if type(limit) is int and limit >= 1 else None


def check_limit(server: socketserver.BaseServer) -> None:
    """Raise `SettingError` if nobody would ever be served.

    Not for a class of the standard library's that `install` has changed: there the name is the program's
    own, and may mean anything.
    """
    limit = getattr(server, "max_threads", None)
    ours = any(each.__module__ == "compat" for each in type(server).__mro__)
    if ours and isinstance(server, socketserver.ThreadingMixIn) and limit_of(server) != limit:
        raise errors.SettingError(
            f"max_threads is {limit!r}: write at least 1, or None for no limit"
        )


def at_work(server: socketserver.BaseServer) -> tuple[int, int | None]:
    """Return how many requests are in other hands, and how many may be."""
    if isinstance(server, socketserver.ForkingMixIn):
        return len(server.active_children or ()), server.max_children
    pool = pool_of(server)
    return (0, None) if pool is None else (len(pool.jobs), pool.limit)
