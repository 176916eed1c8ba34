"""The server: bind, serve, drain, close. It puts the parts together, and knows its state.

What it listens on stands in `listeners`, who is admitted, in `acceptor`, who is at work, in `supervisor`,
and how one connection lives, in `_stream.task`.
"""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Self

import anyio

from asyncserver import events
from asyncserver._cpython import running_loop
from asyncserver._handlers.adapt import adapt
from asyncserver._handlers.kinds import BlockingHandler, Handler, Kind, check, narrow
from asyncserver._lifecycle import ServerState, advance
from asyncserver._listen.address import Address
from asyncserver._listen.admission import Admission
from asyncserver._observe.logs import Log
from asyncserver._observe.stats import Stats, Tally
from asyncserver._server.acceptor import Acceptor
from asyncserver._server.drain import Drain
from asyncserver._server.listeners import Listeners
from asyncserver._server.options import check_addresses, check_options
from asyncserver._server.supervisor import Supervisor
from asyncserver._settings.checks import check_grace, check_observers, known_words_only
from asyncserver._settings.context import ServerContext
from asyncserver._settings.limits import Limits, Timeouts
from asyncserver._stream.connection import Connection
from asyncserver._stream.draining import DrainEvent
from asyncserver._tls.context import TLSSource
from asyncserver.errors import ServerStateError, SettingError

__all__ = ("DEFAULT_GRACE", "Server")

DEFAULT_GRACE: Final = 30.0  # seconds, as Kubernetes grants a pod


class Parts:
    """What a server is made of, from its start on."""

    def __init__(self, context: ServerContext, kind: Kind) -> None:
        self.loop = asyncio.get_running_loop()
        self.admission = Admission(context.limits)
        self.listeners = Listeners(context, kind)
        self.supervisor = Supervisor(context, kind, self.admission, self.listeners.resume)
        self.acceptor = Acceptor(context, self.admission, self.supervisor)
        self.drain: Drain | None = None  # while it drains
        self.closer: asyncio.Task[None] | None = None  # likewise


class Server:
    """Serves one handler on any number of addresses, until it is closed.

    `async with Server(...) as server:` binds and serves; leaving the block closes it: with the
    default grace, or at once if an exception (a cancellation, too) is on its way out.

    Args:
        handler: an async function of one argument, a class derived from `BaseRequestHandler`, or a
            factory of asyncio protocols. It gets a `Connection` from stream addresses, a
            `Datagram` from datagram addresses.
        addresses: URLs (see `Address`), or bound sockets, which then belong to the server.
        tls: serve TLS on all stream addresses: an `ssl.SSLContext`, a PEM file with certificate
            and key, or a pair of files. Default: clear text.
        limits: sizes and counts; default `Limits()`.
        timeouts: seconds; default `Timeouts()`.
        mode: permissions of the Unix sockets' paths, from 0 to `0o777`, like `0o660`. Default: what
            the umask leaves.
        reuse_port: let other processes bind the same ports (SO_REUSEPORT, socket(7)).
        observers: called with every event, see `asyncserver.events`.

    Raises:
        HandlerError: the handler is of no kind that can be served on these addresses.
        AddressError: an address is malformed.
        SettingError: a setting cannot work, or there is no address.

    """

    @known_words_only
    def __init__(
        self,
        handler: Handler,
        *addresses: str | socket.socket,
        tls: TLSSource | None = None,
        limits: Limits = Limits(),
        timeouts: Timeouts = Timeouts(),
        mode: int | None = None,
        reuse_port: bool = False,
        observers: Sequence[events.Observer] = (),
    ) -> None:
        self._addresses = check_addresses(addresses)
        self._kind = adapt(handler, self)
        context = check_options(
            tls=tls,
            tickets=not isinstance(self._kind, BlockingHandler),
            limits=limits,
            timeouts=timeouts,
            mode=mode,
            reuse_port=reuse_port,
        )
        self._mode = mode
        self._reuse_port = reuse_port
        self._tally = Tally()
        self._context = ServerContext(
            tls=context,
            limits=narrow(self._kind, limits),
            timeouts=timeouts,
            observers=events.Observers((self._tally, Log(), *check_observers(observers))),
        )
        self._handler_name = getattr(handler, "__qualname__", None) or repr(handler)
        for address in self._addresses:
            if isinstance(address, Address):
                self._check(address)
        self._state = ServerState.NEW
        self._parts: Parts | None = None
        self._draining = DrainEvent()
        self._closed = asyncio.Event()

    def __repr__(self) -> str:
        where = " ".join(self.addresses) or "nowhere yet"
        return f"<Server {self._state.value}, {where}, {self._active} connections>"

    # -- what can be seen ----------------------------------------------------------------------

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it listens, with real ports; one each IP family for `tcp://:port`."""
        return tuple(bound.address for bound in self._parts.listeners.bound) if self._parts else ()

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """What it listens on, in the order of `addresses`; to look at, and not to be closed."""
        return tuple(bound.socket for bound in self._parts.listeners.bound) if self._parts else ()

    @property
    def state(self) -> ServerState:
        """Where it stands in its life."""
        return self._state

    @property
    def draining(self) -> DrainEvent:
        """Set when it begins to drain."""
        return self._draining

    @property
    def connections(self) -> Iterator[Connection]:
        """The connections that handlers hold now; iterate over them even while they come and go."""
        tasks = self._parts.supervisor if self._parts else ()
        return (each.connection for each in tasks if each.connection is not None)

    @property
    def stats(self) -> Stats:
        """A snapshot of the counters. Costs a look at each connection."""
        tally = self._tally
        endpoints = self._parts.listeners.endpoints if self._parts else ()
        connections = list(self.connections)
        return Stats(
            accepted=tally.accepted,
            active=self._active,
            refused=dict(tally.refused),
            handshakes_failed=tally.handshakes_failed,
            handler_errors=tally.handler_errors,
            disconnects=tally.disconnects,
            expired=dict(tally.expired),
            bytes_in=tally.bytes_in + sum(each.bytes_received for each in connections),
            bytes_out=tally.bytes_out + sum(each.bytes_sent for each in connections),
            datagrams_in=sum(each.received for each in endpoints),
            datagrams_out=sum(each.sent for each in endpoints),
            datagrams_dropped=sum(each.dropped + each.kernel_drops() for each in endpoints),
            datagrams_truncated=sum(each.truncated for each in endpoints),
            accept_backoffs=tally.accept_backoffs,
        )

    @property
    def _active(self) -> int:
        return self._parts.admission.active if self._parts else 0

    # -- its life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind all addresses and serve; if one cannot be bound, close all.

        Raises:
            BindError: an address is in use, not this machine's, or not allowed.
            ServerStateError: it was started before, or closed meanwhile.

        """
        if self._state is not ServerState.NEW or self._parts is not None:
            raise ServerStateError(f"this server is {self._state.value}: it starts only once")
        self._parts = parts = Parts(self._context, self._kind)
        try:
            await parts.listeners.open(
                self._addresses,
                mode=self._mode,
                reuse_port=self._reuse_port,
                check=self._check,
            )
            self._state = advance(self._state, ServerState.SERVING)  # unless closed meanwhile
        except BaseException:
            await self._give_up(parts)
            raise
        for address in self.addresses:
            self.emit(events.AddressBound(address))
        parts.listeners.start(parts.acceptor, parts.supervisor)
        parts.supervisor.watch()

    async def _give_up(self, parts: Parts) -> None:
        """Close what was opened by a start that came to nothing."""
        parts.listeners.stop(empty=False)
        parts.listeners.close()
        self._close_adopted()
        if self._state is ServerState.NEW:
            self._state = advance(self._state, ServerState.CLOSED)
        try:
            await asyncio.sleep(0)  # transports that were aborted close their sockets now
        finally:
            self._closed.set()

    async def close(self, grace: float | None = DEFAULT_GRACE) -> None:
        """Drain and close; return when no socket and no task is left.

        The listeners close at once, after those who wait there already were let in. Handlers are told
        (`draining`), have `grace` seconds to finish (`None`: as long as it takes), are cancelled, have
        `Timeouts.cleanup` to clean up, and what is left then is aborted. A second call with less
        grace shortens the first one's.

        Called from inside a handler, or a task that one has started, it returns when the drain has
        begun: the handler itself is what it would be waiting for.

        Raises:
            SettingError: `grace` is no number of seconds; nothing has changed.
            ServerStateError: the server runs on another event loop; likewise.

        """
        self.begin_close(grace)
        if self._parts is None or not self._parts.supervisor.calls:
            await self._closed.wait()

    def abort(self) -> None:
        """Close at once: no grace. Returns before the handlers have been cancelled."""
        self.begin_close(0)

    async def wait_closed(self) -> None:
        """Wait until somebody has closed it. Raises `ServerStateError` on another event loop."""
        self._check_loop()
        await self._closed.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.begin_close(DEFAULT_GRACE if kind is None else 0)
        if kind is None:
            await self._closed.wait()
        else:
            with anyio.CancelScope(shield=True):  # bounded, as there is no grace
                await self._closed.wait()

    # -- drain and close -----------------------------------------------------------------------

    def begin_close(self, grace: float | None) -> None:
        """Begin what `close` does, and do not wait for it: for signals and other callbacks.

        Raises:
            SettingError, ServerStateError: as in `close`.

        """
        check_grace(grace)
        self._check_loop()
        if self._state is ServerState.NEW:
            self._state = advance(self._state, ServerState.CLOSED)
            if self._parts is None:  # else `start` is at work, and sees it
                self._close_adopted()
                self._closed.set()
        elif self._state is ServerState.SERVING:
            assert self._parts is not None
            self._begin_to_drain(self._parts, grace)
        elif self._parts is not None and self._parts.drain is not None:
            self._parts.drain.shorten(grace)

    def _begin_to_drain(self, parts: Parts, grace: float | None) -> None:
        self._state = advance(self._state, ServerState.DRAINING)
        parts.drain = drain = Drain(self._context.timeouts.cleanup)
        drain.shorten(grace)
        parts.listeners.stop(empty=grace != 0)
        self.emit(events.DrainStarted(self._active, grace))
        self._draining.set()
        parts.closer = asyncio.Task(self._finish(parts, drain), loop=parts.loop)  # no factory's

    async def _finish(self, parts: Parts, drain: Drain) -> None:
        try:
            drained = await parts.supervisor.drain(drain, parts.listeners.admit_backlog)
            parts.listeners.close()
            await asyncio.sleep(0)  # transports that were aborted close their sockets now
        except asyncio.CancelledError:  # by somebody who cancels all tasks that there are
            parts.supervisor.abort_all()
            parts.listeners.close()
            raise
        finally:
            self._state = advance(self._state, ServerState.CLOSED)
            self._closed.set()
        self.emit(drained)

    def _check_loop(self) -> None:
        """Raise, if it serves on another event loop than the one that is running here."""
        runs = self._state in {ServerState.SERVING, ServerState.DRAINING}
        if runs and self._parts and running_loop() is not self._parts.loop:
            raise ServerStateError(
                "this server runs on another event loop: write"
                " loop.call_soon_threadsafe(server.begin_close, grace), with that loop"
            )

    def _check(self, address: Address) -> None:
        """Raise, if the handler or the settings cannot serve this address."""
        check(self._kind, address, self._handler_name)
        if self._context.tls is not None and not address.is_stream:
            raise SettingError(f"{address} cannot be encrypted: tls= is for stream addresses")

    def _close_adopted(self) -> None:
        """Close the sockets that were given to a server which never served."""
        for address in self._addresses:
            if isinstance(address, socket.socket):
                address.close()

    def emit(self, event: events.Event) -> None:
        """Tell the observers, the log and the counters what has happened."""
        self._context.observers.emit(event)
