"""Blocking code inside an async program: a whole drop-in server, or a handler on the native server."""

import asyncio
import contextlib
import contextvars
import logging
import socket
import socketserver
from collections.abc import Callable
from typing import Any, Final

import anyio

from compat.engine import engine_of, pool_of
from compat.pool import Job, Pool

__all__ = ("DEFAULT_GRACE", "serve_in_thread", "wake")

logger = logging.getLogger("asyncserver")

DEFAULT_GRACE: Final = 1.0  # seconds; whoever cancels is in a hurry
WAKE_GRACE: Final = 0.25  # seconds that a handler has to end, after its socket was shut down
_pool = Pool("asyncserver")


def wake(request: Any) -> None:
    """Make a handler that waits for its peer see the end of the stream. Closing would not do it."""
    with contextlib.suppress(OSError, AttributeError):
        if isinstance(request, socket.socket):
            # Not SSLSocket's own, which would take the TLS layer away under the handler's feet.
            socket.socket.shutdown(request, socket.SHUT_RDWR)
        else:
            request.shutdown(socket.SHUT_RDWR)


def call_in_thread(
    pool: Pool, function: Callable[..., object], *args: Any
) -> tuple["asyncio.Future[Any]", Job]:
    """Call `function` in a daemon thread; return the future of its result, and the job."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, exc: BaseException | None) -> None:
        if done.done():
            return
        if exc is None:
            done.set_result(result)
        else:
            done.set_exception(exc)

    def run(*args: Any) -> None:
        result, error = None, None
        try:
            result = function(*args)
        except BaseException as exc:
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop has not waited for us
            loop.call_soon_threadsafe(settle, result, error)

    job = Job(contextvars.copy_context().run, (run, *args), daemon=True)
    pool.run(job)
    return done, job


async def serve_in_thread(server: socketserver.BaseServer, grace: float | None) -> None:
    """See `BaseServer.serve`."""
    done, _ = call_in_thread(_pool, server.serve_forever)
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):  # bounded by the grace
            await _stop(server, done, grace)
        raise


async def _stop(
    server: socketserver.BaseServer, done: "asyncio.Future[Any]", grace: float | None
) -> None:
    # In a thread, because it may be overridden and block; through the instance, for the same reason.
    stopped, _ = call_in_thread(_pool, server.shutdown)
    stopped.add_done_callback(_report)
    engine = engine_of(server)
    for late in (False, True):
        pool = pool_of(server)
        jobs = [] if pool is None else list(pool.jobs)
        ends = [call_in_thread(_pool, job.join)[0] for job in jobs]
        _, waiting = await asyncio.wait([done, *ends], timeout=WAKE_GRACE if late else grace)
        if not waiting:
            break
        if not late:
            for job in jobs:
                wake(job.args[0])
            if engine is not None:
                wake(engine.request)
    else:
        logger.warning("serve(): %d threads did not end within the grace", len(waiting))
    _report(done)


def _report(done: "asyncio.Future[Any]") -> None:
    if done.done() and not done.cancelled() and done.exception() is not None:
        logger.error("stopping a server failed", exc_info=done.exception())
