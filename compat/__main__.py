"""`python -m compat script.py`: run a program as it is, with its servers on asyncserver."""

import functools
import os
import runpy
import sys
from collections.abc import Callable
from typing import Final, Literal, NoReturn

import click

from asyncserver.errors import AsyncServerError
from compat import engine
from compat.install import install

__all__ = ("main",)

BAD_INPUT: Final = 2  # exit status, as that of python itself


@click.command(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "allow_interspersed_args": False,
        "max_content_width": 80,
    }
)
@click.option("-m", "is_module", is_flag=True, help="PROGRAM is a module and not a file.")
@click.option("--threads", metavar="N", type=click.IntRange(min=1),
              help="Give servers that handle one request at a time so many threads.")  # fmt: skip
@click.option("--loop", metavar="auto|uvloop|asyncio", default="auto", show_default=True,
              type=click.Choice(["auto", "uvloop", "asyncio"]), help="Event loop.")  # fmt: skip
@click.argument("words", metavar="PROGRAM ARGS...", nargs=-1, type=click.UNPROCESSED)
def main(
    *,
    is_module: bool,
    threads: int | None,
    loop: Literal["auto", "uvloop", "asyncio"],
    words: tuple[str, ...],
) -> Callable[[], object]:
    """Run a program that uses socketserver, unchanged, on asyncserver.

    \b
      python -m compat script.py ARGS...
      python -m compat -m http.server 8000
      python -m compat --threads 8 script.py

    The program finds the standard library's socketserver, also under its Python 2 name SocketServer.
    """  # noqa: D301 - click wants the backspace itself
    if not words:
        raise click.UsageError("give a script, or -m and a module")
    program = words[0]
    if not is_module and not os.path.exists(program):
        raise click.ClickException(f"no file {program}")
    engine.LOOP = loop
    install(threads=threads)
    sys.argv = list(words)
    sys.path[0] = os.getcwd() if is_module else os.path.dirname(os.path.abspath(program))
    if is_module:
        return functools.partial(_run_module, program)
    return functools.partial(runpy.run_path, program, run_name="__main__")


def _run_module(name: str) -> None:
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except ImportError as exc:
        if _raised_by_runpy(exc):
            _fail(str(exc))
        raise


def _raised_by_runpy(exc: BaseException) -> bool:
    """Whether the module was not found or not runnable, and did not raise this itself."""
    last = exc.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and last.tb_frame.f_globals.get("__name__") == "runpy"


def _fail(message: str) -> NoReturn:
    click.echo(f"compat: {' '.join(message.split())}", err=True)
    sys.exit(BAD_INPUT)


if __name__ == "__main__":
    try:
        run = main.main(prog_name="python -m compat", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)  # 128 plus SIGINT, as a shell says it
    except click.ClickException as exc:
        _fail(exc.format_message())
    except AsyncServerError as exc:
        _fail(str(exc))
    if callable(run):  # and not an exit status, as after --help
        run()  # outside of click, which has its own way with what a program raises
