"""What a server listens on: bound sockets, and what reads from each of them.

They close in two steps, since datagram handlers reply through the socket that their datagram came
from. And when a listener closes, whoever waits in its queue is reset, though the kernel has told him
that he is connected: a listener that is ours alone is emptied first.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from asyncserver._datagram.datagram import DatagramEndpoint
from asyncserver._handlers.kinds import BlockingHandler, Kind, ProtocolFactory
from asyncserver._listen.address import Address, peer_address
from asyncserver._listen.adopted import adopt_all
from asyncserver._listen.bind import BoundSocket, accept_plain, listen, resolve
from asyncserver._server.acceptor import BACK_OFF, BATCH, PEER_ERRORS, Accept, Acceptor
from asyncserver._server.supervisor import Supervisor
from asyncserver._settings.context import ServerContext
from asyncserver.events import ConnectionRefused

__all__ = ("Listeners",)


class StreamListener(NamedTuple):
    """A bound socket that connections are accepted from."""

    bound: BoundSocket
    accept: Accept
    shared: bool  # others may accept from it, too


class Listeners:
    """All listening sockets of a server.

    Attributes:
        bound: the sockets and their addresses.
        endpoints: those that receive datagrams for handlers (not for a protocol factory).

    """

    def __init__(self, context: ServerContext, kind: Kind) -> None:
        self._context = context
        self._kind = kind
        self._streams: list[StreamListener] = []
        self._transports: list[asyncio.DatagramTransport] = []
        self._acceptor: Acceptor | None = None
        self._backlog: deque[tuple[socket.socket, Any]] = (
            deque()
        )  # accepted at the end, not admitted yet
        self._not_emptied: list[StreamListener] = []
        self._released = asyncio.Event()
        self.bound: list[BoundSocket] = []
        self.endpoints: list[DatagramEndpoint] = []

    async def open(
        self,
        addresses: Sequence[Address | socket.socket],
        *,
        mode: int | None,
        reuse_port: bool,
        check: Callable[[Address], None],
    ) -> None:
        """Bind all `addresses`, and serve none yet. If it raises, some may be open.

        `check` may refuse the address that an adopted socket turns out to have; that is seen before
        anything is bound.
        """
        backlog = self._context.limits.backlog
        for address in adopt_all(addresses, backlog, check):
            if isinstance(address, BoundSocket):
                self.bound.append(address)
            else:
                hosts = await resolve(address)
                self.bound += listen(
                    address, hosts, backlog=backlog, mode=mode, reuse_port=reuse_port
                )
        for bound in self.bound:
            if bound.address.is_stream:
                sock = bound.socket
                blocking = isinstance(self._kind, BlockingHandler)
                shared = any(sock is address for address in addresses)
                accept: Accept = sock.accept if blocking else accept_plain(sock)
                self._streams.append(StreamListener(bound, accept, shared))
            elif isinstance(self._kind, ProtocolFactory):
                assert self._kind.datagram is not None
                transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                    self._kind.datagram, sock=bound.socket
                )
                self._transports.append(transport)

    def start(self, acceptor: Acceptor, supervisor: Supervisor) -> None:
        """Have everybody served who comes, from now on."""
        self._acceptor = acceptor
        for stream in self._streams:
            acceptor.add(stream.bound.socket.fileno(), stream.accept)
        acceptor.resume()
        if not isinstance(self._kind, ProtocolFactory):
            for bound in self.bound:
                if not bound.address.is_stream:
                    self._receive_from(bound, supervisor)

    def _receive_from(self, bound: BoundSocket, supervisor: Supervisor) -> None:
        assert supervisor.datagrams is not None, "the server has checked its addresses"
        endpoint = DatagramEndpoint(
            bound.socket,
            bound.address,
            size=self._context.limits.datagram_size,
            write_timeout=self._context.timeouts.write,
            take=supervisor.datagrams.start,
            among=self.endpoints,
        )
        self.endpoints.append(endpoint)
        endpoint.start()

    def resume(self) -> None:
        """Accept again where it had paused: a slot is free."""
        self._released.set()
        if self._acceptor is not None:
            self._acceptor.resume()

    # -- the end -------------------------------------------------------------------------------

    def stop(self, *, empty: bool) -> None:
        """Refuse new clients from now on. Datagram sockets stay open for replies.

        If `empty`, those who wait already are accepted, and `admit_backlog` admits them.
        """
        for endpoint in self.endpoints:
            endpoint.stop(empty=empty)
        if self._acceptor is not None:
            self._acceptor.close()
        for stream in self._streams:
            if empty and not stream.shared and not self._empty(stream):
                self._not_emptied.append(stream)
        still_open = [stream.bound for stream in self._not_emptied]
        for bound in self.bound:
            if bound.address.is_stream and bound not in still_open:
                bound.close()

    def _empty(self, stream: StreamListener) -> bool:
        """Accept until nobody waits; `False` if the system is out of what that takes."""
        while True:
            try:
                self._backlog.append(stream.accept())
            except (BlockingIOError, InterruptedError):
                return True
            except OSError as exc:
                if exc.errno not in PEER_ERRORS:
                    return False

    async def admit_backlog(self) -> None:
        """Admit whom `stop` has found waiting, as soon as there is room."""
        assert self._acceptor is not None
        while self._backlog or self._not_emptied:
            for _ in range(min(BATCH, len(self._backlog))):
                while self._acceptor.full:
                    self._released.clear()
                    await self._released.wait()
                self._acceptor.admit(*self._backlog.popleft())
            await asyncio.sleep(0)
            if self._not_emptied and not self._backlog:
                await self._try_again()

    async def _try_again(self) -> None:
        for stream in list(self._not_emptied):
            if self._empty(stream):
                self._not_emptied.remove(stream)
                stream.bound.close()
        if self._not_emptied:
            await asyncio.sleep(BACK_OFF)

    def close(self) -> None:
        """Close the datagram sockets too, and what was not admitted of the backlog."""
        for transport in self._transports:
            transport.abort()
        for stream in self._not_emptied:
            stream.bound.close()
        for sock, raw in self._backlog:
            sock.close()
            self._context.observers.emit(ConnectionRefused(peer_address(raw), "connections"))
        self._backlog.clear()
        for endpoint in self.endpoints:
            endpoint.close()
        for bound in self.bound:
            if not bound.address.is_stream:
                bound.close()
