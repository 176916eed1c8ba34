"""Settings, the gate that counts by them, the deadlines, and the table of states."""

import dataclasses

import pytest

from asyncserver import Limits, ServerState, ServerStateError, SettingError, Timeouts
from asyncserver._lifecycle import MOVES, advance
from asyncserver._listen.admission import Admission
from asyncserver._stream.deadlines import overdue


@pytest.mark.parametrize("settings", [Limits(), Timeouts()])
def test_every_default_is_finite_and_frozen(settings):
    for field in dataclasses.fields(settings):
        assert getattr(settings, field.name) is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(settings, dataclasses.fields(settings)[0].name, 1)


COUNTS = [field.name for field in dataclasses.fields(Limits) if field.name != "overflow"]


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 1.5, "10", True])
def test_bad_count(name, value):
    with pytest.raises(SettingError, match=rf"Limits.{name} is .*whole number, at least 1"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", COUNTS)
def test_none_lifts_a_limit_or_is_refused(name):
    if name in ("backlog", "read_buffer", "write_buffer", "datagram_size"):
        with pytest.raises(SettingError):
            Limits(**{name: None})  # type: ignore[arg-type]
    else:
        assert getattr(Limits(**{name: None}), name) is None  # type: ignore[arg-type]


def test_bad_overflow():
    with pytest.raises(SettingError, match="write 'backlog' or 'close'"):
        Limits(overflow="queue")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Timeouts)])
@pytest.mark.parametrize("value", [0, -1, "10", True, float("nan")])
def test_bad_seconds(name, value):
    with pytest.raises(SettingError, match=rf"Timeouts.{name} is .*or None for no deadline"):
        Timeouts(**{name: value})
    assert getattr(Timeouts(**{name: None}), name) is None


def test_gate_counts_in_and_out():
    admission = Admission(Limits(connections=3, per_host=2))
    assert [admission.acquire("a"), admission.acquire("a"), admission.acquire("a")] == [
        None,
        None,
        "per_host",
    ]
    assert admission.acquire("") is None
    assert admission.acquire("b") == "connections"
    admission.release("a")
    admission.release("")
    assert [admission.acquire("a"), admission.acquire("a")] == [None, "per_host"]
    admission.release("a")
    admission.release("a")
    assert admission.active == 0
    assert admission._hosts == {}  # a host that has left is forgotten


def test_gate_without_limits():
    admission = Admission(Limits(connections=None, per_host=None))
    assert {admission.acquire("a") for _ in range(1000)} == {None}
    assert not admission.full


@dataclasses.dataclass
class Watched:
    last_mark: int = 0
    marked_at: float = 0.0
    opened: float = 0.0
    reading: bool = False
    bytes_moved: int = 0
    sent: int = 0
    bytes_unsent: int = 0
    message: int | None = None
    late_with: int | None = None
    late_for: float = 0.0
    looked_at: float = 0.0


TIMEOUTS = Timeouts(idle=10, message=20, write=5, lifetime=100)


@pytest.mark.parametrize(
    ("state", "deadline", "seconds"),
    [
        ({"reading": True}, "idle", 10),
        ({"bytes_unsent": 7}, "write", 5),
        ({"bytes_unsent": 7, "reading": True}, "write", 5),
        ({}, "lifetime", 100),
    ],
)
def test_deadline_runs_out(state, deadline, seconds):
    watched = Watched(**state)
    found = [overdue(watched, TIMEOUTS, float(now)) for now in range(seconds + 2)]
    assert found[:seconds] == seconds * [None]
    assert found[-1] == deadline


def test_bytes_start_the_idle_deadline_again():
    watched = Watched(reading=True)
    for now in range(50):
        watched.bytes_moved += now % 8 == 0
        assert overdue(watched, TIMEOUTS, float(now)) is None


def test_a_message_that_never_ends_is_late_though_bytes_come():
    watched = Watched(reading=True, message=7)
    found = []
    for now in range(23):
        watched.bytes_moved += 1
        found.append(overdue(watched, TIMEOUTS, float(now)))
    assert found == 20 * [None] + 3 * ["message"]  # noted at 0, and waited for from then on


def test_the_next_message_has_its_own_time():
    watched = Watched(reading=True, message=0)
    for now in range(200):
        watched.bytes_moved += 1
        watched.message = now // 15
        assert overdue(watched, Timeouts(message=20), float(now)) is None


def test_neither_the_handlers_work_nor_a_stall_counts_as_waiting_for_the_rest():
    watched, timeouts = Watched(reading=True, message=0), Timeouts(message=20, lifetime=None)
    for now in range(100):
        watched.bytes_moved += 1
        watched.reading = now % 10 == 0  # it works most of the time
        assert overdue(watched, timeouts, float(now)) is None
    watched.reading = True
    watched.bytes_moved += 1
    assert overdue(watched, timeouts, 1000.0) is None


def test_only_what_the_peer_takes_starts_the_write_deadline_again():
    watched = Watched(bytes_unsent=100)
    for now in range(4):
        watched.bytes_moved += 1000  # it talks and talks
        assert overdue(watched, TIMEOUTS, float(now)) is None
    watched.sent, watched.bytes_unsent = 50, 150  # more is waiting, and nothing has left
    assert overdue(watched, TIMEOUTS, 3.5) is None
    watched.bytes_unsent = 149
    assert overdue(watched, TIMEOUTS, 4.0) is None
    assert overdue(watched, TIMEOUTS, 8.5) is None
    assert overdue(watched, TIMEOUTS, 9.0) == "write"


def test_none_lifts_every_deadline():
    endless = Timeouts(handshake=None, idle=None, message=None, write=None, lifetime=None)
    for watched in (
        Watched(reading=True),
        Watched(bytes_unsent=1),
        Watched(reading=True, message=0),
    ):
        assert {overdue(watched, endless, now) for now in (0.0, 1e9, 2e9)} == {None}
    assert endless.tick == 1.0


def test_states_move_one_way():
    assert advance(ServerState.NEW, ServerState.SERVING) is ServerState.SERVING
    assert MOVES.keys() == set(ServerState)
    assert MOVES[ServerState.CLOSED] == frozenset()
    with pytest.raises(ServerStateError, match="closed cannot become serving"):
        advance(ServerState.CLOSED, ServerState.SERVING)
