"""Pairs of servers, in turns: ours, the peer, the peer, ours, and so on, round after round.

The server has one core and the client another, so that neither takes time from the other. Ratios are
those of neighbours in time: what else the machine does hits both alike.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Final

from benchmarks.load import Sample, Target, pin, quantiles
from benchmarks.scenarios import NAMES, Pair, Scenario

__all__ = ("Outcome", "measure")

BUSY: Final = 0.95  # of a core: there is no more to be had
SLACK: Final = 0.85  # of a core: there is
WHOLE: Final = ("memory",)  # figures of a server's first load only: it gets a new one each time


@dataclass(frozen=True)
class Outcome:
    """What came out of one pair; the samples are in the order in which they were taken."""

    pair: Pair
    figure: str
    ours: list[Sample]
    peer: list[Sample]
    error: str = ""  # why there is nothing to tell

    @property
    def ratios(self) -> list[float]:
        """Ours divided by the peer's, round by round."""
        return [
            one[self.figure] / other[self.figure]
            for one, other in zip(self.ours, self.peer, strict=False)
        ]

    @property
    def judged(self) -> float:
        """What the goal speaks of: the ratio, or our figure if it is a goal of its own."""
        if self.pair.goal is not None and self.pair.goal.figure in {"memory", "p99"}:
            return median(self.ours, self.figure)
        return statistics.median(self.ratios)

    @property
    def saturated(self) -> bool:
        """Whether the client was the bottleneck in most of the rounds of one of the two."""
        return any(
            statistics.median(_is_saturated(sample) for sample in samples)
            for samples in (self.ours, self.peer)
            if samples
        )


def _is_saturated(sample: Sample) -> bool:
    return sample.get("client_load", 0) > BUSY and sample.get("server_load", 1) < SLACK


def median(samples: list[Sample], figure: str) -> float:
    return statistics.median(sample[figure] for sample in samples)


def measure(
    scenario: Scenario,
    certificate: str,
    rounds: int,
    seconds: float,
    progress: Callable[[str], object],
) -> Iterator[Outcome]:
    """Measure all pairs of a scenario, and yield each when it is done."""
    for pair in scenario.pairs:
        ours: list[Sample] = []
        peer: list[Sample] = []
        sides = [(pair.ours, ours)] + ([(pair.peer, peer)] if pair.peer else [])
        error = name = ""
        try:
            with ExitStack() as stack:
                take: dict[str, Callable[[], Sample]] = {}
                for name, _ in sides:
                    take[name] = stack.enter_context(_taker(name, scenario, certificate, seconds))
                for number in range(rounds):
                    for name, samples in sides if number % 2 else reversed(sides):
                        progress(f"{name}, round {number + 1} of {rounds}")
                        samples.append(take[name]())
        except (OSError, AssertionError) as exc:  # of one pair; the others are worth measuring
            error = f"{name} failed: {exc!r}"
        yield Outcome(pair, scenario.figure, ours, peer, error)


@contextmanager
def _taker(
    name: str, scenario: Scenario, certificate: str, seconds: float
) -> Iterator[Callable[[], Sample]]:
    """Start a server, and give what takes one sample of it."""
    command = [sys.executable, "-m", "benchmarks.peers", NAMES[name], scenario.what]
    if scenario.tls:
        command.append(certificate)
    client = scenario.client
    if client is None:

        def ask() -> Sample:
            with _server(command) as (_, said):
                return quantiles(said["latencies"])

        yield ask
    elif scenario.figure in WHOLE:

        def fresh() -> Sample:
            with _server(command) as (pid, said), _client() as run:
                return run(client, Target(said["port"], pid, scenario.tls), seconds, scenario)

        yield fresh
    else:
        with _server(command) as (pid, said), _client() as run:
            yield lambda: run(client, Target(said["port"], pid, scenario.tls), seconds, scenario)


@contextmanager
def _server(command: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    with (
        tempfile.TemporaryFile("w+") as complaints,  # of clients that leave in the middle, mostly
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            if not said:
                complaints.seek(0)
                last = complaints.read().strip().rpartition("\n")[2]
                raise OSError(f"{' '.join(command[1:])} did not start: {last}")
            yield process.pid, json.loads(said)
        finally:
            process.kill()


@contextmanager
def _client() -> Iterator[Callable[..., Sample]]:
    with ProcessPoolExecutor(1, get_context("spawn"), pin, (-1,)) as executor:

        def run(client: Any, target: Target, seconds: float, scenario: Scenario) -> Sample:
            found: Sample = executor.submit(client, target, seconds, **scenario.settings).result()
            return found

        yield run
