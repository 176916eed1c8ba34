"""The command line: `asyncserver serve`, `send` and `run`.

It turns words into values, and leaves the work to those that each command names. A mistake is one line on
stderr and exit status 2, never a traceback.
"""

import asyncio
import contextlib
import functools
import logging
import os
import select
import sys
from typing import IO, Any, Final, Literal, NoReturn

import click

from asyncserver._cli.drop_in import run_program, threaded
from asyncserver._cli.options import PARAMETERS, CommandInSections, address, seconds
from asyncserver._cli.send import READ_SIZE, exchange, how_to_try
from asyncserver._cli.target import load
from asyncserver._handlers.adapt import is_blocking
from asyncserver._listen.address import Address
from asyncserver._server.run import hold_standard_descriptors, loop_factory, refusing_to_run, run
from asyncserver._settings.limits import Limits, Timeouts
from asyncserver.errors import AsyncServerError
from asyncserver.events import AddressBound, Event

__all__ = ("main",)

BAD_INPUT: Final = 2  # exit status, as that of getopt(1) and argparse
INTERRUPTED: Final = 130  # 128 plus SIGINT, as a shell says it
NOBODY_READS: Final = 141  # 128 plus SIGPIPE, which would have ended a program in C

logger = logging.getLogger("asyncserver")


def main() -> None:
    """Run the command line and exit."""
    hold_standard_descriptors()  # before anything else opens what gets their numbers
    try:
        status = cli.main(prog_name="asyncserver", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(INTERRUPTED)
    except click.ClickException as exc:
        _fail(exc.format_message())
    except AsyncServerError as exc:
        # The text of an OSError would begin with its number.
        _fail((exc.strerror if isinstance(exc, OSError) else None) or str(exc))
    except OSError as exc:  # the disk is full, or there is no descriptor for a loop
        _give_up(sys.stdout)
        _fail(exc.strerror or str(exc))
    sys.exit(status or 0)


def _fail(message: str) -> NoReturn:
    """Exit with one line on stderr, whatever a module's own exception put into `message`."""
    try:
        click.echo(f"asyncserver: {' '.join(message.split())}", err=True)
    except OSError:
        _give_up(sys.stderr)
    sys.exit(BAD_INPUT)


def _give_up(stream: IO[Any] | None) -> None:
    """Let what could not be written to `stream` not be tried again, when the interpreter exits."""
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: it is closed, and None
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # type: ignore[union-attr] # as said
        os.close(null)


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.version_option(package_name="asyncserver", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Serve handlers over TCP, UDP and Unix sockets."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(BAD_INPUT)


cli.add_command(run_program)


# -- asyncserver serve -------------------------------------------------------------------------


@cli.command(cls=CommandInSections, params=PARAMETERS)
@click.argument("target", metavar="MODULE:OBJECT")
def serve(
    *,
    target: str,
    bind: tuple[Address, ...],
    mode: int | None,
    certificate: str | None,
    key: str | None,
    reuse_port: bool,
    grace: float | None,
    loop: Literal["auto", "uvloop", "asyncio"],
    log_level: str,
    **settings: Any,
) -> None:
    """Serve OBJECT of MODULE until Ctrl-C or SIGTERM.

    MODULE is the name of a module (looked for in the current directory first, but not under
    PYTHONSAFEPATH), or the path of a Python file. OBJECT is an async function of a
    connection or a datagram, a handler class, or a factory of asyncio protocols. Blocking handlers
    of socketserver, and blocking functions of a socket, run in threads.

    \b
      asyncserver serve asyncserver.demo:upper --bind tcp://127.0.0.1:9999
      asyncserver serve ./server.py:Handler -b udp://:9999 -b unix:///tmp/x.sock

    A URL is tcp://HOST:PORT, udp://HOST:PORT, unix:///PATH, unix:@NAME or unixgram:///PATH. No HOST
    means all addresses of this machine, PORT 0 any free port.
    """  # noqa: D301 - click wants the backspace itself
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    if key is not None and certificate is None:
        raise click.UsageError("--key needs --certificate")
    files = tuple(file for file in (certificate, key) if file is not None)
    if loop_factory(loop) is asyncio.new_event_loop:  # now, before there can be another uvloop
        loop = "asyncio"
    path = [*sys.path]
    with refusing_to_run(f"asyncserver serve imports {target.rpartition(':')[0]} for its handler"):
        handler = load(target)
    run(
        threaded(handler, path) if is_blocking(handler) else handler,
        *bind,
        grace=grace,
        loop=loop,
        tls=files or None,
        mode=mode,
        reuse_port=reuse_port,
        timeouts=Timeouts(**{name: settings.pop(name) for name in Timeouts.__dataclass_fields__}),
        limits=Limits(**settings),
        observers=[functools.partial(_say_how_to_try, encrypted=bool(files))],
    )


def _say_how_to_try(event: Event, *, encrypted: bool) -> None:
    if not isinstance(event, AddressBound):
        return
    command = how_to_try(Address(event.address), encrypted=encrypted)
    if command:
        logger.info("try it: %s", command)


# -- asyncserver send --------------------------------------------------------------------------


@cli.command()
@click.argument("url", type=address)
@click.argument("text", required=False)
@click.option("--timeout", metavar="SECONDS|none", type=seconds, default="5",
              help="Longest wait for an answer. [5]")  # fmt: skip
def send(url: Address, text: str | None, timeout: float | None) -> int:
    """Send TEXT to URL, and print the answer.

    Without TEXT it is standard input that is sent; TEXT goes out with a newline. A stream is closed
    in that direction at the end, and read until the server closes it too; of datagrams, the first
    that comes back is the answer.

    \b
      asyncserver send tcp://127.0.0.1:9999 "hello"
      asyncserver send unix:///tmp/x.sock < request.txt
    """  # noqa: D301 - click wants the backspace itself
    try:
        for chunk in exchange(url, _input(text), timeout):
            if not _print(chunk):
                return NOBODY_READS
    except TimeoutError:
        limit = "" if timeout is None else f" within {timeout:g} s"
        raise click.ClickException(f"{url}: no answer{limit}") from None
    except (OSError, UnicodeError) as exc:  # UnicodeError: a host name that IDNA refuses
        raise click.ClickException(f"{url}: {getattr(exc, 'strerror', None) or exc}") from exc
    return 0


def _input(text: str | None) -> bytes:
    if text is not None:
        return os.fsencode(text) + b"\n"  # the bytes as they were typed
    if sys.stdin is None:
        raise click.UsageError("standard input is closed: give TEXT")
    source = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
    chunks = []
    try:
        while (chunk := source.read(READ_SIZE)) != b"":
            if chunk is None:  # it does not block, as somebody else's socket may
                select.select([source], [], [])
            else:
                chunks.append(chunk)
    except OSError as exc:
        raise click.ClickException(f"standard input: {exc.strerror}") from exc
    return b"".join(chunks)


def _print(data: bytes) -> bool:
    """Write to stdout; return False when nobody reads it any more."""
    try:
        if sys.stdout is not None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    except OSError as exc:
        _give_up(sys.stdout)
        if not isinstance(exc, BrokenPipeError):
            raise click.ClickException(f"standard output: {exc.strerror}") from exc
        return False
    return True
