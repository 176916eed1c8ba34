"""Handshakes take turns."""

import asyncio

import pytest

from asyncserver._tls import turns as handshakes
from asyncserver._tls.turns import SLICE, take_turns


@pytest.fixture
def clock(monkeypatch):
    """A clock that the steps of a test set on."""
    now = [0.0]
    monkeypatch.setattr(handshakes, "perf_counter", lambda: now[0])
    return now


async def test_steps_in_order_as_many_as_fit_into_a_turn(clock):
    loop = asyncio.get_running_loop()
    done: list[int] = []

    def step() -> None:
        clock[0] += SLICE / 4
        done.append(len(done))

    for _ in range(10):
        take_turns(loop, step)
    assert done == []
    for count in (4, 8, 10, 10):
        await asyncio.sleep(0)
        assert done == list(range(count))


async def test_dear_step_has_a_turn_of_its_own(clock):
    done: list[float] = []

    def step() -> None:
        clock[0] += 10 * SLICE
        done.append(clock[0])

    for _ in range(3):
        take_turns(asyncio.get_running_loop(), step)
    for count in (1, 2, 3, 3):
        await asyncio.sleep(0)
        assert len(done) == count


async def test_step_that_raises_keeps_nobody_from_going_on():
    loop = asyncio.get_running_loop()
    raised: list[object] = []
    loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))
    done = loop.create_future()

    def fail() -> None:
        raise ValueError("no")

    take_turns(loop, fail)
    take_turns(loop, lambda: done.set_result(None))
    await done
    assert len(raised) == 1
    done = loop.create_future()
    take_turns(loop, lambda: done.set_result(None))
    await done
