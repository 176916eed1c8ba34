"""The command line: `asyncserver serve` and `asyncserver send`.

It turns words into values, and leaves the work to `run` and to `client`. A mistake is one line on
stderr and exit status 2, never a traceback.
"""

import asyncio
import contextlib
import functools
import importlib.util
import logging
import math
import os
import select
import sys
from types import ModuleType
from typing import IO, Any, Final, Literal, NoReturn

import click

from asyncserver.address import Address
from asyncserver.client import READ_SIZE, exchange, how_to_try
from asyncserver.errors import AddressError, AsyncServerError
from asyncserver.events import Bound, Event
from asyncserver.kinds import is_blocking
from asyncserver.limits import Limits, Timeouts
from asyncserver.serve import hold_standard_descriptors, loop_factory, run
from asyncserver.server import DEFAULT_GRACE
from asyncserver.settings import HIGHEST, PERMISSIONS
from asyncserver.target import load

__all__ = ("main",)

BAD_INPUT: Final = 2  # exit status, as that of getopt(1) and argparse
INTERRUPTED: Final = 130  # 128 plus SIGINT, as a shell says it
NOBODY_READS: Final = 141  # 128 plus SIGPIPE, which would have ended a program in C

# Where this package lives, and compat beside it.
HOME: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

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


# -- from words to values ----------------------------------------------------------------------


def _address(text: str) -> Address:
    try:
        return Address(text)
    except AddressError as exc:
        raise click.BadParameter(str(exc)) from exc


def _permissions(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= PERMISSIONS:
        raise click.BadParameter(f"{text!r} are no permissions: write them in octal, like 660")
    return mode


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= HIGHEST:
        raise click.BadParameter(f"{text!r}: write a whole number from 1 to {HIGHEST}")
    return value


def _count_or_none(text: str) -> int | None:
    return None if text == "none" else _count(text)


def _seconds_or_0(text: str) -> float | None:
    if text == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= HIGHEST:
        raise click.BadParameter(f"{text!r}: write seconds, or 'none' for no deadline")
    return value


def _seconds(text: str) -> float | None:
    value = _seconds_or_0(text)
    if value == 0:
        raise click.BadParameter(f"{text!r}: write more than 0, or 'none' for no deadline")
    return value


# -- asyncserver serve -------------------------------------------------------------------------


def _option(
    name: str, metavar: str, text: str, *, default: object = None, **settings: Any
) -> click.Option:
    if default is not None:
        settings["default"] = f"{default:g}" if isinstance(default, float) else str(default)
        text = f"{text} [{settings['default']}]"
    names = ["--bind", "-b"] if name == "bind" else [f"--{name.replace('_', '-')}"]
    return click.Option(names, metavar=metavar, help=text, **settings)


def _setting(kind: type[Limits | Timeouts], name: str, metavar: str, text: str) -> click.Option:
    """Make the option of a field of `Limits` or `Timeouts`, with its default."""
    field = kind.__dataclass_fields__[name]
    if "None" not in str(field.type):
        return _option(name, metavar, text, type=_count, default=field.default)
    read = _seconds if kind is Timeouts else _count_or_none
    return _option(name, f"{metavar}|none", text, type=read, default=field.default)


SECTIONS: Final = {
    "Addresses": [
        _option("bind", "URL", "Where to listen; may be given many times.",
                type=_address, multiple=True, required=True),
        _option("mode", "OCTAL", "Permissions of Unix sockets, like 660.", type=_permissions),
        _option("certificate", "PEM", "Serve TLS, with this certificate chain."),
        _option("key", "PEM", "Its private key, if that is another file."),
        click.Option(["--reuse-port"], is_flag=True, help="Let other processes bind the ports."),
    ],
    "Limits": [
        _setting(Limits, "connections", "N", "Connections at once."),
        _setting(Limits, "per_host", "N", "Connections at once from one host."),
        _option("overflow", "backlog|close", "Clients beyond wait, or are closed.",
                type=click.Choice(["backlog", "close"]), default=Limits().overflow),
        _setting(Limits, "backlog", "N", "Clients that may wait."),
        _setting(Limits, "line", "BYTES", "Longest line."),
        _setting(Limits, "read_buffer", "BYTES", "Received ahead of the handler."),
        _setting(Limits, "write_buffer", "BYTES", "Sent ahead of the peer."),
        _setting(Limits, "read_all", "BYTES", "Most that read() gathers."),
        _setting(Limits, "exactly", "BYTES", "Most that readexactly() may ask for."),
        _setting(Limits, "datagrams", "N", "Datagrams handled at once."),
        _setting(Limits, "datagram_size", "BYTES", "Longest datagram."),
    ],
    "Deadlines": [
        _setting(Timeouts, "handshake", "SECONDS", "For a TLS handshake."),
        _setting(Timeouts, "idle", "SECONDS", "For a peer that is silent."),
        _setting(Timeouts, "message", "SECONDS", "For the rest of a message that has begun."),
        _setting(Timeouts, "write", "SECONDS", "For a peer that does not read."),
        _setting(Timeouts, "lifetime", "SECONDS", "For a whole connection."),
        _setting(Timeouts, "first", "SECONDS", "For the first bytes, when the server drains."),
        _setting(Timeouts, "cleanup", "SECONDS", "For handlers that were cancelled."),
        _option("grace", "SECONDS|none", "For handlers to finish, at the end.",
                type=_seconds_or_0, default=DEFAULT_GRACE),
    ],
    "Process": [
        _option("loop", "auto|uvloop|asyncio", "Event loop.",
                type=click.Choice(["auto", "uvloop", "asyncio"]), default="auto"),
        _option("log_level", "LEVEL", "debug, info, warning or error.",
                type=click.Choice(["debug", "info", "warning", "error"]), default="info"),
    ],
}  # fmt: skip


class Serve(click.Command):
    """A command that shows its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        help_option = self.get_help_option(ctx)
        sections = SECTIONS | {"Help": [help_option] if help_option else []}
        for title, options in sections.items():
            records = [each.get_help_record(ctx) for each in options]
            with formatter.section(title):
                # One width, so that the sections line up.
                formatter.write_dl([(f"{each[0]:<26}", each[1]) for each in records if each])


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


@cli.command(cls=Serve, params=[each for options in SECTIONS.values() for each in options])
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
    run(
        _in_threads(load(target), path),
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


def _in_threads(handler: Any, path: list[str]) -> Any:
    """Return what hosts `handler` in threads, if it blocks; `path` is where Python looked before."""
    if not is_blocking(handler):
        return handler
    before = _take_compat()  # which may be another one, the user's own
    if _is_ours(before.get("compat")):
        sys.modules.update(before)
    path, sys.path = sys.path, [HOME, *path]
    try:
        from compat import threaded  # noqa: PLC0415 - only blocking handlers need it
    finally:
        sys.path = path
        ours = _take_compat()
        sys.modules.update(before or (ours if _is_ours(importlib.util.find_spec("compat")) else {}))
    return threaded(handler)


def _take_compat() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == "compat"]
    return {name: sys.modules.pop(name) for name in names}


def _is_ours(compat: Any) -> bool:
    """Whether this is the module that came with us, or the way to it."""
    file = getattr(compat, "origin", None) or getattr(compat, "__file__", None)
    return file == os.path.join(HOME, "compat", "__init__.py")


def _say_how_to_try(event: Event, *, encrypted: bool) -> None:
    if not isinstance(event, Bound):
        return
    command = how_to_try(Address(event.address), encrypted=encrypted)
    if command:
        logger.info("try it: %s", command)


# -- asyncserver send --------------------------------------------------------------------------


@cli.command()
@click.argument("url", type=_address)
@click.argument("text", required=False)
@click.option("--timeout", metavar="SECONDS|none", type=_seconds, default="5",
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
