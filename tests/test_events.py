"""What happened, who is told, and what the log says of it."""

import logging
import re

import pytest

from asyncserver import events
from asyncserver._observe.logs import Log, show
from asyncserver._observe.rates import Rates
from asyncserver._observe.stats import Tally

PEER = ("192.0.2.1", 7)


def test_observers_are_told_in_order_and_none_disturbs_another(caplog):
    seen = []

    def first(event):
        seen.append(("first", event))
        raise ZeroDivisionError

    observers = events.Observers([first, lambda event: seen.append(("second", event))])
    event = events.ConnectionOpened(PEER)
    observers.emit(event)
    assert seen == [("first", event), ("second", event)]
    (record,) = caplog.records
    assert record.exc_info[0] is ZeroDivisionError


ERROR = ValueError("a bug")


@pytest.mark.parametrize(
    ("event", "level", "text"),
    [
        (events.AddressBound("tcp://127.0.0.1:1"), "INFO", "listening on tcp://127.0.0.1:1"),
        (events.ConnectionOpened(PEER), "DEBUG", "192.0.2.1:7: opened"),
        (events.ConnectionClosed(PEER, 1, 2), "DEBUG", "192.0.2.1:7: closed, 1 bytes in, 2 out"),
        (
            events.ConnectionRefused(PEER, "per_host"),
            "DEBUG",
            "refused, Limits.per_host is reached",
        ),
        (events.ConnectionLimitReached(10), "WARNING", "Limits.connections is reached (10)"),
        (
            events.ResourcesExhausted(OSError(24, "Too many"), first=True),
            "WARNING",
            "cannot accept",
        ),
        (events.HandshakeFailed(PEER, ERROR), "DEBUG", "TLS handshake failed: a bug"),
        (events.PeerDisconnected(PEER, ERROR), "DEBUG", "disconnected: a bug"),
        (events.DeadlineExpired(PEER, "idle"), "DEBUG", "the idle deadline is over"),
        (events.HandlerFailed(PEER, ERROR), "ERROR", "192.0.2.1:7: the handler failed"),
        (events.DrainStarted(3, 30.0), "DEBUG", "draining 3 connections for up to 30 s"),
        (events.DrainStarted(3, None), "DEBUG", "draining 3 connections without a limit"),
        (
            events.DrainFinished(3, 0, 0),
            "INFO",
            "closed: 3 handlers finished, 0 cancelled, 0 aborted",
        ),
        (events.DrainFinished(0, 1, 0), "WARNING", "closed: 0 handlers finished, 1 cancelled"),
    ],
)
def test_every_event_is_one_record(event, level, text, caplog):
    caplog.set_level(logging.DEBUG, "asyncserver")
    Log()(event)
    (record,) = caplog.records
    assert record.levelname == level
    assert text in record.getMessage()
    assert bool(record.exc_info) is isinstance(event, events.HandlerFailed)


def test_exhaustion_is_one_record_an_episode(caplog):
    Log()(events.ResourcesExhausted(OSError(24, "Too many"), first=False))
    assert caplog.records == []


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        (("::1", 7), "[::1]:7"),
        (PEER, "192.0.2.1:7"),
        ("", "unix peer"),
        ("/tmp/x", "/tmp/x"),
        ("@x\nERROR forged", r"@x\nERROR forged"),
        ("@x\r\x1b[2J\0", r"@x\r\x1b[2J\x00"),
        ("@\udcff", r"@\udcff"),
        ("/tmp/\u2028ä", r"/tmp/\u2028\xe4"),
        (r"/tmp/\n", r"/tmp/\\n"),
        (("fe80::1%a\nb", 7), r"[fe80::1%a\nb]:7"),
    ],
)
def test_peers_are_shown_as_people_write_them(peer, text):
    assert show(peer) == text


def test_what_a_peer_calls_itself_is_one_line_in_every_event_and_every_encoding(caplog):
    caplog.set_level(logging.DEBUG, "asyncserver")
    peer = "@\n\udcff\u2028ü"
    log = Log()
    for event in (
        events.ConnectionOpened(peer), events.ConnectionClosed(peer, 1, 2), events.ConnectionRefused(peer, "per_host"),
        events.HandshakeFailed(peer, OSError(peer)), events.PeerDisconnected(peer, OSError(peer)),
        events.DeadlineExpired(peer, "idle"), events.HandlerFailed(peer, ValueError("a bug")),
    ):  # fmt: skip
        log(event)
    assert len(caplog.records) == 7
    for record in caplog.records:
        assert "\n" not in record.getMessage()
        record.getMessage().encode()
    for record in caplog.records[:3]:
        record.getMessage().encode("ascii")


class Panic(BaseException):
    """As some libraries have it."""


def failure(error: type[BaseException]) -> events.HandlerFailed:
    try:
        raise error("a bug")
    except error as exc:
        return events.HandlerFailed(PEER, exc)


def another(error: type[BaseException]) -> events.HandlerFailed:
    try:
        raise error("another bug")
    except error as exc:
        return events.HandlerFailed(PEER, exc)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.slow
@pytest.mark.parametrize("error", [ValueError, Panic])
def test_records_of_one_kind_are_limited_in_rate_and_what_is_left_out_is_counted(error, caplog):
    clock = Clock()
    log, tally = Log(clock), Tally()
    for _ in range(8020):
        for event in (failure(error), events.ConnectionClosed(PEER, 0, 0)):
            tally(event)
            log(event)
    said = [record.getMessage() for record in caplog.records]
    assert said[:9] == 9 * ["192.0.2.1:7: the handler failed"]
    assert said[9:] == [
        "192.0.2.1:7: the handler failed (the 10th like it within 60 s: more are only counted)"
    ]
    assert all(record.exc_info and record.exc_info[0] is error for record in caplog.records)
    assert tally.handler_errors == 8020
    log(another(error))  # of another kind
    assert [record.getMessage() for record in caplog.records][10:] == [said[0]]
    caplog.clear()
    clock.now = 59.9
    log(failure(error))
    assert caplog.records == []
    clock.now = 60.0
    log(events.ConnectionOpened(PEER))
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert re.fullmatch(
        rf"8011 more records were left out: the handler failed with {error.__name__}"
        r" at .*test_events.py:\d+",
        record.getMessage(),
    )
    log(failure(error))
    assert [each.getMessage() for each in caplog.records][1:] == [said[0]]


def test_what_was_left_out_is_said_at_the_end(caplog):
    log = Log(Clock())
    for _ in range(12):
        log(failure(ValueError))
        log(events.ConnectionLimitReached(5))
    caplog.clear()
    log(events.DrainFinished(0, 0, 0))
    log(events.DrainFinished(0, 0, 0))
    levels = [(record.levelname, record.getMessage()[:24]) for record in caplog.records]
    assert levels == [
        ("ERROR", "2 more records were left"), ("WARNING", "2 more records were left"),
    ]  # fmt: skip
    assert caplog.records[1].getMessage().endswith("left out: Limits.connections is reached")


def test_nothing_is_said_where_nothing_was_left_out(caplog):
    clock = Clock()
    log = Log(clock)
    for _ in range(100):
        clock.now += 10
        log(failure(ValueError))
    assert {record.getMessage() for record in caplog.records} == {"192.0.2.1:7: the handler failed"}
    assert len(caplog.records) == 100


@pytest.mark.slow
def test_kinds_are_not_memory_without_end():
    clock = Clock()
    rates: Rates[int] = Rates(clock, few=1, seconds=10)
    for kind in range(1000):
        rates.admit(kind)
        rates.admit(kind)
    assert len(rates._windows) <= 101
    assert sum(count for _, count in rates.end()) == rates_total(1000)
    assert rates.left_out == 0
    for kind in range(1000):
        clock.now += 10
        assert rates.admit(kind) == 0
    assert len(rates._windows) <= 101


def rates_total(kinds: int) -> int:
    """A hundred are told apart, and the others share one place."""
    return 2 * kinds - 101


def test_observer_that_always_fails_is_told_more_and_more_rarely(caplog):
    def broken(event):
        raise ZeroDivisionError

    observers = events.Observers([broken])
    for _ in range(5000):
        observers.emit(events.ConnectionOpened("@\n\udcff"))
    said = [record.getMessage() for record in caplog.records]
    numbers = [int(text.rpartition("failure ")[2].rstrip(")")) for text in said]
    assert numbers == [*range(1, 11), 100, 1000]
    assert all("\n" not in text and text.isascii() for text in said)


def test_tally_counts_by_kind():
    tally = Tally()
    for event in (
        events.ConnectionOpened(PEER), events.ConnectionOpened(PEER), events.ConnectionClosed(PEER, 10, 20),
        events.ConnectionRefused(PEER, "per_host"), events.HandshakeFailed(PEER, ERROR),
        events.HandlerFailed(PEER, ERROR), events.PeerDisconnected(PEER, ERROR), events.DeadlineExpired(PEER, "idle"),
        events.ResourcesExhausted(OSError(), first=True), events.AddressBound("nowhere"), events.ConnectionLimitReached(1),
    ):  # fmt: skip
        tally(event)
    counters = {name: value for name, value in vars(tally).items() if not name.startswith("_")}
    assert counters == {
        "accepted": 2, "bytes_in": 10, "bytes_out": 20, "refused": {"per_host": 1},
        "handshakes_failed": 1, "handler_errors": 1, "disconnects": 1, "expired": {"idle": 1},
        "accept_backoffs": 1,
    }  # fmt: skip
