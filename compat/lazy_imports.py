"""Modules that are imported when something of theirs is first used.

A program that only defines its servers pays neither for the engine nor for logging, asyncio or `ssl`:
most of what an import of us would cost. What serving needs is loaded when the first server is made and
not when it serves, since that may be in a thread while the main one has ended.

    if TYPE_CHECKING:
        from compat import engine
    else:
        engine = lazy_module("compat.engine")
"""

import contextlib
import functools
import importlib
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

__all__ = ("at_home", "is_loaded", "lazy_module", "load")

# For as long as something is imported. In a program that `python -m compat` runs, it keeps apart what
# is imported for us and what the program has one of its own of; see `_startup/sitecustomize.py`.
at_home: AbstractContextManager[object] = contextlib.nullcontext()


@functools.cache
def lazy_module(name: str) -> ModuleType:
    """Return what stands for the module of that name: the same, whoever asks."""
    return _LazyModule(name)


class _LazyModule(ModuleType):
    """Has all that is in the module of its name, once that is loaded."""

    def __getattr__(self, name: str) -> Any:
        load(self)
        try:
            return vars(self)[name]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None


def load(*modules: ModuleType) -> None:
    """Import what these stand for; the second time it is there."""
    for module in modules:
        if not is_loaded(module):
            with at_home:
                vars(module).update(vars(importlib.import_module(module.__name__)))


def is_loaded(module: ModuleType) -> bool:
    """Whether this is there, without bringing it."""
    return module.__spec__ is not None
