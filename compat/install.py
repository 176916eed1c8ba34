"""The standard library's own classes on asyncserver, in place, and back again.

What our classes define goes into the classes that they mirror. So every subclass is served by
asyncserver too, whatever was imported before: `http.server`, `xmlrpc.server`, a program's own.
"""

import contextlib
import socketserver
import sys
from collections.abc import Iterator
from types import FunctionType
from typing import Any, Final

from compat import late
from compat.mixins import ForkingMixIn, ThreadingMixIn, run_in_pool
from compat.pool import Job
from compat.servers import BaseServer, TCPServer, UDPServer

__all__ = ("install", "installed", "uninstall")

MIRRORS: Final[dict[type, type]] = {
    socketserver.BaseServer: BaseServer,
    socketserver.TCPServer: TCPServer,
    socketserver.UDPServer: UDPServer,
    socketserver.ThreadingMixIn: ThreadingMixIn,
    socketserver.ForkingMixIn: ForkingMixIn,
}
PYTHON_2: Final = "SocketServer"  # the module's name there

_undo: list[tuple[Any, str, Any]] = []
_MISSING: Final = object()


def install(*, threads: int | None = None) -> None:
    """Serve the standard library's classes, and all their subclasses, by asyncserver.

    Servers that are serving already go on as they are. Installing twice is as good as once. Also makes
    `import SocketServer` work.

    Args:
        threads: give servers that handle one request at a time so many threads instead, each. Only
            for handlers that can run side by side. Default: they stay as they are.

    Raises:
        SettingError: `threads` is less than 1.

    """
    if threads is not None and threads < 1:
        raise late.errors().SettingError(f"threads is {threads!r}: write at least 1, or None")
    uninstall()
    for standard, mirror in MIRRORS.items():
        for name, value in vars(mirror).items():
            if isinstance(value, FunctionType | property) or not name.startswith("__"):
                _replace(standard, name, value)
    if threads is not None:
        _replace(socketserver.BaseServer, "process_request", _process_request_in(threads))
    if PYTHON_2 not in sys.modules:
        sys.modules[PYTHON_2] = socketserver
        _undo.append((sys.modules, PYTHON_2, _MISSING))


def uninstall() -> None:
    """Take back what `install` did, if it did.

    Servers that are serving meanwhile go on, and notice `shutdown()` when `poll_interval` is over.
    """
    while _undo:
        owner, name, before = _undo.pop()
        if owner is sys.modules:
            sys.modules.pop(name, None)
        elif before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextlib.contextmanager
def installed(*, threads: int | None = None) -> Iterator[None]:
    """Do `install` for the length of a `with` block."""
    install(threads=threads)
    try:
        yield
    finally:
        uninstall()


def _replace(owner: type, name: str, value: Any) -> None:
    _undo.append((owner, name, vars(owner).get(name, _MISSING)))
    setattr(owner, name, value)


def _process_request_in(threads: int) -> FunctionType:
    """Make the `process_request` of servers that have no mix-in."""

    def process_request(self: Any, request: Any, client_address: Any) -> None:
        if vars(self).setdefault("_asyncserver_said", False) is False:
            vars(self)["_asyncserver_said"] = True
            late.logger().warning(
                "%s at %s handles up to %d requests at once, where its code says one at a time",
                type(self).__name__, self.server_address, threads,
            )  # fmt: skip
        in_thread = socketserver.ThreadingMixIn.process_request_thread
        job = Job(in_thread.__get__(self), (request, client_address), daemon=False)
        run_in_pool(self, job, threads, threads)

    process_request.__doc__ = socketserver.BaseServer.process_request.__doc__
    assert isinstance(process_request, FunctionType)
    return process_request
