"""Accepting: some at a time, not more than fit in, with a pause when the system is out.

One acceptor a server, so that its listeners take turns. Who gets a slot is served by the supervisor,
and when a slot is free again, accepting is to be resumed.
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any, Final

from asyncserver._listen.address import peer_address
from asyncserver._listen.admission import Admission
from asyncserver._server.supervisor import Supervisor
from asyncserver._settings.context import ServerContext
from asyncserver.events import ConnectionLimitReached, ConnectionRefused, ResourcesExhausted

__all__ = ("BACK_OFF", "BATCH", "PEER_ERRORS", "Accept", "Acceptor")

# Accepts in a turn of the loop. A connection costs 60 us until its handler waits, so this is 2 ms.
BATCH: Final = 32
# TLS costs four times as much until the handshake begins; and two milliseconds in a turn are what
# `turns` has for all that follows.
TLS_BATCH: Final = 4
BACK_OFF: Final = 0.1  # seconds; nine wake-ups in ten go to waste at most

# accept(2): errors of the connection that was waiting, not of the listener. Take the next one.
PEER_ERRORS: Final = frozenset({
    errno.ECONNABORTED, errno.EPROTO, errno.ENOPROTOOPT, errno.EPERM, errno.EOPNOTSUPP,
    errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
})  # fmt: skip


Accept = Callable[[], tuple[socket.socket, Any]]


class Acceptor:
    """Accepts from the listeners of a server, one after the other.

    Args:
        context: its limits say how many fit in, and what becomes of those who do not.
        admission: has the slots.
        supervisor: serves who was admitted, and gives the slot back in the end.

    """

    def __init__(
        self, context: ServerContext, admission: Admission, supervisor: Supervisor
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._observers = context.observers
        self._waits = context.limits.overflow == "backlog"  # whoever does not fit in
        self._batch = BATCH if context.tls is None else TLS_BATCH
        self._admission = admission
        self._supervisor = supervisor
        self._listeners: dict[int, Accept] = {}
        self._waited_for: dict[int, None] = {}  # listeners where somebody waits, in their order
        self._turn: asyncio.Handle | None = None
        self._accepting = False
        self._exhausted = False
        self._saturated = False
        self._again: asyncio.TimerHandle | None = None

    @property
    def paused(self) -> bool:
        """Whether nothing is accepted for now."""
        return not self._accepting

    @property
    def full(self) -> bool:
        """Whether the next one has to wait outside."""
        return self._waits and self._admission.full

    def add(self, fileno: int, accept: Accept) -> None:
        """Accept from one more listener, from the next `resume()` on.

        `fileno` is readable while somebody waits; the caller closes it, after `close()`. `accept`
        raises `BlockingIOError` if nobody waits, another `OSError` if accepting failed.
        """
        self._listeners[fileno] = accept

    def resume(self) -> None:
        """Accept from now on. Does nothing if it does already, or is closed."""
        if self._accepting:
            return
        self._cancel_timer()
        for fileno in self._listeners:
            self._accepting = True
            self._loop.add_reader(fileno, self._found, fileno)

    def close(self) -> None:
        """Accept no more. Does not close the listeners."""
        self._pause()
        self._cancel_timer()
        self._listeners.clear()

    def _found(self, fileno: int) -> None:
        self._waited_for[fileno] = None
        if self._turn is None:
            self._turn = self._loop.call_soon(self._accept)

    def _accept(self) -> None:
        self._turn = None
        for _ in range(self._batch):
            if self.full:
                if not self._saturated:
                    self._observers.emit(ConnectionLimitReached(self._admission.active))
                self._saturated = True
                self._pause()
                return
            fileno = next(iter(self._waited_for))
            del self._waited_for[fileno]
            try:
                accepted = self._listeners[fileno]()
            except (BlockingIOError, InterruptedError):
                if not self._waited_for:
                    self._saturated = self._exhausted = False
                    return
                continue
            except OSError as exc:
                if exc.errno not in PEER_ERRORS:
                    self._back_off(exc)
                    return
            else:
                self.admit(*accepted)
            if not self._accepting:
                return  # whoever was accepted closed the server
            self._waited_for[fileno] = None  # behind the others
        self._turn = self._loop.call_soon(self._accept)

    def admit(self, sock: socket.socket, raw: Any) -> None:
        """Have a connection served, or close it if it is above a limit."""
        peer = peer_address(raw)
        limit = self._admission.acquire("" if isinstance(peer, str) else peer[0])
        if limit is None:
            self._supervisor.start(sock, peer)
        else:
            sock.close()
            self._observers.emit(ConnectionRefused(peer, limit))

    def _back_off(self, exc: OSError) -> None:
        """Stop looking: a listener that stays readable and cannot be served would spin the CPU."""
        self._observers.emit(ResourcesExhausted(exc, first=not self._exhausted))
        self._exhausted = True
        self._pause()
        self._again = self._loop.call_later(BACK_OFF, self.resume)

    def _pause(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._waited_for.clear()
        if self._accepting:
            self._accepting = False
            for fileno in self._listeners:
                self._loop.remove_reader(fileno)

    def _cancel_timer(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
