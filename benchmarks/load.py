"""The clients. They cost less than any server that they measure: blocking sockets, taken in turn.

Nobody polls here. While the client waits for the answer on one connection, the server has requests
of all the others before it; and when the client comes to those, their answers are there. So a server
is as busy as `connections` clients that wait for each answer would make it.

Every function returns a `Sample`, and stops by itself: a peer that stops answering ends it after
`STUCK` seconds.
"""

import _socket
import os
import random
import resource
import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

__all__ = ("Sample", "Target", "churn", "closed_loop", "datagrams", "handshakes", "idle", "rare")

STUCK: Final = 10.0  # seconds
WARM_UP: Final = 0.1  # of the time that is measured, before it
LOST: Final = 0.2  # seconds after which a datagram is not waited for any more

Sample = dict[str, float]


@dataclass(frozen=True)
class Target:
    """The server under load.

    Attributes:
        port: of 127.0.0.1.
        pid: its process, whose CPU time and memory are read.
        tls: whether it speaks TLS.

    """

    port: int
    pid: int
    tls: bool

    def connect(self) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The kernel's deadline: a timeout of the socket's would cost a poll() an operation.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(STUCK), 0))
        sock.connect(("127.0.0.1", self.port))
        return _client_context().wrap_socket(sock) if self.tls else sock

    def cpu(self) -> float:
        """Return the seconds of CPU that the process has used, all its threads together."""
        return time.clock_gettime(~self.pid << 3 | 2)  # clock_getcpuclockid(3), with nanoseconds

    def memory(self) -> int:
        """Return the resident bytes of the process."""
        with open(f"/proc/{self.pid}/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()


def _client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _measure(
    target: Target, turn: Callable[[], int], seconds: float, rate: float | None = None
) -> Sample:
    """Call `turn`, which returns how many operations it did, for `seconds`, after a warm-up.

    `rate` is the most operations a second. It is for work that costs the client more than the server:
    both are measured under the same load then, which saturates neither them nor the client.
    """
    clock = time.perf_counter
    end = clock() + WARM_UP * seconds
    while clock() < end:
        turn()
    operations = 0
    start, server, load = clock(), target.cpu(), time.process_time()
    end = start + seconds
    while (now := clock()) < end:
        operations += turn()
        if rate is not None:
            time.sleep(max(start + operations / rate - clock(), 0))
    server, load = target.cpu() - server, time.process_time() - load
    wall = now - start
    return {
        "rate": operations / wall,  # a second
        "cpu": 1e6 * server / max(operations, 1),  # microseconds
        "server_load": server / wall,
        "client_load": load / wall,
    }


def closed_loop(
    target: Target,
    seconds: float,
    *,
    connections: int,
    message: bytes,
    depth: int = 1,
    rate: float | None = None,
) -> Sample:
    """Let each connection send `depth` messages and wait for all their echoes."""
    block = message * depth
    buffer = memoryview(bytearray(len(block)))
    with ExitStack() as stack:
        socks = [stack.enter_context(target.connect()) for _ in range(connections)]

        def turn() -> int:
            for sock in socks:
                receive_all(sock, buffer)
                sock.sendall(block)
            return connections * depth

        for sock in socks:
            sock.sendall(block)
        sample = _measure(target, turn, seconds, rate)
        for sock in socks:
            receive_all(sock, buffer)
        assert buffer == block, "this is no echo"
    return sample


def receive_all(sock: socket.socket, buffer: memoryview) -> None:
    size = sock.recv_into(buffer)
    while size < len(buffer):
        more = sock.recv_into(buffer[size:])
        if not more:
            raise ConnectionError("the server closed the connection")
        size += more


def churn(
    target: Target,
    seconds: float,
    *,
    clients: int,
    request: bytes,
    reply: int | None = None,
    rate: float | None = None,
) -> Sample:
    """Connect, send one request, read the reply to the end, close; `clients` of them at a time."""
    waiting: deque[_socket.socket] = deque()
    address = ("127.0.0.1", target.port)

    def begin() -> None:  # with as few system calls as it takes
        sock = _socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.connect(address)
        sock.send(request)
        waiting.append(sock)

    def turn() -> int:
        for _ in range(clients):
            sock = waiting.popleft()
            size = len(sock.recv(4096, socket.MSG_WAITALL))
            sock.close()
            if size < (reply or len(request)):
                raise ConnectionError(f"a reply of {size} bytes")
            begin()
        return clients

    for _ in range(clients):
        begin()
    try:
        return _measure(target, turn, seconds, rate)
    finally:
        for sock in waiting:
            sock.close()


def datagrams(target: Target, seconds: float, *, sockets: int, window: int, size: int) -> Sample:
    """Keep `window` datagrams a socket under way; those that get lost are sent again."""
    data = b"x" * size
    lost = 0
    with ExitStack() as stack:
        socks = []
        for _ in range(sockets):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            timeout = struct.pack("ll", 0, int(LOST * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
            sock.connect(("127.0.0.1", target.port))
            socks.append(sock)

        def turn() -> int:
            nonlocal lost
            done = 0
            for sock in socks:
                for _ in range(window):
                    try:
                        sock.recv(2048)
                    except BlockingIOError:
                        lost += 1
                    else:
                        done += 1
                for _ in range(window):
                    sock.send(data)
            return done

        for sock in socks:
            for _ in range(window):
                sock.send(data)
        return {**_measure(target, turn, seconds), "lost": lost}


def handshakes(target: Target, seconds: float) -> Sample:
    """Connect, shake hands, close."""
    context = _client_context()

    def turn() -> int:
        sock = socket.create_connection(("127.0.0.1", target.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(STUCK), 0))
        with context.wrap_socket(sock) as encrypted:
            encrypted.sendall(b"x\n")
            encrypted.recv(10)
        return 1

    return _measure(target, turn, seconds)


def idle(target: Target, seconds: float, *, connections: int) -> Sample:
    """Open connections, and look how much memory each takes, once it has had a request."""
    with ExitStack() as stack:
        _open_many(stack, target, 200)  # so that pools and caches are filled before
        before = target.memory()
        _open_many(stack, target, connections)
        return {"memory": (target.memory() - before) / connections / 1024}


def rare(target: Target, seconds: float, *, connections: int, rate: float) -> Sample:
    """Let one of many connections send a request, `rate` times a second, whether answered or not.

    The latency counts from the moment when the request was due, so that one late answer does not
    hide that others would have had to wait.
    """
    choose = random.Random(1)
    latencies: list[float] = []
    with ExitStack() as stack:
        free = _open_many(stack, target, connections)
        choose.shuffle(free)
        poll = stack.enter_context(select.epoll())
        by_fileno = {sock.fileno(): sock for sock in free}
        due_at: dict[int, float] = {}
        for fileno in by_fileno:
            poll.register(fileno, select.EPOLLIN)
        start, server, load = time.perf_counter(), target.cpu(), time.process_time()
        sent, total = 0, int(rate * seconds)
        while len(latencies) < total:
            now = time.perf_counter()
            if now > start + seconds + STUCK:
                raise TimeoutError(f"{total - len(latencies)} requests have no answer")
            due = start + sent / rate
            if sent < total and now >= due:
                sock = free.pop(choose.randrange(len(free)))
                due_at[sock.fileno()] = due
                sock.sendall(b"hello\n")
                sent += 1
            for fileno, _ in poll.poll(max(0.0, min(start + sent / rate - now, 0.1))):
                sock = by_fileno[fileno]
                sock.recv(100)
                latencies.append(time.perf_counter() - due_at.pop(fileno))
                free.append(sock)
        wall = time.perf_counter() - start
        sample = {
            "server_load": (target.cpu() - server) / wall,
            "client_load": (time.process_time() - load) / wall,
        }
    return sample | quantiles(latencies)


def _open_many(stack: ExitStack, target: Target, connections: int) -> list[socket.socket]:
    socks = [stack.enter_context(target.connect()) for _ in range(connections)]
    for sock in socks:  # each was accepted and has its handler when it has an answer
        sock.sendall(b"hello\n")
        sock.recv(100)
    return socks


def quantiles(latencies: list[float]) -> Sample:
    """Return the median and the 99th percentile, in milliseconds."""
    ordered = sorted(latencies)
    return {
        "p50": 1000 * ordered[len(ordered) // 2],
        "p99": 1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
    }


def pin(core: int) -> Any:
    """Keep this process, and those that it starts, on one core, if there is another for the rest."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[core]})
