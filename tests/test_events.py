"""What happened, who is told, and what the log says of it."""

import logging

import pytest

from asyncserver import events
from asyncserver.logs import log, show
from asyncserver.stats import Tally

PEER = ("192.0.2.1", 7)


def test_observers_are_told_in_order_and_none_disturbs_another(caplog):
    seen = []

    def first(event):
        seen.append(("first", event))
        raise ZeroDivisionError

    observers = events.Observers([first, lambda event: seen.append(("second", event))])
    event = events.Opened(PEER)
    observers.emit(event)
    assert seen == [("first", event), ("second", event)]
    (record,) = caplog.records
    assert record.exc_info[0] is ZeroDivisionError


ERROR = ValueError("a bug")


@pytest.mark.parametrize(
    ("event", "level", "text"),
    [
        (events.Bound("tcp://127.0.0.1:1"), "INFO", "listening on tcp://127.0.0.1:1"),
        (events.Opened(PEER), "DEBUG", "192.0.2.1:7: opened"),
        (events.Closed(PEER, 1, 2), "DEBUG", "192.0.2.1:7: closed, 1 bytes in, 2 out"),
        (events.Refused(PEER, "per_host"), "DEBUG", "refused, Limits.per_host is reached"),
        (events.Saturated(10), "WARNING", "Limits.connections is reached (10)"),
        (events.Exhausted(OSError(24, "Too many"), first=True), "WARNING", "cannot accept"),
        (events.HandshakeFailed(PEER, ERROR), "DEBUG", "TLS handshake failed: a bug"),
        (events.Disconnected(PEER, ERROR), "DEBUG", "disconnected: a bug"),
        (events.Expired(PEER, "idle"), "DEBUG", "the idle deadline is over"),
        (events.Failed(PEER, ERROR), "ERROR", "192.0.2.1:7: the handler failed"),
        (events.Draining(3, 30.0), "DEBUG", "draining 3 connections for up to 30 s"),
        (events.Draining(3, None), "DEBUG", "draining 3 connections without a limit"),
        (events.Drained(3, 0, 0), "INFO", "closed: 3 handlers finished, 0 cancelled, 0 aborted"),
        (events.Drained(0, 1, 0), "WARNING", "closed: 0 handlers finished, 1 cancelled"),
    ],
)
def test_every_event_is_one_record(event, level, text, caplog):
    caplog.set_level(logging.DEBUG, "asyncserver")
    log(event)
    (record,) = caplog.records
    assert record.levelname == level
    assert text in record.getMessage()
    assert bool(record.exc_info) is isinstance(event, events.Failed)


def test_exhaustion_is_one_record_an_episode(caplog):
    log(events.Exhausted(OSError(24, "Too many"), first=False))
    assert caplog.records == []


@pytest.mark.parametrize(
    ("peer", "text"),
    [(("::1", 7), "[::1]:7"), (PEER, "192.0.2.1:7"), ("", "unix peer"), ("/tmp/x", "/tmp/x")],
)
def test_peers_are_shown_as_people_write_them(peer, text):
    assert show(peer) == text


def test_tally_counts_by_kind():
    tally = Tally()
    for event in (
        events.Opened(PEER), events.Opened(PEER), events.Closed(PEER, 10, 20),
        events.Refused(PEER, "per_host"), events.HandshakeFailed(PEER, ERROR),
        events.Failed(PEER, ERROR), events.Disconnected(PEER, ERROR), events.Expired(PEER, "idle"),
        events.Exhausted(OSError(), first=True), events.Bound("nowhere"), events.Saturated(1),
    ):  # fmt: skip
        tally(event)
    counters = {name: value for name, value in vars(tally).items() if not name.startswith("_")}
    assert counters == {
        "accepted": 2, "closed": 1, "bytes_in": 10, "bytes_out": 20, "refused": {"per_host": 1},
        "handshakes_failed": 1, "handler_errors": 1, "disconnects": 1, "expired": {"idle": 1},
        "accept_backoffs": 1,
    }  # fmt: skip
