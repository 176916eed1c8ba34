"""`serve_forever`, driven by an event loop in the thread that called it.

The one file that knows both worlds. The loop says when somebody waits, when a child has ended, when a
TLS client has said its part and when it is time to stop; everything that users wrote (hooks and
handlers) is called outside of it, with the running loop masked, so that blocking code may block and
`asyncio.run()` in a handler works.
"""

import asyncio
import contextlib
import errno
import logging
import os
import select
import selectors
import signal
import socketserver
import ssl
import threading
from collections.abc import Callable
from typing import Any, Final, Literal

from asyncserver.acceptor import Acceptor
from asyncserver.errors import SettingError
from asyncserver.events import Event, Exhausted, Observers, Saturated
from asyncserver.serve import loop_factory
from asyncserver.tls import shake_hands
from compat import handshakes
from compat.handshakes import put_off
from compat.state import ENGINE, POOL, SHUTDOWN_REQUEST, at_work, has_actions

__all__ = ("BACK_OFF", "OUT_OF_RESOURCES", "Engine", "is_late", "put_off", "watch_all")

logger = logging.getLogger("asyncserver")

LOOP: Literal["auto", "uvloop", "asyncio"] = (
    "auto"  # of the servers that begin to serve from now on
)
HANDSHAKE_TIMEOUT: Final = 10.0  # seconds, as asyncserver.Timeouts has it
BATCH: Final = 16  # requests in a row before the loop is unmasked again
BACK_OFF: Final = 0.05  # seconds of pause when the system is out, where there is no engine to wait
OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Engine:
    """One run of `serve_forever`.

    Args:
        server: what to serve.
        poll_interval: seconds between two calls of `service_actions` while nobody comes.
        never_blocks: whether its `get_request` raises `BlockingIOError` if nobody waits, so that
            there is no need to ask before. Asked again and again, since it may be exchanged.

    Attributes:
        asking: the server is in its `get_request`, called by us.
        never_blocks: what it has answered.
        thread: the identifier of the thread that serves.
        request: what the server's own thread is handling now.

    """

    def __init__(
        self,
        server: socketserver.BaseServer,
        poll_interval: float | None,
        never_blocks: Callable[[], bool],
    ) -> None:
        self._server = server
        self._poll_interval = poll_interval
        self.thread = threading.get_ident()
        self._loop: asyncio.AbstractEventLoop
        self._acceptor: Acceptor | None = None
        self._poll: select.poll
        self._forks = isinstance(server, socketserver.ForkingMixIn)
        self._has_actions = has_actions(server)
        self._never_blocks = never_blocks
        self._stopping = False
        self._nobody_waits = False
        self._refusals: list[OSError] = []  # why the last get_request got nothing
        self._failure: BaseException | None = None
        self._parked: dict[asyncio.Task[None], ssl.SSLSocket] = {}
        self._children: dict[int, int] = {}  # process and the descriptor that tells its end
        self._told_when_free = False
        self.asking = False
        self.never_blocks = False
        self.request: Any = None
        vars(server)[ENGINE] = self

    @property
    def runs_here(self) -> bool:
        """Whether this thread is the one that serves."""
        return threading.get_ident() == self.thread

    def run(self) -> None:
        """Serve until the server's flag says otherwise; raise what a hook raised."""
        _check(self._server)
        outer = asyncio._get_running_loop()  # a notebook's, perhaps
        asyncio._set_running_loop(None)
        try:
            if not self._asked_to_stop():
                self._serve()
        finally:
            asyncio._set_running_loop(outer)
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # its traceback holds this frame

    # -- from other threads and signal handlers ------------------------------------------------

    def wake(self) -> None:
        """Look at the flag now."""
        self._soon(self._look)

    def slot_is_free(self) -> None:
        """Accept again, if that had to wait for a thread or a child to end."""
        if self._told_when_free:
            self._told_when_free = False
            self._soon(self._resume)

    def watch(self) -> None:
        """Look at the flag every now and then: whoever sets it will not tell any more."""
        self._poll_interval = self._poll_interval or 0.5
        self._soon(self._tick)

    def detach(self) -> None:
        """Leave it to the parent, in a child that was forked from it."""
        vars(self._server).pop(ENGINE, None)
        # Nobody in the child would ever set it; see BaseServer for what assigning does.
        vars(self._server)["_BaseServer__is_shut_down"].set()
        if self.runs_here:
            with contextlib.suppress(ValueError):
                signal.set_wakeup_fd(-1)  # it leads to the parent's loop

    # -- from the server's own methods ---------------------------------------------------------

    def back_off(self, exc: OSError) -> None:
        """Note that `get_request` failed with `exc`."""
        self._refusals.append(exc)

    def park(self, request: handshakes.LateSocket, go_on: Callable[[], object]) -> None:
        """Call `go_on` when `request` has shaken hands."""
        task = self._loop.create_task(self._shake_hands(request.on_time(), go_on))
        self._parked[task] = request
        task.add_done_callback(self._parked.pop)

    def watch_child(self, pid: int) -> None:
        """Reap the child as soon as it ends."""
        try:
            fileno = os.pidfd_open(pid)
        except OSError:
            return  # it has ended and was reaped already; or service_actions will, in a while
        self._children[pid] = fileno
        self._loop.add_reader(fileno, self._reap, pid)

    # -- on the loop ---------------------------------------------------------------------------

    def _serve(self) -> None:
        with (
            contextlib.closing(loop_factory(LOOP)()) as loop,
            # Between the loop and the server's descriptor, since that may be closed at any time.
            selectors.DefaultSelector() as selector,
            handshakes.possible(),
        ):
            try:
                selector.register(self._fileno(), selectors.EVENT_READ)
            except (OSError, ValueError):
                if self._asked_to_stop():  # shut down and closed before it began
                    return
                raise
            loop.set_debug(False)  # blocking code takes its time
            loop.set_exception_handler(self._fail)
            self._poll = select.poll()  # of a descriptor only: cheaper to ask than a selector
            self._poll.register(self._fileno(), select.POLLIN)
            self._acceptor = Acceptor(loop, selector.fileno(), self._accept, self, _observers)
            self._loop = loop
            _running.add(self)
            try:
                self._acceptor.resume()
                if self._has_actions:
                    self._tick_later()
                if not self._asked_to_stop():
                    loop.run_forever()
            finally:
                _running.discard(self)
                self._finish(loop)

    def _accept(self) -> None:
        """Handle some requests, as the acceptor wants it."""
        self._outside(self._handle_some)
        if self._refusals:
            self._waits_in_vain(self._refusals.pop())
        if self._nobody_waits:
            raise BlockingIOError

    def _handle_some(self) -> None:
        server: Any = self._server
        state, has_actions, somebody_waits = vars(server), self._has_actions, self._poll.poll
        never_blocks = self.never_blocks = self._never_blocks()
        for _ in range(BATCH):
            # Asked right before, since another process may have taken it: accept() would block.
            self._nobody_waits = not (never_blocks or somebody_waits(0))
            if self._nobody_waits:
                return
            server._handle_request_noblock()
            if has_actions:
                server.service_actions()
            if self._refusals or state.get(SHUTDOWN_REQUEST):
                return
            if (POOL in state or self._forks) and self.full:
                return

    def _waits_in_vain(self, exc: OSError) -> None:
        """Do not spin on a descriptor that stays readable while nothing can be had from it."""
        if exc.errno in OUT_OF_RESOURCES or isinstance(exc, BlockingIOError):
            raise exc
        if self._fileno() < 0 and self._acceptor is not None:
            self._acceptor.close()  # closed, while we serve: nobody comes any more

    def _fileno(self) -> int:
        fileno: int = self._server.fileno()  # type: ignore[attr-defined] # all that can be served have it
        return fileno

    def _outside(self, function: Callable[..., object]) -> None:
        """Call what users wrote as if there were no loop; what it raises ends `run`."""
        if self._stopping:
            return
        asyncio._set_running_loop(None)
        try:
            function()
        except BaseException as exc:
            self._stop(exc)
        finally:
            asyncio._set_running_loop(self._loop)
        self._look()

    def _fail(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take what was raised on the loop: a signal handler's exception, on uvloop."""
        self._stop(context.get("exception") or RuntimeError(context["message"]))

    def _stop(self, failure: BaseException | None = None) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._failure = failure
        if self._acceptor is not None:
            self._acceptor.close()
        self._loop.stop()

    def _look(self) -> None:
        if self._asked_to_stop():
            self._stop()

    def _asked_to_stop(self) -> bool:
        return bool(vars(self._server).get(SHUTDOWN_REQUEST))

    def _tick(self) -> None:
        self._outside(self._server.service_actions)
        if not self._stopping:
            self._tick_later()

    def _tick_later(self) -> None:
        if self._poll_interval is not None:
            self._loop.call_later(max(self._poll_interval, 0), self._tick)

    def _resume(self) -> None:
        if self._acceptor is not None:
            self._acceptor.resume()

    def _soon(self, function: Callable[[], object]) -> None:
        # RuntimeError: the loop is closed; AttributeError: there is none yet. It looks by itself.
        with contextlib.suppress(RuntimeError, AttributeError):
            self._loop.call_soon_threadsafe(function)

    def _finish(self, loop: asyncio.AbstractEventLoop) -> None:
        for fileno in self._children.values():
            loop.remove_reader(fileno)
            os.close(fileno)
        self._children.clear()
        if self._acceptor is not None:
            self._acceptor.close()
        if self._parked:
            for task in self._parked:
                task.cancel()
            loop.run_until_complete(asyncio.wait(list(self._parked)))

    # -- who is at work, as the acceptor asks --------------------------------------------------

    @property
    def inside(self) -> int:
        """Requests that threads or children are at, or that shake hands."""
        return len(self._parked) + at_work(self._server)[0]

    @property
    def full(self) -> bool:
        """Whether there is no thread or child for one more; then `slot_is_free` will be called."""
        if not self._forks and POOL not in vars(self._server):
            return False  # the commonest case, asked for every request
        busy, limit = at_work(self._server)
        if limit is None or busy + len(self._parked) < limit:
            return False
        self._told_when_free = True
        return self.inside >= limit  # again, as one may have ended just before we asked to be told

    # -- handshakes and children ---------------------------------------------------------------

    async def _shake_hands(self, sock: ssl.SSLSocket, go_on: Callable[[], object]) -> None:
        # Holds the descriptor, should a deadline of the user's close the socket meanwhile.
        with sock.makefile("rb", buffering=0):
            timeout = sock.gettimeout()
            try:
                sock.setblocking(False)
                async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                    await shake_hands(sock)
                sock.settimeout(timeout)
            except (OSError, ValueError) as exc:  # TimeoutError and SSLError are OSErrors
                logger.debug("TLS handshake failed: %s", exc)
                sock.close()
            except BaseException:
                sock.close()
                raise
        if sock.fileno() >= 0:
            self._outside(go_on)
            self._outside(self._server.service_actions)
        self.slot_is_free()

    def _reap(self, pid: int) -> None:
        fileno = self._children.pop(pid)
        self._loop.remove_reader(fileno)
        os.close(fileno)
        with contextlib.suppress(ChildProcessError):  # somebody else has reaped it
            os.waitpid(pid, os.WNOHANG)
        children = getattr(self._server, "active_children", None)
        if children is not None:
            children.discard(pid)
        self.slot_is_free()


def _check(server: socketserver.BaseServer) -> None:
    limit = getattr(server, "max_threads", None)
    if isinstance(server, socketserver.ThreadingMixIn) and limit is not None and limit < 1:
        raise SettingError(f"max_threads is {limit!r}: write at least 1, or None for no limit")


def _tell(event: Event) -> None:
    match event:
        case Saturated(requests):
            logger.warning(
                "all threads or children are at work (%d): new clients wait in the backlog",
                requests,
            )
        case Exhausted(error, first=True):
            logger.warning("cannot accept: %s; trying again until it works", error)


def is_late(request: object) -> bool:
    """Whether `request` has not shaken hands."""
    return type(request) is handshakes.LateSocket


_observers = Observers([_tell])
_running: set[Engine] = set()


def watch_all() -> None:
    """Let all engines look at their flags by themselves."""
    for engine in list(_running):
        engine.watch()


def _leave_to_parent() -> None:
    for engine in list(_running):
        engine.detach()
    _running.clear()


os.register_at_fork(after_in_child=_leave_to_parent)
