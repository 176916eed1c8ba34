"""What only serving needs: event loops, the engine, logging. Most of what an import of us would cost.

A program that only defines its servers pays for none of it. They are imported when the first server
is made and not when it serves, since that may be in a thread while the main one has ended: then
Python refuses to register what uvloop's imports register with its exit.
"""

import functools
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

__all__ = ("awaiting", "engine", "logger", "prepare", "stop_watching_flags")

_prepared = False


def prepare() -> None:
    """Import what serving needs, once."""
    global _prepared  # noqa: PLW0603 - as global as the modules
    if _prepared:
        return
    settings = engine()
    if settings.LOOP != "asyncio":
        try:
            importlib.import_module("uvloop")
        except ImportError:
            pass
        except RuntimeError:  # too late, see above; asyncio's own loop is as good
            settings.LOOP = "asyncio"
    _prepared = True


@functools.cache
def engine() -> Any:
    """Return the module of that name."""
    return importlib.import_module("compat.engine")


@functools.cache
def awaiting() -> Any:
    """Return the module of that name."""
    return importlib.import_module("compat.awaiting")


def stop_watching_flags() -> None:
    """Let all engines look at their flags by themselves, if there are any."""
    if engine.cache_info().currsize:
        engine().watch_all()


def logger() -> "logging.Logger":
    """Return the logger of all of us."""
    import logging  # noqa: PLC0415 - costs as much as socketserver does

    return logging.getLogger("asyncserver")
