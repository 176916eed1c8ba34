"""`python -m compat script.py`: run a program as it is, with its servers on asyncserver.

It becomes the program: the same interpreter is started anew, as if it had been told the program only,
so that everything is as without us. What makes the difference is in the environment, where children
of the program find it too; see `startup/sitecustomize.py`.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from typing import Final, NoReturn

BAD_INPUT: Final = 2  # exit status, as that of python itself
if sys.flags.no_site:  # nor would it find click
    print(
        "compat: python -S imports no sitecustomize, which we need: leave -S out", file=sys.stderr
    )
    sys.exit(BAD_INPUT)

import click

__all__ = ("main",)

HOME: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAMS: Final = {"-m": "a module", "-c": "a command"}  # what python takes as such, beside files
STARTUP: Final = os.path.join(HOME, "compat", "startup")


@click.command(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "allow_interspersed_args": False,
        "max_content_width": 80,
    }
)
@click.option("--threads", metavar="N", type=click.IntRange(min=1),
              help="Give servers that handle one request at a time so many threads.")  # fmt: skip
@click.argument("words", metavar="PROGRAM ARGS...", nargs=-1, type=click.UNPROCESSED)
def main(*, threads: int | None, words: tuple[str, ...]) -> None:
    """Run a program that uses socketserver, unchanged, on asyncserver.

    PROGRAM is whatever python takes for one: a file, a folder or a zip file, -m and a module, -c and a
    command, or - for standard input.

    \b
      python -m compat script.py ARGS...
      python -m compat -m http.server 8000
      python -m compat --threads 8 script.py

    The program finds the standard library's socketserver, also under its Python 2 name SocketServer.
    """  # noqa: D301 - click wants the backspace itself
    if not words:
        raise click.UsageError("give a script, or -m and a module")
    _check(*words[:2])
    arguments = [*_interpreter_options(), *words]
    os.execve(sys.executable, [sys.executable, *arguments], _environment(threads))  # noqa: S606


def _with_end_of_options(words: Sequence[str]) -> list[str]:
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
            raise click.UsageError(f"give {PROGRAMS[option]} after {option}")
        if option == "-m":
            _check_module(value)
    elif word != "-" and not os.path.exists(word):
        raise click.ClickException(f"no file {word}")


def _check_module(name: str) -> None:
    """Raise if there is no such module; without importing it, or the package that it is in."""
    if "." in name:
        return  # Python itself will tell
    path = sys.path if sys.flags.safe_path else ["", *sys.path]  # that of the program
    spec = PathFinder.find_spec(name, path) or importlib.util.find_spec(name)
    if spec is None:
        raise click.ClickException(f"No module named {name}")
    inside = spec.submodule_search_locations
    if inside is not None and PathFinder.find_spec("__main__", inside) is None:
        raise click.ClickException(f"No module named {name}.__main__; it cannot be run")


def _environment(threads: int | None) -> dict[str, str]:
    """Return that of this process, with what has compat installed."""
    names = [name for name in os.environ if not (_ignores_environment() and name[:6] == "PYTHON")]
    environment = {name: os.environ[name] for name in names}
    path = [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each != STARTUP]
    environment["PYTHONPATH"] = os.pathsep.join([STARTUP, *(path if path != [""] else [])])
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    environment["ASYNCSERVER_COMPAT"] = "\n".join([HOME, str(threads or ""), sys.prefix, python])
    return environment


def _interpreter_options() -> list[str]:
    """Return what stood before `-m compat` on the command line."""
    options = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    if options and options[-1] == "compat":
        options = [*options[:-2], options[-2] + "compat"]
    if _ignores_environment() or not options or not options[-1].endswith("mcompat"):
        # -E and -I would ignore what we have to say. What is left of them is in _environment.
        options = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        without = [each for each in options if each not in {"-E", "-I"}]
        return [*without, "-s", "-P"] if sys.flags.isolated else without
    last = options.pop().removesuffix("mcompat")  # -um is -u and -m
    return options if last == "-" else [*options, last]


def _ignores_environment() -> bool:
    """Whether it is python -E, or -I."""
    return bool(sys.flags.ignore_environment)


def _fail(message: str) -> NoReturn:
    click.echo(f"compat: {' '.join(message.split())}", err=True)
    sys.exit(BAD_INPUT)


if __name__ == "__main__":
    try:
        words = _with_end_of_options(sys.argv[1:])
        status = main.main(words, prog_name="python -m compat", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)  # 128 plus SIGINT, as a shell says it
    except click.ClickException as exc:
        _fail(exc.format_message())
    sys.exit(status)
