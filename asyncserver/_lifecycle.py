"""The life of a server, as a table: which state may follow which, and nothing else."""

from enum import Enum

from asyncserver.errors import ServerStateError

__all__ = ("ServerState", "advance")


class ServerState(Enum):
    """Where a server stands in its life."""

    NEW = "new"  # nothing is bound
    SERVING = "serving"  # listeners are open, handlers run
    DRAINING = "draining"  # listeners are closed, handlers may finish
    CLOSED = "closed"  # no socket and no task is left; there is no way back


MOVES: dict[ServerState, frozenset[ServerState]] = {
    ServerState.NEW: frozenset({ServerState.SERVING, ServerState.CLOSED}),
    ServerState.SERVING: frozenset({ServerState.DRAINING}),
    ServerState.DRAINING: frozenset({ServerState.CLOSED}),
    ServerState.CLOSED: frozenset(),
}


def advance(state: ServerState, to: ServerState) -> ServerState:
    """Return `to`, if it may follow `state`; raise `ServerStateError` if it may not."""
    if to not in MOVES[state]:
        raise ServerStateError(
            f"a server that is {state.value} cannot become {to.value}; make a new Server"
        )
    return to
