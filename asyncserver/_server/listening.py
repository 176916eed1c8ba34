"""The ways in: bound sockets, and what reads from each of them.

They close in two steps, since datagram handlers reply through the socket that their datagram came
from. And a client whom the kernel has let in is a guest: when a listener closes, whoever still waits
in its queue would be reset, so a listener that is ours alone is emptied first.
"""

import asyncio
import functools
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from asyncserver._datagram.datagram import DatagramEndpoint
from asyncserver._listen.acceptor import BACK_OFF, BATCH, PEER_ERRORS, Acceptor
from asyncserver._listen.address import Address, PeerAddress, peer_address
from asyncserver._listen.admission import Gate
from asyncserver._listen.adopted import adopt_all
from asyncserver._listen.bind import Listener, accept_plain, listen, resolve
from asyncserver._server.supervisor import Crew
from asyncserver._stream.task import Terms
from asyncserver.events import Refused

__all__ = ("Doors",)

# TLS costs four times as much until the handshake begins; and two milliseconds in a turn are what
# `handshakes` has for all that follows.
TLS_BATCH: Final = 4

Accept = Callable[[], tuple[socket.socket, Any]]


class Door(NamedTuple):
    """A listening socket for connections."""

    listener: Listener
    accept: Accept
    shared: bool  # others may accept from it, too


class Doors:
    """All listening sockets of a server.

    Attributes:
        listeners: the bound sockets and their addresses.
        endpoints: those that receive datagrams for handlers (not for a protocol factory).

    """

    def __init__(self, terms: Terms, gate: Gate) -> None:
        self._terms = terms
        self._gate = gate
        self._doors: list[Door] = []
        self._acceptor: Acceptor | None = None
        self._transports: list[asyncio.DatagramTransport] = []
        self._guests: deque[tuple[socket.socket, Any]] = (
            deque()
        )  # accepted at the end; not let in yet
        self._not_emptied: list[Door] = []
        self._left = asyncio.Event()
        self.listeners: list[Listener] = []
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
        terms = self._terms
        for address in adopt_all(addresses, terms.limits.backlog, check):
            if isinstance(address, Listener):
                self.listeners.append(address)
            else:
                hosts = await resolve(address)
                self.listeners += listen(
                    address, hosts, backlog=terms.limits.backlog, mode=mode, reuse_port=reuse_port
                )
        for listener in self.listeners:
            if listener.address.is_stream:
                accept: Accept = (
                    listener.socket.accept
                    if terms.service.blocking
                    else accept_plain(listener.socket)
                )
                shared = any(listener.socket is address for address in addresses)
                self._doors.append(Door(listener, accept, shared))
            elif terms.service.datagram_factory is not None:
                transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                    terms.service.datagram_factory, sock=listener.socket
                )
                self._transports.append(transport)

    def serve(self, crew: Crew) -> None:
        """Let `crew` serve whoever comes, from now on."""
        terms = self._terms
        self._acceptor = Acceptor(
            asyncio.get_running_loop(),
            self._gate if terms.limits.overflow == "backlog" else None,
            terms.observers,
            batch=BATCH if terms.tls is None else TLS_BATCH,
        )
        for door in self._doors:
            self._acceptor.add(
                door.listener.socket.fileno(),
                functools.partial(self._accept_one, door.accept, crew.take),
            )
        self._acceptor.resume()
        if terms.service.datagram_factory is None:
            for listener in self.listeners:
                if not listener.address.is_stream:
                    self._receive_from(listener, crew)

    def _receive_from(self, listener: Listener, crew: Crew) -> None:
        endpoint = DatagramEndpoint(
            listener.socket,
            listener.address,
            size=self._terms.limits.datagram_size,
            write_timeout=self._terms.timeouts.write,
            take=crew.packets.take,
            among=self.endpoints,
        )
        self.endpoints.append(endpoint)
        endpoint.start()

    def _accept_one(
        self, accept: Accept, take: Callable[[socket.socket, PeerAddress], object]
    ) -> None:
        self._admit(*accept(), take)

    def _admit(
        self, sock: socket.socket, raw: Any, take: Callable[[socket.socket, PeerAddress], object]
    ) -> None:
        """Let one connection in, or close it if it is above a limit."""
        peer = peer_address(raw)
        limit = self._gate.enter("" if isinstance(peer, str) else peer[0])
        if limit is None:
            take(sock, peer)
        else:
            sock.close()
            self._terms.observers.emit(Refused(peer, limit))

    def resume(self) -> None:
        """Accept again where it had paused: somebody has left."""
        self._left.set()
        if self._acceptor is not None:
            self._acceptor.resume()

    # -- the end -------------------------------------------------------------------------------

    def stop(self, *, empty: bool) -> None:
        """Refuse new clients from now on. Datagram sockets stay open for replies.

        If `empty`, those who wait already are guests, whom `last_guests` lets in.
        """
        for endpoint in self.endpoints:
            endpoint.stop(empty=empty)
        if self._acceptor is not None:
            self._acceptor.close()
        for door in self._doors:
            if empty and not door.shared and not self._empty(door):
                self._not_emptied.append(door)
        still_open = [door.listener for door in self._not_emptied]
        for listener in self.listeners:
            if listener.address.is_stream and listener not in still_open:
                listener.close()

    def _empty(self, door: Door) -> bool:
        """Accept until nobody waits; `False` if the system is out of what that takes."""
        while True:
            try:
                self._guests.append(door.accept())
            except (BlockingIOError, InterruptedError):
                return True
            except OSError as exc:
                if exc.errno not in PEER_ERRORS:
                    return False

    async def last_guests(self, crew: Crew) -> None:
        """Let in whom `stop` has found waiting, as soon as there is room."""
        while self._guests or self._not_emptied:
            for _ in range(min(BATCH, len(self._guests))):
                while self._gate.full and self._terms.limits.overflow == "backlog":
                    self._left.clear()
                    await self._left.wait()
                self._admit(*self._guests.popleft(), crew.take)
            await asyncio.sleep(0)
            if self._not_emptied and not self._guests:
                await self._try_again()

    async def _try_again(self) -> None:
        for door in list(self._not_emptied):
            if self._empty(door):
                self._not_emptied.remove(door)
                door.listener.close()
        if self._not_emptied:
            await asyncio.sleep(BACK_OFF)

    def close(self) -> None:
        """Close the datagram sockets too, and what is left of the guests."""
        for transport in self._transports:
            transport.abort()
        for door in self._not_emptied:
            door.listener.close()
        for sock, raw in self._guests:
            sock.close()
            self._terms.observers.emit(Refused(peer_address(raw), "connections"))
        self._guests.clear()
        for endpoint in self.endpoints:
            endpoint.close()
        for listener in self.listeners:
            if not listener.address.is_stream:
                listener.close()
