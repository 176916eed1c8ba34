"""The one room for what is private in CPython and in anyio: who needs it, why, and what it was tried on.

Each was checked on CPython 3.11.7, 3.12.1 and 3.13.0, and with anyio 4.16.0. A test says in a sentence
what is missing when a newer version takes one away: `tests/test_compat_cpython_hooks.py`.

Not here: `_handle_request_noblock` and the two flags of `BaseServer`, which our classes override, as
many programs do; and `_startup/sitecustomize.py`, which any Python must be able to read without us.

Imports nothing that a program with servers has not got anyhow.
"""

import _socket
import contextlib
import socket
import socketserver
import sys
import threading
from _queue import (  # what `queue` has, without the rest, which costs as much as us
    Empty,
    SimpleQueue,
)
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio
    import ssl

__all__ = (
    "IS_SHUT_DOWN",
    "SHUTDOWN_REQUEST",
    "Empty",
    "SimpleQueue",
    "Started",
    "ThreadList",
    "accept",
    "appear_as",
    "before_threads_are_joined",
    "call_excepthook",
    "hide_running_loop",
    "interpreter_flags",
    "reach_loop",
    "select_with",
    "show_running_loop",
    "socket_being_wrapped",
    "take_identity",
)

# -- socketserver ------------------------------------------------------------------------------

# Where a server has its two flags: private by name and public in fact, as programs set and read them.
SHUTDOWN_REQUEST: Final = "_BaseServer__shutdown_request"
IS_SHUT_DOWN: Final = "_BaseServer__is_shut_down"

# The threads that `server_close` joins. Programs look into it, and `ThreadingMixIn` calls its methods.
ThreadList: Any = socketserver._Threads  # type: ignore[attr-defined] # missing in typeshed


def select_with(selector: type) -> None:
    """Have `BaseServer.serve_forever` wait by this; it has chosen when it was imported."""
    socketserver._ServerSelector = selector  # type: ignore[attr-defined] # missing in typeshed


# -- socket ------------------------------------------------------------------------------------

_family = _socket.socket.family.__get__  # a plain number
_type = _socket.socket.type.__get__


def accept(listener: socket.socket) -> tuple[socket.socket, Any]:
    """Do what `accept` does, but for two enums that it makes only to take them apart again."""
    fileno, address = listener._accept()  # type: ignore[attr-defined] # missing in typeshed
    kind = _family(listener), _type(listener), listener.proto
    return socket.socket(*kind, fileno=fileno), address


# -- ssl ---------------------------------------------------------------------------------------


def socket_being_wrapped() -> "ssl.SSLSocket | None":
    """Return what is made of the socket whose `detach` asks this, for the server, to shake hands.

    `SSLSocket._create` makes itself, takes the descriptor over by `detach`, and then shakes hands:
    nothing public comes in between. Its variables are read from its frame.
    """
    ssl = sys.modules["ssl"]
    caller = sys._getframe(2)
    if caller.f_code is not ssl.SSLSocket._create.__func__.__code__:
        return None
    wants = caller.f_locals
    is_asked = wants["server_side"] and wants["do_handshake_on_connect"]
    return wants["self"] if is_asked else None


# -- threading ---------------------------------------------------------------------------------

# What the system's thread is to `threading`; some exist on some Pythons only.
IDENTITY: Final = ("_ident", "_native_id", "_handle", "_tstate_lock")


class Started(threading.Event):
    """What `Thread.start` waits for, in `_started`, by a wait that a signal cannot tear apart.

    `threading`'s own releases a lock twice if an exception comes at the wrong moment, and what that
    raises takes the exception's place.
    """

    def __init__(self) -> None:
        super().__init__()
        self._set: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        super().set()
        self._set.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            with contextlib.suppress(Empty):
                self._set.get(timeout=timeout)
        return self.is_set()


def take_identity(job: threading.Thread, thread: threading.Thread) -> None:
    """Make `job` one that has started, in the thread of the system that is `thread`'s."""
    for name in IDENTITY:
        if hasattr(thread, name):
            setattr(job, name, getattr(thread, name))
    job._started.set()  # type: ignore[attr-defined] # missing in typeshed


def appear_as(thread: threading.Thread | None) -> None:
    """Be `thread` to whoever looks, `threading.current_thread` say; with `None`, be no thread."""
    active = threading._active  # type: ignore[attr-defined] # missing in typeshed
    if thread is None:
        active.pop(threading.get_ident(), None)
    else:
        active[threading.get_ident()] = thread


def call_excepthook(thread: threading.Thread) -> None:
    """Give the exception in hand to `threading.excepthook`, and catch what that raises."""
    thread._invoke_excepthook(thread)  # type: ignore[attr-defined] # missing in typeshed


def before_threads_are_joined(function: Callable[[], object]) -> bool:
    """Have `function` called when the main thread ends; return whether it has not done so already.

    The interpreter joins non-daemon threads before it calls the functions of `atexit`, and those that
    are idle have to be told earlier. It is what `concurrent.futures` uses for this.
    """
    try:
        threading._register_atexit(function)  # type: ignore[attr-defined] # missing in typeshed
    except RuntimeError:
        return False
    return True


# -- asyncio and anyio -------------------------------------------------------------------------


def hide_running_loop() -> Any:
    """Let no loop run in this thread, for who calls `asyncio.run` here; return the one that did.

    Of the module in C, which is whole as soon as it is there; where that has no such function, it is
    a module of the program's own.
    """
    asyncio: Any = sys.modules.get("_asyncio")
    loop = getattr(asyncio, "_get_running_loop", lambda: None)()
    if loop is not None:
        asyncio._set_running_loop(None)
    return loop


def show_running_loop(loop: Any) -> None:
    """Undo `hide_running_loop`, which has returned `loop`."""
    if loop is not None:
        sys.modules["_asyncio"]._set_running_loop(loop)


@contextlib.contextmanager
def reach_loop(loop: "asyncio.AbstractEventLoop") -> Iterator[None]:
    """Make this thread one that `anyio.from_thread.run` works in.

    anyio does so for threads that it has started itself, and has no public way for others'. Before 4.11
    it would also want a cancel scope of theirs.
    """
    from anyio._core._eventloop import (  # noqa: PLC0415 - only hosts of handlers need it
        claim_worker_thread,
        get_async_backend,
    )

    with claim_worker_thread(get_async_backend("asyncio"), loop):
        yield


# -- subprocess --------------------------------------------------------------------------------


def interpreter_flags() -> list[str]:
    """Return the options of this interpreter, as far as they can be told; as multiprocessing does."""
    import subprocess  # noqa: PLC0415 - only the command line needs it

    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags
