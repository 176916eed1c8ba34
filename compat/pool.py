"""Elastic threads: one is always there for who comes, and is used again when it has finished.

Handlers that wait for each other all run, because nobody queues behind anybody: where no thread is
idle, a new one starts. `concurrent.futures` would queue, and its threads keep a process from
exiting. Knows no sockets.
"""

import contextvars
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

__all__ = ("Job", "Pool", "forget_threads")

IDLE_SECONDS: Final = 10.0  # a thread waits that long for work, then ends


class Job:
    """One call in a thread, which looks like the thread that `socketserver` would have started.

    Args:
        target: what to call, with `args`, in an empty `contextvars.Context`, as in a new thread.
        args: its arguments.
        daemon: whether the process may exit meanwhile.

    """

    __slots__ = ("_done", "args", "daemon", "ends_thread", "target", "thread")

    def __init__(
        self, target: Callable[..., object], args: tuple[Any, ...], *, daemon: bool
    ) -> None:
        self.target = target
        self.args = args
        self.daemon = daemon
        self.thread: threading.Thread | None = None
        self.ends_thread = False  # it was its thread's last one
        self._done = threading.Lock()
        self._done.acquire()

    def __repr__(self) -> str:
        return f"<Job {self.name}, {'running' if self.is_alive() else 'done'}>"

    @property
    def name(self) -> str:
        """The name of the thread that it runs in."""
        return "no thread yet" if self.thread is None else self.thread.name

    @property
    def ident(self) -> int | None:
        """The identifier of that thread."""
        return None if self.thread is None else self.thread.ident

    def is_alive(self) -> bool:
        """Whether it has not finished."""
        return self._done.locked()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has finished, for `timeout` seconds at most."""
        if self._done.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
            self._done.release()
            if self.ends_thread and self.thread is not None:
                self.thread.join(timeout)

    def finish(self) -> None:
        """Let go whoever joins."""
        self._done.release()

    def run(self) -> None:
        """Do it. What it raises goes where a thread's exception goes, `threading.excepthook`."""
        try:
            contextvars.Context().run(self.target, *self.args)
        except BaseException:
            # The hook ignores SystemExit; ours to call, because the thread lives on.
            hooked = threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread()))
            threading.excepthook(hooked)


class Pool:
    """Runs jobs, each in a thread of its own.

    Args:
        name: stands in the threads' names, as "Thread-7 (name)".
        max_idle: threads that are kept for later jobs; 0: every job gets a fresh thread.
            `None`: no limit.
        freed: called in the thread, after a job has been counted out.

    Attributes:
        limit: most jobs at once; whoever runs one more waits. `None`: no limit.
        jobs: those that run.

    """

    def __init__(
        self,
        name: str,
        *,
        max_idle: int | None = None,
        freed: Callable[[], object] = lambda: None,
    ) -> None:
        self.max_idle = max_idle
        self.limit: int | None = None
        self.jobs: set[Job] = set()
        self._name = name
        self._freed = freed
        # Reentrant, because a signal handler may come in between and close the server.
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self._idle: list[_Worker] = []  # the last one in is warmest, and the first one out
        self._keeps = True
        _pools.add(self)

    @property
    def full(self) -> bool:
        """Whether `limit` is reached."""
        return self.limit is not None and len(self.jobs) >= self.limit

    def run(self, job: Job) -> None:
        """Start `job`. Raises `RuntimeError` if the system has no thread left."""
        with self._lock:
            while self.full:
                self._room.wait()
            self.jobs.add(job)
            self._keeps = True
            worker = self._take_idle(daemon=job.daemon)
        if worker is None:
            try:
                _Worker(self, job, f"({self._name})").start()
            except BaseException:
                with self._lock:
                    self.jobs.discard(job)
                job.finish()
                raise
        else:
            worker.give(job)

    def retire(self, *, daemon: bool | None = None) -> None:
        """Let all idle threads end (of one kind, if `daemon` says which), and wait until they have."""
        with self._lock:
            self._keeps = False
            leaving = [each for each in self._idle if daemon in {None, each.daemon}]
            self._idle = [each for each in self._idle if each not in leaving]
        for worker in leaving:
            worker.give(None)
        for worker in leaving:
            worker.join()

    def finished(self, worker: "_Worker", job: Job) -> bool:
        """Count `job` out; return whether its thread stays."""
        with self._lock:
            self.jobs.discard(job)
            stays = self._keeps and (self.max_idle is None or len(self._idle) < self.max_idle)
            if stays:
                self._idle.append(worker)
            if self.limit is not None:
                self._room.notify()
        job.ends_thread = not stays
        job.finish()
        self._freed()
        return stays

    def gone(self, worker: "_Worker") -> bool:
        """Say whether an idle thread may end; not if it has just been given a job."""
        with self._lock:
            if worker not in self._idle:
                return False
            self._idle.remove(worker)
            return True

    def forget(self) -> None:
        """Begin anew, in a child process that has none of the threads."""
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self._idle = []
        jobs, self.jobs = self.jobs, set()
        for job in jobs:
            if job.ident != threading.get_ident() and job.is_alive():
                job.finish()  # in no thread of this process; whoever joins it would wait for ever

    def _take_idle(self, *, daemon: bool) -> "_Worker | None":
        for number in range(len(self._idle) - 1, -1, -1):
            if self._idle[number].daemon == daemon:
                return self._idle.pop(number)
        return None


class _Worker(threading.Thread):
    """One thread of a pool."""

    def __init__(self, pool: Pool, job: Job, name: str) -> None:
        super().__init__(daemon=job.daemon)
        self.name = f"{self.name} {name}"
        self._pool = pool
        self._job: Job | None = job
        self._given = threading.Lock()
        self._given.acquire()

    def give(self, job: Job | None) -> None:
        """Wake it, with work or, with `None`, to end."""
        self._job = job
        self._given.release()

    def run(self) -> None:
        while (job := self._job) is not None:
            job.thread = self
            job.run()
            self._job = None
            if not self._pool.finished(self, job):
                return
            del job  # an idle thread holds nobody's request
            if not self._given.acquire(timeout=IDLE_SECONDS):
                if self._pool.gone(self):
                    return
                self._given.acquire()


_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()


def forget_threads() -> None:
    """Tell all pools that this is a child process, where only one thread has survived."""
    for pool in list(_pools):
        pool.forget()


def _retire_all() -> None:
    for pool in list(_pools):
        pool.retire(daemon=False)


os.register_at_fork(after_in_child=forget_threads)
# The interpreter joins non-daemon threads before it calls atexit's functions, so those that are
# idle have to be told earlier. Private, but what concurrent.futures uses for this.
threading._register_atexit(_retire_all)  # type: ignore[attr-defined]
