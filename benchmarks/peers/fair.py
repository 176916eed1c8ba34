"""The servers of the fairness benchmark: ours, asyncio's own, and anyio's, with the same work.

Each answers lines or blocks, or pours out as many bytes as a peer asks for, and beside that keeps a
timer of 10 ms in its own loop, whose lateness it writes where the judge sees it even while the loop
stands still.
"""

import asyncio
import os
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

__all__ = ("PERIOD", "PID", "SERVERS", "START", "TICKED", "WORST", "Order", "serve")

# The figures that judge and server share: seconds, two times of time.monotonic, and a number.
WORST, TICKED, START, PID = range(4)
PERIOD: Final = 0.010  # seconds
BACKLOG: Final = 128
LINE_LIMIT: Final = 2**16


@dataclass(frozen=True)
class Order:
    """What to serve: `over` "tcp", "tls", "unix" or "udp", on that many addresses."""

    loop: str
    over: str
    shape: str
    addresses: int
    directory: str
    certificate: str

    @property
    def tls(self) -> ssl.SSLContext | None:
        if self.over != "tls":
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate)
        return context

    def path(self, number: int) -> str:
        return f"{self.directory}/{number}.sock"


def serve(judge: Connection, figures: Any, name: str, order: Order) -> None:
    """Serve until killed. The judge gets the addresses, as `socket.connect` takes them."""
    from asyncserver.embedding import loop_factory

    if name != "ours":  # what they say of clients that leave is not the question
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())

    figures[PID] = os.getpid()

    async def main() -> None:
        clock = asyncio.create_task(tick(figures))
        await SERVERS[name](order, judge.send)
        await clock

    with asyncio.Runner(loop_factory=loop_factory(order.loop)) as runner:
        runner.run(main())


async def tick(figures: Any) -> None:
    before = time.monotonic()
    while True:
        await asyncio.sleep(PERIOD)
        now = time.monotonic()
        if now > figures[START]:
            figures[WORST] = max(figures[WORST], now - before - PERIOD)
        figures[TICKED] = before = now


Ready = Callable[[list[Any]], None]


# -- ours -----------------------------------------------------------------------------------------


async def ours(order: Order, ready: Ready) -> None:
    import asyncserver

    async def lines(connection: asyncserver.Connection) -> None:
        async for line in connection.lines():
            if line.startswith(b"pour"):
                data = bytes(int(line[5:]))
                while True:
                    await connection.send(data)
            await connection.send(line.upper())

    async def blocks(connection: asyncserver.Connection) -> None:
        async for block in connection:
            await connection.send(block)

    async def datagrams(datagram: asyncserver.Datagram) -> None:
        await datagram.reply(datagram.data.upper())

    if order.over == "unix":
        urls = [f"unix://{order.path(number)}" for number in range(order.addresses)]
    else:
        urls = [f"{order.over.replace('tls', 'tcp')}://127.0.0.1:0"] * order.addresses
    handler: Any = blocks if order.shape == "blocks" else lines
    limits = asyncserver.Limits(backlog=BACKLOG, line=LINE_LIMIT, connections=20_000, per_host=None)
    server = asyncserver.Server(
        datagrams if order.over == "udp" else handler, *urls, tls=order.tls, limits=limits
    )
    await server.start()
    ready([each.path or (each.host, each.port) for each in server.addresses])


# -- asyncio: streams and a datagram protocol -----------------------------------------------------


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data.upper(), addr)


async def streams(order: Order, ready: Ready) -> None:
    async def lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line.startswith(b"pour"):
                data = bytes(int(line[5:]))
                while True:
                    writer.write(data)
                    await writer.drain()
            writer.write(line.upper())
            await writer.drain()

    async def blocks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(65536):
            writer.write(block)
            await writer.drain()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(Exception):
                await (blocks if order.shape == "blocks" else lines)(reader, writer)
        finally:
            writer.close()

    found: list[Sequence[Any]] = []
    for number in range(order.addresses):
        if order.over == "udp":
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
            found.append(transport.get_extra_info("sockname"))
            continue
        if order.over == "unix":
            server = await asyncio.start_unix_server(
                handler, order.path(number), backlog=BACKLOG, limit=LINE_LIMIT
            )
        else:
            server = await asyncio.start_server(
                handler, "127.0.0.1", 0, ssl=order.tls, backlog=BACKLOG, limit=LINE_LIMIT
            )
        await server.start_serving()
        KEPT.append(server)
        found.append(server.sockets[0].getsockname())
    ready(found)


KEPT: Final[list[Any]] = []  # what would be closed as soon as nobody refers to it


# -- anyio ----------------------------------------------------------------------------------------


async def anyio_(order: Order, ready: Ready) -> None:
    import anyio
    from anyio.abc import SocketAttribute
    from anyio.streams.buffered import BufferedByteReceiveStream
    from anyio.streams.stapled import MultiListener
    from anyio.streams.tls import TLSListener

    async def lines(stream: Any) -> None:
        buffered = BufferedByteReceiveStream(stream)
        while True:
            line = await buffered.receive_until(b"\n", LINE_LIMIT)
            if line.startswith(b"pour"):
                data = bytes(int(line[5:]))
                while True:
                    await stream.send(data)
            await stream.send(line.upper() + b"\n")

    async def blocks(stream: Any) -> None:
        async for block in stream:
            await stream.send(block)

    async def handler(stream: Any) -> None:
        with suppress(Exception):
            async with stream:
                await (blocks if order.shape == "blocks" else lines)(stream)

    async def datagrams(udp: Any) -> None:
        async for data, (host, port) in udp:
            await udp.sendto(data.upper(), host, port)

    listeners: list[Any] = []
    for number in range(order.addresses):
        if order.over == "udp":
            listeners.append(await anyio.create_udp_socket(local_host="127.0.0.1"))
        elif order.over == "unix":
            path = order.path(number)
            listeners.append(await anyio.create_unix_listener(path, backlog=BACKLOG))
        else:
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1", backlog=BACKLOG)
            listeners.extend(listener.listeners)
    ready([each.extra(SocketAttribute.local_address) for each in listeners])
    if order.over == "udp":
        async with anyio.create_task_group() as group:
            for udp in listeners:
                group.start_soon(datagrams, udp)
    if order.tls is not None:
        listeners = [TLSListener(each, order.tls, standard_compatible=False) for each in listeners]
    await MultiListener(listeners).serve(handler)


SERVERS: Final[dict[str, Callable[[Order, Ready], Any]]] = {
    "ours": ours, "asyncio": streams, "anyio": anyio_,
}  # fmt: skip
