"""A blocking handler on the native server: `threaded`, and what the handler finds there."""

import asyncio
import contextlib
import functools
import inspect
import socket
import socketserver
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final

from anyio._core._eventloop import claim_worker_thread, get_async_backend

import asyncserver
from asyncserver.events import Failed
from asyncserver.handlers import Hosted, Service
from asyncserver.server import DEFAULT_GRACE as NATIVE_GRACE
from compat.awaiting import call_in_thread
from compat.pool import Pool
from compat.waking import wake

__all__ = ("HostServer", "Threaded", "threaded")

MAX_THREADS: Final = 1000  # handlers at once on the native server
SEND_TIMEOUT: Final = 30.0  # seconds that a reply to a datagram may wait for room
_ADVICE: Final = "{}() is async: serve it without compat.threaded()"


def threaded(handler: Callable[..., object], *, max_threads: int | None = MAX_THREADS) -> Hosted:
    """Make a blocking handler one that `asyncserver.serve`, `run` and `Server` take.

    Each request runs in a thread, with a blocking `socket.socket` (with TLS an `ssl.SSLSocket`, the
    handshake of which is done). The server's limits, deadlines, TLS, drain and counters apply; a
    drain waits for handlers, then wakes those that wait for their peer. Bytes are not counted, and
    the `idle` and `write` deadlines are those of single calls of `recv` and `send`: one that is over
    raises `DeadlineExceeded`, a `TimeoutError`, also in the middle of `rfile.read(n)`. A file's
    `readline()` without a size reads up to `Limits.line`. In the thread, `anyio.from_thread.run`
    reaches the event loop. `sys.exit()` ends the handler's thread, and nothing else.

    Args:
        handler: a class derived from `socketserver.BaseRequestHandler`, anything that is called like
            one, or a function of a socket. As `self.server` it gets a `HostServer`.
        max_threads: handlers at once. Beyond it the server accepts no more, and clients wait in the
            backlog; datagrams are dropped and counted. `None`: as `Limits` allow.

    Raises:
        HandlerError: it cannot be called in either way, or is async. What turns out to be so when it
            is called, because it returns an awaitable, fails with this as well.
        SettingError: `max_threads` is less than 1.

    """
    if max_threads is not None and max_threads < 1:
        raise asyncserver.SettingError(
            f"max_threads is {max_threads!r}: write at least 1, or None for what Limits allow"
        )
    return Threaded(handler, max_threads)


class HostServer:
    """What handlers on the native server find as `self.server`: one for each address of the server.

    They may keep there what they have in common. What a program of its own would have put there
    before serving goes into the handler class, or a `functools.partial` of it.

    Attributes:
        server_address: what it listens on, as `socketserver` writes addresses.
        socket: what it listens on; to look at, or to send datagrams from. It does not block, and
            is not to be closed.
        RequestHandlerClass: the handler.
        native: the `asyncserver.Server`; not to be touched but on its loop.

    """

    def __init__(
        self,
        sock: socket.socket,
        handler: Callable[..., object],
        native: asyncserver.Server,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.socket = sock
        self.server_address = sock.getsockname()
        self.RequestHandlerClass = handler
        self.native = native
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a handler on the native server finds no server.{name}: compat.threaded() serves a"
            " handler, not a server class; keep it on the handler class, or serve the class itself"
            " with compat"
        )

    def fileno(self) -> int:
        """Return the descriptor of `socket`."""
        return self.socket.fileno()

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
        self._hosts: weakref.WeakKeyDictionary[asyncserver.Server, dict[Any, HostServer]]
        self._hosts = weakref.WeakKeyDictionary()

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
    ) -> BaseException | None:
        done, _ = call_in_thread(self._pool, self._handle, sock, peer, self._host(sock, server))
        try:
            return _but_exit(await asyncio.shield(done))
        except asyncio.CancelledError:
            wake(sock)
            await asyncio.shield(done)
            raise

    async def _answer(self, server: asyncserver.Server, datagram: asyncserver.Datagram) -> None:
        # One of its own, because Python would block in, or fail on, the server's non-blocking one.
        sock = datagram.socket.dup()
        host = self._host(datagram.socket, server)
        done, _ = call_in_thread(
            self._pool, self._handle_datagram, (datagram.data, sock), datagram.peer, host
        )
        raised = _but_exit(await asyncio.shield(done))
        if isinstance(raised, Exception) and not isinstance(raised, StopIteration):
            raise raised
        if raised is not None:  # what a coroutine cannot raise, or not without ending the loop
            server._terms.observers.emit(Failed(datagram.peer, raised))

    # -- in a thread ---------------------------------------------------------------------------

    def _handle(self, sock: socket.socket, peer: asyncserver.PeerAddress, host: HostServer) -> None:
        with _reaching(host._loop):
            arguments = (sock,) if self._is_function else (sock, peer, host)
            self._call(*arguments)

    def _handle_datagram(
        self,
        request: tuple[bytes, socket.socket],
        peer: asyncserver.PeerAddress,
        host: HostServer,
    ) -> None:
        with request[1], _reaching(host._loop):
            request[1].settimeout(SEND_TIMEOUT)
            self._call(request, peer, host)

    def _call(self, *arguments: Any) -> None:
        """Call the handler; raise `HandlerError` if that has only begun what nobody will go on with."""
        if getattr(self._handler, "__init__", None) is socketserver.BaseRequestHandler.__init__:
            _handle(self._handler, *arguments)
        else:
            _check_returned(self._handler(*arguments), self.__qualname__)

    def _host(self, sock: socket.socket, server: asyncserver.Server) -> HostServer:
        """Return what stands for `server` at the address where `sock` came in."""
        hosts = self._hosts.setdefault(server, {})
        name = _place(sock)
        if name not in hosts:
            listening = [each.socket for each in server._doors.listeners]
            at = next((each for each in listening if _place(each) == name), sock)
            hosts[name] = HostServer(at, self._handler, server, asyncio.get_running_loop())
        return hosts[name]


def _handle(kind: Any, request: Any, client_address: Any, server: HostServer) -> None:
    """Do what making a handler does in `socketserver`, and look at what its methods return."""
    handler = kind.__new__(kind, request, client_address, server)
    handler.request, handler.client_address, handler.server = request, client_address, server
    _check_returned(handler.setup(), f"{kind.__qualname__}.setup")
    try:
        _check_returned(handler.handle(), f"{kind.__qualname__}.handle")
    finally:
        _check_returned(handler.finish(), f"{kind.__qualname__}.finish")


def _check_returned(result: object, name: str) -> None:
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()  # or Python says, some time later, that it was never awaited
        raise asyncserver.HandlerError(_ADVICE.format(name))


def _place(sock: socket.socket) -> tuple[int, Any]:
    """Return what a listener and the connections that it accepted have in common."""
    name = sock.getsockname()
    return sock.family, name[1] if isinstance(name, tuple) else name


def _but_exit(raised: BaseException | None) -> BaseException | None:
    """Return what is to be told: `sys.exit()` in a thread ends the thread, without a word."""
    return None if isinstance(raised, SystemExit) else raised


def _class_of(handler: Callable[..., object]) -> type | None:
    """Return the handler class behind `handler`, which may be a `functools.partial` of it."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    is_class = isinstance(handler, type) and issubclass(handler, socketserver.BaseRequestHandler)
    return handler if isinstance(handler, type) and is_class else None


def _is_called_like_a_class(handler: Callable[..., object]) -> bool:
    kind = _class_of(handler)
    if kind is not None:
        for method in ("setup", "handle", "finish"):
            if inspect.iscoroutinefunction(getattr(kind, method)):
                raise asyncserver.HandlerError(_ADVICE.format(f"{kind.__qualname__}.{method}"))
        return True
    name = getattr(handler, "__qualname__", None) or repr(handler)
    called = None if isinstance(handler, type) else getattr(handler, "__call__", None)  # noqa: B004
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(called):
        raise asyncserver.HandlerError(_ADVICE.format(name))
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
