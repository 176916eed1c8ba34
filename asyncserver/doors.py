"""The ways in: bound sockets, and what reads from each of them.

They close in two steps, since datagram handlers reply through the socket that their datagram came
from.
"""

import asyncio
import functools
import socket
from collections.abc import Callable, Sequence
from typing import Any

from asyncserver.acceptor import Acceptor
from asyncserver.address import Address, PeerAddress, peer_address
from asyncserver.crew import Crew
from asyncserver.datagram import DatagramEndpoint
from asyncserver.events import Refused
from asyncserver.gate import Gate
from asyncserver.listeners import Listener, accept_plain, adopt, listen, resolve
from asyncserver.session import Terms

__all__ = ("Doors",)


class Doors:
    """All listening sockets of a server.

    Attributes:
        listeners: the bound sockets and their addresses.
        endpoints: those that receive datagrams for handlers (not for a protocol factory).

    """

    def __init__(self, terms: Terms, gate: Gate) -> None:
        self._terms = terms
        self._gate = gate
        self._acceptors: list[Acceptor] = []
        self._transports: list[asyncio.DatagramTransport] = []
        self.listeners: list[Listener] = []
        self.endpoints: list[DatagramEndpoint] = []

    async def open(
        self,
        addresses: Sequence[Address | socket.socket],
        crew: Crew,
        *,
        mode: int | None,
        reuse_port: bool,
        check: Callable[[Address], None],
    ) -> None:
        """Bind all `addresses`, then let `crew` serve them. If it raises, some may be open.

        `check` may refuse the address that an adopted socket turns out to have.
        """
        backlog = self._terms.limits.backlog
        for address in addresses:
            if isinstance(address, Address):
                hosts = await resolve(address)
                self.listeners += listen(
                    address, hosts, backlog=backlog, mode=mode, reuse_port=reuse_port
                )
            else:
                self.listeners.append(adopt(address, backlog))
                check(self.listeners[-1].address)
        for listener in self.listeners:
            await self._serve(listener, crew)

    async def _serve(self, listener: Listener, crew: Crew) -> None:
        terms = self._terms
        if listener.address.is_stream:
            acceptor = Acceptor(
                asyncio.get_running_loop(),
                listener.socket.fileno(),
                functools.partial(
                    self._admit,
                    listener.socket.accept
                    if terms.service.blocking
                    else accept_plain(listener.socket),
                    crew.take,
                ),
                self._gate if terms.limits.overflow == "backlog" else None,
                terms.observers,
            )
            self._acceptors.append(acceptor)
            acceptor.resume()
        elif terms.service.datagram_factory is not None:
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                terms.service.datagram_factory, sock=listener.socket
            )
            self._transports.append(transport)
        else:
            endpoint = DatagramEndpoint(
                listener.socket,
                listener.address,
                size=terms.limits.datagram_size,
                write_timeout=terms.timeouts.write,
                take=crew.packets.take,
                among=self.endpoints,
            )
            self.endpoints.append(endpoint)
            endpoint.start()

    def _admit(
        self,
        accept: Callable[[], tuple[socket.socket, Any]],
        take: Callable[[socket.socket, PeerAddress], object],
    ) -> None:
        """Accept one connection, and close it if it is above a limit."""
        sock, raw = accept()
        peer = peer_address(raw)
        limit = self._gate.enter("" if isinstance(peer, str) else peer[0])
        if limit is None:
            take(sock, peer)
        else:
            sock.close()
            self._terms.observers.emit(Refused(peer, limit))

    def resume(self) -> None:
        """Accept again where it had paused: somebody has left."""
        for acceptor in self._acceptors:
            acceptor.resume()

    def stop(self) -> None:
        """Refuse new clients from now on. Datagram sockets stay open for replies."""
        for acceptor in self._acceptors:
            acceptor.close()
        for endpoint in self.endpoints:
            endpoint.stop()
        for listener in self.listeners:
            if listener.address.is_stream:
                listener.close()

    def close(self) -> None:
        """Close the datagram sockets too."""
        for transport in self._transports:
            transport.abort()
        for endpoint in self.endpoints:
            endpoint.close()
        for listener in self.listeners:
            if not listener.address.is_stream:
                listener.close()
