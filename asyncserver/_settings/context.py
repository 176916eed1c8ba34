"""What all connections of a server share, and all that they know of it."""

import ssl
from dataclasses import dataclass

from asyncserver import events
from asyncserver._settings.limits import Limits, Timeouts

__all__ = ("ServerContext",)


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The settings of a server, and who is told what happens in it.

    Attributes:
        tls: to shake hands with; `None`: clear text.

    """

    tls: ssl.SSLContext | None
    limits: Limits
    timeouts: Timeouts
    observers: events.Observers
