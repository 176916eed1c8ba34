"""A thread that does one job after the other, and looks like a new thread each time.

To whoever looks (`threading.enumerate`, `current_thread`, a debugger, who joins), each job is a thread
of its own, and a thread without a job is none. Knows of the pool only what it asks it.
"""

import contextlib
import contextvars
import sys
import threading
import time
from _queue import Empty, SimpleQueue  # what `queue` has, without the rest of it
from collections.abc import Callable
from typing import Any, Final, Protocol

__all__ = ("Job", "Worker")

IDLE_SECONDS: Final = 10.0  # a thread waits that long for work, then ends
# What the system's thread is to `threading`; some exist on some Pythons only.
OF_THE_SYSTEM: Final = ("_ident", "_native_id", "_handle", "_tstate_lock")


class Job(threading.Thread):
    """One call in a thread, which looks like the thread that `socketserver` would have started.

    Args:
        target: what to call, with `args`, in an empty `contextvars.Context`, as in a new thread.
        args: its arguments, until it has been called.
        daemon: whether the process may exit meanwhile.

    """

    def __init__(
        self, target: Callable[..., object], args: tuple[Any, ...], *, daemon: bool
    ) -> None:
        super().__init__(daemon=daemon)
        self._started = _Started()
        self.target: Callable[..., object] | None = target
        self.args: tuple[Any, ...] = args
        self.worker: Worker | None = None
        self.ends_thread = False  # it was its thread's last one
        self._claimed = threading.Lock()
        self._alive = False
        self._bells: list[SimpleQueue[None]] = []  # of those who join

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}, {'running' if self._alive else 'not running'}>"

    def is_alive(self) -> bool:
        """Whether it has begun, or is about to, and has not finished."""
        return self._alive

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has finished, for `timeout` seconds at most."""
        if self is threading.current_thread():
            raise RuntimeError("cannot join current thread")
        deadline = None if timeout is None else time.monotonic() + timeout
        bell: SimpleQueue[None] = SimpleQueue()
        self._bells.append(bell)
        try:
            if self._alive:  # asked after the bell hangs, so that it rings for this one as well
                with contextlib.suppress(Empty):
                    bell.get(timeout=_left(deadline))
        finally:
            self._bells.remove(bell)
        if not self._alive and self.ends_thread and self.worker is not None:
            self.worker.join(_left(deadline))

    def begin(self) -> None:
        """Be alive: a pool has taken it on, and will finish it."""
        self._alive = True

    def claim(self) -> bool:
        """Whether it is the caller's to run or to give up; nobody else's, then."""
        return self._claimed.acquire(blocking=False)

    def finish(self) -> None:
        """Let go whoever joins."""
        self.target, self.args = None, ()  # an idle thread holds nobody's request
        self._alive = False
        for bell in tuple(self._bells):
            bell.put(None)

    def call(self) -> None:
        """Do it. What it raises goes where a thread's exception goes, `threading.excepthook`."""
        assert self.target is not None
        try:
            contextvars.Context().run(self.target, *self.args)
        except BaseException:
            self._invoke_excepthook(self)  # type: ignore[attr-defined] # catches what hooks raise

    def run(self) -> None:
        """Be a worker's thread, with this as its first job: what `start` calls in a new thread."""
        assert self.worker is not None
        self.worker.work(self)


class _Started(threading.Event):
    """What `start` waits for until the thread runs, by a wait that a signal cannot tear apart.

    `threading`'s own releases a lock twice if an exception comes at the wrong moment, and what that
    raises takes the exception's place.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bell: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        super().set()
        self._bell.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            with contextlib.suppress(Empty):
                self._bell.get(timeout=timeout)
        return self.is_set()


class Employer(Protocol):
    """What a worker has to do with a pool."""

    def finished(self, worker: "Worker", job: Job) -> bool:
        """Count `job` out; return whether the worker stays."""

    def gone(self, worker: "Worker") -> None:
        """Give no more jobs to `worker`."""


class Worker:
    """A thread of the system, which does one job after the other.

    Args:
        pool: where the jobs come from.
        thread: its first job, as which it starts and ends.

    Attributes:
        mail: its next job; `None`: it is to end.
        given: the last one that somebody put there.

    """

    def __init__(self, pool: Employer, thread: Job) -> None:
        self.thread = thread
        self.daemon: bool = thread.daemon
        self.mail: SimpleQueue[Job | None] = SimpleQueue()
        self.given: Job | None = None
        self._pool = pool

    def join(self, timeout: float | None = None) -> None:
        """Wait until the system's thread has ended."""
        threading.Thread.join(self.thread, timeout)

    def work(self, job: Job | None) -> None:
        """Do `job`, and those that follow."""
        try:
            while job is not None:
                if not self._do(job):
                    return
                del job  # or an idle thread would hold it
                try:
                    job = self._next()
                except (
                    BaseException
                ):  # sent to a request that has ended: it concerns nobody any more
                    return
        finally:
            self.appear_as(self.thread)  # `threading` takes it off its list by itself
            self._pool.gone(self)
            left = self.given  # if somebody has sent an exception into this thread
            if left is not None and left.is_alive():
                left.worker = Worker(self._pool, left)
                left.start()

    def appear_as(self, job: Job | None) -> None:
        """Be the thread `job` to whoever looks; with `None`, be no thread at all."""
        active = threading._active  # type: ignore[attr-defined]
        if job is None:
            active.pop(threading.get_ident(), None)
        else:
            active[threading.get_ident()] = job

    def _do(self, job: Job) -> bool:
        try:
            if job.claim():
                if job is not self.thread:
                    self._adopt(job)
                job.call()
        finally:  # whatever a hook has raised
            _trace_no_more()
            self.given = None
            stays = self._pool.finished(self, job)
        return stays

    def _adopt(self, job: Job) -> None:
        """Do for `job` what `threading` does for a thread that starts."""
        job.worker = self
        for name in OF_THE_SYSTEM:
            if hasattr(self.thread, name):
                setattr(job, name, getattr(self.thread, name))
        job._started.set()
        self.appear_as(job)
        if threading.gettrace() is not None:
            sys.settrace(threading.gettrace())
        if threading.getprofile() is not None:
            sys.setprofile(threading.getprofile())

    def _next(self) -> Job | None:
        """Wait for the next job; `None`: there is none, and none will come."""
        job = None
        with contextlib.suppress(Empty):
            job = self.mail.get(timeout=IDLE_SECONDS)
        if job is None:
            self._pool.gone(self)
            job = self._take_mail()  # it may have come at the last moment
        return job

    def _take_mail(self) -> Job | None:
        job = None
        with contextlib.suppress(Empty):
            while job is None:
                job = self.mail.get_nowait()
        return job


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0)


def _trace_no_more() -> None:
    """Take away a handler's debugger or profiler, before the next one's job comes."""
    if sys.gettrace() is not None:
        sys.settrace(None)
    if sys.getprofile() is not None:
        sys.setprofile(None)
