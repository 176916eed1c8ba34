"""Awaiting what blocks, in a thread: one call, or a whole drop-in server."""

import asyncio
import contextlib
import contextvars
import logging
import socketserver
from collections.abc import Callable
from typing import Any, Final

import anyio

from compat.pool import Job, Pool, join_all
from compat.state import engine_of, pool_of
from compat.waking import wake

__all__ = ("call_in_thread", "serve_in_thread")

logger = logging.getLogger("asyncserver")

WAKE_GRACE: Final = 0.25  # seconds that a handler has to end, after its socket was shut down
_pool = Pool("asyncserver")


def call_in_thread(
    pool: Pool, function: Callable[..., object], *args: Any
) -> tuple["asyncio.Future[BaseException | None]", Job]:
    """Call `function` in a daemon thread; return the future of what it raised, and the job.

    Nobody may cancel the future: who may be cancelled waits for a shield of it.

    What it raised is a result and no exception: a future does not take StopIteration, and would end
    the loop with KeyboardInterrupt.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[BaseException | None] = loop.create_future()

    def run() -> None:
        raised = None
        try:
            function(*args)
        except BaseException as exc:
            raised = exc
        with contextlib.suppress(RuntimeError):  # the loop has not waited for us
            loop.call_soon_threadsafe(done.set_result, raised)

    job = Job(contextvars.copy_context().run, (run,), daemon=True)
    pool.run(job)
    return done, job


async def serve_in_thread(server: socketserver.BaseServer, grace: float | None) -> None:
    """See `BaseServer.serve`."""
    done, _ = call_in_thread(_pool, server.serve_forever)
    try:
        raised = await asyncio.shield(done)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):  # bounded by the grace
            await _stop(server, done, grace)
        raise
    if raised is not None:
        raise raised


async def _stop(
    server: socketserver.BaseServer,
    done: "asyncio.Future[BaseException | None]",
    grace: float | None,
) -> None:
    # In a thread, because it may be overridden and block; through the instance, for the same reason.
    stopped, _ = call_in_thread(_pool, server.shutdown)
    stopped.add_done_callback(_report)
    engine = engine_of(server)
    for last in (False, True):
        seconds = WAKE_GRACE if last else grace
        pool = pool_of(server)
        jobs = [] if pool is None else list(pool.jobs)
        joined, _ = call_in_thread(_pool, join_all, jobs, seconds)
        await asyncio.wait([done, joined], timeout=seconds)
        jobs = [job for job in jobs if job.is_alive()]
        if done.done() and not jobs:
            break
        if not last:
            for job in jobs:
                wake(*job.args[:1])
            if engine is not None:
                engine.give_up()
    else:
        count = len(jobs) + (not done.done())
        logger.warning("serve(): %d threads did not end within the grace", count)
    _report(done)


def _report(done: "asyncio.Future[BaseException | None]") -> None:
    if done.done() and done.result() is not None:
        logger.error("stopping a server failed", exc_info=done.result())
