"""The drop-in, `compat`, on the command line: for blocking handlers, and `asyncserver run`.

Whoever has a `compat` of his own keeps it: ours is looked for where it was installed, beside this
package, and is not in the way of the other.
"""

import importlib
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any, Final

import click

__all__ = ("run_program", "threaded")

# Where this package lives, and compat beside it.
HOME: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def threaded(handler: Any, path: list[str]) -> Any:
    """Return what hosts `handler` in threads; `path` is where Python looked before there was one."""
    return _import_ours("compat.adapter", path).threaded(handler)


class _Run(click.Command):
    """A command whose options end where a program begins, as those of python do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        program = _import_ours("compat.program", sys.path)
        return super().parse_args(ctx, program.with_end_of_options(args))


@click.command("run", cls=_Run, context_settings={"allow_interspersed_args": False})
@click.option("--threads", metavar="N", type=click.IntRange(min=1),
              help="Give servers that handle one request at a time so many threads.")  # fmt: skip
@click.argument("words", metavar="PROGRAM ARGS...", nargs=-1, type=click.UNPROCESSED)
def run_program(*, threads: int | None, words: tuple[str, ...]) -> None:
    """Run a program that uses socketserver, unchanged.

    PROGRAM is whatever python takes for one: a file, a folder or a zip file, -m and a module, -c and a
    command, or - for standard input. Its servers, and those of its children, are asyncserver's.

    \b
      asyncserver run script.py ARGS...
      asyncserver run -m http.server 8000
      asyncserver run --threads 8 script.py

    The program finds the standard library's socketserver, also under its Python 2 name SocketServer,
    and a module of its own called compat. `python -m compat` does the same where there is none.
    """  # noqa: D301 - click wants the backspace itself
    program = _import_ours("compat.program", sys.path)
    try:
        program.start(words, threads=threads, module="asyncserver")
    except program.ProgramError as exc:
        raise click.ClickException(str(exc)) from exc


def _import_ours(name: str, path: list[str]) -> ModuleType:
    """Import a module of our own compat, looked for along `path`; another one stays what it was."""
    before = _take_compat()
    if _is_ours(before.get("compat")):
        sys.modules.update(before)
    path, sys.path = sys.path, [HOME, *path]
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        if not (exc.name or "").startswith("compat"):
            raise
        found = getattr(sys.modules.get("compat"), "__file__", None) or "missing"
        raise click.ClickException(
            f"compat is {found}, and not the one that belongs to asyncserver, in {HOME}: another"
            " package of that name is in its place; install asyncserver anew"
        ) from exc
    finally:
        sys.path = path
        ours = _take_compat()
        sys.modules.update(before or (ours if _is_ours(importlib.util.find_spec("compat")) else {}))


def _take_compat() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == "compat"]
    return {name: sys.modules.pop(name) for name in names}


def _is_ours(compat: Any) -> bool:
    """Whether this is the module that came with us, or the way to it."""
    file = getattr(compat, "origin", None) or getattr(compat, "__file__", None)
    return file == os.path.join(HOME, "compat", "__init__.py")
