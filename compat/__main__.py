"""`python -m compat script.py`: run a program as it is, with its servers on asyncserver."""

import sys
from typing import Any, Final

BAD_INPUT: Final = 2  # exit status, as that of python itself
if sys.flags.no_site:  # nor would it find click
    print(
        "compat: python -S imports no sitecustomize, which we need: leave -S out", file=sys.stderr
    )
    sys.exit(BAD_INPUT)

import click

from compat.program import ProgramError, start, with_end_of_options

__all__ = ("main",)


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
def main(*, threads: int | None, words: tuple[str, ...]) -> Any:
    """Run a program that uses socketserver, unchanged, on asyncserver.

    PROGRAM is whatever python takes for one: a file, a folder or a zip file, -m and a module, -c and a
    command, or - for standard input.

    \b
      python -m compat script.py ARGS...
      python -m compat -m http.server 8000
      python -m compat --threads 8 script.py

    The program finds the standard library's socketserver, also under its Python 2 name SocketServer.
    As `asyncserver run` it does the same where there is a compat.py of your own.
    """  # noqa: D301 - click wants the backspace itself
    start(words, threads=threads, module="compat")


def _run() -> None:
    """Run what the command line says, and exit with the program's own status."""
    try:
        words = with_end_of_options(sys.argv[1:])
        status = main.main(words, prog_name="python -m compat", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)  # 128 plus SIGINT, as a shell says it
    except (click.ClickException, ProgramError) as exc:
        message = exc.format_message() if isinstance(exc, click.ClickException) else str(exc)
        click.echo(f"compat: {' '.join(message.split())}", err=True)
        sys.exit(BAD_INPUT)
    sys.exit(status)


if __name__ == "__main__":
    _run()
