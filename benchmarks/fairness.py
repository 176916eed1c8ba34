"""Does one client keep the others waiting? Ours, asyncio's streams and anyio's listeners compared.

    python benchmarks/fairness.py [--loop uvloop|asyncio] [--peers 1,8,50] [--over tcp,tls,unix,udp]

A server in a process of its own is flooded by `peers` connections, while a good client asks a short
line every 10 ms, a tenth of them on a new connection, and a timer of 10 ms in the server's loop looks
how late it is. Four shapes of flood:

lines   10-byte lines or datagrams, as many as the server takes; all answers are read
blocks  chunks of 64 KiB and their echoes
sink    handlers that only send, 100 to 100,000 bytes at a time, to peers that keep reading
accept  connect and close, `peers` at a time, on 32 addresses; the good client has the 33rd

The server has one core and the clients another, and all of them precedence, where that is permitted;
"wait %" says for how much of the time the server waited for its core all the same: beyond a few the
machine has other work, and the figures are not the server's. Over UDP the good client asks another
address of the same server: what a full buffer of the kernel drops is a question of the kernel's. As
it stands it takes two to three minutes, or one with `--ours`.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple

from benchmarks.flood import SHAPES, Target, flood, good_client
from benchmarks.load import pin
from benchmarks.peers.fair import PERIOD, PID, SERVERS, START, TICKED, WORST, Order, serve

BOUND: Final = 0.050  # seconds, of the good client's 99th percentile and of the timer's lateness
OVER: Final = ("tcp", "tls", "unix", "udp")
PEERS: Final = (1, 8, 50)
OTHER_PEERS: Final = 8  # of the shapes but "lines", which are run with one number unless asked for
WARM_UP: Final = 0.2  # seconds of flood before anything counts
STARTS: Final = 20.0  # seconds that a process has to start, to connect and to answer in the end
CONTEXT: Final = multiprocessing.get_context("spawn")


class Result(NamedTuple):
    """What came out of one run: seconds, and the flood's rate in units of its shape."""

    every: list[float]
    new: list[float]
    late: float
    rate: float
    memory: float  # MiB that the server had at most
    disturbed: float  # the part of the time in which it waited for a processor

    @property
    def p99(self) -> float:
        return sorted(self.every)[int(0.99 * len(self.every))]

    @property
    def kept(self) -> bool:
        return self.p99 < BOUND and self.late < BOUND

    def __str__(self) -> str:
        times = (
            statistics.median(self.every),
            self.p99,
            max(self.every),
            max(self.new),
            self.late,
        )
        return (
            "".join(f"{1000 * each:9.1f}" for each in times)
            + f"{self.rate:12,.0f}{self.memory:7.0f}{100 * self.disturbed:7.0f}"
        )


def run(name: str, order: Order, peers: int, seconds: float) -> Result:
    """Flood one server; raises OSError if a process did not come so far."""
    figures = CONTEXT.RawArray("d", 4)
    figures[START] = float("inf")
    with (
        process(serve, 0, -20, figures, name, order) as server,
        process(flood, -1, -10) as flooding,
        process(good_client, -1, -20) as good,
    ):
        addresses = hear(server)
        good.send(Target(order.over, addresses[-1:]))
        flooding.send((Target(order.over, addresses[:-1] or addresses), order.shape, peers))
        hear(flooding)
        start = time.monotonic() + WARM_UP
        end = start + seconds
        figures[START] = start
        flooding.send((start, end))
        good.send((start, end))
        pid = int(figures[PID])
        waited = -waiting(pid)
        rate = hear(flooding)
        waited += waiting(pid)
        every, new = hear(good)
        memory = peak_memory(pid)
    late = max(figures[WORST], end - figures[TICKED] - PERIOD)
    return Result(every, new, late, rate, memory, waited / (WARM_UP + seconds))


def peak_memory(pid: int) -> float:
    with open(f"/proc/{pid}/status") as file:
        (size,) = (line.split()[1] for line in file if line.startswith("VmHWM"))
    return int(size) / 1024


def waiting(pid: int) -> float:
    """Return for how many seconds the process could have run, and something else did."""
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


@contextmanager
def process(
    function: Callable[..., None], core: int, nice: int, *arguments: Any
) -> Iterator[Connection]:
    """Start a process, give the pipe to it, and kill it in the end, whatever it is at."""
    here, there = CONTEXT.Pipe()
    child = CONTEXT.Process(
        target=begin, args=(function, core, nice, there, *arguments), daemon=True
    )
    child.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        child.kill()
        child.join()
        child.close()


def begin(function: Callable[..., None], core: int, nice: int, *arguments: Any) -> None:
    pin(core)
    with suppress(OSError):  # not permitted
        os.nice(nice)
        os.setsid()  # a kernel that groups by session weighs the sessions first
        with open("/proc/self/autogroup", "w") as file:
            file.write(str(nice))
    function(*arguments)


def hear(pipe: Connection) -> Any:
    if not pipe.poll(STARTS):
        raise TimeoutError(f"no answer in {STARTS:.0f} s")
    try:
        return pipe.recv()
    except EOFError as exc:
        raise ConnectionError("a process has ended") from exc


# -- all runs, and what came out ------------------------------------------------------------------


class Kind(NamedTuple):
    """One line of the table, for each server."""

    over: str
    shape: str
    peers: int

    @property
    def addresses(self) -> int:
        return 33 if self.shape == "accept" else 2 if self.over == "udp" else 1


def kinds(arguments: argparse.Namespace) -> Iterator[Kind]:
    for over in arguments.over:
        for shape in arguments.shape or SHAPES:
            if over == "udp" and shape != "lines":
                continue
            few = not arguments.shape and shape != "lines" and OTHER_PEERS in arguments.peers
            for peers in (OTHER_PEERS,) if few else arguments.peers:
                yield Kind(over, shape, peers)


def compare(arguments: argparse.Namespace, certificate: str) -> bool:
    """Print a line of figures for each run; return whether ours are all as promised."""
    fine = True
    names = ["ours"] if arguments.ours else list(SERVERS)
    columns = ("p50", "p99", "worst", "new", "late")
    print(f"{arguments.loop}; milliseconds, and flood a second in", end=" ")
    print(", ".join(f"{shape}: {unit}" for shape, (unit, _) in SHAPES.items()))
    print(f"{'over':6}{'shape':8}{'peers':>5}  {'server':8}", end="")
    print("".join(f"{column:>9}" for column in columns) + f"{'flood/s':>12}{'MiB':>7}{'wait %':>7}")
    for kind in kinds(arguments):
        for name in names:
            with tempfile.TemporaryDirectory() as directory:
                order = Order(
                    arguments.loop, kind.over, kind.shape, kind.addresses, directory, certificate
                )
                print(f"{kind.over:6}{kind.shape:8}{kind.peers:5}  {name:8}", end="", flush=True)
                try:
                    result = run(name, order, kind.peers, arguments.seconds)
                except OSError as exc:
                    print(f"  failed: {exc}")
                    fine = fine and name != "ours"
                    continue
            broken = name == "ours" and not result.kept
            print(f"{result}{'  NOT as promised' if broken else ''}", flush=True)
            fine = fine and not broken
    return fine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--peers", type=numbers, default=PEERS, help="how many flood: 1,8,50")
    parser.add_argument("--over", type=words(OVER), default=OVER, help=",".join(OVER))
    parser.add_argument(
        "--shape", type=words(SHAPES), help="shapes of flood, each with all of --peers:"
        f" {','.join(SHAPES)}; without it all but lines only with {OTHER_PEERS}"
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=1.5, help="that each run is measured")
    parser.add_argument("--ours", action="store_true", help="leave asyncio and anyio out")
    parser.add_argument(
        "--check", action="store_true",
        help="exit with status 1 if ours kept anybody waiting for 50 ms",
    )  # fmt: skip
    arguments = parser.parse_args()
    import trustme  # not in each of the processes, which import this module as well

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        certificate = os.path.join(directory, "certificate.pem")
        issued = trustme.CA().issue_cert("localhost")
        issued.private_key_and_cert_chain_pem.write_to_path(certificate)
        fine = compare(arguments, certificate)
    print(f"{'as promised' if fine else 'NOT as promised'}, in {time.monotonic() - start:.0f} s")
    sys.exit(arguments.check and not fine)


def numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def words(known: Iterable[str]) -> Callable[[str], list[str]]:
    def words_of(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen).difference(known):
            raise argparse.ArgumentTypeError(f"{unknown.pop()!r} is none of {', '.join(known)}")
        return chosen

    return words_of


if __name__ == "__main__":
    main()
