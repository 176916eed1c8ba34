"""Threads that are used again, and that nobody can tell from new ones."""

import contextlib
import ctypes
import dis
import socket
import socketserver
import sys
import threading
import time
import weakref
from types import FrameType
from typing import Any

import pytest

import compat
from compat import pool as pool_module
from compat import worker as worker_module
from compat.pool import Job, Pool, join_all
from tests.test_compat_engine import run, wait_until
from tests.test_compat_rows import ANY, Upper, ask, serving

OURS = (pool_module.__file__, worker_module.__file__, threading.__file__)


@pytest.fixture
def pool():
    pool = Pool("test")
    yield pool
    pool.retire()
    assert not pool.jobs


def running(pool: Pool, job: Job) -> Job:
    pool.run(job)
    return job


def system_threads() -> int:
    return sys.modules["_thread"]._count()  # type: ignore[no-any-return]


# -- a signal's exception --------------------------------------------------------------------------


class Signal(BaseException):
    pass


class Interrupts:
    """Raises at the n-th place where Python would look whether there is a signal: after a call."""

    def __init__(self, place: int) -> None:
        self.left = place
        self._before: dict[FrameType, str] = {}

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in OURS:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            code = frame.f_code.co_code[frame.f_lasti]
            before = self._before.get(frame, "")
            self._before[frame] = dis.opname[code]
            if before.startswith(("CALL", "RESUME", "JUMP_BACKWARD")):
                self.left -= 1
                if self.left == 0:
                    raise Signal
        return self


def interrupted(place: int, function: Any, *args: Any) -> bool:
    """Call `function`, and interrupt it at `place`; return whether it got that far."""
    sys._getframe().f_trace_opcodes = True  # 3.12 looks whether anybody wants them only here
    sys.settrace(Interrupts(place))
    try:
        function(*args)
    except Signal:
        return True
    finally:
        sys.settrace(None)
    return False


@pytest.mark.parametrize("way", ["fresh", "idle"])
def test_exception_at_any_moment_leaves_a_job_that_ran_or_never_was(way, pool):
    place, before = 0, system_threads()
    more = True
    while more:
        place += 1
        if way == "idle":
            running(pool, Job(int, (), daemon=True)).join(10)
        ran: list[int] = []
        job = Job(ran.append, (1,), daemon=True)
        more = interrupted(place, pool.run, job)
        job.join(10)
        assert not job.is_alive(), f"nobody did it, and nobody gave it up: {place}"
        assert len(ran) <= 1
        assert not pool.jobs
        running(pool, Job(int, (), daemon=True)).join(10)
        pool.retire()
    assert place > 10
    wait_until(
        lambda: system_threads() <= before
    )  # one that got a job which was given up ends by itself


def test_exception_at_any_moment_of_retiring_leaves_a_pool_that_can_be_retired(pool):
    place, more = 0, True
    before = system_threads()
    while more:
        place += 1
        barrier = threading.Barrier(3)
        for _ in range(3):
            pool.run(Job(barrier.wait, (10,), daemon=True))
        for job in list(pool.jobs):
            job.join(10)
        more = interrupted(place, pool.retire)
        pool.retire()
    assert place > 5
    assert not pool._idle
    assert system_threads() - before < 3


def test_exception_at_any_moment_of_waiting_lets_the_others_go_on(pool):
    place, more = 0, True
    while more:
        place += 1
        leave = threading.Event()
        pool.limit = 1
        first = running(pool, Job(leave.wait, (10,), daemon=True))
        threading.Timer(0.002, leave.set).start()
        second = Job(int, (), daemon=True)
        more = interrupted(place, pool.run, second)
        leave.set()
        first.join(10)
        second.join(10)
        assert not pool.jobs
        assert not pool._bells


def test_exception_at_any_moment_of_joining_leaves_a_job_that_can_be_joined(pool):
    place, more = 0, True
    while more:
        place += 1
        leave = threading.Event()
        job = running(pool, Job(leave.wait, (10,), daemon=True))
        threading.Timer(0.002, leave.set).start()
        more = interrupted(place, job.join, 10)
        leave.set()
        job.join(10)
        assert not job.is_alive()


def test_no_thread_left_is_raised_and_nothing_is_counted(pool, monkeypatch):
    freed = []
    pool._freed = lambda: freed.append(1)

    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        job = Job(int, (), daemon=True)
        with pytest.raises(RuntimeError, match="can't start"):
            pool.run(job)
    assert (pool.jobs, len(freed), job.is_alive()) == (set(), 1, False)
    job.join()  # whoever waits for it goes on
    running(pool, Job(int, (), daemon=True)).join()


# -- how many --------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3])
def test_limit_is_the_number_of_jobs_at_once(limit, pool):
    pool.limit = limit
    leave = threading.Event()
    jobs = [running(pool, Job(leave.wait, (10,), daemon=True)) for _ in range(limit)]
    assert pool.full
    one_more = Job(int, (), daemon=True)
    thread = threading.Thread(target=pool.run, args=(one_more,))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    assert len(pool.jobs) == limit
    leave.set()
    thread.join(10)
    for job in [*jobs, one_more]:
        job.join(10)
    assert not pool.full


@pytest.mark.parametrize("max_idle", [0, 1, 2, None])
def test_max_idle_is_the_number_of_threads_that_are_kept(max_idle):
    pool = Pool("test", max_idle=max_idle)
    before = system_threads()
    barrier = threading.Barrier(3)
    jobs = [running(pool, Job(barrier.wait, (10,), daemon=True)) for _ in range(3)]
    for job in jobs:
        job.join(10)
    assert len(pool._idle) == (3 if max_idle is None else max_idle)
    pool.retire()
    assert system_threads() <= before


def test_nobody_idles_for_whom_the_process_would_wait_after_its_main_thread():
    program = """
import threading
exiting = threading.Event()
threading._register_atexit(exiting.set)  # the last one in comes first: after that of the pools
from compat import pool, worker
worker.IDLE_SECONDS = 3600
pool = pool.Pool("test")
def last():
    exiting.wait()
    print("done")
pool.run(worker.Job(last, (), daemon=False))
"""
    assert run(program, compat) == "done\n"


def test_daemon_and_other_threads_are_not_mixed(pool):
    seen = []
    for daemon in (True, False, True, False):
        job = Job(lambda: seen.append(threading.current_thread().daemon), (), daemon=daemon)
        running(pool, job).join(10)
    assert seen == [True, False, True, False]
    assert len(pool._idle) == 2


def test_retired_pool_keeps_nobody_who_was_still_at_work(pool):
    leave = threading.Event()
    job = running(pool, Job(leave.wait, (10,), daemon=True))
    pool.retire()
    leave.set()
    job.join(10)
    assert not pool._idle


def test_idle_thread_ends_when_nobody_comes(pool, monkeypatch):
    monkeypatch.setattr(worker_module, "IDLE_SECONDS", 0.01)
    running(pool, Job(int, (), daemon=True)).join(10)
    for worker in list(pool._idle):
        worker.join(10)
    assert not pool._idle


# -- each job looks like a thread of its own -------------------------------------------------------


def test_idle_threads_are_none_to_whoever_looks(pool):
    before = set(threading.enumerate())
    job = running(pool, Job(int, (), daemon=True))
    job.join(10)
    assert len(pool._idle) == 1
    assert set(threading.enumerate()) == before


def test_job_is_the_thread_that_it_runs_in(pool):
    running(pool, Job(int, (), daemon=True)).join(10)  # so that the next one finds an idle thread
    seen: list[Any] = []

    def look():
        me = threading.current_thread()
        seen.extend([me, me.ident == threading.get_ident(), me in threading.enumerate()])
        seen.append(me.native_id == threading.get_native_id())

    job = running(pool, Job(look, (), daemon=True))
    job.join(10)
    assert seen == [job, True, True, True]
    assert isinstance(job, threading.Thread)
    with pytest.raises(RuntimeError, match="only be started once"):
        job.start()
    assert job.name.endswith(" (test)")
    assert not job.is_alive()


def test_job_cannot_join_itself(pool):
    caught: list[BaseException] = []

    def join():
        try:
            threading.current_thread().join()
        except RuntimeError as exc:
            caught.append(exc)

    running(pool, Job(join, (), daemon=True)).join(10)
    assert len(caught) == 1


def test_join_gives_up_when_its_time_is_over(pool):
    leave = threading.Event()
    job = running(pool, Job(leave.wait, (10,), daemon=True))
    for timeout in (0.01, 0, -1):
        job.join(timeout)
        assert job.is_alive()
    leave.set()
    job.join(10)


def test_joining_many_takes_the_time_of_one(pool):
    leave = threading.Event()
    jobs = [running(pool, Job(leave.wait, (10,), daemon=True)) for _ in range(20)]
    start = time.monotonic()
    join_all(jobs, 0.1)
    assert 0.1 <= time.monotonic() - start < 1.5  # and not 2
    leave.set()
    join_all(jobs, None)
    assert not any(job.is_alive() for job in jobs)


def test_last_job_of_a_thread_has_ended_only_with_the_thread():
    pool = Pool("test", max_idle=0)
    for _ in range(20):
        before = system_threads()
        job = running(pool, Job(int, (), daemon=True))
        job.join(10)
        assert job.ends_thread
        assert not threading.Thread.is_alive(job)
        assert system_threads() <= before


def test_finished_job_holds_nothing(pool):
    job = running(pool, Job(int, ("1",), daemon=True))
    job.join(10)
    assert (job.target, job.args) == (None, ())


def test_idle_thread_does_not_hold_its_last_job(pool):
    running(pool, Job(int, (), daemon=True)).join(10)  # is its thread, and stays
    job = running(pool, Job(int, (), daemon=True))
    job.join(10)
    last = weakref.ref(job)
    del job
    wait_until(lambda: last() is None)
    assert len(pool._idle) == 1


def test_server_close_leaves_no_thread_of_the_system(monkeypatch):
    """Idle ones are on no list of Python's."""
    monkeypatch.setattr(worker_module, "IDLE_SECONDS", 60)
    before = system_threads()
    with serving(compat.ThreadingTCPServer(ANY, Upper)) as server:
        assert ask(server) == b"HELLO\n"
        pool = vars(server)["_asyncserver_pool"]
        wait_until(lambda: pool._idle)
    wait_until(lambda: system_threads() <= before)


def test_server_threads_are_threads():
    inside, leave = threading.Event(), threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            assert threading.current_thread() in vars(self.server)["_threads"]
            inside.set()
            leave.wait(10)

    with serving(compat.ThreadingTCPServer(ANY, Upper)) as server:
        ask(server)
        server.RequestHandlerClass = Handler
        with socket.create_connection(server.server_address):
            assert inside.wait(10)
            thread = vars(server)["_threads"][-1]
            assert isinstance(thread, threading.Thread)
            assert thread in threading.enumerate()
            leave.set()
            thread.join(10)


# -- traces and hooks ------------------------------------------------------------------------------


def trace(frame, event, arg):
    return None


@pytest.mark.parametrize("kind", ["trace", "profile"])
def test_trace_functions_do_not_leak_and_those_for_all_threads_arrive(kind, pool):
    set_here, get_here = getattr(sys, f"set{kind}"), getattr(sys, f"get{kind}")
    seen: list[Any] = []
    set_for_all, of_all = getattr(threading, f"set{kind}"), getattr(threading, f"get{kind}")()

    def look():
        seen.append(get_here())

    try:
        set_for_all(None)
        for target in (look, lambda: set_here(trace), look):
            running(pool, Job(target, (), daemon=True)).join(10)
        set_for_all(trace)
        running(pool, Job(look, (), daemon=True)).join(10)
        set_for_all(None)
        running(pool, Job(look, (), daemon=True)).join(10)
    finally:
        set_for_all(of_all)
    assert seen == [None, None, trace, None]
    assert len(pool._idle) == 1  # all in one thread


@pytest.mark.parametrize("error", [LookupError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("reused", [False, True])
def test_hook_that_raises_leaves_nothing_locked(error, reused, pool, monkeypatch):
    def hook(args):
        raise error("the hook itself")

    def fail():
        raise LookupError

    monkeypatch.setattr(threading, "excepthook", hook)
    monkeypatch.setattr(sys, "excepthook", lambda *_: None)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    monkeypatch.setattr(sys, "stderr", None)
    if reused:
        running(pool, Job(int, (), daemon=True)).join(10)
    job = running(pool, Job(fail, (), daemon=True))
    job.join(10)
    assert not job.is_alive()
    assert not pool.jobs
    running(pool, Job(int, (), daemon=True)).join(10)


def test_exception_of_a_job_goes_to_the_threads_hook(pool, monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append((args[0], args[3])))

    def fail(kind):
        raise kind

    jobs = [running(pool, Job(fail, (kind,), daemon=True)) for kind in (LookupError, SystemExit)]
    for job in jobs:
        job.join(10)
    assert sorted(seen, key=str) == sorted([(LookupError, jobs[0]), (SystemExit, jobs[1])], key=str)


def test_exception_sent_into_an_idle_thread_costs_nobody_a_job(pool, monkeypatch):
    """And is told to nobody: it was meant for a request that has ended."""
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    running(pool, Job(int, (), daemon=True)).join(10)
    (worker,) = pool._idle
    ident = worker.thread.ident
    wait_until(lambda: sys._current_frames()[ident].f_code.co_name == "_next")
    error = ctypes.py_object(LookupError)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), error)
    job = running(pool, Job(int, (), daemon=True))
    job.join(10)
    worker.join(10)
    assert not job.is_alive()
    assert not told


def test_job_that_comes_while_its_thread_gives_up_waiting_is_done(monkeypatch):
    monkeypatch.setattr(worker_module, "IDLE_SECONDS", 0)
    job = Job(int, (), daemon=True)

    class Late:
        def gone(self, worker):
            worker.mail.put(job)

        def finished(self, worker, job):
            raise NotImplementedError

    assert worker_module.Worker(Late(), Job(int, (), daemon=True))._next() is job


# -- the end of the process, and children ----------------------------------------------------------


def test_forked_child_waits_for_no_thread_of_its_parents():
    import os

    leave = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(b"x")
            leave.wait(10)

    with serving(compat.ThreadingTCPServer(ANY, Handler)) as server:
        with socket.create_connection(server.server_address, 10) as client:
            client.recv(1)
            with contextlib.suppress(DeprecationWarning):
                import warnings

                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    threading.Timer(10, os._exit, (2,)).start()
                    server.server_close()
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0
            leave.set()


def test_forked_child_of_a_handler_ends_with_the_handler():
    """And its only thread is at work until then, to whoever looks."""
    program = """
import os, signal, socket, sys, threading
class Handler(module.BaseRequestHandler):
    def handle(self):
        pid = os.fork()
        if pid:
            self.server.child = pid
            return
        signal.alarm(10)
        if "compat.worker" in sys.modules:
            sys.modules["compat.worker"].IDLE_SECONDS = 3600
        if not threading.current_thread().is_alive():
            os._exit(3)
server = module.ThreadingTCPServer(("127.0.0.1", 0), Handler)
thread = threading.Thread(target=server.serve_forever, args=(0.01,))
thread.start()
with socket.create_connection(server.server_address) as client:
    client.recv(1)
server.shutdown()
server.server_close()
print(os.waitstatus_to_exitcode(os.waitpid(server.child, 0)[1]))
"""
    assert run(program, socketserver) == run(program, compat) == "0\n"
