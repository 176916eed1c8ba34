"""What only serving needs: the engine, logging, asyncio. Most of what an import of us would cost.

A program that only defines its servers pays for none of it. They are imported when the first server
is made and not when it serves, since that may be in a thread while the main one has ended.
"""

import contextlib
import functools
import importlib
from contextlib import AbstractContextManager
from typing import Any

__all__ = (
    "at_home", "awaiting", "engine", "errors", "handshakes", "logger", "prepare", "tell_rest", "telling",
)  # fmt: skip

# For as long as something is imported. In a program that `python -m compat` runs, it keeps apart what
# is imported for us and what the program has one of its own of; see `startup/sitecustomize.py`.
at_home: AbstractContextManager[object] = contextlib.nullcontext()


def prepare() -> None:
    """Import what serving needs; the second time it is there."""
    engine()
    telling()  # not in the middle of a storm


@functools.cache
def engine() -> Any:
    """Return the module of that name."""
    with at_home:
        return importlib.import_module("compat.engine")


@functools.cache
def handshakes() -> Any:
    """Return the module of that name, which needs `ssl`: only where there is TLS."""
    with at_home:
        return importlib.import_module("compat.handshakes")


@functools.cache
def awaiting() -> Any:
    """Return the module of that name."""
    with at_home:
        return importlib.import_module("compat.awaiting")


@functools.cache
def telling() -> Any:
    """Return the module of that name."""
    with at_home:
        return importlib.import_module("compat.telling")


@functools.cache
def errors() -> Any:
    """Return the module of that name of asyncserver."""
    with at_home:
        return importlib.import_module("asyncserver.errors")


def tell_rest() -> None:
    """Print how many exceptions were left out, if there were any."""
    if telling.cache_info().currsize:
        telling().tell_rest()


@functools.cache
def logger() -> Any:
    """Return the logger of all of us. Its module costs as much as `socketserver` does."""
    with at_home:
        return importlib.import_module("logging").getLogger("asyncserver")
