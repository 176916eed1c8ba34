"""asyncio itself, on its own loop and on uvloop: protocols, which are the limit, and streams."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import uvloop

from benchmarks.peers.work import BACKLOG, LINE_LIMIT, Work


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Once(Echo):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.close()


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


PROTOCOLS: dict[str, Any] = {
    "lines": Echo, "blocks": Echo, "once": Once, "datagrams": Datagrams,
}  # fmt: skip


async def serve_protocol(work: Work, create: Callable[..., Awaitable[Any]] | None = None) -> None:
    loop = asyncio.get_running_loop()
    factory = PROTOCOLS[work.what]
    if work.what == "datagrams":
        await loop.create_datagram_endpoint(factory, sock=work.listen())
    else:
        create = create or loop.create_server
        await create(factory, sock=work.listen(), ssl=work.tls, backlog=BACKLOG)
    await asyncio.Event().wait()


async def lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def blocks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(65536):
        writer.write(block)
        await writer.drain()
    writer.close()


async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def serve_streams(work: Work) -> None:
    handler: Any = {"lines": lines, "blocks": blocks, "once": once}[work.what]
    await asyncio.start_server(
        handler, sock=work.listen(), ssl=work.tls, backlog=BACKLOG, limit=LINE_LIMIT
    )
    await asyncio.Event().wait()


def run(main: Coroutine[Any, Any, None], new_loop: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main)


def protocol_uvloop(work: Work) -> None:
    run(serve_protocol(work), uvloop.new_event_loop)


def protocol_asyncio(work: Work) -> None:
    run(serve_protocol(work), asyncio.SelectorEventLoop)


def protocol_aiofastnet(work: Work) -> None:
    import aiofastnet

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def create(*args: Any, **settings: Any) -> Any:
            return await aiofastnet.create_server(loop, *args, **settings)

        await serve_protocol(work, create)

    run(main(), uvloop.new_event_loop)


def streams_uvloop(work: Work) -> None:
    run(serve_streams(work), uvloop.new_event_loop)


def streams_asyncio(work: Work) -> None:
    run(serve_streams(work), asyncio.SelectorEventLoop)
