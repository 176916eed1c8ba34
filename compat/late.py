"""What only serving needs: the engine, logging, asyncio. Most of what an import of us would cost.

A program that only defines its servers pays for none of it. They are imported when the first server
is made and not when it serves, since that may be in a thread while the main one has ended.
"""

import contextlib
import functools
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

__all__ = (
    "awaiting", "engine", "handshakes", "hide", "logger", "prepare", "show", "tell_rest", "telling",
)  # fmt: skip

_hidden: dict[str, ModuleType] = {}  # ours, in a program that may have a `compat` of its own
_home = ""  # where ours is


def prepare() -> None:
    """Import what serving needs; the second time it is there."""
    engine()
    telling()  # not in the middle of a storm


@functools.cache
def engine() -> Any:
    """Return the module of that name."""
    with _at_home():
        return importlib.import_module("compat.engine")


@functools.cache
def handshakes() -> Any:
    """Return the module of that name, which needs `ssl`: only where there is TLS."""
    with _at_home():
        return importlib.import_module("compat.handshakes")


@functools.cache
def awaiting() -> Any:
    """Return the module of that name."""
    with _at_home():
        return importlib.import_module("compat.awaiting")


@functools.cache
def telling() -> Any:
    """Return the module of that name."""
    with _at_home():
        return importlib.import_module("compat.telling")


def tell_rest() -> None:
    """Print how many exceptions were left out, if there were any."""
    if telling.cache_info().currsize:
        telling().tell_rest()


def logger() -> "logging.Logger":
    """Return the logger of all of us."""
    import logging  # noqa: PLC0415 - costs as much as socketserver does

    return logging.getLogger("asyncserver")


# -- in a program that `python -m compat` runs -----------------------------------------------------


def hide(home: str) -> None:
    """Leave the name `compat` to the program. What is ours stays in our hands; it lives in `home`."""
    global _home  # noqa: PLW0603 - the process is one
    _home = home
    _hidden.update(_take_compat())


def show() -> None:
    """Be `compat` again: the program has no other."""
    sys.modules.update(_hidden)
    _hidden.clear()


@contextlib.contextmanager
def _at_home() -> Iterator[None]:
    """Be `compat` for as long as something of ours is imported."""
    if not _hidden:
        yield
        return
    theirs = _take_compat()
    show()
    sys.path.insert(0, _home)
    try:
        yield
    finally:
        sys.path.remove(_home)
        hide(_home)
        sys.modules.update(theirs)


def _take_compat() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == "compat"]
    return {name: sys.modules.pop(name) for name in names}
