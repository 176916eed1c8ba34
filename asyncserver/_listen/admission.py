"""Admission: how many connections there are, in all and per host, and whether one more may enter.

Pure counting. Who waits and who is turned away is the acceptor's business.
"""

from asyncserver._settings.limits import Limits

__all__ = ("Admission",)


class Admission:
    """The slots for connections.

    Every `acquire()` that returns `None` must be matched by exactly one `release()` of the same host.

    Attributes:
        active: slots that are held.

    """

    __slots__ = ("_hosts", "_per_host", "_total", "active")

    def __init__(self, limits: Limits) -> None:
        self._total = limits.connections
        self._per_host = limits.per_host
        self._hosts: dict[str, int] = {}
        self.active = 0

    @property
    def full(self) -> bool:
        """Whether the limit of connections in all is reached."""
        return self._total is not None and self.active >= self._total

    def acquire(self, host: str) -> str | None:
        """Take a slot for a connection of `host`; return the name of the limit that forbids it, if any.

        `host` is empty for Unix sockets, which have no host to count.
        """
        if self.full:
            return "connections"
        if host and self._per_host is not None:
            here = self._hosts.get(host, 0)
            if here >= self._per_host:
                return "per_host"
            self._hosts[host] = here + 1
        self.active += 1
        return None

    def release(self, host: str) -> None:
        """Give the slot of a connection of `host` back."""
        self.active -= 1
        if host and self._per_host is not None:
            here = self._hosts[host] - 1
            if here:
                self._hosts[host] = here
            else:
                del self._hosts[host]
