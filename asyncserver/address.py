"""Addresses as URLs: reading what people write, and writing what sockets say.

Pure text. Names are looked up, and sockets made, in `listeners`.
"""

import ipaddress
import os
import re
from typing import Final, Self
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

from asyncserver.errors import AddressError

__all__ = ("Address", "PeerAddress", "peer_address")

PeerAddress = tuple[str, int] | str
"""A peer as anyio shows it: `(host, port)` for IP, a path (perhaps empty) for Unix sockets."""

STREAMS: Final = ("tcp", "unix")
DATAGRAMS: Final = ("udp", "unixgram")
LONGEST_NAME: Final = 108  # bytes: sizeof(sun_path), a path's terminating null included, unix(7)
HIGHEST_PORT: Final = 65_535
FORMS: Final = "tcp://host:port, udp://host:port, unix:///path, unix:@name or unixgram:///path"

# RFC 3986, section 3.2: [host]:port or host:port, and what may come behind it.
PLACE: Final = re.compile(r"//(?:\[([^\]]*)\]|([^\[\]/?#@:]*))(?::([^/?#@:\[\]]*))?(/?)", re.DOTALL)


class Address(str):
    """A URL that a server listens on. It is a `str`, with its parts as attributes.

    `tcp://host:port`, `tcp://[::1]:port`, `tcp://:port` (both IP families), `udp://...`,
    `unix:///path`, `unix:@abstract`, `unixgram:///path`, `unixgram:@abstract`. The zone of a
    link-local address stands behind `%25` (RFC 6874) or a plain `%`: `tcp://[fe80::1%25eth0]:port`.

    Attributes:
        scheme: "tcp", "udp", "unix" or "unixgram".
        host: host name or IP address without brackets, a zone behind `%`; an IPv4 address without the
            `::ffff:` that IPv6 has for it; empty for all of this machine's, and for Unix sockets.
        port: 0 for a free one; always 0 for Unix sockets.
        path: of a Unix socket, a leading "@" for an abstract name; else empty. Bytes that are no
            UTF-8 are surrogates in it, as `os.fsdecode` has it.

    Raises:
        AddressError: the text is no such URL, or it is no text.

    """

    __slots__ = ("host", "path", "port", "scheme")

    scheme: str
    host: str
    port: int
    path: str

    def __new__(cls, url: str) -> Self:
        if not isinstance(url, str):
            raise AddressError(f"{url!r} is no address: {_instead_of(url)}")
        scheme, colon, rest = url.partition(":")
        scheme = scheme.lower()  # RFC 3986, section 3.1
        if url.strip() not in ("", url):
            raise AddressError(f"{url!r} has blanks around it: write {url.strip()!r}")
        if not colon or scheme not in STREAMS + DATAGRAMS:
            raise AddressError(f"{url!r} is no address: write {_with_scheme(url) or FORMS}")
        host, port, path = "", 0, ""
        if scheme.startswith("unix"):
            path = _unix_path(url, rest)
            if not rest.isprintable():  # nor is it fit for a log
                rest = _quoted(path)
        else:
            host, port = _host_and_port(url, rest, f"{scheme}://127.0.0.1:9999")
        self = super().__new__(cls, f"{scheme}:{rest}")
        self.scheme, self.host, self.port, self.path = scheme, host, port, path
        return self

    @classmethod
    def of_ip(cls, scheme: str, host: str, port: int) -> "Address":
        """Write the URL of an IP address and port."""
        if not isinstance(host, str):
            raise AddressError(f"{host!r} is no host: write text, like '127.0.0.1'")
        address, percent, zone = host.partition("%")
        if percent:
            address += f"%25{quote(zone, safe='', errors='surrogatepass')}"
        return cls(f"{scheme}://[{address}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")

    @classmethod
    def of_path(cls, scheme: str, path: str) -> "Address":
        """Write the URL of a Unix socket's path, or of its abstract name with a leading "@"."""
        if not isinstance(path, str):
            raise AddressError(f"{path!r} is no path: write text, like '/run/server.sock'")
        try:
            return cls(f"{scheme}:{_quoted(path)}")
        except UnicodeError:  # a surrogate that stands for no byte
            raise AddressError(f"{path!r} is no path: it is no text") from None

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
            return "@" + os.fsdecode(raw[1:])
        case str():
            return raw
    return ""


def _instead_of(thing: object) -> str:  # noqa: PLR0911 - one case a mistake
    """Return what to write for something that is no text."""
    match thing:
        case memoryview():  # which is no sequence of whatever it shows
            return f"write {FORMS}"
        case (str(host), int(port), *_):
            return f"write {f'tcp://[{host}]:{port}' if ':' in host else f'tcp://{host}:{port}'!r}"
        case tuple() | list() | set():
            return "give each address for itself, as in serve(handler, *addresses)"
        case os.PathLike():
            path = os.fsdecode(thing)
            return f"write 'unix://{path}'" if os.path.isabs(path) else f"write {FORMS}"
        case bytes():
            return f"write {thing.decode(errors='replace')!r}"
        case bool():
            return f"write {FORMS}"
        case int():
            return f"write 'tcp://:{thing}', or socket.socket(fileno={thing}) for a descriptor"
        case _ if callable(thing):
            return f"the handler comes first, behind it {FORMS}"
        case _:
            return f"write {FORMS}"


def _with_scheme(text: str) -> str | None:
    """Return what was meant by a path, or by host and port, without a scheme."""
    if text.startswith("/"):
        return repr(f"unix://{text}")
    found = PLACE.fullmatch(f"//{text}")
    if found is None or not (found[3] or "").isdecimal():
        return None
    return repr(f"tcp://{text}")


def _host_and_port(url: str, rest: str, example: str) -> tuple[str, int]:
    found = PLACE.match(rest)
    if not rest.startswith("//"):
        raise AddressError(f"{url!r} has no // before the host; write it like {example}")
    if found is None or found.end() < len(rest):
        if rest.count(":") > 1 and "[" not in rest:
            raise AddressError(f"{url!r}: write an IPv6 address in brackets, like tcp://[::1]:9999")
        raise AddressError(f"{url!r} says more than host and port; write it like {example}")
    literal, name, port = found[1], found[2], found[3]
    if not port:
        raise AddressError(f"{url!r} has no port; write it like {example}, 0 for a free port")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= HIGHEST_PORT):  # noqa: PLR2004
        raise AddressError(
            f"{url!r}: a port is a number from 0 to {HIGHEST_PORT}; write it like {example}"
        )
    host = _name(url, name) if literal is None else _ipv6(url, literal)
    if " " in host or not host.isprintable():
        raise AddressError(f"{url!r}: a host has no blanks in it; write it like {example}")
    return host, int(port)


def _name(url: str, text: str) -> str:
    """Read the name of a host, or an IPv4 address."""
    try:
        return unquote_to_bytes(text).decode().lower()
    except UnicodeError:
        raise AddressError(f"{url!r}: the host is no UTF-8") from None


def _ipv6(url: str, text: str) -> str:
    """Read what stands in brackets; a zone behind `%25` (RFC 6874), or as ip(8) writes it."""
    address, percent, zone = text.partition("%")
    try:
        mapped = ipaddress.IPv6Address(address).ipv4_mapped
        if zone.startswith("25") and len(zone) > len("25"):
            zone = unquote_to_bytes(zone[2:]).decode()
    except ValueError:
        raise AddressError(
            f"{url!r}: {text!r} is no IPv6 address; write it like tcp://[::1]:9999"
        ) from None
    if percent and not zone:
        raise AddressError(f"{url!r}: the zone is empty; write it like tcp://[fe80::1%25eth0]:9999")
    if percent:
        return f"{address.lower()}%{zone}"
    return address.lower() if mapped is None else str(mapped)


def _unix_path(url: str, rest: str) -> str:
    try:
        name = unquote_to_bytes(os.fsencode(rest.removeprefix("//")))
    except UnicodeError:  # a surrogate that stands for no byte
        raise AddressError(f"{url!r}: the path is no text") from None
    if not name.startswith((b"/", b"@")) or name in (b"/", b"@"):
        raise AddressError(f"{url!r}: write unix:///absolute/path, or unix:@name for abstract")
    if name.startswith(b"/") and b"\0" in name:
        raise AddressError(f"{url!r}: a path has no null byte")
    longest = LONGEST_NAME - name.startswith(b"/")
    if len(name) > longest:
        raise AddressError(f"{url!r}: a Unix socket's path has at most {longest} bytes")
    return os.fsdecode(name)


def _quoted(path: str) -> str:
    slashes = "" if path.startswith("@") else "//"
    return slashes + quote_from_bytes(os.fsencode(path), safe="/@")
