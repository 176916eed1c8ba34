"""asyncserver, and its compat."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import asyncserver
import compat
from asyncserver.embedding import loop_factory
from benchmarks.peers import plain, standard
from benchmarks.peers.work import BACKLOG, LINE_LIMIT, Work

LIMITS = asyncserver.Limits(backlog=BACKLOG, line=LINE_LIMIT, connections=20_000, per_host=None)


async def lines(connection: asyncserver.Connection) -> None:
    async for line in connection.lines():
        await connection.send(line)


async def blocks(connection: asyncserver.Connection) -> None:
    async for block in connection:
        await connection.send(block)


async def once(connection: asyncserver.Connection) -> None:
    await connection.send(await connection.readline())


async def datagrams(datagram: asyncserver.Datagram) -> None:
    await datagram.reply(datagram.data)


HANDLERS: dict[str, Any] = {
    "lines": lines, "blocks": blocks, "once": once, "datagrams": datagrams,
}  # fmt: skip


def native(work: Work, loop: str = "uvloop", handler: Any = None) -> None:
    handler = handler or HANDLERS[work.what]
    run(asyncserver.serve(handler, work.listen(), tls=work.tls, limits=LIMITS), loop)


def native_asyncio(work: Work) -> None:
    native(work, "asyncio")


def protocol(work: Work) -> None:
    native(work, handler=plain.PROTOCOLS[work.what])


def threaded(work: Work) -> None:
    native(work, handler=compat.threaded(standard.HANDLERS[work.what]))


def run(main: Any, loop: Any) -> None:
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(main)


# -- compat, with the very classes of `standard` --------------------------------------------------


def compat_plain(work: Work) -> None:
    compat.install()
    standard.plain(work)


def compat_threading(work: Work) -> None:
    compat.install()
    standard.threading(work)


def compat_http(work: Work) -> None:
    compat.install()
    standard.http_(work)


def compat_shutdown(work: Work) -> None:
    compat.install()
    standard.shutdown(work)


def native_shutdown(work: Work) -> None:
    """Measure `Server.close()` with nothing in hand, as `standard.shutdown` measures `shutdown`."""

    async def measure() -> list[float]:
        latencies = []
        for _ in range(int(work.what)):
            server = asyncserver.Server(lines, "tcp://127.0.0.1:0")
            await server.start()
            start = time.perf_counter()
            await server.close()
            latencies.append(time.perf_counter() - start)
        return latencies

    main: Callable[[], Any] = measure
    with asyncio.Runner(loop_factory=loop_factory("uvloop")) as runner:
        work.say({"latencies": runner.run(main())})
