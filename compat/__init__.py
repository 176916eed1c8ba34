"""SocketServer-style code on asyncserver: the names of `socketserver`, with the same behaviour.

    from compat import ThreadingTCPServer, StreamRequestHandler

Threads come from a pool, `shutdown()` takes effect at once, and a silent TLS client holds up nobody.
`threaded` hosts a blocking handler on the native server; `install`, or `python -m compat script.py`,
serves programs that nobody wants to touch.
"""

from socketserver import BaseRequestHandler, DatagramRequestHandler, StreamRequestHandler

from compat.hosting import threaded
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

for _name in __all__:
    # Tracebacks and help() show where to import a name from, not the room that it lives in.
    if getattr(globals()[_name], "__module__", "").startswith("compat."):
        globals()[_name].__module__ = __name__
del _name
