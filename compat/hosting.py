"""Blocking code inside an async program: a whole drop-in server, or a handler on the native server."""

import asyncio
import contextlib
import contextvars
import functools
import inspect
import logging
import socket
import socketserver
from collections.abc import Callable, Iterator
from typing import Any, Final

import anyio
from anyio._core._eventloop import claim_worker_thread, get_async_backend

import asyncserver
from asyncserver.handlers import Hosted, Service
from asyncserver.server import DEFAULT_GRACE as NATIVE_GRACE
from compat.pool import Job, Pool
from compat.state import engine_of, pool_of

__all__ = ("DEFAULT_GRACE", "HostServer", "serve_in_thread", "threaded", "wake")

logger = logging.getLogger("asyncserver")

DEFAULT_GRACE: Final = 1.0  # seconds; whoever cancels is in a hurry
MAX_THREADS: Final = 1000  # handlers at once on the native server
WAKE_GRACE: Final = 0.25  # seconds that a handler has to end, after its socket was shut down
SEND_TIMEOUT: Final = 30.0  # seconds that a reply to a datagram may wait for room
_pool = Pool("asyncserver")


def wake(request: Any) -> None:
    """Make a handler that waits for its peer see the end of the stream. Closing would not do it."""
    with contextlib.suppress(OSError, AttributeError):
        if isinstance(request, socket.socket):
            # Not SSLSocket's own, which would take the TLS layer away under the handler's feet.
            socket.socket.shutdown(request, socket.SHUT_RDWR)
        else:
            request.shutdown(socket.SHUT_RDWR)


def call_in_thread(
    pool: Pool, function: Callable[..., object], *args: Any
) -> tuple["asyncio.Future[Any]", Job]:
    """Call `function` in a daemon thread; return the future of its result, and the job."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, exc: BaseException | None) -> None:
        if done.done():
            return
        if exc is None:
            done.set_result(result)
        else:
            done.set_exception(exc)

    def run(*args: Any) -> None:
        result, error = None, None
        try:
            result = function(*args)
        except BaseException as exc:
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop has not waited for us
            loop.call_soon_threadsafe(settle, result, error)

    job = Job(contextvars.copy_context().run, (run, *args), daemon=True)
    pool.run(job)
    return done, job


# -- a whole drop-in server --------------------------------------------------------------------


async def serve_in_thread(server: socketserver.BaseServer, grace: float | None) -> None:
    """See `BaseServer.serve`."""
    done, _ = call_in_thread(_pool, server.serve_forever)
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):  # bounded by the grace
            await _stop(server, done, grace)
        raise


async def _stop(
    server: socketserver.BaseServer, done: "asyncio.Future[Any]", grace: float | None
) -> None:
    # In a thread, because it may be overridden and block; through the instance, for the same reason.
    stopped, _ = call_in_thread(_pool, server.shutdown)
    stopped.add_done_callback(_report)
    engine = engine_of(server)
    for late in (False, True):
        pool = pool_of(server)
        jobs = [] if pool is None else list(pool.jobs)
        ends = [call_in_thread(_pool, job.join)[0] for job in jobs]
        _, waiting = await asyncio.wait([done, *ends], timeout=WAKE_GRACE if late else grace)
        if not waiting:
            break
        if not late:
            for job in jobs:
                wake(job.args[0])
            if engine is not None:
                wake(engine.request)
    else:
        logger.warning("serve(): %d threads did not end within the grace", len(waiting))
    _report(done)


def _report(done: "asyncio.Future[Any]") -> None:
    if done.done() and not done.cancelled() and done.exception() is not None:
        logger.error("stopping a server failed", exc_info=done.exception())


# -- a handler on the native server ------------------------------------------------------------


def threaded(handler: Callable[..., object], *, max_threads: int | None = MAX_THREADS) -> Hosted:
    """Make a blocking handler one that `asyncserver.serve`, `run` and `Server` take.

    Each request runs in a thread, with a blocking `socket.socket` (with TLS an `ssl.SSLSocket`, the
    handshake of which is done). The server's limits, deadlines, TLS, drain and counters apply; a
    drain waits for handlers, then wakes those that wait for their peer. Bytes are not counted, and
    the `idle` and `write` deadlines are those of single calls of `recv` and `send`. In the thread,
    `anyio.from_thread.run` reaches the event loop.

    Args:
        handler: a class derived from `socketserver.BaseRequestHandler`, anything that is called like
            one, or a function of a socket. As `self.server` it gets a `HostServer`.
        max_threads: handlers at once. Beyond it the server accepts no more, and clients wait in the
            backlog; datagrams are dropped and counted. `None`: as `Limits` allow.

    Raises:
        HandlerError: it cannot be called in either way.
        SettingError: `max_threads` is less than 1.

    """
    if max_threads is not None and max_threads < 1:
        raise asyncserver.SettingError(
            f"max_threads is {max_threads!r}: write at least 1, or None for what Limits allow"
        )
    return Threaded(handler, max_threads)


class HostServer:
    """What a handler on the native server finds as `self.server`.

    Attributes:
        server_address: where the request came in, as `socketserver` writes addresses.
        RequestHandlerClass: the handler.
        native: the `asyncserver.Server`; not to be touched but on its loop.

    """

    def __init__(
        self,
        server_address: Any,
        handler: Callable[..., object],
        native: asyncserver.Server,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.server_address = server_address
        self.RequestHandlerClass = handler
        self.native = native
        self._loop = loop

    def shutdown(self) -> None:
        """Drain the server, with the default grace. Does not wait, so a handler may call it."""
        self._loop.call_soon_threadsafe(self.native.begin_close, NATIVE_GRACE)


class Threaded(Hosted):
    """A blocking handler, and the threads for it."""

    def __init__(self, handler: Callable[..., object], max_threads: int | None) -> None:
        self.__qualname__ = getattr(handler, "__qualname__", None) or repr(handler)
        self._handler = handler
        self._max_threads = max_threads
        self._is_function = not _is_called_like_a_class(handler)
        self._pool = Pool(self.__qualname__)

    def service(self, server: asyncserver.Server) -> Service:
        kind = _class_of(self._handler)
        streams = kind is None or not issubclass(kind, socketserver.DatagramRequestHandler)
        datagrams = not self._is_function and (
            kind is None or not issubclass(kind, socketserver.StreamRequestHandler)
        )
        return Service(
            blocking=functools.partial(self._serve, server) if streams else None,
            datagram=functools.partial(self._answer, server) if datagrams else None,
            capacity=self._max_threads,
        )

    async def _serve(
        self, server: asyncserver.Server, sock: socket.socket, peer: asyncserver.PeerAddress
    ) -> None:
        done, _ = call_in_thread(
            self._pool, self._handle, server, asyncio.get_running_loop(), sock, peer
        )
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            wake(sock)
            with contextlib.suppress(Exception):
                await asyncio.shield(done)
            raise

    def _handle(
        self,
        server: asyncserver.Server,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        peer: asyncserver.PeerAddress,
    ) -> None:
        with _reaching(loop):
            try:
                if self._is_function:
                    self._handler(sock)
                else:
                    self._handler(sock, peer, self._host(sock, server, loop))
            finally:
                with contextlib.suppress(OSError):  # the peer may have gone
                    sock.shutdown(socket.SHUT_WR)

    async def _answer(self, server: asyncserver.Server, datagram: asyncserver.Datagram) -> None:
        # One of its own, because Python would block in, or fail on, the server's non-blocking one.
        sock = datagram.socket.dup()
        done, _ = call_in_thread(
            self._pool, self._handle_datagram, server, asyncio.get_running_loop(), sock, datagram
        )
        await asyncio.shield(done)

    def _handle_datagram(
        self,
        server: asyncserver.Server,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        datagram: asyncserver.Datagram,
    ) -> None:
        with sock, _reaching(loop):
            sock.settimeout(SEND_TIMEOUT)
            self._handler((datagram.data, sock), datagram.peer, self._host(sock, server, loop))

    def _host(
        self, sock: socket.socket, server: asyncserver.Server, loop: asyncio.AbstractEventLoop
    ) -> HostServer:
        return HostServer(sock.getsockname(), self._handler, server, loop)


def _class_of(handler: Callable[..., object]) -> type | None:
    """Return the handler class behind `handler`, which may be a `functools.partial` of it."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    is_class = isinstance(handler, type) and issubclass(handler, socketserver.BaseRequestHandler)
    return handler if isinstance(handler, type) and is_class else None


def _is_called_like_a_class(handler: Callable[..., object]) -> bool:
    if _class_of(handler) is not None:
        return True
    name = getattr(handler, "__qualname__", None) or repr(handler)
    if inspect.iscoroutinefunction(handler):
        raise asyncserver.HandlerError(f"{name}() is async: serve it without compat.threaded()")
    for arguments in (1, 3):
        with contextlib.suppress(TypeError, ValueError):
            inspect.signature(handler).bind(*range(arguments))
            return arguments > 1
    raise asyncserver.HandlerError(
        f"{name} cannot be hosted in threads: give a socketserver handler class, or a function of"
        " a socket"
    )


@contextlib.contextmanager
def _reaching(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Make this thread one that `anyio.from_thread.run` works in; anyio has no public way to."""
    with claim_worker_thread(get_async_backend("asyncio"), loop):
        yield
