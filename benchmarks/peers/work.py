"""What a server is asked to do."""

import json
import socket
import ssl
from dataclasses import dataclass
from typing import Any, Final

__all__ = ("BACKLOG", "LINE_LIMIT", "Work")

BACKLOG: Final = 1024
LINE_LIMIT: Final = 2**20  # bytes


@dataclass(frozen=True)
class Work:
    """One kind of work.

    Attributes:
        what: "lines": send every line back. "blocks": send back whatever comes. "once": send one
            line back, and close. "datagrams": send every datagram back. "http": answer requests.
        certificate: a PEM file, for TLS.

    """

    what: str
    certificate: str | None = None

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The context of the server, if it is to speak TLS."""
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        return context

    def listen(self) -> socket.socket:
        """Bind a socket to a free port, and say which it is."""
        if self.what == "datagrams":
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("127.0.0.1", 0))
        else:
            # With its number, or asyncio would not set TCP_NODELAY for what it accepts.
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            sock.bind(("127.0.0.1", 0))
            sock.listen(BACKLOG)
        sock.setblocking(False)
        self.ready(sock.getsockname())
        return sock

    def ready(self, address: Any) -> None:
        """Say where it listens."""
        self.say({"port": address[1]})

    def say(self, result: dict[str, Any]) -> None:
        """Tell the benchmark something."""
        print(json.dumps(result), flush=True)
