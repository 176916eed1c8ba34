"""Addresses as URLs: reading what people write, and writing what sockets say.

Pure text. Names are looked up, and sockets made, in `listeners`.
"""

from typing import Final, Self
from urllib.parse import quote, unquote, urlsplit

from asyncserver.errors import AddressError

__all__ = ("Address", "PeerAddress", "peer_address")

PeerAddress = tuple[str, int] | str
"""A peer as anyio shows it: `(host, port)` for IP, a path (perhaps empty) for Unix sockets."""

STREAMS: Final = ("tcp", "unix")
DATAGRAMS: Final = ("udp", "unixgram")
LONGEST_PATH: Final = 107  # bytes: sizeof(sun_path) less the terminating null, see unix(7)
HIGHEST_PORT: Final = 65_535


class Address(str):
    """A URL that a server listens on. It is a `str`, with its parts as attributes.

    `tcp://host:port`, `tcp://[::1]:port`, `tcp://:port` (both IP families), `udp://...`,
    `unix:///path`, `unix:@abstract`, `unixgram:///path`, `unixgram:@abstract`.

    Attributes:
        scheme: "tcp", "udp", "unix" or "unixgram".
        host: host name or IP address without brackets; empty for all of this machine's, and for
            Unix sockets.
        port: 0 for a free one; always 0 for Unix sockets.
        path: of a Unix socket, a leading "@" for an abstract name; else empty.

    Raises:
        AddressError: the text is no such URL.

    """

    __slots__ = ("host", "path", "port", "scheme")

    scheme: str
    host: str
    port: int
    path: str

    def __new__(cls, url: str) -> Self:
        self = super().__new__(cls, url)
        self.scheme, colon, rest = url.partition(":")
        self.host, self.port, self.path = "", 0, ""
        if not colon or self.scheme not in STREAMS + DATAGRAMS:
            raise AddressError(
                f"{url!r} is no address: write tcp://host:port, udp://host:port, unix:///path,"
                " unix:@name or unixgram:///path"
            )
        if self.is_unix:
            self.path = _unix_path(url, rest)
        else:
            self.host, self.port = _host_and_port(url)
        return self

    @classmethod
    def of_ip(cls, scheme: str, host: str, port: int) -> "Address":
        """Write the URL of an IP address and port."""
        return cls(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")

    @classmethod
    def of_path(cls, scheme: str, path: str) -> "Address":
        """Write the URL of a Unix socket's path, or of its abstract name with a leading "@"."""
        return cls(f"{scheme}:{'' if path.startswith('@') else '//'}{quote(path, safe='/@')}")

    @property
    def is_unix(self) -> bool:
        """Whether this is a Unix socket's."""
        return self.scheme.startswith("unix")

    @property
    def is_stream(self) -> bool:
        """Whether connections are accepted here, and not datagrams received."""
        return self.scheme in STREAMS


def peer_address(raw: object) -> PeerAddress:
    """Turn what `accept()` or `recvfrom()` calls the peer into a `PeerAddress`.

    An IPv4 peer of a dual-stack socket loses its `::ffff:` (RFC 4291, section 2.5.5.2), an IPv6
    peer its flow label; a scope stays as `%scope`. An abstract name begins with "@".
    """
    match raw:
        case (str(host), int(port)):
            return host, port
        case (str(host), int(port), _, scope):
            if host.startswith("::ffff:") and "." in host:
                host = host.removeprefix("::ffff:")
            elif scope and "%" not in host:
                host = f"{host}%{scope}"
            return host, port
        case bytes() if raw:
            return "@" + raw[1:].decode(errors="surrogateescape")
        case str():
            return raw
    return ""


def _host_and_port(url: str) -> tuple[str, int]:
    example = f"{url.partition(':')[0]}://127.0.0.1:9999"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as exc:
        raise AddressError(f"{url!r}: {exc}; write it like {example}") from exc
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise AddressError(f"{url!r} says more than host and port; write it like {example}")
    if port is None:
        raise AddressError(f"{url!r} has no port; write it like {example}, 0 for a free port")
    if "[" not in url and ":" in host:
        raise AddressError(f"{url!r}: write an IPv6 address in brackets, like tcp://[::1]:9999")
    return unquote(host), port


def _unix_path(url: str, rest: str) -> str:
    path = unquote(rest.removeprefix("//"))
    if not path.startswith(("/", "@")) or path in ("/", "@"):
        raise AddressError(f"{url!r}: write unix:///absolute/path, or unix:@name for abstract")
    if "\0" in path:
        raise AddressError(f"{url!r}: a path has no null byte")
    if len(path.encode(errors="surrogateescape")) > LONGEST_PATH:
        raise AddressError(f"{url!r}: a Unix socket's path has at most {LONGEST_PATH} bytes")
    return path
