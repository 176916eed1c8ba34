"""What we lean on and CPython keeps private: if a new version takes it away, this says what and why."""

import asyncio
import socket
from typing import Any

import pytest

from asyncserver import _cpython

TAKEN = (
    "CPython has changed it; see asyncserver/_cpython.py, whoever uses this, and the reason there"
)


async def test_a_callback_can_act_as_a_task():
    task: Any = asyncio.current_task()
    loop = asyncio.get_running_loop()
    seen = []

    def act():
        _cpython.enter_task(loop, task)
        seen.append(asyncio.current_task())
        _cpython.leave_task(loop, task)
        seen.append(asyncio.current_task())

    loop.call_soon(act)
    while not seen:
        await asyncio.sleep(0)
    assert seen == [task, None], f"enter_task() and leave_task(): {TAKEN}"


def test_no_running_loop_is_none():
    assert _cpython.running_loop() is None, f"running_loop(): {TAKEN}"


async def test_a_task_that_nobody_waits_for_has_no_callbacks():
    task = asyncio.create_task(asyncio.sleep(0))
    assert _cpython.callbacks_of(task) is None, f"Task._callbacks: {TAKEN}"
    task.add_done_callback(lambda _: None)
    assert _cpython.callbacks_of(task), f"Task._callbacks: {TAKEN}"
    await task


async def test_a_task_says_that_it_was_cancelled_in_its_own_step():
    task: Any = asyncio.current_task()
    assert not _cpython.must_cancel(task), f"Task._must_cancel: {TAKEN}"
    task.cancel("enough")
    assert _cpython.must_cancel(task), f"Task._must_cancel: {TAKEN}"
    assert _cpython.cancel_message(task) == "enough", f"Task._cancel_message: {TAKEN}"
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    task.uncancel()


async def test_the_loop_forgets_an_abandoned_task():
    task = asyncio.create_task(asyncio.sleep(0))
    _cpython.abandon(task)
    assert task not in asyncio.all_tasks(), f"_unregister_task(): {TAKEN}"
    assert not task._log_destroy_pending, f"Task._log_destroy_pending: {TAKEN}"  # type: ignore[attr-defined]
    await task


def test_accepting_gives_a_bare_descriptor():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as client:
            fileno, peer = _cpython.accept_of(listener)()
            socket.close(fileno)
            assert peer == client.getsockname(), f"socket._accept(): {TAKEN}"


def test_a_file_can_be_sent_by_sends(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    ours, theirs = socket.socketpair()
    with ours, theirs, path.open("rb") as file:
        assert _cpython.send_file_by_sends(ours, file, 2, 5) == 5, f"_sendfile_use_send(): {TAKEN}"
        assert theirs.recv(100) == b"23456"


def test_there_is_a_mark_for_transports_that_files_are_read_and_written_for():
    """What it does on the stock loop stands in test_tls::test_sendfile."""
    assert _cpython.SENDFILE_FALLBACK.name == "FALLBACK", f"_SendfileMode: {TAKEN}"


async def test_a_future_like_is_awaited_by_a_task():
    """The mark that asyncio looks for, see "Future-like" in asyncio/futures.py."""
    future = asyncio.get_running_loop().create_future()
    assert asyncio.isfuture(future)
    assert hasattr(future, "_asyncio_future_blocking"), f"_asyncio_future_blocking: {TAKEN}"
