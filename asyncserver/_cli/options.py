"""The options of `asyncserver serve`: what each is called, reads, and says in the help.

One table, from which the command and its help are made. Each reader turns a word into a value, or says
what to write instead.
"""

import math
from typing import Any, Final

import click

from asyncserver._listen.address import Address
from asyncserver._server.server import DEFAULT_GRACE
from asyncserver._settings.checks import HIGHEST, PERMISSIONS
from asyncserver._settings.limits import Limits, Timeouts
from asyncserver.errors import AddressError

__all__ = ("PARAMETERS", "CommandInSections", "address", "seconds")

# -- from words to values ----------------------------------------------------------------------


def address(text: str) -> Address:
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


def seconds(text: str) -> float | None:
    value = _seconds_or_0(text)
    if value == 0:
        raise click.BadParameter(f"{text!r}: write more than 0, or 'none' for no deadline")
    return value


# -- the table -------------------------------------------------------------------------------


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
    read = seconds if kind is Timeouts else _count_or_none
    return _option(name, f"{metavar}|none", text, type=read, default=field.default)


SECTIONS: Final = {
    "Addresses": [
        _option("bind", "URL", "Where to listen; may be given many times.",
                type=address, multiple=True, required=True),
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
PARAMETERS: Final = [each for options in SECTIONS.values() for each in options]


class CommandInSections(click.Command):
    """A command that shows its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        help_option = self.get_help_option(ctx)
        sections = SECTIONS | {"Help": [help_option] if help_option else []}
        for title, options in sections.items():
            records = [each.get_help_record(ctx) for each in options]
            with formatter.section(title):
                # One width, so that the sections line up.
                formatter.write_dl([(f"{each[0]:<26}", each[1]) for each in records if each])
