"""Clients of the fairness benchmark: peers that take all that they are given, and one that does not.

Both run in a process of their own and speak to the judge through a pipe: they are told where to
connect, then from when until when to count, and answer with what they counted. Times are those of
`time.monotonic`, which all processes of a machine share.
"""

import select
import socket
import ssl
import struct
import time
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

__all__ = ("SHAPES", "Target", "flood", "good_client")

LINE: Final = b"123456789\n"
BLOCK: Final = 65536
PIPELINED: Final = LINE * 2**15  # 320 KiB at a time
POURS: Final = (100, 4096, 100_000)  # bytes a send() of the handlers that only send, peer by peer
BUFFER: Final = 2**18
BURST: Final = 32  # datagrams

# The shape of a flood: what its rate counts, and of how many bytes one such is.
SHAPES: Final = {
    "lines": ("lines or datagrams", len(LINE)),
    "blocks": ("blocks of 64 KiB", BLOCK),
    "sink": ("KiB", 1024),
    "accept": ("connections", 1),
}

PERIOD: Final = 0.010  # seconds between two questions of the good client
NEW_EVERY: Final = 10  # questions: such a one is asked on a connection of its own
PATIENCE: Final = 1.0  # seconds after the end for which the good client waits for its last answer
RESEND: Final = 0.2  # seconds after which a datagram is taken for lost


@dataclass(frozen=True)
class Target:
    """Where to connect.

    Attributes:
        over: "tcp", "tls", "unix" or "udp".
        addresses: as `socket.connect` takes them.

    """

    over: str
    addresses: list[Any]

    def open(self) -> socket.socket:
        family = socket.AF_UNIX if self.over == "unix" else socket.AF_INET
        kind = socket.SOCK_DGRAM if self.over == "udp" else socket.SOCK_STREAM
        return socket.socket(family, kind)

    def connect(self, number: int = 0, timeout: float = 10.0) -> socket.socket:
        sock = self.open()
        try:
            sock.settimeout(timeout)
            sock.connect(self.addresses[number % len(self.addresses)])
            return client_context().wrap_socket(sock) if self.over == "tls" else sock
        except BaseException:
            sock.close()
            raise


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


# -- the flood ------------------------------------------------------------------------------------


def flood(judge: Connection) -> None:
    """Say when all peers are connected; flood; say how much came back a second."""
    target, shape, peers = judge.recv()
    with ExitStack() as stack:
        if shape == "accept":
            judge.send("connected")
            start, end = judge.recv()
            count = knock(target, peers, start, end)
        else:
            socks = [stack.enter_context(target.connect(number)) for number in range(peers)]
            judge.send("connected")
            start, end = judge.recv()
            count = pour(socks, shape, start, end)
        judge.send(count / SHAPES[shape][1] / (end - start))


def pour(socks: list[socket.socket], shape: str, start: float, end: float) -> int:
    """Send whatever each socket takes, read whatever it has, until `end`; return the bytes read."""
    poll = select.epoll()
    unsent: dict[int, memoryview] = {}
    for number, sock in enumerate(socks):
        if shape == "sink":
            sock.sendall(b"pour %d\n" % POURS[number % len(POURS)])
            poll.register(sock, select.EPOLLIN)
        else:
            unsent[sock.fileno()] = message(sock, shape)
            poll.register(sock, select.EPOLLIN | select.EPOLLOUT)
        sock.setblocking(False)
    by_fileno = {sock.fileno(): sock for sock in socks}
    size = 0
    while (now := time.monotonic()) < end:
        for fileno, events in poll.poll(0.1):
            sock = by_fileno[fileno]
            try:
                for _ in range(BURST if sock.type == socket.SOCK_DGRAM else 1):
                    if events & select.EPOLLOUT:
                        sent = sock.send(unsent[fileno])
                        unsent[fileno] = unsent[fileno][sent:] or message(sock, shape)
                    if events & ~select.EPOLLOUT:
                        got = len(sock.recv(BUFFER))
                        if not got:
                            raise ConnectionError("the server closed the connection")
                        size += got if now >= start else 0
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except OSError:
                poll.unregister(fileno)  # refused, or given up: the rate will tell
    poll.close()
    return size


def message(sock: socket.socket, shape: str) -> memoryview:
    if sock.type == socket.SOCK_DGRAM:
        return memoryview(LINE)
    return memoryview(PIPELINED if shape == "lines" else bytes(BLOCK))


def knock(target: Target, peers: int, start: float, end: float) -> int:
    """Connect and close as fast as it goes, `peers` connections open at a time; return how many.

    They close with a reset: ten thousand connections a second in TIME-WAIT would be another test.
    """
    count = number = 0
    held: deque[socket.socket] = deque()
    while (now := time.monotonic()) < end:
        if len(held) >= peers:
            held.popleft().close()
        number += 1
        sock = target.open()
        sock.setblocking(False)
        if target.over != "unix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        held.append(sock)
        sock.connect_ex(target.addresses[number % len(target.addresses)])
        with suppress(OSError):  # ENOTCONN: the backlog is full
            sock.getpeername()
            count += now >= start
    for sock in held:
        sock.close()
    return count


# -- the good client ------------------------------------------------------------------------------


def good_client(judge: Connection) -> None:
    """Ask one short line every 10 ms; answer with all latencies, and those on new connections.

    A latency counts from the moment when the question is asked: at its time, or when the one before has
    been answered, if that is later. What is never answered has waited until the end.
    """
    target = judge.recv()
    start, end = judge.recv()
    with ExitStack() as stack:
        judge.send(latencies(stack, target, start, end))


def latencies(
    stack: ExitStack, target: Target, start: float, end: float
) -> tuple[list[float], list[float]]:
    every: list[float] = []
    new: list[float] = []
    held: socket.socket | None = None
    for number in range(round((end - start) / PERIOD)):
        time.sleep(max(start + PERIOD * number - time.monotonic(), 0))
        asked = time.monotonic()
        if every and asked >= end:  # the first one is asked, however late
            break
        alone = number % NEW_EVERY == 0
        try:
            if alone:
                with target.connect(timeout=patience(end)) as once:
                    ask(once, number, end)
            else:
                held = held or stack.enter_context(target.connect(timeout=patience(end)))
                ask(held, number, end)
        except OSError:  # never answered
            held = None
            every.append(end + PATIENCE - asked)
        else:
            every.append(time.monotonic() - asked)
        if alone:
            new.append(every[-1])
    return every, new


def patience(end: float) -> float:
    return max(end + PATIENCE - time.monotonic(), 0.001)


def ask(sock: socket.socket, number: int, end: float) -> None:
    """Send a line, wait for it to come back; send it again if it is a datagram that got lost."""
    line = b"%06d\n" % number
    datagrams = sock.type == socket.SOCK_DGRAM
    answer = b""
    while answer != line:
        sock.settimeout(RESEND if datagrams else patience(end))
        sock.send(line)
        try:
            while (answer := sock.recv(100)) not in (line, b""):  # other than one that came late
                pass
        except TimeoutError:
            if not datagrams or time.monotonic() > end + PATIENCE:
                raise
        else:
            if not answer:
                raise ConnectionError("the server closed the connection")
