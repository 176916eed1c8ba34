"""socketserver for the asyncio age: you write a handler, asyncserver serves it.

`run` and `serve` are the short way, `Server` the handle on it; a handler gets a `Connection` or a
`Datagram`. `Limits` and `Timeouts` say what is too much and too long.
"""

from anyio import EndOfStream

from asyncserver._datagram.datagram import Datagram
from asyncserver._handlers.mirrors import (
    BaseRequestHandler,
    DatagramRequestHandler,
    StreamRequestHandler,
)
from asyncserver._lifecycle import ServerState
from asyncserver._listen.address import Address, PeerAddress
from asyncserver._observe.stats import Stats
from asyncserver._server.run import run, serve
from asyncserver._server.server import Server
from asyncserver._settings.limits import Limits, Timeouts
from asyncserver._stream.attributes import Credentials
from asyncserver._stream.connection import Connection
from asyncserver._stream.draining import DrainEvent
from asyncserver.errors import (
    AddressError,
    AsyncServerError,
    BindError,
    ConnectionBrokenError,
    ConnectionBusyError,
    ConnectionClosedError,
    DeadlineExceededError,
    HandlerError,
    HandshakeError,
    IncompleteReadError,
    LineTooLongError,
    MessageTooLongError,
    NoReplyAddressError,
    ServerStateError,
    SettingError,
    UpgradeRefusedError,
)

__version__ = "0.1.0"

__all__ = (
    "Address",
    "AddressError",
    "AsyncServerError",
    "BaseRequestHandler",
    "BindError",
    "Connection",
    "ConnectionBrokenError",
    "ConnectionBusyError",
    "ConnectionClosedError",
    "Credentials",
    "Datagram",
    "DatagramRequestHandler",
    "DeadlineExceededError",
    "DrainEvent",
    "EndOfStream",
    "HandlerError",
    "HandshakeError",
    "IncompleteReadError",
    "Limits",
    "LineTooLongError",
    "MessageTooLongError",
    "NoReplyAddressError",
    "PeerAddress",
    "Server",
    "ServerState",
    "ServerStateError",
    "SettingError",
    "Stats",
    "StreamRequestHandler",
    "Timeouts",
    "UpgradeRefusedError",
    "run",
    "serve",
)

for _name in __all__:
    # Tracebacks and help() show where to import a name from, not the room that it lives in.
    if getattr(globals()[_name], "__module__", "").startswith("asyncserver."):
        globals()[_name].__module__ = __name__
del _name
