"""The server: bind, serve, drain, close. It puts the rooms together, and knows its state.

What it listens on stands in `doors`, who is let in, in `acceptor` and `gate`, who is at work, in `crew`,
and how one connection lives, in `session`.
"""

import asyncio
import functools
import socket
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Self

import anyio

from asyncserver import events
from asyncserver._handlers.kinds import adapt
from asyncserver._handlers.mirrors import Handler
from asyncserver._listen.address import Address
from asyncserver._listen.admission import Gate
from asyncserver._observe.logs import Log
from asyncserver._observe.stats import Stats, Tally
from asyncserver._server.drain import Drain
from asyncserver._server.listening import Doors
from asyncserver._server.options import check_addresses, check_options
from asyncserver._server.states import ServerState, advance
from asyncserver._server.supervisor import Crew
from asyncserver._settings.checks import check_grace, check_observers, known_words_only
from asyncserver._settings.limits import Limits, Timeouts
from asyncserver._stream.connection import Connection
from asyncserver._stream.draining import Closing
from asyncserver._stream.task import Terms
from asyncserver._tls.context import TLSSource
from asyncserver.errors import ServerStateError, SettingError

__all__ = ("DEFAULT_GRACE", "Server")

DEFAULT_GRACE: Final = 30.0  # seconds, as Kubernetes grants a pod


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
        service = adapt(handler, self)
        context = check_options(
            tls=tls,
            tickets=service.blocking is None,
            limits=limits,
            timeouts=timeouts,
            mode=mode,
            reuse_port=reuse_port,
        )
        self._mode = mode
        self._reuse_port = reuse_port
        self._tally = Tally()
        limits = service.narrow(limits)
        self._terms = Terms(
            service=service,
            tls=context,
            limits=limits,
            timeouts=timeouts,
            observers=events.Observers((self._tally, Log(), *check_observers(observers))),
        )
        self._handler_name = getattr(handler, "__qualname__", None) or repr(handler)
        for address in self._addresses:
            if isinstance(address, Address):
                self._check(address)
        # while it serves
        self._state = ServerState.NEW
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gate = Gate(limits)
        self._doors = Doors(self._terms, self._gate)
        self._crew: Crew | None = None
        # when it closes
        self._drain: Drain | None = None
        self._closer: asyncio.Task[None] | None = None
        self._closing = Closing()
        self._closed = asyncio.Event()

    def __repr__(self) -> str:
        where = " ".join(self.addresses) or "nowhere yet"
        return f"<Server {self._state.value}, {where}, {self._gate.inside} connections>"

    # -- what can be seen ----------------------------------------------------------------------

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it listens, with real ports; one each IP family for `tcp://:port`."""
        return tuple(listener.address for listener in self._doors.listeners)

    @property
    def state(self) -> ServerState:
        """Where it stands in its life."""
        return self._state

    @property
    def closing(self) -> Closing:
        """Set when it begins to drain."""
        return self._closing

    @property
    def connections(self) -> Iterator[Connection]:
        """The connections that handlers hold now; iterate over them even while they come and go."""
        return (each.connection for each in self._crew or () if each.connection is not None)

    @property
    def stats(self) -> Stats:
        """A snapshot of the counters. Costs a look at each connection."""
        tally, endpoints = self._tally, self._doors.endpoints
        connections = list(self.connections)
        return Stats(
            accepted=tally.accepted,
            active=self._gate.inside,
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

    # -- its life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind all addresses and serve; if one cannot be bound, close all.

        Raises:
            BindError: an address is in use, not this machine's, or not allowed.
            ServerStateError: it was started before, or closed meanwhile.

        """
        if self._state is not ServerState.NEW or self._crew is not None:
            raise ServerStateError(f"this server is {self._state.value}: it starts only once")
        self._loop = asyncio.get_running_loop()
        self._crew = crew = Crew(self._terms, self._gate, self._doors.resume)
        try:
            await self._doors.open(
                self._addresses,
                mode=self._mode,
                reuse_port=self._reuse_port,
                check=self._check,
            )
            self._state = advance(self._state, ServerState.SERVING)  # unless closed meanwhile
        except BaseException:
            self._doors.stop(empty=False)
            self._doors.close()
            if self._state is ServerState.NEW:
                self._state = advance(self._state, ServerState.CLOSED)
            self._close_adopted()
            try:
                await asyncio.sleep(0)  # transports that were aborted close their sockets now
            finally:
                self._closed.set()
            raise
        for address in self.addresses:
            self._emit(events.Bound(address))
        self._doors.serve(crew)
        crew.watch()

    async def close(self, grace: float | None = DEFAULT_GRACE) -> None:
        """Drain and close; return when no socket and no task is left.

        The listeners close at once, after those who wait there already were let in. Handlers are told
        (`closing`), have `grace` seconds to finish (`None`: as long as it takes), are cancelled, have
        `Timeouts.cleanup` to clean up, and what is left then is aborted. A second call with less
        grace shortens the first one's.

        Called from inside a handler, or a task that one has started, it returns when the drain has
        begun: the handler itself is what it would be waiting for.

        Raises:
            SettingError: `grace` is no number of seconds; nothing has changed.
            ServerStateError: the server runs on another event loop; likewise.

        """
        self.begin_close(grace)
        if self._crew is None or not self._crew.calls:
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
            if self._crew is None:  # else `start` is at work, and sees it
                self._close_adopted()
                self._closed.set()
        elif self._state is ServerState.SERVING:
            self._begin_to_drain(grace)
        elif self._drain is not None:
            self._drain.shorten(grace)

    def _begin_to_drain(self, grace: float | None) -> None:
        loop, crew = asyncio.get_running_loop(), self._crew
        assert crew is not None
        self._state = advance(self._state, ServerState.DRAINING)
        self._drain = Drain(self._terms.timeouts.cleanup)
        self._drain.shorten(grace)
        self._doors.stop(empty=grace != 0)
        self._emit(events.Draining(self._gate.inside, grace))
        self._closing.set()
        self._closer = asyncio.Task(self._finish(crew, self._drain), loop=loop)  # no factory's

    async def _finish(self, crew: Crew, drain: Drain) -> None:
        try:
            drained = await crew.go_home(drain, functools.partial(self._doors.last_guests, crew))
            self._doors.close()
            await asyncio.sleep(0)  # transports that were aborted close their sockets now
        except asyncio.CancelledError:  # by somebody who cancels all tasks that there are
            crew.cut_off()
            self._doors.close()
            raise
        finally:
            self._state = advance(self._state, ServerState.CLOSED)
            self._closed.set()
        self._emit(drained)

    def _check_loop(self) -> None:
        """Raise, if it serves on another event loop than the one that is running here."""
        runs = self._state in {ServerState.SERVING, ServerState.DRAINING}
        if runs and asyncio._get_running_loop() is not self._loop:
            raise ServerStateError(
                "this server runs on another event loop: write"
                " loop.call_soon_threadsafe(server.begin_close, grace), with that loop"
            )

    def _check(self, address: Address) -> None:
        """Raise, if the handler or the settings cannot serve this address."""
        self._terms.service.check(address, self._handler_name)
        if self._terms.tls is not None and not address.is_stream:
            raise SettingError(f"{address} cannot be encrypted: tls= is for stream addresses")

    def _close_adopted(self) -> None:
        """Close the sockets that were given to a server which never served."""
        for address in self._addresses:
            if isinstance(address, socket.socket):
                address.close()

    def _emit(self, event: events.Event) -> None:
        self._terms.observers.emit(event)
