"""Accepting: one request whenever the listener is readable, if there is a thread or child for it.

Whom nobody can handle is left to the kernel's backlog, and so is everybody while the system has no
descriptor or memory left. Each is said once for all the time in which somebody has to wait.
"""

import errno
import logging
import select
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from compat.attributes import POOL, at_work
from compat.handshake_queue import HandshakeQueue
from compat.lazy_imports import lazy_module
from compat.poller import Poller, is_readable

if TYPE_CHECKING:
    from compat import handshakes
else:  # it needs `ssl`, which a program without TLS does without
    handshakes = lazy_module("compat.handshakes")

__all__ = ("BACK_OFF", "OUT_OF_RESOURCES", "Acceptor")

logger: Final = logging.getLogger("asyncserver")

BACK_OFF: Final = 0.1  # seconds of pause when the system is out; most tries would go to waste
OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Who calls the `get_request` of one server, in one thread.

    Args:
        server: whose requests these are.
        poller: what the thread waits in.
        shaking: the handshakes that have begun, which count as requests.

    Attributes:
        fileno: the listener; -1 as long as, and as soon as, nobody is accepted any more.
        lock: lets one thread at a time accept, where several serve.
        in_get_request: the server is in its `get_request`, called from here, and has taken nothing yet.
        wants_slot: wants to know when a thread or child has ended.
        accepting: the listener is watched.
        logged: what has been said since somebody had to wait.

    """

    def __init__(
        self, server: socketserver.BaseServer, poller: Poller, shaking: HandshakeQueue
    ) -> None:
        self.fileno: int = -1
        self.lock: threading.Lock | None = None
        self.in_get_request: bool = False
        self.wants_slot: bool = False
        self.accepting: bool = False
        self._server = server
        self._poller = poller
        self._shaking = shaking
        self._forks = isinstance(server, socketserver.ForkingMixIn)
        self._refusal: OSError | None = None  # why the last get_request got nothing
        self.logged: set[str] = set()

    @property
    def inside(self) -> int:
        """Requests that threads or children are at, or that shake hands."""
        return len(self._shaking) + at_work(self._server)[0]

    @property
    def full(self) -> bool:
        """Whether there is no thread or child for one more; then `wants_slot` is set."""
        if not self._forks and POOL not in vars(self._server):
            return False  # the commonest case, asked for every request
        limit = at_work(self._server)[1]
        if limit is None or self.inside < limit:
            return False
        self.wants_slot = True
        return self.inside >= limit  # again, as one may have ended just before we asked to be told

    def start(self, fileno: int) -> None:
        """Accept from this listener."""
        self.fileno = fileno
        self.resume()

    def stop(self) -> None:
        """Accept no more, for good."""
        self.pause()
        self.fileno = -1

    def pause(self) -> None:
        """Leave those who come to the backlog."""
        self.accepting = False
        self._poller.unwatch(self.fileno)

    def resume(self) -> None:
        """Accept again, if it is not for good that this has stopped."""
        self._poller.cancel(self.resume)
        if not self.accepting and self.fileno >= 0:
            self.accepting = True
            self._poller.watch(self.fileno, select.POLLIN, self._accept)

    # -- from the server's own methods ---------------------------------------------------------

    def get_request(self, get_request: Callable[[], Any], *, defer_handshake: bool) -> Any:
        """Call the server's `get_request`, which need not wait for anybody.

        With `defer_handshake`, neither for the TLS handshake of whom it accepts and wraps.
        """
        lock = self.lock
        if lock is not None and not lock.acquire(timeout=BACK_OFF):
            raise BlockingIOError  # another thread's get_request takes its time
        self.in_get_request = True
        try:
            if lock is not None and not is_readable(self.fileno):
                raise BlockingIOError  # another thread has taken it: accept() would block
            if not defer_handshake or "ssl" not in sys.modules:
                return get_request()
            return handshakes.defer_handshakes(get_request, getattr(self._server, "socket", None))
        finally:
            self.in_get_request = False
            if lock is not None:
                lock.release()

    def note_refusal(self, exc: OSError) -> None:
        """Note that `get_request` failed with `exc`."""
        self._refusal = exc

    def _accept(self) -> None:
        if self.full:
            self.pause()
            self._log_once(
                "all threads or children are at work (%d): new clients wait in the backlog",
                self.inside,
            )
            return
        self._server._handle_request_noblock()  # type: ignore[attr-defined] # missing in typeshed
        refusal, self._refusal = self._refusal, None
        if refusal is None:
            return
        # Do not spin on a descriptor that stays readable while nothing can be had from it.
        if refusal.errno in OUT_OF_RESOURCES:
            self.pause()
            self._poller.call_at(time.monotonic() + BACK_OFF, self.resume)
            self._log_once("cannot accept: %s; trying again until it works", refusal)
        elif self._server.fileno() < 0:  # type: ignore[attr-defined] # it had one
            self.stop()  # closed, while we serve

    def _log_once(self, message: str, value: object) -> None:
        if message not in self.logged:
            self.logged.add(message)
            logger.warning(message, value)
