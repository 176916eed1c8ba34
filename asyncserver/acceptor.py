"""Accepting: a batch at a time, not more than the gate lets in, with a pause when the system is out.

One acceptor a listener. It does not know what becomes of a connection: it hands over the socket,
and is told to `resume` when somebody has left.
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from asyncserver.address import PeerAddress, peer_address
from asyncserver.events import Exhausted, Observers, Refused, Saturated
from asyncserver.gate import Gate

__all__ = ("Acceptor",)

BATCH: Final = 64  # accepts in a row before others on the loop get their turn
BACK_OFF: Final = 0.1  # seconds; nine wake-ups in ten go to waste at most

# accept(2): errors of the connection that was waiting, not of the listener. Take the next one.
PEER_ERRORS: Final = frozenset({
    errno.ECONNABORTED, errno.EPROTO, errno.ENOPROTOOPT, errno.EPERM, errno.EOPNOTSUPP,
    errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
})  # fmt: skip


class Acceptor:
    """Accepts from one listening socket.

    Args:
        listener: non-blocking and listening; the caller closes it, after `close()`.
        gate: asked for every connection; shared by all acceptors of a server.
        overflow: "backlog" or "close", see `Limits`.
        take: gets the accepted socket and its peer's address; from then on both are its.
        observers: are told what was refused, and why.

    """

    def __init__(
        self,
        listener: socket.socket,
        gate: Gate,
        overflow: str,
        take: Callable[[socket.socket, PeerAddress], object],
        observers: Observers,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._gate = gate
        self._waits_when_full = overflow == "backlog"
        self._take = take
        self._observers = observers
        self._accepting = False
        self._exhausted = False
        self._saturated = False
        self._again: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def paused(self) -> bool:
        """Whether nothing is accepted for now."""
        return not self._accepting

    def resume(self) -> None:
        """Accept from now on. Does nothing if it does already, or is closed."""
        if self._accepting or self._closed:
            return
        self._cancel_timer()
        self._accepting = True
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more. Does not close the listener."""
        self._pause()
        self._closed = True
        self._cancel_timer()

    def _accept(self) -> None:
        for _ in range(BATCH):
            if self._waits_when_full and self._gate.full:
                if not self._saturated:
                    self._observers.emit(Saturated(self._gate.inside))
                self._saturated = True
                self._pause()
                return
            try:
                sock, raw = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                self._saturated = self._exhausted = False  # nobody waits any more
                return
            except OSError as exc:
                if exc.errno in PEER_ERRORS:
                    continue
                self._back_off(exc)
                return
            self._admit(sock, peer_address(raw))
            if not self._accepting:
                return  # whoever got the socket closed the server

    def _admit(self, sock: socket.socket, peer: PeerAddress) -> None:
        sock.setblocking(False)
        limit = self._gate.enter("" if isinstance(peer, str) else peer[0])
        if limit is not None:
            sock.close()
            self._observers.emit(Refused(peer, limit))
            return
        self._take(sock, peer)

    def _back_off(self, exc: OSError) -> None:
        """Stop looking: a listener that stays readable and cannot be served would spin the CPU."""
        self._observers.emit(Exhausted(exc, first=not self._exhausted))
        self._exhausted = True
        self._pause()
        self._again = self._loop.call_later(BACK_OFF, self.resume)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._listener.fileno())

    def _cancel_timer(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
