"""What was measured, for people (a table, charts) and for programs (JSON)."""

import contextlib
import datetime as dt
import json
import os
import platform
import statistics
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Final

from rich.table import Table

from benchmarks.load import Sample
from benchmarks.measure import Outcome, median
from benchmarks.scenarios import SCENARIOS

__all__ = ("as_json", "draw", "machine", "table", "verdict")

UNITS: Final = {"cpu": "µs of CPU", "rate": "per second", "memory": "KiB", "p99": "ms, p50 / p99"}
PACKAGES: Final = (
    "asyncserver", "uvloop", "anyio", "trio", "gevent", "easynetwork", "tornado", "twisted", "aiofastnet",
)  # fmt: skip


def machine() -> str:
    """Say when, with what and where, in words."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    today = dt.datetime.now(dt.UTC).date()
    return (
        f"{today}, {platform.python_implementation()} {platform.python_version()}, {versions};"
        f" {platform.system()} {platform.release().partition('-')[0]}, {_processor()}, {os.cpu_count()}"
        " cores: one for the server, one for the client"
    )


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def verdict(outcome: Outcome) -> str:
    """Say whether the goal was reached; nothing if there is none."""
    if outcome.error:
        return outcome.error
    if outcome.saturated:
        return "client saturated"
    if outcome.pair.goal is None:
        return ""
    return "yes" if outcome.pair.goal.met(outcome.judged) else "NO"


def table(name: str, outcomes: list[Outcome]) -> Table:
    scenario = SCENARIOS[name]
    result = Table(
        title=f"{name}: {scenario.title}; {UNITS[scenario.figure]}", title_justify="left"
    )
    for heading in ("ours", "peer"):
        result.add_column(heading)
    for heading in ("our figure", "peer's", "ratio", "spread", "goal", "reached", "client"):
        result.add_column(heading, justify="right")
    if scenario.figure == "cpu":
        for heading in ("we do a second", "the peer"):
            result.add_column(heading, justify="right")
    for outcome in outcomes:
        result.add_row(*_cells(outcome))
    return result


def _cells(outcome: Outcome) -> Iterator[str]:
    """What stands in the row of one pair."""
    pair, figure = outcome.pair, outcome.figure
    told = not outcome.saturated and not outcome.error
    compared = told and outcome.peer
    yield pair.ours
    yield pair.peer or ""
    yield _figure(outcome.ours, figure) if told else "-"
    yield _figure(outcome.peer, figure) if compared else "-"
    yield f"{statistics.median(outcome.ratios):.2f}" if compared else "-"
    yield f"{min(outcome.ratios):.2f}-{max(outcome.ratios):.2f}" if compared else "-"
    yield "" if pair.goal is None else str(pair.goal)
    yield verdict(outcome)
    busy = [each["client_load"] for each in outcome.ours + outcome.peer if "client_load" in each]
    yield f"{max(busy):.0%}" if busy else ""
    if figure == "cpu":
        yield _figure(outcome.ours, "rate") if told else "-"
        yield _figure(outcome.peer, "rate") if compared else "-"


def _figure(samples: list[Sample], figure: str) -> str:
    value = _number(median(samples, figure))
    return f"{_number(median(samples, 'p50'))} / {value}" if figure == "p99" else value


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def as_json(results: dict[str, list[Outcome]], rounds: int, seconds: float) -> str:
    return json.dumps(
        {
            "machine": machine(),
            "rounds": rounds,
            "seconds": seconds,
            "scenarios": {
                name: [asdict(each) | {"verdict": verdict(each)} for each in outcomes]
                for name, outcomes in results.items()
            },
        },
        indent=1,
    )


def draw(results: dict[str, list[Outcome]], directory: Path) -> None:
    """Draw one chart a scenario, as SVG: the median of every server, ours in colour."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.fonttype"] = "none"  # text stays text
    mpl.rcParams["svg.hashsalt"] = "asyncserver"  # the same figures give the same file
    from matplotlib import pyplot as plt

    directory.mkdir(parents=True, exist_ok=True)
    for name, outcomes in results.items():
        scenario = SCENARIOS[name]
        bars: dict[str, list[float]] = {}
        for outcome in outcomes:
            if outcome.saturated or outcome.error:
                continue
            for who, samples in (
                (outcome.pair.ours, outcome.ours), (outcome.pair.peer or "", outcome.peer),
            ):  # fmt: skip
                bars.setdefault(who, []).extend(each[scenario.figure] for each in samples)
        heights = {who: statistics.median(values) for who, values in bars.items() if values}
        names = sorted(heights, key=heights.__getitem__, reverse=scenario.figure != "rate")
        figure, axes = plt.subplots(figsize=(8, 0.9 + 0.32 * len(names)), layout="constrained")
        colours = ["#2a7ab9" if "socketserver" not in who and ("asyncserver" in who or "compat" in who)
                   else "#b8bec5" for who in names]  # fmt: skip
        drawn = axes.barh(names, [heights[who] for who in names], color=colours)
        axes.bar_label(drawn, [_number(heights[who]) for who in names], padding=3, fontsize=8)
        better = "more" if scenario.figure == "rate" else "less"
        unit = "ms, p99" if scenario.figure == "p99" else UNITS[scenario.figure]
        axes.set_title(f"{scenario.title}\n{unit}, {better} is better", fontsize=9)
        figure.supxlabel(textwrap.fill(machine(), 130), fontsize=5, color="#6b7280")
        axes.tick_params(labelsize=8)
        axes.margins(x=0.12)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)
