"""Run the benchmark: everything, or the scenarios that are named."""

import resource
import sys
import tempfile
from pathlib import Path

import click
import trustme
from rich.console import Console
from rich.status import Status

from benchmarks import report
from benchmarks.measure import Outcome, measure
from benchmarks.scenarios import SCENARIOS

DESCRIPTORS = 20_000  # of the client that holds 10,000 connections, and of its server


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@click.argument("scenarios", nargs=-1, type=click.Choice(list(SCENARIOS)), metavar="[SCENARIO]...")
@click.option("--rounds", default=7, type=click.IntRange(1), help="Samples of each server.")
@click.option("--seconds", default=0.5, type=click.FloatRange(0.05), help="Length of a sample.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Write all samples there."
)
@click.option("--charts", type=click.Path(path_type=Path), help="Draw SVG charts into a directory.")
def main(
    scenarios: tuple[str, ...],
    rounds: int,
    seconds: float,
    json_file: Path | None,
    charts: Path | None,
) -> None:
    """Measure asyncserver beside its peers, in pairs; without SCENARIO, in all scenarios.

    \b
    Scenarios: echo, pipeline, blocks, close, close-most, udp, tls-echo, tls-blocks, tls-handshake, idle,
    mostly-idle, threads-close, threads-held, plain-tcp, plain-udp, http, shutdown.
    Exits with status 1 if a server or its client failed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, DESCRIPTORS)), hard))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(report.machine())
    results: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory() as directory:
        certificate = str(Path(directory, "certificate.pem"))
        issued = trustme.CA().issue_cert("localhost", key_type=trustme.KeyType.RSA)
        issued.private_key_and_cert_chain_pem.write_to_path(certificate)
        with console.status("") as status:
            for name in scenarios or SCENARIOS:
                results[name] = _run(name, certificate, rounds, seconds, status)
                console.print(report.table(name, results[name]))
    if json_file is not None:
        json_file.write_text(report.as_json(results, rounds, seconds))
    if charts is not None:
        report.draw(results, charts)
    sys.exit(any(outcome.error for outcomes in results.values() for outcome in outcomes))


def _run(name: str, certificate: str, rounds: int, seconds: float, status: Status) -> list[Outcome]:
    scenario = SCENARIOS[name]
    return list(
        measure(
            scenario, certificate, rounds, seconds, lambda what: status.update(f"{name}: {what}")
        )
    )


if __name__ == "__main__":
    main()
