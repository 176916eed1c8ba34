"""From `MODULE:OBJECT`, as people write it on the command line, to the object.

Looks in the current directory first, as `python -m` does, and not under `python -P`, as that does not
either; takes a file's path as well. Whatever goes wrong, in the user's module too, is a `HandlerError`
of one line that says what and where.
"""

import contextlib
import importlib
import importlib.util
import logging
import os
import sys
import traceback
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

from asyncserver._server.run import run
from asyncserver.errors import HandlerError, ServerStateError

__all__ = ("load",)

logger = logging.getLogger("asyncserver")


def load(target: str) -> Any:
    """Import the object that `target` names: `MODULE:OBJECT` or `FILE.py:OBJECT`.

    Raises:
        HandlerError: there is no such module or object, or importing it failed; the traceback of
            that is a DEBUG record.

    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise HandlerError(f"{target!r} is no target: write MODULE:OBJECT or FILE.py:OBJECT")
    is_file = place.endswith(".py") or os.sep in place
    if is_file and not os.path.isfile(place):
        raise HandlerError(f"no file {place}")
    try:
        module = _import_file(place) if is_file else _import_module(place)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # what a library throws may derive from nothing else
        logger.debug("importing %s failed", place, exc_info=exc)
        raise HandlerError(_what_failed(place, exc)) from exc
    return _find(module, place, name)


def _import_module(name: str) -> ModuleType:
    with contextlib.suppress(FileNotFoundError):  # it was deleted: so nothing is there
        _look_first_in(os.getcwd())
    return importlib.import_module(name)


def _import_file(path: str) -> ModuleType:
    _look_first_in(os.path.dirname(os.path.abspath(path)))
    name = os.path.splitext(os.path.basename(path))[0]
    if name in sys.modules:
        name = path  # a user's queue.py must not become everybody's
    loader = SourceFileLoader(name, path)  # whatever the file's suffix
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _look_first_in(directory: str) -> None:
    if not sys.flags.safe_path:  # -P, -I or PYTHONSAFEPATH
        sys.path.insert(0, directory)


def _find(module: ModuleType, place: str, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            # The path tells when it is another module of that name.
            path = getattr(module, "__file__", None) or "no file"
            raise HandlerError(f"{place} ({path}) has no {name!r}") from None
    return found


def _what_failed(place: str, exc: BaseException) -> str:
    if isinstance(exc, ModuleNotFoundError) and f"{place}.".startswith(f"{exc.name}."):
        # The target itself, and not something that it imports.
        where = (
            "where Python looks" if sys.flags.safe_path else f"in {_here()} and where Python looks"
        )
        return f"{exc.msg} (looked {where})"
    if isinstance(exc, ServerStateError):  # its own run(), which would bind its own addresses
        return f"{place}: {exc}{_where(exc)}"
    if isinstance(exc, SyntaxError):
        return f"importing {place} failed: SyntaxError: {exc.msg} ({exc.filename}:{exc.lineno})"
    return f"importing {place} failed: {type(exc).__name__}: {exc}{_where(exc)}"


def _here() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "a working directory that was deleted"


def _where(exc: BaseException) -> str:
    """Return the line of the target that began it, and the line that raised."""
    places = [
        f"{frame.filename}:{frame.lineno}"
        for frame in traceback.extract_tb(exc.__traceback__)
        if frame.filename not in (__file__, importlib.__file__, run.__code__.co_filename)
        and not frame.filename.startswith("<frozen importlib")
    ]
    return f" ({' -> '.join(dict.fromkeys((places[0], places[-1])))})" if places else ""
