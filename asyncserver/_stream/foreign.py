"""Somebody else's asyncio protocol, whose transport is all its own: we only hear when that is lost."""

import asyncio
from collections.abc import Callable
from typing import Final

__all__ = ("AnyProtocol", "tell_when_lost")

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
