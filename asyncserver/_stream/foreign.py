"""Somebody else's asyncio protocol, whose transport is all its own: we only hear when that is lost."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

__all__ = ("AnyProtocol", "is_datagram_protocol", "is_stream_protocol", "tell_when_lost")

AnyProtocol = asyncio.Protocol | asyncio.BufferedProtocol


def tell_when_lost(protocol: AnyProtocol, lost: Callable[[], object]) -> AnyProtocol:
    """Wrap somebody's protocol so that `lost` is called after its `connection_lost`.

    The wrapper's other methods are the protocol's own bound ones: both loops call them directly, so
    that nothing is added to the way of the bytes.
    """
    buffered = isinstance(protocol, asyncio.BufferedProtocol)
    wrapper: AnyProtocol = _BufferedWrapper() if buffered else _Wrapper()
    for name in (*COMMON_CALLS, *(BUFFERED_CALLS if buffered else STREAMING_CALLS)):
        method = getattr(protocol, name, None)  # one that derives from nothing may lack some
        if method is not None:
            setattr(wrapper, name, method)

    def connection_lost(exc: Exception | None) -> None:
        try:
            if hasattr(protocol, "connection_lost"):
                protocol.connection_lost(exc)
        finally:
            lost()

    wrapper.connection_lost = connection_lost  # type: ignore[method-assign]
    return wrapper


COMMON_CALLS: Final = ("connection_made", "eof_received", "pause_writing", "resume_writing")
STREAMING_CALLS: Final = ("data_received",)
BUFFERED_CALLS: Final = ("get_buffer", "buffer_updated")


class _Wrapper(asyncio.Protocol):
    """Has a `__dict__`, which asyncio.Protocol has not."""


class _BufferedWrapper(asyncio.BufferedProtocol):
    """Likewise."""


def is_stream_protocol(thing: object) -> bool:
    """Whether both loops take this protocol, or objects of this class, for a stream.

    What does not derive from asyncio's classes is told apart by its methods, as the loops do it.
    """
    return _derives(thing, asyncio.Protocol | asyncio.BufferedProtocol) or _has(
        thing, "connection_made", "data_received"
    )


def is_datagram_protocol(thing: object) -> bool:
    """Whether both loops take this protocol, or objects of this class, for datagrams."""
    return _derives(thing, asyncio.DatagramProtocol) or _has(
        thing, "connection_made", "datagram_received"
    )


def _derives(thing: object, bases: Any) -> bool:
    return issubclass(thing, bases) if isinstance(thing, type) else isinstance(thing, bases)


def _has(thing: object, *methods: str) -> bool:
    return all(callable(getattr(thing, name, None)) for name in methods)
