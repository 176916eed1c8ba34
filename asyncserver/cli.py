"""The command line: `asyncserver serve` and `asyncserver send`.

A wrong word is one line on stderr and exit status 2, never a traceback.
"""

import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, Literal

import click

from asyncserver.address import Address
from asyncserver.client import exchange
from asyncserver.errors import AddressError, AsyncServerError
from asyncserver.events import Bound, Event
from asyncserver.limits import Limits, Timeouts
from asyncserver.serve import run
from asyncserver.server import DEFAULT_GRACE, Options

__all__ = ("main",)

BAD_INPUT = 2  # exit status, as that of getopt(1) and argparse


def main() -> None:
    """Run the command line and exit."""
    try:
        status = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)  # Ctrl-C, as a shell says it
    except click.ClickException as exc:
        print(f"asyncserver: {exc.format_message()}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except AsyncServerError as exc:
        print(f"asyncserver: {_message(exc)}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    sys.exit(status or 0)


class Count(click.ParamType):  # type: ignore[type-arg] # generic only in newer clicks
    """A whole number, or "none" for no limit."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._number(value, int, param, ctx)

    def _number(
        self,
        value: Any,
        kind: Callable[[Any], float],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float | None:
        if value is None or value == "none":
            return None
        try:
            return kind(value)
        except ValueError:
            self.fail(f"{value!r} is no {self.name}, and not 'none'", param, ctx)


class Seconds(Count):
    """Seconds, or "none" for no deadline."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._number(value, float, param, ctx)


class Permissions(click.ParamType):  # type: ignore[type-arg] # as above
    """Permissions in octal, as chmod(1) takes them."""

    name = "octal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            mode = int(value, 8) if isinstance(value, str) else value
        except ValueError:
            mode = -1
        if not 0 <= mode <= 0o7777:  # noqa: PLR2004 - all permission bits
            self.fail(f"{value!r} are no permissions: write them like 660", param, ctx)
        return mode


class Url(click.ParamType):  # type: ignore[type-arg] # as above
    """An address."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return Address(value)
        except AddressError as exc:
            self.fail(str(exc), param, ctx)


SETTINGS: dict[str, Any] = {"show_default": True}
LIMITS, TIMEOUTS = Limits(), Timeouts()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="asyncserver")
def cli() -> None:
    """Serve handlers over TCP, UDP and Unix sockets."""


@cli.command(context_settings={"max_content_width": 80})
@click.argument("target", metavar="MODULE:OBJECT")
@click.option("--bind", "-b", type=Url(), multiple=True, required=True,
              help="Address to serve; may be given many times.")  # fmt: skip
@click.option("--mode", type=Permissions(), help="Permissions of Unix sockets, like 660.")
@click.option("--reuse-port", is_flag=True, help="Let other processes bind the same ports.")
@click.option("--connections", type=Count(), default=LIMITS.connections, **SETTINGS,
              help="Most connections at once.")  # fmt: skip
@click.option("--per-host", type=Count(), default=LIMITS.per_host, **SETTINGS,
              help="Most connections of one host.")  # fmt: skip
@click.option("--overflow", type=click.Choice(["backlog", "close"]), default=LIMITS.overflow,
              **SETTINGS, help="At the limit: let clients wait, or close.")  # fmt: skip
@click.option("--backlog", type=int, default=LIMITS.backlog, **SETTINGS,
              help="Clients that may wait to be accepted.")  # fmt: skip
@click.option("--line", type=Count(), default=LIMITS.line, **SETTINGS,
              help="Longest line, in bytes.")  # fmt: skip
@click.option("--read-buffer", type=int, default=LIMITS.read_buffer, **SETTINGS,
              help="Bytes received ahead of the handler.")  # fmt: skip
@click.option("--write-buffer", type=int, default=LIMITS.write_buffer, **SETTINGS,
              help="Bytes sent ahead of the peer.")  # fmt: skip
@click.option("--datagrams", type=Count(), default=LIMITS.datagrams, **SETTINGS,
              help="Most datagrams handled at once.")  # fmt: skip
@click.option("--datagram-size", type=int, default=LIMITS.datagram_size, **SETTINGS,
              help="Longest datagram, in bytes.")  # fmt: skip
@click.option("--handshake", type=Seconds(), default=TIMEOUTS.handshake, **SETTINGS,
              help="Deadline of a TLS handshake.")  # fmt: skip
@click.option("--idle", type=Seconds(), default=TIMEOUTS.idle, **SETTINGS,
              help="Longest wait for a silent peer.")  # fmt: skip
@click.option("--write", type=Seconds(), default=TIMEOUTS.write, **SETTINGS,
              help="Longest wait for a peer that does not read.")  # fmt: skip
@click.option("--lifetime", type=Seconds(), default=TIMEOUTS.lifetime, **SETTINGS,
              help="Longest life of a connection.")  # fmt: skip
@click.option("--grace", type=Seconds(), default=DEFAULT_GRACE, **SETTINGS,
              help="Time for handlers to finish after SIGTERM.")  # fmt: skip
@click.option("--certificate", metavar="PEM", help="Serve TLS with this certificate chain.")
@click.option("--key", metavar="PEM", help="Its key, if that is another file.")
@click.option("--loop", type=click.Choice(["auto", "uvloop", "asyncio"]), default="auto",
              **SETTINGS, help="Event loop.")  # fmt: skip
@click.option("--log-level", default="info", **SETTINGS,
              type=click.Choice(["debug", "info", "warning", "error"]),
              help="What to write to stderr.")  # fmt: skip
def serve(
    target: str,
    bind: tuple[Address, ...],
    grace: float | None,
    loop: Literal["auto", "uvloop", "asyncio"],
    log_level: str,
    **settings: Any,
) -> None:
    r"""Serve MODULE:OBJECT until Ctrl-C or SIGTERM.

    OBJECT is an async function of a connection or a datagram, a handler class, or a factory of
    asyncio protocols. MODULE is a module's name, or the path of a Python file.

    \b
    asyncserver serve asyncserver.demo:upper \
        --bind tcp://127.0.0.1:9999 --bind unix:///tmp/upper.sock
    asyncserver serve server.py:handle --bind tcp://:9999

    A URL is tcp://HOST:PORT, udp://HOST:PORT, unix:///PATH, unix:@NAME or unixgram:///PATH; without
    HOST it is all addresses of this machine, with PORT 0 any free port.

    Numbers may be 'none' for no limit; times are seconds.
    """
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    handler = _load(target)
    run(handler, *bind, grace=grace, loop=loop, **_options(settings))


@cli.command()
@click.argument("url", type=Url())
@click.argument("text", required=False)
@click.option("--timeout", type=Seconds(), default=5.0, show_default=True,
              help="Seconds to wait for an answer.")  # fmt: skip
def send(url: Address, text: str | None, timeout: float | None) -> int:
    r"""Send TEXT (or standard input) to URL and print the answer.

    TEXT goes out with a newline. A stream is then closed in that direction and read to its end;
    from a datagram server one datagram is read.

    \b
    asyncserver send tcp://127.0.0.1:9999 "hello"
    """
    data = sys.stdin.buffer.read() if text is None else text.encode() + b"\n"
    try:
        for chunk in exchange(url, data, timeout):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
    except TimeoutError:
        raise click.ClickException(f"{url}: no answer within {timeout:g} s") from None
    except OSError as exc:
        raise click.ClickException(f"{url}: {exc.strerror or exc}") from exc
    return 0


def _options(settings: dict[str, Any]) -> Options:
    certificate, key = settings.pop("certificate"), settings.pop("key")
    if key is not None and certificate is None:
        raise click.UsageError("--key needs --certificate")
    files = [file for file in (certificate, key) if file is not None]
    options: Options = {
        "tls": tuple(files) if files else None,
        "mode": settings.pop("mode"),
        "reuse_port": settings.pop("reuse_port"),
        "observers": [_say_how_to_try],
    }
    names = Timeouts.__dataclass_fields__
    options["timeouts"] = Timeouts(**{key: settings.pop(key) for key in names})
    options["limits"] = Limits(**settings)
    return options


def _say_how_to_try(event: Event) -> None:
    if isinstance(event, Bound):
        logging.getLogger("asyncserver").info("try it: asyncserver send %s hello", event.address)


def _load(target: str) -> Any:
    """Import the object that `target` names."""
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise click.UsageError(f"{target!r} is no target: write MODULE:OBJECT or FILE.py:OBJECT")
    module = _load_file(place) if place.endswith(".py") else _load_module(place)
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise click.UsageError(f"{place} has no {name!r}") from None
    return found


def _load_module(name: str) -> Any:
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        raise click.UsageError(f"no module {exc.name!r} (for {name!r})") from exc
    except Exception as exc:
        raise _import_failed(name, exc) from exc


def _load_file(path: str) -> Any:
    if not os.path.isfile(path):
        raise click.UsageError(f"no file {path}")
    name = os.path.splitext(os.path.basename(path))[0]
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        raise _import_failed(path, exc) from exc
    return module


def _import_failed(name: str, exc: Exception) -> click.UsageError:
    line = ""
    traceback = exc.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if "importlib" not in code.co_filename and code.co_filename != __file__:
            line = f", {code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return click.UsageError(f"importing {name} failed: {type(exc).__name__}: {exc}{line}")


def _message(exc: AsyncServerError) -> str:
    """Return the text without the number that OSError puts before it."""
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
