"""Threads and processes: the two mix-ins, and the servers that have one.

`ThreadingMixIn` takes its threads from a pool; `ForkingMixIn` forks as ever, but its children are
reaped when they end and not when the server looks again.
"""

import functools
import os
import socketserver
import threading
import weakref
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from compat._cpython import ThreadList
from compat.attributes import POOL, limit_of, pool_of
from compat.docstrings import copy_docstrings_from
from compat.lazy_imports import is_loaded, lazy_module
from compat.pool import Job, Pool, join_all
from compat.servers import TCPServer, UDPServer, UnixDatagramServer, UnixStreamServer
from compat.unblock import unblock

if TYPE_CHECKING:
    import logging

    from compat import engine, error_output, poller
else:
    logging = lazy_module("logging")
    engine = lazy_module("compat.engine")
    error_output = lazy_module("compat.error_output")
    poller = lazy_module("compat.poller")

__all__ = (
    "ForkingMixIn",
    "ForkingTCPServer",
    "ForkingUDPServer",
    "ForkingUnixDatagramServer",
    "ForkingUnixStreamServer",
    "ThreadingMixIn",
    "ThreadingTCPServer",
    "ThreadingUDPServer",
    "ThreadingUnixDatagramServer",
    "ThreadingUnixStreamServer",
    "run_in_pool",
)

UNBLOCK_GRACE: Final = 1.0  # seconds that a handler has to end, after its socket was shut down

_close_threading = socketserver.ThreadingMixIn.server_close
_collect_children = socketserver.ForkingMixIn.collect_children
_start_thread = socketserver.ThreadingMixIn.process_request
_fork = socketserver.ForkingMixIn.process_request


class _Requests(ThreadList):  # type: ignore[misc] # of no type, there
    """The requests in hand of one server, as the list of threads that `server_close` joins."""

    close_timeout: float | None = None

    def append(self, job: Job) -> None:
        """Add a request; forgets finished ones now and then, which is cheaper than always."""
        if job.daemon:
            return
        if len(self) >= self._enough:
            self.reap()
            self._enough = 2 * len(self) + 4
        list.append(self, job)

    _enough = 4

    def join(self) -> None:
        """Wait for all requests but the one that calls this."""
        me = threading.current_thread()
        join_within([job for job in self.pop_all() if job is not me], self.close_timeout)


def join_within(jobs: Collection[Job], seconds: float | None) -> None:
    """Wait for `jobs`; after `seconds`, wake those that wait for their peer, and then wait no more."""
    for last in (False, True):
        join_all(jobs, UNBLOCK_GRACE if last else seconds)
        jobs = [job for job in jobs if job.is_alive()]
        if not last:
            for job in jobs:
                unblock(*job.args[:1])  # none, if it has ended just now
    if jobs:
        logging.getLogger("asyncserver").warning(
            "server_close(): %d handlers did not end, even without their peers", len(jobs)
        )


@copy_docstrings_from(socketserver.ThreadingMixIn)
class ThreadingMixIn(socketserver.ThreadingMixIn):
    # At the cap no more is accepted: clients wait in the kernel's backlog. None: no cap.
    max_threads: int | None = None
    # Threads that are kept for the next requests. 0: a fresh thread each. None: all.
    max_idle_threads: int | None = 100
    # Seconds that server_close() waits before it wakes handlers that wait for their peer.
    close_timeout: float | None = None

    def process_request(self, request: Any, client_address: Any) -> None:
        if not poller.can_poll():  # greenlets: what our threads wait in would stop them all
            _start_thread(self, request, client_address)
            return
        if self.block_on_close:
            vars(self).setdefault("_threads", _Requests())
        job = Job(
            self.process_request_thread, (request, client_address), daemon=self.daemon_threads
        )
        self._threads.append(job)  # type: ignore[attr-defined]
        run_in_pool(self, job, limit_of(self), self.max_idle_threads)

    def server_close(self) -> None:
        requests = vars(self).get("_threads")
        if isinstance(requests, _Requests):
            requests.close_timeout = self.close_timeout
        try:
            _close_threading(self)
        finally:
            pool = pool_of(self)  # type: ignore[arg-type]
            if pool is not None:
                pool.retire()
            if is_loaded(error_output):
                error_output.print_left_out()


def run_in_pool(server: Any, job: Job, limit: int | None, max_idle: int | None) -> None:
    """Run `job` in a thread of the server's own pool."""
    pool = pool_of(server)
    if pool is None:
        freed = functools.partial(_a_slot_is_free, weakref.ref(server))
        pool = vars(server).setdefault(POOL, Pool("process_request_thread", freed=freed))
    pool.limit, pool.max_idle = limit, max_idle
    pool.run(job)


def _a_slot_is_free(server: "weakref.ref[socketserver.BaseServer]") -> None:
    alive = server()
    if alive is not None:
        engine.slot_is_free(alive)


@copy_docstrings_from(socketserver.ForkingMixIn)
class ForkingMixIn(socketserver.ForkingMixIn):
    def process_request(self, request: Any, client_address: Any) -> None:
        before = set(self.active_children or ())
        _fork(self, request, client_address)
        here = engine.engine_here(self)  # type: ignore[arg-type]
        if here is not None and hasattr(os, "pidfd_open"):
            for pid in (self.active_children or set()) - before:
                here.children.watch(pid)

    def collect_children(self, *, blocking: bool = False) -> None:
        here = engine.engine_here(self)  # type: ignore[arg-type]
        if blocking or here is None:
            _collect_children(self, blocking=blocking)
            return
        # The engine keeps to max_children without blocking, and sees the end of most.
        for pid in [each for each in self.active_children or () if not here.children.watches(each)]:
            try:
                ended = os.waitpid(pid, os.WNOHANG)[0] == pid
            except ChildProcessError:  # somebody else has reaped it
                ended = True
            if ended:
                self.active_children.discard(pid)  # type: ignore[union-attr]
                engine.slot_is_free(self)  # type: ignore[arg-type]


@copy_docstrings_from(socketserver.ForkingUDPServer)
class ForkingUDPServer(ForkingMixIn, socketserver.ForkingUDPServer, UDPServer):
    pass


@copy_docstrings_from(socketserver.ForkingTCPServer)
class ForkingTCPServer(ForkingMixIn, socketserver.ForkingTCPServer, TCPServer):
    pass


@copy_docstrings_from(socketserver.ThreadingUDPServer)
class ThreadingUDPServer(ThreadingMixIn, socketserver.ThreadingUDPServer, UDPServer):
    pass


@copy_docstrings_from(socketserver.ThreadingTCPServer)
class ThreadingTCPServer(ThreadingMixIn, socketserver.ThreadingTCPServer, TCPServer):
    pass


@copy_docstrings_from(socketserver.ThreadingUnixStreamServer)
class ThreadingUnixStreamServer(
    ThreadingMixIn, socketserver.ThreadingUnixStreamServer, UnixStreamServer
):
    pass


@copy_docstrings_from(socketserver.ThreadingUnixDatagramServer)
class ThreadingUnixDatagramServer(
    ThreadingMixIn, socketserver.ThreadingUnixDatagramServer, UnixDatagramServer
):
    pass


if hasattr(socketserver, "ForkingUnixStreamServer"):

    @copy_docstrings_from(socketserver.ForkingUnixStreamServer)
    class ForkingUnixStreamServer(
        ForkingMixIn, socketserver.ForkingUnixStreamServer, UnixStreamServer
    ):
        pass

    @copy_docstrings_from(socketserver.ForkingUnixDatagramServer)
    class ForkingUnixDatagramServer(
        ForkingMixIn, socketserver.ForkingUnixDatagramServer, UnixDatagramServer
    ):
        pass

else:  # Python 3.11

    class ForkingUnixStreamServer(ForkingMixIn, UnixStreamServer):  # type: ignore[no-redef]
        pass

    class ForkingUnixDatagramServer(ForkingMixIn, UnixDatagramServer):  # type: ignore[no-redef]
        pass
