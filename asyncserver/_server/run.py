"""The two verbs: `serve` inside an async program, `run` for a program that is nothing else."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Literal, Unpack

import anyio
from anyio.abc import TaskStatus

from asyncserver._handlers.kinds import Handler
from asyncserver._server.options import Options
from asyncserver._server.server import DEFAULT_GRACE, Server
from asyncserver._settings.checks import check_grace, check_observers
from asyncserver.errors import ServerStateError, SettingError
from asyncserver.events import AddressBound, Event

__all__ = ("hold_standard_descriptors", "loop_factory", "refusing_to_run", "run", "serve")

logger = logging.getLogger("asyncserver")
_refusal: str | None = None  # why `run` may not be called now


async def serve(
    handler: Handler,
    *addresses: str | socket.socket,
    task_status: TaskStatus[Server] = anyio.TASK_STATUS_IGNORED,
    **options: Unpack[Options],
) -> None:
    """Serve until cancelled, or until somebody closes the server.

    Cancelling closes at once, without grace; call `Server.close` for a drain.

    Args:
        handler: see `Server`, as for `addresses` and `options`.
        addresses: URLs or bound sockets.
        task_status: told the `Server` when it listens, so that
            `server = await task_group.start(serve, handler, url)` works.
        options: `tls`, `limits`, `timeouts`, `mode`, `reuse_port`, `observers`.

    Raises:
        HandlerError, AddressError, SettingError, BindError: see `Server`. Nothing that happens on
            a connection is raised here.

    """
    async with Server(handler, *addresses, **options) as server:
        task_status.started(server)
        await server.wait_closed()


def run(
    handler: Handler,
    *addresses: str | socket.socket,
    grace: float | None = DEFAULT_GRACE,
    loop: Literal["auto", "uvloop", "asyncio"] = "auto",
    **options: Unpack[Options],
) -> None:
    """Serve until SIGINT or SIGTERM.

    The first signal drains and `run` returns; the second aborts. Where logging is not set up, the
    addresses that it listens on are said on stderr; with a handler for the logger "asyncserver", or a
    level of its own, they are records (INFO) and nothing else. In a thread other than the main
    one there are no signals to listen to, and it serves until the server is closed.

    Args:
        handler: see `Server`, as for `addresses` and `options`.
        addresses: URLs or bound sockets.
        grace: seconds that handlers have to finish after the first signal; `None`: no limit.
        loop: "auto" is uvloop where it is installed.
        options: `tls`, `limits`, `timeouts`, `mode`, `reuse_port`, `observers`.

    Raises:
        SystemExit: 128 plus the signal's number, after a second signal.
        HandlerError, AddressError, SettingError, BindError: see `Server`.
        ServerStateError: a loop is running in this thread already; `await serve(...)` there. Or
            `asyncserver serve` is importing the program that calls it.

    """
    if _refusal is not None:
        raise ServerStateError(
            f'run() is called, though {_refusal}: write it under `if __name__ == "__main__":`'
        )
    check_grace(grace)
    _check_no_loop_runs()
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        second = runner.run(_serve_until_signal(handler, addresses, grace, options))
    if second is not None:
        raise SystemExit(128 + second)


@contextlib.contextmanager
def refusing_to_run(why: str) -> Iterator[None]:
    """Let nobody call `run` for the length of this."""
    global _refusal  # noqa: PLW0603 - the process is one; the program may have threads
    before, _refusal = _refusal, why
    try:
        yield
    finally:
        _refusal = before


def _say_address(event: Event) -> None:
    """Say where the server listens, to a person who has not set up logging."""
    is_set_up = logger.hasHandlers() or logger.level or logger.manager.disable >= logging.INFO
    if isinstance(event, AddressBound) and not is_set_up:
        with contextlib.suppress(
            OSError, ValueError, AttributeError
        ):  # it is closed, or full, or None
            sys.stderr.write(f"listening on {event.address}\n")
            sys.stderr.flush()


def _check_no_loop_runs() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ServerStateError(
        "run() makes an event loop of its own, and one is running here: write"
        " `await asyncserver.serve(...)`"
    )


def hold_standard_descriptors() -> None:
    """Open the null device where the descriptors 0, 1 and 2 are closed.

    Otherwise the next sockets get these numbers: what somebody prints goes to a client, and libuv,
    which takes that for a bug, aborts.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
            os.set_inheritable(fd, True)


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the loop of that name; see to it that no socket becomes a standard stream.

    Raises:
        SettingError: it is not installed, or there is none of that name.

    """
    if name not in ("auto", "uvloop", "asyncio"):
        raise SettingError(f"loop is {name!r}: write 'auto', 'uvloop' or 'asyncio'")
    hold_standard_descriptors()
    if name != "asyncio":
        try:
            import uvloop  # noqa: PLC0415 - an ordinary dependency, but not on every platform
        except ImportError as exc:
            if name == "uvloop":
                raise SettingError("uvloop is not installed: pip install uvloop") from exc
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


async def _serve_until_signal(
    handler: Handler,
    addresses: tuple[str | socket.socket, ...],
    grace: float | None,
    options: Options,
) -> int | None:
    """Serve; return the number of the signal that aborted it, if one did."""
    received: list[int] = []
    options["observers"] = (*check_observers(options.get("observers", ())), _say_address)
    server = Server(handler, *addresses, **options)

    def stop(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            server.begin_close(grace)
        else:
            server.abort()

    with _signals(stop):  # before it tells that it listens: who reads that may send one
        try:
            async with server:
                await server.wait_closed()
        except ServerStateError:
            if not received:
                raise  # and else it was stopped before it served
    return received[1] if len(received) > 1 else None


@contextlib.contextmanager
def _signals(stop: Callable[[int], None]) -> Iterator[None]:
    """Call `stop` on SIGINT and SIGTERM, on the loop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number, previous in zip(numbers, before, strict=True):
            loop.remove_signal_handler(number)
            signal.signal(number, previous)
