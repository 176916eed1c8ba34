"""From whatever is given as a handler to its kind; what is none is told how to become one.

All that can be known is found out when a server is made: from classes, signatures, and through what
decorators and partials have put around a function.
"""

import functools
import inspect
import socket
import socketserver
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from asyncserver._datagram.datagram import Datagram
from asyncserver._handlers.kinds import AsyncHandler, HandlerAdapter, Kind, ProtocolFactory
from asyncserver._handlers.mirrors import (
    BaseRequestHandler,
    DatagramRequestHandler,
    ServerView,
    StreamRequestHandler,
)
from asyncserver._stream.connection import Connection
from asyncserver._stream.foreign import is_datagram_protocol, is_stream_protocol
from asyncserver.errors import HandlerError

__all__ = ("adapt", "is_blocking")


def adapt(handler: Any, server: ServerView) -> Kind:
    """Find out what kind of handler this is.

    Raises:
        HandlerError: it is none; the message says what to write instead.

    """
    kind: Kind | None = None
    if isinstance(handler, HandlerAdapter):
        kind = handler.kind(server)
    elif isinstance(inner := _innermost(handler), type):
        kind = _adapt_class(handler, inner, server)
    elif _is_async(inner):
        word = _word(inner)
        _check_takes(
            handler, 1, f"write `async def {word}(connection)`, or a datagram's `(datagram)`"
        )
        kind = AsyncHandler(handler, handler)
    elif _is_factory(handler):
        kind = ProtocolFactory(handler, handler)
    if kind is None:
        raise HandlerError(_advice(handler))
    return kind


def is_blocking(handler: object) -> bool:
    """Whether this is a handler for threads: one of `socketserver`'s, or a function that blocks."""
    kind = _innermost(handler)
    if isinstance(kind, type):
        return issubclass(kind, socketserver.BaseRequestHandler)
    if isinstance(handler, HandlerAdapter) or not callable(handler):
        return False
    return not _hides_async(handler) and not _is_factory(handler)


# -- classes -----------------------------------------------------------------------------------


def _adapt_class(handler: Callable[..., Any], cls: type, server: ServerView) -> Kind | None:
    if issubclass(cls, BaseRequestHandler):
        return _adapt_request_handler(handler, cls, server)
    stream, datagram = is_stream_protocol(cls), is_datagram_protocol(cls)
    if not stream and not datagram:
        return None
    _check_takes(handler, 0, f"write `lambda: {cls.__name__}(...)`")
    return ProtocolFactory(handler if stream else None, handler if datagram else None)


def _adapt_request_handler(
    handler: Callable[..., BaseRequestHandler], cls: type[BaseRequestHandler], server: ServerView
) -> AsyncHandler:
    _check_methods(cls)
    _check_takes(handler, 3, "it is called with the request, the client_address and the server")

    async def serve(request: Connection | Datagram) -> None:
        served = handler(request, request.peer, server)
        await served.setup()
        try:
            await served.handle()
        finally:
            await served.finish()

    inherits = cls.handle is BaseRequestHandler.handle
    return AsyncHandler(
        stream=None if issubclass(cls, DatagramRequestHandler) else serve,
        datagram=None if issubclass(cls, StreamRequestHandler) else serve,
        flaw=f"{_name(cls)} has no handle() of its own: write `async def handle(self)`"
        if inherits
        else None,
    )


def _check_methods(cls: type[BaseRequestHandler]) -> None:
    for name in ("setup", "handle", "finish"):
        method = getattr(cls, name)
        if inspect.iscoroutinefunction(method):
            continue
        if any(map(inspect.isasyncgenfunction, _layers(method))):
            raise HandlerError(f"{cls.__qualname__}.{name}() yields: a handler sends instead")
        if _hides_async(method):
            raise HandlerError(_advice_for_wrapper(method))
        raise HandlerError(
            f"{cls.__qualname__}.{name}() is not async: write `async def {name}(self)`"
        )


def _has(thing: object, *methods: str) -> bool:
    return all(callable(getattr(thing, name, None)) for name in methods)


# -- functions, and what is around them --------------------------------------------------------


def _layers(handler: object) -> Iterator[object]:
    """Yield `handler`, and what its decorators and partials have wrapped, from outside to inside."""
    seen: set[int] = set()
    layer: object | None = handler
    while layer is not None and id(layer) not in seen:
        seen.add(id(layer))
        yield layer
        layer = (
            layer.func
            if isinstance(layer, functools.partial)
            else getattr(layer, "__wrapped__", None)
        )


def _innermost(handler: object) -> Any:
    """Return what a partial calls in the end; `handler` itself if it is none."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return handler


def _is_async(handler: object) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 - its kind matters, not that it is there
    )


def _hides_async(handler: object) -> bool:
    """Whether there is an async function in it, be it wrapped by a plain one."""
    return any(_is_async(each) or inspect.isasyncgenfunction(each) for each in _layers(handler))


def _check_takes(handler: Callable[..., Any], count: int, advice: str) -> None:
    """Raise if `handler` cannot be called with so many arguments, as far as that can be known."""
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*[None] * count)
    except TypeError as exc:
        what = {0: "nothing", 1: "a connection", 3: "a request"}[count]
        name = _name(_innermost(handler))
        raise HandlerError(f"{name}() cannot be called with {what} ({exc}): {advice}") from None


def _is_factory(handler: object) -> bool:
    """Whether this is called without arguments; who takes any number is a decorator's wrapper."""
    if not callable(handler) or _hides_async(handler):
        return False
    try:
        signature = inspect.signature(handler)
        signature.bind()
    except (TypeError, ValueError):
        return False
    return all(each.kind is not each.VAR_POSITIONAL for each in signature.parameters.values())


# -- what to write instead ---------------------------------------------------------------------


def _advice(handler: object) -> str:
    kind = _innermost(handler)
    if isinstance(kind, type):
        return _advice_for_class(kind)
    if any(map(inspect.isasyncgenfunction, _layers(handler))):
        return f"{_name(kind)}() is an async generator: a handler sends, it does not yield"
    if _hides_async(handler):
        return _advice_for_wrapper(handler)
    if callable(handler):
        word = _word(kind)
        return (
            f"{_name(kind)}() is no async function: write `async def {word}(connection)`, and await in"
            f" it what is async; if it blocks, run it in threads with compat.threaded({word})"
        )
    return _advice_for_object(handler)


def _advice_for_class(kind: type) -> str:
    name = _name(kind)
    if issubclass(kind, socketserver.BaseRequestHandler):
        mirror = next(each.__name__ for each in kind.__mro__ if each.__module__ == "socketserver")
        return (
            f"{name} is a blocking socketserver handler: derive it from asyncserver.{mirror} and"
            f" write `async def handle(self)`, or run it in threads with compat.threaded({name})"
        )
    if _has(kind, "connection_made", "get_buffer"):
        return f"{name} is not known to all loops: derive it from asyncio.BufferedProtocol"
    if inspect.iscoroutinefunction(getattr(kind, "__call__", None)):  # noqa: B004 - as above
        return f"{name} is a class, and its objects can be called: give one, like {name}()"
    if _has(kind, "handle"):
        return f"{name} cannot handle requests: derive it from asyncserver.BaseRequestHandler"
    return f"{name} cannot handle requests: {FORMS}"


def _advice_for_wrapper(handler: object) -> str:
    inside = next(each for each in _layers(handler) if _is_async(each))
    name = _name(inside)
    return (
        f"{name}() is async, but what a decorator has put around it is not: let the decorator return"
        f" an `async def`, which awaits {name}()"
    )


def _advice_for_object(handler: object) -> str:
    if inspect.iscoroutine(handler):
        handler.close()
        return f"this is a coroutine: give the function, `{handler.__name__}` and not a call of it"
    if isinstance(handler, Awaitable):
        return f"{handler!r} runs already: give the async function and not a call of it"
    if inspect.isasyncgen(handler):
        return f"{handler!r} is an async generator: a handler sends, it does not yield"
    if isinstance(handler, str | bytes | tuple | list | socket.socket):
        return f"{handler!r} is no handler: the handler comes first, the addresses behind it"
    kind = type(handler)
    if (
        issubclass(kind, BaseRequestHandler | socketserver.BaseRequestHandler)
        or is_stream_protocol(kind)
        or is_datagram_protocol(kind)
    ):
        return f"{handler!r} is an object: give its class, {_name(kind)}, of which each request has one"
    return f"{handler!r} cannot handle requests: {FORMS}"


FORMS = (
    "give an async function, a class derived from asyncserver.BaseRequestHandler, or a factory of"
    " asyncio protocols"
)


def _name(handler: object) -> str:
    return getattr(handler, "__qualname__", None) or repr(handler)


def _word(handler: object) -> str:
    """Return a name that can stand in a program."""
    name = str(getattr(handler, "__name__", ""))
    return name if name.isidentifier() else "handler"
