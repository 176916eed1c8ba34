"""What `handle_error` prints, when thousands of handlers fail at once.

A traceback takes Python some milliseconds to write, while all others wait: when the clients of 3,000
threads vanished together, the process did nothing else for a minute, and was deaf to signals. So of
one kind (the same exception, from the same line) only some are printed in a second, and the rest is
counted.
"""

import os
import sys
import threading
import time
import traceback
from typing import Any, Final

__all__ = ("print_exception", "print_left_out")

PER_SECOND: Final = 10  # of one kind
KINDS: Final = 100  # that are remembered
LINE: Final = "-" * 40

_lock = threading.RLock()  # a signal handler may close a server in between
_kinds: dict[Any, tuple[float, int]] = {}  # since when, and how many since
_left_out = 0


def _forget_lock() -> None:
    """Have a new one, in a child process: another thread of the parent's may have held it."""
    global _lock  # noqa: PLW0603 - the process is one
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_forget_lock)


def print_exception(client_address: Any) -> None:
    """Print what the standard library prints of the exception in hand, or count it.

    In one piece, so that threads do not print into each other's lines.
    """
    if _is_too_much():
        return
    print_left_out()
    print(
        f"{LINE}\nException occurred during processing of request from {client_address}\n"
        f"{traceback.format_exc()}{LINE}\n",
        end="",
        file=sys.stderr,
    )


def print_left_out() -> None:
    """Print how many were left out, if any were."""
    global _left_out
    with _lock:
        number, _left_out = _left_out, 0
    if number:
        print(f"({number} more exceptions like those before were left out)", file=sys.stderr)


def _is_too_much() -> bool:
    global _left_out  # noqa: PLW0603
    kind, now = _kind(sys.exception()), time.monotonic()
    with _lock:
        since, count = _kinds.get(kind, (now, 0))
        if now - since >= 1:
            since, count = now, 0
        if len(_kinds) >= KINDS:
            _kinds.clear()
        _kinds[kind] = since, count + 1
        _left_out += count >= PER_SECOND
    return count >= PER_SECOND


def _kind(exc: BaseException | None) -> tuple[Any, ...]:
    """Return what is the same for those that are of one kind."""
    last = None if exc is None else exc.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return (type(exc), None) if last is None else (type(exc), last.tb_frame.f_code, last.tb_lineno)
