"""The one room for what asyncio and the socket module keep private, and we cannot do without.

Each has its reason, and a test (tests/test_cpython.py) that says what is missing when a new version takes
it away. Seen on CPython 3.11.7, 3.12.1 and 3.13.0, with uvloop 0.23.
"""

import asyncio
import operator
import socket
from asyncio import _enter_task as enter_task  # documented under "Extending asyncio"
from asyncio import _get_running_loop as running_loop  # as get_running_loop(), but None for none
from asyncio import _leave_task as leave_task  # likewise
from asyncio.constants import _SendfileMode
from asyncio.transports import _FlowControlMixin as FlowControlMixin
from collections.abc import Callable
from typing import Any, Final

__all__ = (
    "SENDFILE_FALLBACK",
    "FlowControlMixin",
    "abandon",
    "accept_of",
    "callbacks_of",
    "cancel_message",
    "enter_task",
    "leave_task",
    "must_cancel",
    "running_loop",
    "send_file_by_sends",
)

# What loop.sendfile() looks for in a transport that it may read and write for.
SENDFILE_FALLBACK: Final = _SendfileMode.FALLBACK

# What waits for the end of a task: None, or a list. A task that somebody waits for is not used again.
callbacks_of: Final[Callable[[asyncio.Task[Any]], object]] = operator.attrgetter("_callbacks")

# Whether a task was cancelled in the step that it takes, and has not been told; and what it will be told.
must_cancel: Final[Callable[[asyncio.Task[Any]], bool]] = operator.attrgetter("_must_cancel")
cancel_message: Final[Callable[[asyncio.Task[Any]], object]] = operator.attrgetter(
    "_cancel_message"
)


def accept_of(listener: socket.socket) -> Callable[[], tuple[int, Any]]:
    """Return what `listener.accept()` itself calls: it makes no socket object of the descriptor."""
    accept: Callable[[], tuple[int, Any]] = listener._accept  # type: ignore[attr-defined]
    return accept


def send_file_by_sends(sock: socket.socket, file: Any, offset: int, count: int | None) -> int:
    """Do what `socket.sendfile` does where there is no `os.sendfile`, so that `send` is ours."""
    sent: int = sock._sendfile_use_send(file, offset, count)  # type: ignore[attr-defined]
    return sent


def abandon(task: asyncio.Task[Any]) -> None:
    """Let the loop forget a task that swallowed its cancellation.

    `asyncio.run()` waits for all tasks that it knows of, and would never return.
    """
    asyncio._unregister_task(task)  # documented under "Extending asyncio"
    task._log_destroy_pending = False  # type: ignore[attr-defined] # as asyncio's own runners do
