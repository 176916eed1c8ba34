"""For those who build upon asyncserver: other kinds of handlers, and its choice of an event loop.

`compat` is made of this and of what `asyncserver` offers everybody. A handler of another kind is an
object whose class derives from `HandlerAdapter`; its `kind(server)` returns an `AsyncHandler`, a
`BlockingHandler` or a `ProtocolFactory`, and `Server`, `serve` and `run` take it for a handler.
"""

from asyncserver._handlers.kinds import (
    AsyncHandler,
    BlockingHandler,
    HandlerAdapter,
    Kind,
    ProtocolFactory,
)
from asyncserver._handlers.mirrors import ServerView
from asyncserver._server.run import loop_factory
from asyncserver._server.server import DEFAULT_GRACE

__all__ = (
    "DEFAULT_GRACE",
    "AsyncHandler",
    "BlockingHandler",
    "HandlerAdapter",
    "Kind",
    "ProtocolFactory",
    "ServerView",
    "loop_factory",
)
