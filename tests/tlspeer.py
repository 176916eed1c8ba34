"""The other end of TLS in memory: a client that may misbehave, and a transport that does nothing.

OpenSSL's own client keeps the rules. What it would not send is put into records by hand, with the
keys that it wrote into its key log (RFC 8446, sections 5.2, 7.2 and 7.3; AES-256-GCM with SHA-384).
"""

import asyncio
import contextlib
import hashlib
import hmac
import ssl
import struct
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from asyncserver._tls.transport import TLSTransport

APPLICATION_DATA = 23
HANDSHAKE = 22


def expand(secret: bytes, label: bytes, size: int) -> bytes:
    """Return HKDF-Expand-Label without a context; `size` is at most 48."""
    info = struct.pack("!HB", size, 6 + len(label)) + b"tls13 " + label + b"\0\1"
    return hmac.new(secret, info, hashlib.sha384).digest()[:size]


class Records:
    """Makes records with the keys of a client, from where it has stopped sending itself."""

    def __init__(self, secret: bytes, sent: int = 0) -> None:
        self.secret = secret
        self.sent = sent  # records under these keys

    def make(self, kind: int, content: bytes) -> bytes:
        inner = content + bytes([kind])
        head = b"\x17\x03\x03" + struct.pack("!H", len(inner) + 16)
        iv = int.from_bytes(expand(self.secret, b"iv", 12)) ^ self.sent
        self.sent += 1
        aead = AESGCM(expand(self.secret, b"key", 32))
        return head + aead.encrypt(iv.to_bytes(12), inner, head)

    def data(self, content: bytes) -> bytes:
        return self.make(APPLICATION_DATA, content)

    def key_update(self, *, answer: bool) -> bytes:
        record = self.make(HANDSHAKE, bytes([24, 0, 0, 1, answer]))
        self.secret, self.sent = expand(self.secret, b"traffic upd", 48), 0
        return record


class Peer:
    """A client that talks to whoever is given what it `says`."""

    def __init__(self, authority: Any, directory: Path, version: Any = None) -> None:
        self._log = directory / "keys"
        self._log.unlink(missing_ok=True)
        context = ssl.create_default_context()
        authority.configure_trust(context)
        context.keylog_filename = str(self._log)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self.shaken = False
        self.ended = False
        self.said_close_notify = False
        self.alert = ""  # what OpenSSL calls the one that came

    def shake(self, received: bytes = b"") -> bytes:
        self._incoming.write(received)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
            self.shaken = True
        return self._outgoing.read()

    def say(self, *contents: bytes) -> bytes:
        for content in contents:
            self.tls.write(content)  # one record, if it is short enough
        return self._outgoing.read()

    def say_close_notify(self) -> bytes:
        self.said_close_notify = True
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        return self._outgoing.read()

    def hear(self, received: bytes) -> bytes:
        """Return what was received in clear; `ended` says whether close_notify was behind it."""
        self._incoming.write(received)
        heard = b""
        try:
            while chunk := self.tls.read(16384):
                heard += chunk
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as exc:
            if "ALERT" not in exc.reason:
                raise
            self.alert = exc.reason
        return heard

    def records(self, sent: int = 0) -> Records:
        """Go on by hand, after `sent` records of data."""
        line = next(
            line for line in self._log.read_text().splitlines() if line.startswith("CLIENT_TRAFFIC")
        )
        return Records(bytes.fromhex(line.split()[2]), sent)


class Below(asyncio.Transport):
    """A transport that keeps what it is given, and tells the layer what the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.layer: Any = None
        self.written = bytearray()
        self.reading = True
        self.state = "open"

    def take(self) -> bytes:
        written = bytes(self.written)
        self.written.clear()
        return written

    def write(self, data: Any) -> None:
        assert self.state == "open", self.state
        self.written += data

    def write_eof(self) -> None:
        assert self.state == "open", self.state
        self.state = "shut"

    def close(self) -> None:
        self._end("closed")

    def abort(self) -> None:
        self._end("aborted")

    def _end(self, state: str) -> None:
        if not self.is_closing():
            self.state = state
            asyncio.get_running_loop().call_soon(self.layer.connection_lost, None)

    def is_closing(self) -> bool:
        return self.state not in ("open", "shut")

    def lose(self, exc: Exception | None) -> None:
        self.state = "lost"
        self.layer.connection_lost(exc)

    def pause_reading(self) -> None:
        assert self.reading
        assert not self.is_closing()
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.is_closing()
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def set_protocol(self, protocol: Any) -> None:
        self.layer = protocol

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Above(asyncio.Protocol):
    """A protocol that writes down what it is told: the data in one, and all calls in order."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.calls: list[Any] = []
        self.keep_open = True

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.calls.append(len(data))

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(("lost", exc))


class BufferedAbove(asyncio.BufferedProtocol):
    """The same, which takes at most seven bytes at a time."""

    def __init__(self) -> None:
        self.buffer = bytearray(7)
        self.data = bytearray()
        self.calls: list[Any] = []
        self.pause_at: int | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        assert sizehint > 0
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]
        if self.pause_at is not None and len(self.data) >= self.pause_at:
            self.pause_at = None
            self.transport.pause_reading()

    eof_received = Above.eof_received
    keep_open = True
    pause_writing = Above.pause_writing
    resume_writing = Above.resume_writing
    connection_lost = Above.connection_lost


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def shake(
    context: ssl.SSLContext, peer: Peer, pieces: int = 1_000_000
) -> tuple[Below, TLSTransport]:
    """Shake hands, the client's words coming `pieces` bytes at a time."""
    below = Below()
    below.layer = layer = TLSTransport(context)
    layer.connection_made(below)
    said = peer.shake()
    while said:
        for start in range(0, len(said), pieces):
            layer.data_received(said[start : start + pieces])
            await turns(2)
        said = peer.shake(below.take())
    await layer.handshake()
    return below, layer


def put_on(layer: TLSTransport, protocol: Any) -> Any:
    protocol.connection_made(layer)
    layer.start(protocol)
    return protocol
