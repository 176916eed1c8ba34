"""Child processes, which are reaped as soon as they end: a descriptor of each tells it (pidfd_open(2))."""

import contextlib
import os
import select
import socketserver
from collections.abc import Callable

from compat.poller import Poller

__all__ = ("Children",)


class Children:
    """The children of one server that are watched.

    Args:
        server: whose they are; it counts them in `active_children`.
        poller: what its thread waits in.
        freed: called when one has ended.

    """

    def __init__(
        self, server: socketserver.BaseServer, poller: Poller, freed: Callable[[], object]
    ) -> None:
        self._server = server
        self._poller = poller
        self._freed = freed
        self._descriptors: dict[int, int] = {}  # by process

    def watch(self, pid: int) -> None:
        """Reap the child as soon as it ends."""
        with contextlib.suppress(OSError):  # it has ended already, or service_actions will reap it
            fileno = os.pidfd_open(pid)
            self._descriptors[pid] = fileno
            self._poller.watch(fileno, select.POLLIN, lambda: self._reap(pid))

    def watches(self, pid: int) -> bool:
        """Whether the child's end will be seen without asking for it."""
        return pid in self._descriptors

    def close(self) -> None:
        """Watch none any more; the poller is released by whoever calls this."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _reap(self, pid: int) -> None:
        fileno = self._descriptors.pop(pid)
        self._poller.unwatch(fileno)
        os.close(fileno)
        with contextlib.suppress(ChildProcessError):  # somebody else has reaped it
            os.waitpid(pid, os.WNOHANG)
        children = getattr(self._server, "active_children", None)
        if children is not None:
            children.discard(pid)
        self._freed()
