"""A program run as it is, with its servers on asyncserver: `asyncserver run`, `python -m compat`.

This process becomes the program: the same interpreter is started anew, as if it had been told the
program only, so that everything is as without us. What makes the difference is in the environment,
where children of the program find it too; see `_startup/sitecustomize.py`.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from typing import Final, NoReturn

from compat._cpython import interpreter_flags

__all__ = ("ProgramError", "start", "with_end_of_options")

HOME: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAMS: Final = {"-m": "a module", "-c": "a command"}  # what python takes as such, beside files
STARTUP: Final = os.path.join(HOME, "compat", "_startup")


class ProgramError(Exception):
    """Python would find no program; the message is one line that says why."""


def start(words: Sequence[str], *, threads: int | None, module: str) -> NoReturn:
    """Become the program that `words` are, as python takes them.

    Args:
        words: the program and its arguments.
        threads: give servers that handle one request at a time so many threads.
        module: what stands behind `python -m`, if it was called so.

    Raises:
        ProgramError: there is no such program.

    """
    if not words:
        raise ProgramError("give a script, or -m and a module")
    _check(*words[:2])
    arguments = [*_interpreter_options(module), *words]
    os.execve(sys.executable, [sys.executable, *arguments], _environment(threads))  # noqa: S606


def with_end_of_options(words: Sequence[str]) -> list[str]:
    """Put `--` where our options end: before the first word that python takes for a program."""
    for index, word in enumerate(words):
        if word == "--":
            break
        is_value = index > 0 and words[index - 1] == "--threads"
        if not is_value and (word == "-" or word[:1] != "-" or word[:2] in PROGRAMS):
            return [*words[:index], "--", *words[index:]]
    return [*words]


def _check(word: str, value: str = "") -> None:
    """Raise if python would find no program."""
    option = word[:2]
    if option in PROGRAMS:
        value = word[2:] or value
        if not value:
            raise ProgramError(f"give {PROGRAMS[option]} after {option}")
        if option == "-m":
            _check_module(value)
    elif word != "-" and not os.path.exists(word):
        raise ProgramError(f"no file {word}")


def _check_module(name: str) -> None:
    """Raise if there is no such module; without importing it, or the package that it is in."""
    if "." in name:
        return  # Python itself will tell
    path = sys.path if sys.flags.safe_path else ["", *sys.path]  # that of the program
    spec = PathFinder.find_spec(name, path) or importlib.util.find_spec(name)
    if spec is None:
        raise ProgramError(f"No module named {name}")
    inside = spec.submodule_search_locations
    if inside is not None and PathFinder.find_spec("__main__", inside) is None:
        raise ProgramError(f"No module named {name}.__main__; it cannot be run")


def _environment(threads: int | None) -> dict[str, str]:
    """Return that of this process, with what has compat installed."""
    names = [name for name in os.environ if not (_ignores_environment() and name[:6] == "PYTHON")]
    environment = {name: os.environ[name] for name in names}
    path = [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each != STARTUP]
    environment["PYTHONPATH"] = os.pathsep.join([STARTUP, *(path if path != [""] else [])])
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    environment["ASYNCSERVER_COMPAT"] = "\n".join([HOME, str(threads or ""), sys.prefix, python])
    return environment


def _interpreter_options(module: str) -> list[str]:
    """Return what stood before the script, or before `-m` and `module`, on the command line."""
    options = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    if options[-1:] == sys.argv[:1] and not _ignores_environment():
        return options[:-1]
    if options and options[-1] == module:
        options = [*options[:-2], options[-2] + module]
    if _ignores_environment() or not options or not options[-1].endswith(f"m{module}"):
        # -E and -I would ignore what we have to say. What is left of them is in _environment.
        without = [each for each in interpreter_flags() if each not in {"-E", "-I"}]
        return [*without, "-s", "-P"] if sys.flags.isolated else without
    last = options.pop().removesuffix(f"m{module}")  # -um is -u and -m
    return options if last == "-" else [*options, last]


def _ignores_environment() -> bool:
    """Whether it is python -E, or -I."""
    return bool(sys.flags.ignore_environment)
