"""`python -m compat script.py`: run a program as it is, with its servers on asyncserver."""

import logging
import os
import runpy
import sys
from typing import Literal

import click

from asyncserver.errors import AsyncServerError
from compat import engine
from compat.install import install

__all__ = ("main",)

BAD_INPUT = 2  # exit status, as that of python itself


@click.command(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "allow_interspersed_args": False,
        "ignore_unknown_options": False,
        "max_content_width": 80,
    }
)
@click.option("-m", "module", metavar="MODULE", is_flag=False, help="Run a module and not a file.")
@click.option("--threads", metavar="N", type=click.IntRange(min=1),
              help="Give servers that handle one request at a time so many threads.")  # fmt: skip
@click.option("--loop", metavar="auto|uvloop|asyncio", default="auto", show_default=True,
              type=click.Choice(["auto", "uvloop", "asyncio"]), help="Event loop.")  # fmt: skip
@click.argument("words", metavar="SCRIPT ARGS...", nargs=-1, type=click.UNPROCESSED)
def main(
    module: str | None,
    threads: int | None,
    loop: Literal["auto", "uvloop", "asyncio"],
    words: tuple[str, ...],
) -> None:
    """Run a program that uses socketserver, unchanged, on asyncserver.

    \b
      python -m compat script.py ARGS...
      python -m compat -m http.server 8000
      python -m compat --threads 8 script.py

    The program finds the standard library's socketserver, also under its Python 2 name SocketServer.
    """  # noqa: D301 - click wants the backspace itself
    if module is None and not words:
        raise click.UsageError("give a SCRIPT, or -m MODULE")
    logging.getLogger("asyncserver").setLevel(logging.WARNING)
    engine.LOOP = loop
    install(threads=threads)
    if module is not None:
        sys.argv = [module, *words]
        sys.path[0] = os.getcwd()
        _run_module(module)
        return
    script = words[0]
    if not os.path.exists(script):
        raise click.ClickException(f"no file {script}")
    sys.argv = list(words)
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    runpy.run_path(script, run_name="__main__")


def _run_module(name: str) -> None:
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except ImportError as exc:
        if exc.name is not None and f"{name}.".startswith(f"{exc.name}."):
            raise click.ClickException(f"no module {name}: {exc}") from exc
        if exc.__traceback__ is not None and _raised_by_runpy(exc):
            raise click.ClickException(str(exc)) from exc
        raise


def _raised_by_runpy(exc: BaseException) -> bool:
    """Whether the module was not found or not runnable, and did not raise this itself."""
    last = exc.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and last.tb_frame.f_globals.get("__name__") == "runpy"


if __name__ == "__main__":
    try:
        main.main(prog_name="python -m compat", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)  # 128 plus SIGINT, as a shell says it
    except (click.ClickException, AsyncServerError) as exc:
        text = exc.format_message() if isinstance(exc, click.ClickException) else str(exc)
        click.echo(f"compat: {' '.join(text.split())}", err=True)
        sys.exit(BAD_INPUT)
