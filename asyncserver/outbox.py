"""Replies that wait for room: in the order in which they were given, and without asking again.

Whoever does not read what he asked for must cost the others nothing. For UDP there is no such peer,
only a socket that is full for a moment. A Unix peer has its replies in its own queue, and there are
two ways for it to be in the way, see unix(7) and net/unix/af_unix.c:

- It is not connected to us. Then its queue takes `net.unix.max_dgram_qlen` datagrams, and a socket of
  ours that is connected to it polls writable when there is room again.
- It is connected to us. Then no queue has a limit but our own send buffer, which is charged for all
  that all peers have not read, and no socket but ours may send to it. So one that reads nothing would
  take the place of everybody; `Unread` stops it before that.
"""

import asyncio
import contextlib
import errno
import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from asyncserver.errors import ConnectionClosed, DeadlineExceeded
from asyncserver.pktinfo import Control
from asyncserver.unread import Unread

__all__ = ("Outbox",)

Send = Callable[[bytes, Any, Control], bool]  # False: there is no room
Waiting = tuple["asyncio.Future[None]", bytes, Any, Control]

BURST: Final = 16  # replies of one line in a row before others on the loop get their turn
PROBES: Final = 64  # lines at once that have a descriptor of their own; others share the socket's
PAUSE: Final = 0.05  # seconds, where a socket that says that it has room has none: ENOBUFS, send(2)


class Outbox:
    """The replies of one socket that wait, a line for each Unix peer, one line for all of UDP.

    Args:
        sock: the socket.
        send: sends one datagram through it, or returns `False` if there is no room.

    Attributes:
        watchful: what is sent has to go through this `try_send`.

    """

    def __init__(self, sock: socket.socket, send: Send) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._send = send
        self._unread = Unread(sock) if sock.family == socket.AF_UNIX else None
        self.watchful = self._unread is not None
        self._lines: dict[Any, deque[Waiting]] = {}
        self._probes: dict[Any, socket.socket] = {}  # connected to the peers whose queues are full
        self._held: dict[Any, None] = {}  # lines that may go on when anybody has read something
        self._reads: select.epoll | None = None  # tells of it

    def try_send(self, data: bytes, peer: Any, control: Control) -> bool:
        """Send one reply, unless others wait before it, the peer does not read, or there is no room."""
        unread = self._unread
        if unread is None or peer in self._lines or not unread.may_have(peer, len(data)):
            return False
        if not self._send(data, peer, control):
            return False
        if unread.calm <= 0:
            unread.put_down(peer)
        return True

    async def wait(self, data: bytes, peer: Any, control: Control, seconds: float | None) -> None:
        """Send one reply when its turn has come and there is room.

        Raises:
            DeadlineExceeded: that took more than `seconds`.
            ConnectionClosed: the server is closed.
            Exception: whatever `send` raises.

        """
        key = None if self._unread is None else peer
        sent = self._loop.create_future()
        waiting = (sent, data, peer, control)
        if key in self._lines:
            self._lines[key].append(waiting)
        else:
            self._lines[key] = deque([waiting])
            self.watchful = True
            self._advance(key)
        timer = seconds and self._loop.call_later(seconds, _expire, sent, seconds)
        try:
            await sent
        except BaseException:
            self._leave(key, waiting)
            raise
        finally:
            if timer:
                timer.cancel()

    def close(self) -> None:
        """Send everybody who waits away, for good."""
        for line in list(self._lines.values()):
            for sent, *_ in line:
                if not sent.done():
                    sent.set_exception(ConnectionClosed("the server is closed"))
        for key in list(self._lines):
            self._end(key)
        if self._reads is not None:
            self._reads.close()
        self._reads = self._unread = None
        self.watchful = False

    # -- a line ------------------------------------------------------------------------------------

    def _advance(self, key: Any) -> None:
        """Send what there is room for, and hear of it when there is more."""
        line = self._lines.get(key, ())
        for _ in range(BURST):
            if not line:
                return
            sent, data, peer, control = line[0]
            if not sent.done():
                if self._unread is not None and not self._unread.may_have(peer, len(data)):
                    self._hold(key)
                    return
                try:
                    if not self._send(data, peer, control):
                        self._watch(key)
                        return
                    if self._unread is not None and self._unread.calm <= 0:
                        self._unread.put_down(peer)
                    sent.set_result(None)
                except Exception as exc:
                    sent.set_exception(exc)
            self._leave(key, line[0])
        self._loop.call_soon(self._advance, key)

    def _leave(self, key: Any, waiting: Waiting) -> None:
        line = self._lines.get(key, ())
        if line and waiting in line:
            line.remove(waiting)
            if not line:
                self._end(key)

    def _end(self, key: Any) -> None:
        del self._lines[key]
        self._unwatch(key)
        self.watchful = self._unread is not None

    # -- what a line waits for ---------------------------------------------------------------------

    def _watch(self, key: Any) -> None:
        """Go on when the queue of a Unix peer, or for UDP the socket, has room."""
        if key in self._probes or key not in self._lines:
            return
        probe = self._sock if self._unread is None else self._probe(key)
        if probe is None:
            self._hold(key)
            return
        self._unwatch(key)
        self._probes[key] = probe
        self._loop.add_writer(probe.fileno(), self._has_room, key)

    def _probe(self, peer: Any) -> socket.socket | None:
        """Return a socket that is writable when the peer's queue has room, if one can be had."""
        if len(self._probes) >= PROBES:
            return None
        with contextlib.ExitStack() as unless_connected:
            try:
                probe = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                unless_connected.callback(probe.close)
                probe.setblocking(False)
                probe.connect(peer)
            except OSError as exc:
                if exc.errno in (errno.ECONNREFUSED, errno.ENOENT):  # it has gone
                    self._loop.call_soon(self._advance, peer)
                return None  # EPERM: it is connected to us
            unless_connected.pop_all()
            return probe

    def _has_room(self, key: Any) -> None:
        first = self._lines[key][0]
        self._advance(key)
        if key not in self._probes or self._lines[key][0] is not first:
            return
        # What has room took nothing, and would go on to say that it has.
        if self._unread is None:
            self._unwatch(key)
            self._loop.call_later(PAUSE, self._watch, key)
        elif not _is_writable(self._sock):
            self._hold(key)

    def _unwatch(self, key: Any) -> None:
        self._held.pop(key, None)
        if not self._held and self._reads is not None:
            self._loop.remove_reader(self._reads.fileno())
        probe = self._probes.pop(key, None)
        if probe is not None:
            self._loop.remove_writer(probe.fileno())
            if probe is not self._sock:
                probe.close()

    def _hold(self, key: Any) -> None:
        """Go on when any Unix peer has read something."""
        self._unwatch(key)
        if self._reads is None:
            self._reads = select.epoll(1)
            # Level-triggered it would tell all the time that we may write, edge-triggered each time
            # that somebody has read.
            self._reads.register(self._sock.fileno(), select.EPOLLOUT | select.EPOLLET)
        if not self._held:
            self._loop.add_reader(self._reads.fileno(), self._somebody_has_read)
        self._held[key] = None

    def _somebody_has_read(self) -> None:
        assert self._reads is not None
        assert self._unread is not None
        self._reads.poll(0)
        left = self._unread.look()
        for key in list(self._held):
            if self._unread.fits(key, left):
                self._advance(key)


def _is_writable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLOUT)
    return bool(poll.poll(0))


def _expire(sent: "asyncio.Future[None]", seconds: float) -> None:
    if not sent.done():
        sent.set_exception(DeadlineExceeded("write", seconds))
