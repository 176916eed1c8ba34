"""The benchmark does not lie: it compares neighbours, and tells nothing where the client was slow.

How fast anything is stands in no test; what is checked of a real run is that it gives figures.
"""

from pathlib import Path

import pytest

from benchmarks.fairness import Kind, Result
from benchmarks.fairness import run as run_flood
from benchmarks.load import churn, closed_loop, datagrams
from benchmarks.measure import Outcome, measure
from benchmarks.peers.fair import Order
from benchmarks.scenarios import NAMES, SCENARIOS, Goal, Pair, Scenario

AT_EASE = {"client_load": 0.5, "server_load": 1.0}
PAIR = Pair("asyncserver", "socketserver Threading", Goal("cpu", 1.2))


def outcome(ours, peer, **loads):
    return Outcome(
        PAIR,
        "cpu",
        [{"cpu": each, **AT_EASE} for each in ours],
        [{"cpu": each, **AT_EASE, **loads} for each in peer],
    )


def test_ratios_are_those_of_neighbours_and_their_median_is_judged():
    told = outcome([10, 30, 12], [10, 20, 10])  # something disturbed the second round
    assert told.ratios == [1.0, 1.5, 1.2]
    assert told.judged == 1.2
    assert PAIR.goal is not None
    assert PAIR.goal.met(told.judged)
    assert not PAIR.goal.met(1.21)


def test_a_figure_of_our_own_is_judged_by_itself():
    pair = Pair("asyncserver", None, Goal("memory", 3.0))
    assert Outcome(pair, "memory", [{"memory": each} for each in (2, 4, 3)], []).judged == 3


def test_nothing_is_told_when_the_client_was_the_bottleneck():
    assert outcome([10], [10], client_load=0.99, server_load=0.5).saturated
    assert not outcome([10], [10], client_load=0.99, server_load=0.99).saturated
    assert not outcome([10], [10]).saturated


def test_every_scenario_names_servers_that_exist():
    for scenario in SCENARIOS.values():
        for pair in scenario.pairs:
            assert pair.ours in NAMES
            assert pair.peer is None or pair.peer in NAMES


def run(client, what, settings, certificate=""):
    pairs = (Pair("asyncserver", "socketserver Threading"),)
    scenario = Scenario("a test", "cpu", what, client, pairs, settings, tls=False)
    (found,) = measure(scenario, certificate, rounds=1, seconds=0.05, progress=lambda _: None)
    return found


@pytest.mark.slow
def test_a_run_gives_figures_of_both():
    for client, what, settings in (
        (closed_loop, "lines", {"connections": 2, "message": b"hello\n", "rate": 1000.0}),
        (churn, "once", {"clients": 2, "request": b"hello\n"}),
        (datagrams, "datagrams", {"sockets": 1, "window": 2, "size": 10}),
    ):
        found = run(client, what, settings)
        assert found.error == ""
        for (sample,) in (found.ours, found.peer):
            assert sample["cpu"] > 0
            assert sample["rate"] > 0


@pytest.mark.slow
def test_a_server_that_does_not_start_is_named_and_the_rest_goes_on():
    found = run(closed_loop, "no such work", {"connections": 1, "message": b"x\n"})
    assert "asyncserver failed" in found.error or "Threading failed" in found.error
    assert "no such work" in found.error


# -- fairness -------------------------------------------------------------------------------------


def result(*, every=(0.001,), late=0.0):
    return Result(list(every), [0.001], late, 1000.0, 40.0, 0.0)


def test_fair_is_who_keeps_neither_the_good_client_nor_the_timer_waiting():
    assert result().kept
    assert result(every=[0.001] * 199 + [1.0]).kept  # one in two hundred is beyond the 99th
    assert not result(every=[0.001] * 97 + [0.06] * 3).kept
    assert not result(late=0.06).kept


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "over", "shape"),
    [
        ("ours", "tcp", "lines"),
        ("ours", "tls", "sink"),
        ("ours", "unix", "accept"),
        ("ours", "udp", "lines"),
        ("asyncio", "tls", "blocks"),
        ("anyio", "tcp", "lines"),
    ],
)
def test_a_flood_gives_figures(server, over, shape, directory, tls):
    both = Path(directory, "both.pem")
    both.write_bytes(Path(tls.key).read_bytes() + Path(tls.certificate).read_bytes())
    addresses = Kind(over, shape, 2).addresses
    order = Order("uvloop", over, shape, addresses, directory, str(both))
    found = run_flood(server, order, peers=2, seconds=0.1)
    assert 1 <= len(found.every) <= 10  # each question, whether answered or not
    assert len(found.new) == 1  # which is the first one
    assert found.memory > 1


@pytest.mark.slow
def test_a_flooded_server_that_does_not_start_is_told(directory):
    order = Order("uvloop", "tls", "lines", 1, directory, f"{directory}/missing.pem")
    with pytest.raises(ConnectionError, match="ended"):
        run_flood("anyio", order, peers=1, seconds=0.1)
