"""What is measured, against whom, and what we want to reach."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from benchmarks import load
from benchmarks.load import Sample

__all__ = ("SCENARIOS", "Goal", "Pair", "Scenario")


@dataclass(frozen=True)
class Goal:
    """A bound of one figure: of ours divided by the peer's, or of ours alone."""

    figure: str
    bound: float
    at_most: bool = True

    def met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:.3g}"


@dataclass(frozen=True)
class Pair:
    """Two servers that are measured in turns. Without a peer, ours stands alone."""

    ours: str
    peer: str | None
    goal: Goal | None = None


@dataclass(frozen=True)
class Scenario:
    """One kind of work, and those who do it.

    Attributes:
        figure: the one that is compared: "cpu" (microseconds of the server's CPU an operation),
            "rate" (operations a second), "memory" (KiB a connection), "p99" (milliseconds).
        what: see `peers.work.Work`.
        client: puts load on a server; `None`: the server measures itself.

    """

    title: str
    figure: str
    what: str
    client: Callable[..., Sample] | None
    pairs: tuple[Pair, ...]
    settings: dict[str, object] = field(default_factory=dict)
    tls: bool = False


NAMES: Final = {
    "asyncserver": "ours:native",
    "asyncserver (stock loop)": "ours:native_asyncio",
    "asyncserver, protocol factory": "ours:protocol",
    "asyncserver, compat.threaded": "ours:threaded",
    "compat TCPServer/UDPServer": "ours:compat_plain",
    "compat Threading": "ours:compat_threading",
    "compat ThreadingHTTPServer": "ours:compat_http",
    "compat ThreadingTCPServer.shutdown()": "ours:compat_shutdown",
    "asyncserver close()": "ours:native_shutdown",
    "raw uvloop protocol": "plain:protocol_uvloop",
    "raw asyncio protocol": "plain:protocol_asyncio",
    "raw aiofastnet protocol": "plain:protocol_aiofastnet",
    "asyncio streams on uvloop": "plain:streams_uvloop",
    "asyncio streams": "plain:streams_asyncio",
    "anyio": "frameworks:anyio_",
    "trio": "frameworks:trio_",
    "gevent": "frameworks:gevent_",
    "EasyNetwork": "frameworks:easynetwork_",
    "tornado": "frameworks:tornado_",
    "twisted": "frameworks:twisted_",
    "socketserver": "standard:plain",
    "socketserver Threading": "standard:threading",
    "http.server": "standard:http_",
    "socketserver shutdown()": "standard:shutdown",
}
"""Who can be measured, and the function that serves."""

OTHERS: Final = (
    "asyncio streams", "anyio", "trio", "gevent", "EasyNetwork", "tornado", "twisted",
    "socketserver Threading",
)  # fmt: skip


def _against(ours: str, *peers: str) -> tuple[Pair, ...]:
    return tuple(Pair(ours, peer) for peer in peers)


def _line(size: int) -> bytes:
    return b"x" * (size - 1) + b"\n"


SCENARIOS: Final[dict[str, Scenario]] = {
    "echo": Scenario(
        "1 KiB lines, one at a time on each of 50 connections",
        "cpu",
        "lines",
        load.closed_loop,
        (
            Pair("asyncserver", "raw uvloop protocol", Goal("cpu", 1.20)),
            Pair("asyncserver", "asyncio streams on uvloop", Goal("cpu", 1 / 1.5)),
            Pair("asyncserver, protocol factory", "raw uvloop protocol", Goal("cpu", 1.02)),
            *_against("asyncserver", *OTHERS),
        ),
        {"connections": 50, "message": _line(1024)},
    ),
    "pipeline": Scenario(
        "100-byte lines, 16 at a time on each of 50 connections",
        "rate",
        "lines",
        load.closed_loop,
        (
            Pair("asyncserver", "asyncio streams on uvloop", Goal("rate", 2.5, at_most=False)),
            *_against("asyncserver", *OTHERS),
        ),
        {"connections": 50, "message": _line(100), "depth": 16},
    ),
    "blocks": Scenario(
        "64 KiB blocks on 10 connections",
        "cpu",
        "blocks",
        load.closed_loop,
        _against(
            "asyncserver",
            "raw uvloop protocol",
            "asyncio streams on uvloop",
            "anyio",
            "trio",
            "gevent",
            "twisted",
        ),
        {"connections": 10, "message": _line(65536)},
    ),
    "close": Scenario(
        "connect, one 100-byte line, its echo, close; 20 clients, at most 8,000 a second",
        "cpu",
        "once",
        load.churn,
        (
            Pair("asyncserver", "raw uvloop protocol", Goal("cpu", 1.35)),
            Pair("asyncserver", "asyncio streams on uvloop", Goal("cpu", 1.0)),
            Pair("asyncserver", "gevent", Goal("cpu", 1.0)),
            *_against("asyncserver", "anyio", "trio", "EasyNetwork", "tornado", "twisted"),
        ),
        {"clients": 20, "request": _line(100), "rate": 8000.0},
    ),
    "close-most": Scenario(
        "the same, as many as there can be",
        "rate",
        "once",
        load.churn,
        _against(
            "asyncserver",
            "asyncio streams on uvloop",
            "gevent",
            "anyio",
            "trio",
            "EasyNetwork",
            "tornado",
            "twisted",
            "socketserver Threading",
        ),
        {"clients": 20, "request": _line(100)},
    ),
    "udp": Scenario(
        "64-byte datagrams, 64 under way",
        "rate",
        "datagrams",
        load.datagrams,
        (
            Pair("asyncserver", "raw uvloop protocol", Goal("rate", 1.0, at_most=False)),
            Pair("asyncserver", "socketserver", Goal("rate", 1.25, at_most=False)),
            *_against(
                "asyncserver",
                "raw asyncio protocol",
                "anyio",
                "trio",
                "gevent",
                "EasyNetwork",
                "twisted",
            ),
        ),
        {"sockets": 8, "window": 8, "size": 64},
    ),
    **{
        name: Scenario(
            title,
            "cpu",
            "blocks",
            client,
            tuple(
                Pair("asyncserver", f"raw {peer} protocol", Goal("cpu", 1.10))
                for peer in ("asyncio", "uvloop", "aiofastnet")
            ),
            settings,
            tls=True,
        )
        for name, title, client, settings in (
            (
                "tls-echo",
                "TLS, 1 KiB, one at a time on each of 50 connections, at most 20,000 a second",
                load.closed_loop,
                {"connections": 50, "message": _line(1024), "rate": 20_000.0},
            ),
            (
                "tls-blocks",
                "TLS, 64 KiB blocks on 10 connections, at most 3,000 a second",
                load.closed_loop,
                {"connections": 10, "message": _line(65536), "rate": 3000.0},
            ),
            ("tls-handshake", "TLS 1.3 handshakes (RSA 2048)", load.handshakes, {}),
        )
    },
    "idle": Scenario(
        "memory of each of 5,000 idle connections",
        "memory",
        "lines",
        load.idle,
        (
            Pair("asyncserver", None, Goal("memory", 3.0)),
            *_against(
                "asyncserver",
                "raw uvloop protocol",
                "asyncio streams on uvloop",
                "anyio",
                "trio",
                "gevent",
            ),
        ),
        {"connections": 5000},
    ),
    "mostly-idle": Scenario(
        "10,000 connections, of which some one sends a line 1,000 times a second",
        "p99",
        "lines",
        load.rare,
        _against("asyncserver", "raw uvloop protocol", "asyncio streams on uvloop"),
        {"connections": 10_000, "rate": 1000.0},
    ),
    "threads-close": Scenario(
        "threads: connect, one line, its echo, close; 20 clients",
        "rate",
        "once",
        load.churn,
        (
            Pair("compat Threading", "socketserver Threading", Goal("rate", 2.0, at_most=False)),
            Pair("asyncserver, compat.threaded", "socketserver Threading"),
        ),
        {"clients": 20, "request": _line(100)},
    ),
    "threads-held": Scenario(
        "threads: 1 KiB lines, one at a time on each of 50 connections",
        "rate",
        "lines",
        load.closed_loop,
        (
            Pair("compat Threading", "socketserver Threading", Goal("rate", 1.0, at_most=False)),
            Pair("asyncserver, compat.threaded", "socketserver Threading"),
        ),
        {"connections": 50, "message": _line(1024)},
    ),
    "plain-tcp": Scenario(
        "no mix-in: connect, one line, its echo, close; 20 clients, at most 8,000 a second",
        "cpu",
        "once",
        load.churn,
        (Pair("compat TCPServer/UDPServer", "socketserver", Goal("cpu", 1 / 1.1)),),
        {"clients": 20, "request": _line(100), "rate": 8000.0},
    ),
    "plain-udp": Scenario(
        "no mix-in: 64-byte datagrams, 64 under way",
        "rate",
        "datagrams",
        load.datagrams,
        (Pair("compat TCPServer/UDPServer", "socketserver", Goal("rate", 1.15, at_most=False)),),
        {"sockets": 8, "window": 8, "size": 64},
    ),
    "http": Scenario(
        "GET over HTTP/1.0, 20 clients",
        "rate",
        "http",
        load.churn,
        (Pair("compat ThreadingHTTPServer", "http.server", Goal("rate", 1.3, at_most=False)),),
        {"clients": 20, "request": b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n", "reply": 50},
    ),
    "shutdown": Scenario(
        "shutdown with nothing in hand",
        "p99",
        "20",
        None,
        (
            Pair(
                "compat ThreadingTCPServer.shutdown()", "socketserver shutdown()", Goal("p99", 10.0)
            ),
            Pair("asyncserver close()", None, Goal("p99", 10.0)),
        ),
    ),
}
