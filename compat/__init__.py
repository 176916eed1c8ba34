"""SocketServer-style code on asyncserver: the names of `socketserver`, with the same behaviour.

    from compat import ThreadingTCPServer, StreamRequestHandler

Threads come from a pool, `shutdown()` takes effect at once, and a silent TLS client holds up nobody.
`threaded` hosts a blocking handler on the native server; `install`, or `python -m compat script.py`,
serves programs that nobody wants to touch.
"""

import sys

_named = sys.orig_argv[-len(sys.argv)] if sys.argv[:1] == ["-m"] else ""
_joined = _named[1:].partition("m")[2] if _named[:1] == "-" else ""  # as in -umcompat
if "compat" in {_named, _joined} and not sys.flags.safe_path:
    # `python -m compat` looks in the working directory first, where everything is the program's.
    sys.path.append(sys.path.pop(0))

from socketserver import BaseRequestHandler, DatagramRequestHandler, StreamRequestHandler
from typing import TYPE_CHECKING, Any

from compat.install import install, installed, uninstall
from compat.mixins import (
    ForkingMixIn,
    ForkingTCPServer,
    ForkingUDPServer,
    ForkingUnixDatagramServer,
    ForkingUnixStreamServer,
    ThreadingMixIn,
    ThreadingTCPServer,
    ThreadingUDPServer,
    ThreadingUnixDatagramServer,
    ThreadingUnixStreamServer,
)
from compat.servers import BaseServer, TCPServer, UDPServer, UnixDatagramServer, UnixStreamServer

__all__ = (
    "BaseRequestHandler",
    "BaseServer",
    "DatagramRequestHandler",
    "ForkingMixIn",
    "ForkingTCPServer",
    "ForkingUDPServer",
    "ForkingUnixDatagramServer",
    "ForkingUnixStreamServer",
    "StreamRequestHandler",
    "TCPServer",
    "ThreadingMixIn",
    "ThreadingTCPServer",
    "ThreadingUDPServer",
    "ThreadingUnixDatagramServer",
    "ThreadingUnixStreamServer",
    "UDPServer",
    "UnixDatagramServer",
    "UnixStreamServer",
    "install",
    "installed",
    "threaded",
    "uninstall",
)

if TYPE_CHECKING:
    from compat.hosting import threaded


def __getattr__(name: str) -> Any:
    """Bring `threaded` when it is asked for: it needs asyncserver, which the drop-in's classes do not."""
    if name != "threaded":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from compat import hosting  # noqa: PLC0415 - a fifth of a second

    hosting.threaded.__module__ = __name__
    globals()[name] = hosting.threaded
    return hosting.threaded


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


for _name in __all__:
    # Tracebacks and help() show where to import a name from, not the room that it lives in.
    if getattr(globals().get(_name), "__module__", "").startswith("compat."):
        globals()[_name].__module__ = __name__
del _name, _named, _joined
