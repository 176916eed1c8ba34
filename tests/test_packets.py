"""A datagram's handler cannot tell the task that is kept for it from a new one."""

import asyncio
import contextlib
import contextvars
import io
import random
from typing import Any

import anyio
import pytest

from asyncserver import ConnectionClosed, Limits, NoReplyAddressError, Server, Timeouts
from asyncserver.events import Disconnected, Failed
from tests.conftest import LOOPS, descriptors, serving
from tests.test_datagram import client, receive

UDP = "udp://127.0.0.1:0"
name = contextvars.ContextVar("name", default="nobody")


def waiting_in(server: Any) -> Any:
    """The datagram handlers of a server that did not end at once."""
    return server._crew.packets.waiting


async def ask(sock, *questions):
    for question in questions:
        sock.send(question)
    return [await receive(sock) for _ in questions]


async def test_context_variables_do_not_reach_the_next():
    async def handler(datagram):
        await datagram.reply(name.get().encode())
        name.set(datagram.data.decode())

    async with serving(handler, UDP) as server:
        with client(server.addresses[0], "") as sock:
            assert await ask(sock, b"ann", b"bob", b"cy") == [b"nobody"] * 3
            assert await ask(sock, b"dan") == [b"nobody"]


class Alike:
    """Equal to everything, as far as it says so itself."""

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0


class Unlike:
    """Cannot be compared, as arrays of numbers cannot."""

    def __eq__(self, other):
        raise ValueError("ambiguous")

    def __hash__(self):
        return 0


@pytest.mark.parametrize("kind", [list, Alike, Unlike])
async def test_context_variables_do_not_reach_the_next_though_they_look_the_same(kind):
    mine: contextvars.ContextVar[Any] = contextvars.ContextVar("mine")
    original = kind()
    mine.set(original)

    async def handler(datagram):
        await datagram.reply(repr(mine.get() is original).encode())
        mine.set(kind())

    async with serving(handler, UDP) as server:
        with client(server.addresses[0], "") as sock:
            assert await ask(sock, *[b"?"] * 3) == [b"True"] * 3


async def test_a_name_does_not_reach_the_next():
    async def handler(datagram):
        task = asyncio.current_task()
        assert task is not None
        await datagram.reply(task.get_name().encode())
        task.set_name("mine")

    async with serving(handler, UDP) as server:
        with client(server.addresses[0], "") as sock:
            assert b"mine" not in await ask(sock, *[b"?"] * 3)


@pytest.mark.parametrize("take_back", [False, True])
@pytest.mark.parametrize("swallow", [False, True])
async def test_a_request_to_cancel_does_not_reach_the_next(take_back, swallow):
    async def handler(datagram):
        task = asyncio.current_task()
        assert task is not None
        await datagram.reply(b"%d" % task.cancelling())
        task.cancel()
        if swallow:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        if take_back:
            task.uncancel()

    async with serving(handler, UDP) as server:
        with client(server.addresses[0], "") as sock:
            assert await ask(sock, *[b"?"] * 5) == [b"0"] * 5
            assert await ask(sock, b"?") == [b"0"]


async def test_who_cancels_all_tasks_harms_none_that_comes_later():
    async def handler(datagram):
        await datagram.reply(repr(id(asyncio.current_task())).encode())

    async with serving(handler, UDP) as server:
        with client(server.addresses[0], "") as sock:
            await ask(sock, b"?")
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            assert len(await ask(sock, b"?", b"?", b"?")) == 3
            await ask(sock, b"?")
            first, second, third = await ask(sock, b"?", b"?", b"?")
            assert first == second == third  # one is kept again


async def test_each_has_a_task_and_its_timeouts():
    async def handler(datagram):
        assert asyncio.current_task() is not None
        async with asyncio.timeout(None if datagram.data == b"quick" else 0.001):
            if datagram.data == b"slow":
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    await datagram.reply(b"too late")
                    raise
        await datagram.reply(b"in time")

    async with serving(handler, UDP) as server:
        with client(server.addresses[0], "") as sock:
            assert await ask(sock, b"quick", b"quick") == [b"in time"] * 2
            assert await ask(sock, b"slow", b"quick") == [b"in time", b"too late"]
            assert await ask(sock, b"quick") == [b"in time"]


async def test_those_that_wait_are_side_by_side_each_in_its_own_task():
    met: dict[bytes, asyncio.Task[None] | None] = {}
    both = asyncio.Event()

    async def handler(datagram):
        met[datagram.data] = asyncio.current_task()
        if len(met) == 2:
            both.set()
        await both.wait()
        await datagram.reply(datagram.data)

    async with serving(handler, UDP) as server:
        with client(server.addresses[0], "") as sock:
            assert sorted(await ask(sock, b"1", b"2")) == [b"1", b"2"]
    assert met[b"1"] is not met[b"2"]


async def test_callbacks_of_its_task_are_called_after_each():
    ended = []
    both = asyncio.Event()

    async def handler(datagram):
        def end(_):
            ended.append(datagram.data)
            if len(ended) == 2:
                both.set()

        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(end)
        await datagram.reply(b"")

    async with serving(handler, UDP) as server:
        with client(server.addresses[0], "") as sock:
            await ask(sock, b"1", b"2")
            await both.wait()
    assert sorted(ended) == [b"1", b"2"]


@pytest.mark.parametrize("waits", [False, True])
async def test_one_that_cancels_itself_harms_no_other(waits):
    async def handler(datagram):
        if datagram.data == b"bad":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            if waits:
                await asyncio.Event().wait()
        else:
            await datagram.reply(datagram.data)

    async with serving(handler, UDP) as server:
        with client(server.addresses[0], "") as sock:
            sock.send(b"bad")
            assert await ask(sock, b"1", b"2") == [b"1", b"2"]
            sock.send(b"bad")
            assert await ask(sock, b"3") == [b"3"]


async def test_one_that_raises_is_told_and_the_next_is_served(recorder):
    async def handler(datagram):
        if datagram.data == b"bad":
            raise LookupError("mine")
        await datagram.reply(datagram.data)

    async with serving(handler, UDP, observers=[recorder]) as server:
        with client(server.addresses[0], "") as sock:
            for _ in range(2):
                sock.send(b"bad")
                assert await ask(sock, b"good") == [b"good"]
    assert [str(each.error) for each in recorder.of(Failed)] == ["mine", "mine"]


# -- what is told --------------------------------------------------------------------------------------


class PanicError(BaseException):
    """As libraries have it that are written in Rust."""


async def raise_it():
    raise PanicError("mine")


async def raise_it_in_a_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(raise_it())


async def raise_it_in_groups():
    raise BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [PanicError("mine")])])


async def await_a_child_that_was_cancelled():
    child = asyncio.get_running_loop().create_task(asyncio.Event().wait())
    await asyncio.sleep(0)
    child.cancel()
    await child


async def raise_generator_exit():
    raise GeneratorExit


async def raise_generator_exit_late():
    await asyncio.sleep(0)
    raise GeneratorExit


async def raise_cancelled():
    raise asyncio.CancelledError("nobody has asked")


@pytest.mark.parametrize(
    ("fail", "kind"),
    [
        (raise_it, PanicError),
        (raise_it_in_a_group, BaseExceptionGroup),
        (raise_it_in_groups, BaseExceptionGroup),
        (await_a_child_that_was_cancelled, asyncio.CancelledError),
        (raise_cancelled, asyncio.CancelledError),
        (raise_generator_exit, GeneratorExit),
        (raise_generator_exit_late, GeneratorExit),
    ],
)
async def test_whatever_a_handler_lets_out_is_told(fail, kind, recorder, caplog):
    async def handler(datagram):
        if datagram.data == b"bad":
            await fail()
        await datagram.reply(datagram.data)

    async with serving(handler, UDP, observers=[recorder]) as server:
        with client(server.addresses[0], "") as sock:
            for count in (1, 2):
                sock.send(b"bad")
                assert await ask(sock, b"good") == [b"good"]
                while server.stats.handler_errors < count:
                    await asyncio.sleep(0)
            peer = sock.getsockname()
    assert [type(each.error) for each in recorder.of(Failed)] == [kind] * 2
    assert [each.peer for each in recorder.of(Failed)] == [peer] * 2
    records = [each for each in caplog.records if each.levelname == "ERROR"]
    assert len(records) == 2
    assert all(each.exc_info is not None for each in records)


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_end_of_the_program_passes(loop, waits, error, grouped, caplog):
    async def handler(datagram):
        if waits:
            await asyncio.sleep(0)
        raise BaseExceptionGroup("", [error, ValueError()]) if grouped else error

    async def main():
        async with serving(handler, UDP) as server:
            with client(server.addresses[0], "") as sock:
                sock.send(b"bad")
                while True:
                    await asyncio.sleep(0)
                    assert server.stats.handler_errors == 0
                    if grouped and server.stats.datagrams_in and not waiting_in(server):
                        raise error  # a loop lets it out only alone; the task has had it

    with pytest.raises(type(error)), asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
    assert not [each for each in caplog.records if "the handler failed" in each.message]


async def test_a_handler_that_is_cancelled_has_not_failed(recorder):
    started = asyncio.Event()

    async def handler(datagram):
        started.set()
        await asyncio.Event().wait()

    async with serving(handler, UDP, observers=[recorder]) as server:
        with client(server.addresses[0], "") as sock:
            sock.send(b"x")
            await started.wait()
            await server.close(grace=0)
    assert recorder.of(Failed) == []


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_reply_after_the_end_is_nobodys_fault(grouped, directory, recorder):
    async def handler(datagram):
        server.begin_close(0)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await server.wait_closed()
        if grouped:
            async with asyncio.TaskGroup() as group:
                group.create_task(datagram.reply(b"late"))
                group.create_task(datagram.reply(b"too late"))
        await datagram.reply(b"late")

    async with serving(handler, UDP, observers=[recorder]) as server:
        with client(server.addresses[0], "") as sock:
            sock.send(b"x")
            [told] = [await recorder.wait_for(Disconnected)]
            leaves = told.error.exceptions if grouped else [told.error]
            assert all(isinstance(each, ConnectionClosed) for each in leaves)
    assert recorder.of(Failed) == []


@pytest.mark.parametrize("error", [ConnectionClosed("mine"), NoReplyAddressError("mine")])
async def test_an_exception_that_no_reply_has_raised_is_the_handlers(error, recorder):
    """It may be about a connection that the handler has opened itself."""

    async def handler(datagram):
        raise error

    async with serving(handler, UDP, observers=[recorder]) as server:
        with client(server.addresses[0], "") as sock:
            sock.send(b"x")
            assert (await recorder.wait_for(Failed)).error is error
    assert recorder.of(Disconnected) == []


# -- everything at once ----------------------------------------------------------------------------------


class Chaos:
    """Handlers that do whatever a handler can do, by chance."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.answered = 0
        self.ended = 0
        self.server: Server

    async def __call__(self, datagram):
        try:
            for _ in range(self.random.randrange(3)):
                await self.random.choice(
                    [self.nothing, self.turn, self.child, self.timeout, self.leave_traces]
                )()
            await self.random.choice([self.nothing, self.fail, self.cancel, self.panic])()
        finally:
            self.ended += 1
            await datagram.reply(datagram.data)
            self.answered += 1

    async def nothing(self):
        pass

    async def turn(self):
        await asyncio.sleep(0)

    async def child(self):
        await asyncio.gather(self.turn(), self.turn())

    async def timeout(self):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.Event().wait()

    async def leave_traces(self):
        task = asyncio.current_task()
        assert task is not None
        name.set("somebody")
        task.set_name("mine")
        task.add_done_callback(lambda _: None)

    async def fail(self):
        if self.random.random() < 0.1:
            raise LookupError("mine")

    async def panic(self):
        if self.random.random() < 0.1:
            raise PanicError("mine")

    async def cancel(self):
        task = asyncio.current_task()
        assert task is not None
        if self.random.random() < 0.1:
            task.cancel()
            if self.random.random() < 0.5:
                await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", [5, 1000])
async def test_every_datagram_is_answered_or_counted(seed, limit, caplog):
    caplog.set_level("CRITICAL", "asyncserver")
    before, tasks = descriptors(), asyncio.all_tasks()
    chaos = Chaos(seed)
    async with serving(chaos, UDP, limits=Limits(datagrams=limit)) as server:
        with client(server.addresses[0], "") as sock:
            for number in range(2000):
                sock.send(b"x")
                if chaos.random.random() < 0.1:
                    await asyncio.sleep(0)
                if number % 100 == 0:
                    while sum(counted(server)) < number:
                        await asyncio.sleep(0)
            while sum(counted(server)) < 2000 or waiting_in(server):
                await asyncio.sleep(0)
            assert server.stats.datagrams_in == chaos.ended
            assert server.stats.datagrams_out == chaos.answered
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
    assert descriptors() == before


def counted(server):
    return server.stats.datagrams_in, server.stats.datagrams_dropped


@pytest.mark.parametrize("seed", range(20))
async def test_one_of_them_closes_the_server(seed, caplog):
    caplog.set_level("CRITICAL", "asyncserver")
    before, tasks = descriptors(), asyncio.all_tasks()
    chaos = Chaos(seed)
    last = chaos.random.randrange(1, 50)
    started = []

    async def handler(datagram):
        started.append(datagram)
        if len(started) == last:
            await server.close(grace=chaos.random.choice([0, 1]))
        await chaos(datagram)

    async with serving(handler, UDP) as server:
        with client(server.addresses[0], "") as sock:
            for _ in range(60):
                sock.send(b"x")
            await server.wait_closed()
    for _ in range(3):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
    assert descriptors() == before


async def test_no_task_is_left():
    before = asyncio.all_tasks()

    async def handler(datagram):
        await datagram.reply(b"")

    async with serving(handler, UDP, timeouts=Timeouts(lifetime=1)) as server:
        with client(server.addresses[0], "") as sock:
            await ask(sock, b"1", b"2")
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


# -- what looks at tasks -------------------------------------------------------------------------------


async def own_line(datagram):
    if datagram.data == b"wait":
        await asyncio.Event().wait()
    await datagram.reply(datagram.data)


async def test_tools_can_look_at_tasks_that_wait_and_at_the_one_that_is_kept():
    async with serving(own_line, UDP) as server:
        with client(server.addresses[0], "") as sock:
            before = asyncio.all_tasks()
            assert await ask(sock, b"quick") == [b"quick"]
            sock.send(b"wait")
            while not waiting_in(server):
                await asyncio.sleep(0)
            await anyio.wait_all_tasks_blocked()
            for task in asyncio.all_tasks() - before:
                assert "Task" in repr(task)
                task.print_stack(file=io.StringIO())
                waits_for = task._fut_waiter  # type: ignore[attr-defined] # as anyio looks at it
                assert waits_for is None or not waits_for.done()
            [waiting] = waiting_in(server)
            [*_, frame] = [frame for frame in chain(waiting) if frame.f_code is own_line.__code__]
            assert frame.f_lineno == own_line.__code__.co_firstlineno + 2
            assert waiting.get_stack()
            assert await ask(sock, b"quick", b"quick") == [b"quick"] * 2


async def test_the_idle_task_shows_that_it_waits():
    async with serving(own_line, UDP) as server:
        with client(server.addresses[0], "") as sock:
            before = asyncio.all_tasks()
            await ask(sock, b"quick", b"quick")
            await anyio.wait_all_tasks_blocked()
            kept = asyncio.all_tasks() - before
            assert kept
            for task in kept:
                assert not task.done()
                assert task.get_stack()
                assert chain(task)


def chain(task):
    """Return the frames of all that a task awaits, from the outside to the inside, as tools do."""
    frames, awaited = [], task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None)
        if frame is not None:
            frames.append(frame)
        awaited = getattr(awaited, "cr_await", None)
    return frames
