"""What callers of `Server`, `serve` and `run` give, looked at before anything is opened."""

import socket
import ssl
from collections.abc import Sequence
from typing import Any, TypedDict

from asyncserver import events
from asyncserver._listen.address import Address
from asyncserver._settings.checks import check_flag, check_kind, check_mode
from asyncserver._settings.limits import Limits, Timeouts
from asyncserver._tls.certificate import check_certificate
from asyncserver._tls.context import TLSSource, server_context
from asyncserver.errors import SettingError

__all__ = ("Options", "check_addresses", "check_options")


class Options(TypedDict, total=False):
    """The settings of a `Server`, which `serve` and `run` take too."""

    tls: TLSSource | None
    limits: Limits
    timeouts: Timeouts
    mode: int | None
    reuse_port: bool
    observers: Sequence[events.Observer]


def check_addresses(addresses: Sequence[Any]) -> list[Address | socket.socket]:
    """Read the addresses, of which there must be one. Sockets are looked at when the server starts.

    Raises:
        AddressError, SettingError: see `Server`.

    """
    if not addresses:
        raise SettingError(
            "no address to serve: give at least one behind the handler, like tcp://127.0.0.1:9999"
        )
    return [each if isinstance(each, socket.socket) else Address(each) for each in addresses]


def check_options(
    *,
    tls: TLSSource | None,
    tickets: bool,
    limits: Limits,
    timeouts: Timeouts,
    mode: int | None,
    reuse_port: bool,
) -> ssl.SSLContext | None:
    """Look at all that is given by name, and return the context that `tls` stands for.

    Raises:
        SettingError: see `Server`.

    """
    check_kind("limits", limits, Limits)
    check_kind("timeouts", timeouts, Timeouts)
    check_mode(mode)
    check_flag("reuse_port", reuse_port)
    if tls is None:
        return None
    context = server_context(tls, tickets=tickets)
    check_certificate(context)
    return context
