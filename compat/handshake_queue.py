"""The TLS handshakes of one server that have begun: each goes on when its client has said something."""

import socket
import time
from bisect import insort
from collections.abc import Callable
from typing import TYPE_CHECKING

from compat.lazy_imports import lazy_module
from compat.poller import Poller

if TYPE_CHECKING:
    from compat import handshakes
else:  # it needs `ssl`, which a program without TLS does without
    handshakes = lazy_module("compat.handshakes")

__all__ = ("HandshakeQueue",)


class HandshakeQueue:
    """Handshakes, the one that is over first in front.

    Args:
        poller: what their thread waits in.
        freed: called when one has ended, which had taken a request's place.

    """

    def __init__(self, poller: Poller, freed: Callable[[], object]) -> None:
        self._poller = poller
        self._freed = freed
        self._handshakes: list[handshakes.Handshake] = []

    def __len__(self) -> int:
        return len(self._handshakes)

    def add(self, request: "handshakes.DeferredSocket", handle: Callable[[], object]) -> None:
        """Call `handle` when `request` has shaken hands, if it ever does."""
        handshake = handshakes.Handshake(request, handle)
        insort(self._handshakes, handshake, key=lambda each: each.deadline)
        self._go_on(handshake)
        self._set_timer()

    def requests(self) -> list[socket.socket]:
        """Return whose they are."""
        return [each.sock for each in self._handshakes.copy()]

    def close(self) -> None:
        """Give all up, and close the connections."""
        while self._handshakes:
            self._handshakes.pop().close()
        self._set_timer()

    def _go_on(self, handshake: "handshakes.Handshake") -> None:
        events = handshake.step()
        if events:
            self._poller.watch(handshake.fileno, events, lambda: self._go_on(handshake))
            return
        self._end(handshake)
        if handshake.succeeded:
            handshake.handle()

    def _end(self, handshake: "handshakes.Handshake") -> None:
        self._handshakes.remove(handshake)
        self._poller.unwatch(handshake.fileno)
        self._set_timer()
        self._freed()

    def _expire(self) -> None:
        now = time.monotonic()
        while self._handshakes and self._handshakes[0].deadline <= now:
            first = self._handshakes[0]
            self._end(first)
            first.fail("the client took too long")

    def _set_timer(self) -> None:
        if self._handshakes:
            self._poller.call_at(self._handshakes[0].deadline, self._expire)
        else:
            self._poller.cancel(self._expire)
