"""Elastic threads: one is always there for who comes, and is used again when it has finished.

Handlers that wait for each other all run, because nobody queues behind anybody: where no thread is
idle, a new one starts. `concurrent.futures` would queue, and its threads keep a process from
exiting. Knows no sockets.

The thread that serves is often the main one, where a signal handler may raise between any two
steps. So every step that must not be torn apart is one call into C: a job is handed over by
`SimpleQueue.put`, and belongs to whoever has claimed it. Conditions and events of `threading`, which
can be torn apart, are not used.
"""

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable

from compat import switch_interval
from compat._cpython import SimpleQueue, appear_as, before_threads_are_joined
from compat.worker import Job, Worker

__all__ = ("Job", "Pool", "forget_threads", "join_all")

_exiting = False  # the main thread has ended: non-daemon threads are waited for, so none may idle


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
        self._waiters: list[SimpleQueue[None]] = []  # each is told when there may be room
        self._idle: list[Worker] = []  # the last one in is warmest, and the first one out
        self._keeps = True
        _pools.add(self)

    @property
    def full(self) -> bool:
        """Whether `limit` is reached."""
        return self.limit is not None and len(self.jobs) >= self.limit

    def run(self, job: Job) -> None:
        """Start `job`. Raises `RuntimeError` if the system has no thread left.

        If a signal handler's exception comes in between, the job either runs, as if the exception
        had come a little later, or is as if it had never been.
        """
        job.name = f"{job.name} ({self._name})"
        try:
            while not self._admit(job):
                self._wait_for_room()
            if not self._give_to_idle(job):
                job.worker = Worker(self, job)
                job.start()
        except BaseException:
            if job.claim():
                self._count_out(job)
            raise

    def retire(self) -> None:
        """Let all threads that are idle, or will be, end; wait for those that are."""
        with self._lock:
            self._keeps = False
            leaving = self._dismiss_idle()
        for worker in leaving:
            worker.join()

    def retire_at_exit(self) -> None:
        """Let idle threads end for which the process would wait."""
        with self._lock:
            self._dismiss_idle(daemon=False)

    def finished(self, worker: Worker, job: Job) -> bool:
        """Count `job` out; return whether its thread stays."""
        with self._lock:
            stays = self._keeps and (worker.daemon or not _exiting)
            stays = stays and (self.max_idle is None or len(self._idle) < self.max_idle)
            if stays:
                self._idle.append(worker)
        appear_as(None if stays else worker.thread)
        job.ends_thread = not stays
        self._count_out(job)
        return stays

    def gone(self, worker: Worker) -> None:
        """Give no more jobs to `worker`."""
        with self._lock, contextlib.suppress(ValueError):
            self._idle.remove(worker)

    def forget(self) -> None:
        """Begin anew, in a child process that has one thread only."""
        self._lock = threading.RLock()
        self._idle, self._waiters = [], []
        self._keeps = False  # the thread that has survived shall not wait for more, unless it comes
        jobs, self.jobs = self.jobs, set()
        for job in jobs:
            if job.ident != threading.get_ident() and job.is_alive():
                job.finish()  # nobody waits for threads that are the parent's

    def _admit(self, job: Job) -> bool:
        with self._lock:
            if self.full:
                return False
            job.begin()
            self.jobs.add(job)
            self._keeps = True
        switch_interval.adapt_to(len(self.jobs))
        return True

    def _wait_for_room(self) -> None:
        room: SimpleQueue[None] = SimpleQueue()
        try:
            self._waiters.append(room)
            while self.full:
                room.get()
        finally:
            self._waiters.remove(room)

    def _give_to_idle(self, job: Job) -> bool:
        with self._lock:
            for worker in reversed(self._idle):
                if worker.daemon == job.daemon:
                    try:
                        worker.given = job
                        worker.mail.put(job)
                    finally:
                        self.gone(worker)
                    return True
        return False

    def _dismiss_idle(self, *, daemon: bool | None = None) -> list[Worker]:
        leaving = [each for each in self._idle if daemon in {None, each.daemon}]
        for worker in leaving:
            worker.mail.put(None)
            self.gone(worker)
        return leaving

    def _count_out(self, job: Job) -> None:
        self.jobs.discard(job)  # without the lock, which thousands may want that end together
        switch_interval.adapt_to(len(self.jobs), ended=True)
        for waiter in tuple(self._waiters):
            waiter.put(None)
        job.finish()
        self._freed()


def join_all(jobs: Iterable[Job], seconds: float | None) -> None:
    """Wait until all have finished, for `seconds` at most, together."""
    deadline = None if seconds is None else time.monotonic() + seconds
    for job in jobs:
        job.join(None if deadline is None else deadline - time.monotonic())


_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()


def forget_threads() -> None:
    """Tell all pools that this is a child process, where only one thread has survived."""
    for pool in list(_pools):
        pool.forget()


def _retire_all() -> None:
    global _exiting  # noqa: PLW0603 - the process is one
    _exiting = True
    for pool in list(_pools):
        pool.retire_at_exit()


os.register_at_fork(after_in_child=forget_threads)
if not before_threads_are_joined(_retire_all):
    _exiting = True
