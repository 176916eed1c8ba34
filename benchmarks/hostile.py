"""A hostile minute: clients that stall, flood, reset and half-close, and one that behaves.

    python benchmarks/hostile.py [--loop uvloop|asyncio] [--seconds 60] [--clients 200]

Serves lines on TCP in this process while clients of seven ill kinds come and go in another. Then it
says whether descriptors, tasks and memory are back to base, and how long a good client waited, both
during the storm and after it. Exits with status 1 if something is not as promised.
"""

import argparse
import asyncio
import ctypes
import gc
import multiprocessing
import os
import random
import socket
import ssl
import statistics
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.synchronize import Event

import trustme

from asyncserver import Address, Connection, Limits, Server, Timeouts
from asyncserver.embedding import loop_factory

GOOD_CLIENT_BOUND = 0.050  # seconds
MEMORY_BOUND = 1.25  # times the base, which is taken after a first, short storm: fragments remain
OBJECT_BOUND = 1.02  # times the base: what leaks is objects, and these are counted exactly
LIMITS = Limits(connections=150, line=4096)
TIMEOUTS = Timeouts(handshake=1, idle=1, write=1, lifetime=5)


async def upper(connection: Connection) -> None:
    async for line in connection.lines():
        await connection.send(line.upper())


# -- clients, blocking and short-lived, one at a time in each of many threads ---------------------


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def partial_line(sock: socket.socket) -> None:
    sock.sendall(b"half a li")
    sock.recv(100)


def abrupt(sock: socket.socket) -> None:
    sock.sendall(b"hello\nwor")
    reset(sock)


def half_close(sock: socket.socket) -> None:
    sock.sendall(b"last words\n")
    sock.shutdown(socket.SHUT_WR)
    while sock.recv(1000):
        pass


def stall(sock: socket.socket) -> None:
    sock.recv(100)


def flood_without_reading(sock: socket.socket) -> None:
    for _ in range(200):
        sock.sendall(b"x" * 1000 + b"\n" + b"y" * 1000 + b"\n")


def endless_line(sock: socket.socket) -> None:
    for _ in range(100):
        sock.sendall(b"z" * 10_000)


def garbage(sock: socket.socket) -> None:
    sock.sendall(os.urandom(500))
    sock.recv(100)


KINDS: tuple[Callable[[socket.socket], None], ...] = (
    partial_line, abrupt, half_close, stall, flood_without_reading, endless_line, garbage,
)  # fmt: skip


def connect(port: int, *, encrypted: bool) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), 2)
    if not encrypted:
        return sock
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock)


def storm(plain: int, encrypted: int, clients: int, stop: Event) -> None:
    """Keep `clients` hostile clients busy until `stop`, on both ports."""
    import threading

    # The port, and whether to shake hands there before being hostile.
    doors = ((plain, False), (encrypted, False), (encrypted, True))

    def one(seed: int) -> None:
        choose = random.Random(seed)
        while not stop.is_set():
            port, shakes_hands = choose.choice(doors)
            with suppress(OSError), connect(port, encrypted=shakes_hands) as sock:
                sock.settimeout(2)
                choose.choice(KINDS)(sock)
            stop.wait(0.01 * choose.random())

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# -- the server, and the client that behaves ------------------------------------------------------


async def good_client(port: int) -> float:
    """Return how many seconds a connection, one line and its answer take."""
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello\n")
    assert await reader.readline() == b"HELLO\n"
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return time.perf_counter() - start


def base() -> tuple[int, int, int, float]:
    """Descriptors, tasks, objects and resident memory in MiB.

    Free memory that glibc keeps for later is given back first: it is no leak, and how much it is
    depends on the order in which buffers came and went.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return (
        len(os.listdir("/proc/self/fd")),
        len(asyncio.all_tasks()),
        len(gc.get_objects()),
        memory,
    )


def make_tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    return context


async def endure(seconds: float, clients: int) -> bool:
    async with (
        Server(upper, "tcp://127.0.0.1:0", limits=LIMITS, timeouts=TIMEOUTS) as plain,
        Server(
            upper, "tcp://127.0.0.1:0", tls=make_tls(), limits=LIMITS, timeouts=TIMEOUTS
        ) as encrypted,
        Server(upper, "tcp://127.0.0.1:0") as calm,
    ):
        servers = [plain, encrypted]
        ports = plain.addresses[0].port, encrypted.addresses[0].port
        await weather(ports, clients, min(5.0, seconds / 4), calm.addresses[0])
        await settle(servers)
        before = base()
        during = await weather(ports, clients, seconds, calm.addresses[0])
        await settle(servers)
        after = base()
        waits = [await good_client(plain.addresses[0].port) for _ in range(20)]
        for server in servers:
            print(server.stats)
    return report(before, after, during, waits)


async def weather(
    ports: tuple[int, int], clients: int, seconds: float, calm: Address
) -> list[float]:
    """Let the storm rage; return how long a good client of the same loop waited meanwhile."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    process = context.Process(target=storm, args=(*ports, clients, stop))
    process.start()
    waits = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        waits.append(await good_client(calm.port))
        await asyncio.sleep(0.1)
    stop.set()
    while process.exitcode is None:
        await asyncio.sleep(0.05)
    process.close()
    return waits


async def settle(servers: list[Server]) -> None:
    """Wait until the last hostile connection has run into its deadline."""
    async with asyncio.timeout(20):
        while any(server.stats.active for server in servers):
            await asyncio.sleep(0.05)


def report(
    before: tuple[int, int, int, float],
    after: tuple[int, int, int, float],
    during: list[float],
    waits: list[float],
) -> bool:
    names = ("descriptors", "tasks", "objects", "MiB of memory")
    for name, one, two in zip(names, before, after, strict=True):
        print(f"{name}: {one:.5g} before, {two:.5g} after")
    for name, times in (("during the storm", during), ("after it", waits)):
        print(f"a good client {name}: median {1000 * statistics.median(times):.1f} ms,"
              f" worst {1000 * max(times):.1f} ms of {len(times)}")  # fmt: skip
    return (
        after[:2] == before[:2]
        and after[2] <= OBJECT_BOUND * before[2]
        and after[3] <= MEMORY_BOUND * before[3]
        and max(waits) < GOOD_CLIENT_BOUND
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=200)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory(arguments.loop)) as runner:
        fine = runner.run(endure(arguments.seconds, arguments.clients))
    print("as promised" if fine else "NOT as promised")
    sys.exit(not fine)


if __name__ == "__main__":
    main()
