"""TLS between a transport and a protocol: the handshake, and the same bytes in clear.

One layer for every loop, over `ssl.MemoryBIO` (as asyncio's own, PEP 644 and cpython#81744). It
exists because `loop.start_tls()` loses or mixes up bytes at the moment of the upgrade on some
loops, and because a handshake is ours to time and to count: see `upgrade`.
"""

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final

from asyncserver.errors import HandshakeError, SettingError, UpgradeRefusedError

__all__ = ("TLSSource", "TLSTransport", "server_context", "shake_hands")

TLSSource = ssl.SSLContext | str | os.PathLike[str] | tuple[str | os.PathLike[str], ...]
"""What `tls=` takes: a context, a PEM file with both, or (certificate chain, key)."""

# One record, which is all that one OpenSSL read returns. asyncio and uvloop ask for 256 KiB, which
# malloc(3) may map and unmap each time: that makes small messages up to twice as dear on uvloop.
READ_SIZE: Final = 16 * 1024
HANDSHAKE_RECORD: Final = 0x16  # RFC 8446, section 5.1: the first byte of a ClientHello


def server_context(source: TLSSource) -> ssl.SSLContext:
    """Make the context of a server: TLS 1.2 or newer, Python's default ciphers.

    Raises:
        SettingError: a file is missing or unreadable, or the key does not belong to the
            certificate.

    """
    if isinstance(source, ssl.SSLContext):
        if source.protocol == ssl.PROTOCOL_TLS_CLIENT:
            raise SettingError(
                "tls= has a client's context: write ssl.create_default_context(Purpose.CLIENT_AUTH)"
            )
        return source
    files = (source,) if isinstance(source, str | os.PathLike) else source
    if not isinstance(files, tuple | list):
        raise SettingError(f"tls= is {source!r}: write an SSLContext, or (certificate, key)")
    if not 1 <= len(files) <= 2:  # noqa: PLR2004 - certificate and key
        raise SettingError(f"tls= has {len(files)} files: write (certificate, key)")
    certificate, key = files[0], files[-1] if len(files) > 1 else None
    for file in files:
        if not os.access(file, os.R_OK):
            reason = "cannot be read" if os.path.exists(file) else "does not exist"
            raise SettingError(f"the TLS file {os.fspath(file)} {reason}")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password=_no_prompt)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        names = " and ".join(os.fspath(file) for file in files)
        raise SettingError(f"the TLS files {names} do not work: {_reason(exc)}") from exc
    return context


async def shake_hands(sock: ssl.SSLSocket) -> None:
    """Do the handshake of a non-blocking socket, for whoever wants a socket and no transport.

    Raises:
        OSError: it failed; `ssl.SSLError` is one.

    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(sock.fileno(), loop.add_reader, loop.remove_reader)
        except ssl.SSLWantWriteError:
            await _ready(sock.fileno(), loop.add_writer, loop.remove_writer)
        else:
            return


async def _ready(fileno: int, add: Callable[..., object], remove: Callable[[int], object]) -> None:
    ready = asyncio.get_running_loop().create_future()
    add(fileno, _set, ready)
    try:
        await ready
    finally:
        remove(fileno)


def _set(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


class TLSTransport(asyncio.Transport, asyncio.Protocol):
    """A transport to the protocol above it, a protocol to the transport below it.

    Nothing is decrypted before `start`, so whoever comes above misses no byte.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        # for a connection's life
        self._context = context
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._below: asyncio.Transport
        self._above: asyncio.Protocol | asyncio.BufferedProtocol | None = None
        self._loop = asyncio.get_running_loop()
        # for the handshake
        self._shaken: asyncio.Future[None] = self._loop.create_future()
        # of now: what comes
        self._held: list[bytes] = []  # decrypted, and not yet delivered
        self._paused = False
        self._ended = False  # the peer sends no more
        self._told = False  # and the protocol above knows it
        # of now: what goes
        self._writing_paused = False
        self._finished = False  # write_eof() was called
        self._closing = False
        # of the end
        self._lost = False
        self._error: Exception | None = None

    async def upgrade(
        self, transport: asyncio.Transport, received: bytes, *, ended: bool = False
    ) -> None:
        """Take over a transport in clear, `received` being what has come and was not yet read.

        That must be the beginning of a handshake: no clear text of before is ever mixed with what
        comes encrypted, and none is taken for it. `ended` says that nothing comes behind it.

        Raises:
            UpgradeRefusedError: it is something else.
            HandshakeError: the handshake failed.

        """
        if received and received[0] != HANDSHAKE_RECORD:
            raise UpgradeRefusedError(len(received))
        transport.set_protocol(self)
        self.connection_made(transport)
        transport.resume_reading()
        if received:
            self.data_received(received)
        if ended:
            self.eof_received()  # the transport will not say it again
        await self.handshake()

    async def handshake(self) -> None:
        """Wait for the end of the handshake. When cancelled, abort the connection.

        Raises:
            HandshakeError: it failed.

        """
        try:
            await self._shaken
        except asyncio.CancelledError:
            self._below.abort()
            raise

    def start(self, protocol: asyncio.Protocol | asyncio.BufferedProtocol) -> None:
        """Deliver what was decrypted, and what is to come, to `protocol`."""
        if self._above is None:  # else its connection_made() has put another in its place
            self._above = protocol
        if self._writing_paused:
            self._above.pause_writing()
        if self._lost:  # since the handshake
            self._loop.call_soon(self._above.connection_lost, self._error)
        else:
            self._go_on()

    # -- from below ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = transport  # type: ignore[assignment] # uvloop's derive from nothing

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return  # behind close_notify everything is to be ignored (RFC 8446, section 6.1)
        self._incoming.write(data)
        if self._above is not None:
            self._decrypt()
        elif not self._shaken.done():
            self._shake()

    def eof_received(self) -> bool:
        self._ended = True
        if not self._shaken.done():
            self._fail_handshake(HandshakeError("the peer left in the middle of the handshake"))
        elif self._above is not None:
            self._decrypt()  # what is left first
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = self._closing = self._lost = True
        if self._error is None:
            self._error = exc
        if not self._shaken.done():
            self._fail_handshake(HandshakeError(f"the connection was lost: {exc}"))
        above, self._above = self._above, None  # they hold each other, and OpenSSL's memory
        if above is not None:
            above.connection_lost(self._error)

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._above is not None:
            self._above.resume_writing()

    # -- from above ----------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._finished:
            raise RuntimeError("Cannot call write() after write_eof()")  # asyncio's words
        if self._closing or not data:
            return
        rest = data if type(data) is bytes else memoryview(data).cast("B")
        try:
            while (written := self._tls.write(rest)) < len(rest):  # a record at a time
                rest = memoryview(rest)[written:]
        except ssl.SSLError as exc:
            self._fatal(exc)
            return
        self._flush()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Send close_notify: nothing more comes from here, but we go on reading (RFC 8446, 6.1)."""
        if self._closing or self._finished or self._below.is_closing():
            return
        error = self._read()  # OpenSSL breaks on data that it still has when it says close_notify
        if error is not None:
            self._fatal(error)
            return
        self._notify()
        self._finished = True
        self._below.write_eof()

    def close(self) -> None:
        """Send close_notify and what is still to be sent, then close, without waiting for theirs."""
        if not self._closing and not self._finished:
            self._notify()
        self._closing = True
        self._below.close()

    def abort(self) -> None:
        self._closing = True
        self._below.abort()

    def is_closing(self) -> bool:
        return self._below.is_closing()

    def is_reading(self) -> bool:
        return not self._paused and self._below.is_reading()

    def pause_reading(self) -> None:
        self._paused = True
        if not self._ended:
            self._below.pause_reading()

    def resume_reading(self) -> None:
        if not self._paused:
            return
        self._paused = False
        if not self._ended:
            self._below.resume_reading()
        # Later, because the caller is about to wait for just these bytes.
        self._loop.call_soon(self._go_on)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol | asyncio.BufferedProtocol)
        self._above = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self if self._above is None else self._above

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._below.get_write_buffer_limits()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        match name:
            case "ssl_object":
                return self._tls
            case "sslcontext":
                return self._context
            case "peercert":
                return self._tls.getpeercert()
            case "cipher":
                return self._tls.cipher()
            case "compression":
                return self._tls.compression()
        return self._below.get_extra_info(name, default)

    # -- inside --------------------------------------------------------------------------------

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except (ssl.SSLError, ssl.CertificateError) as exc:
            self._flush()  # the alert that tells the peer why
            error = HandshakeError(_reason(exc))
            error.__cause__ = exc
            self._fail_handshake(error)
        else:
            self._flush()
            self._shaken.set_result(None)

    def _fail_handshake(self, error: Exception) -> None:
        self._closing = True
        self._below.close()
        self._shaken.set_exception(error)
        self._shaken.exception()  # nobody may be left to ask

    def _go_on(self) -> None:
        """Deliver what waits here. An error of the protocol above ends the connection, as below."""
        try:
            self._decrypt()
        except Exception as exc:
            self._fatal(exc)
            self._loop.call_exception_handler(
                {
                    "message": "Fatal error: protocol.data_received() call failed.",
                    "exception": exc,
                    "transport": self,
                    "protocol": self._above,
                }
            )

    def _decrypt(self) -> None:
        """Deliver what has come, and behind it the end."""
        if self._paused or self._below.is_closing():
            return
        error = self._read()
        if self._outgoing.pending:  # answers to what came after the handshake: tickets, new keys
            self._flush()
        self._deliver()
        if error is not None:
            self._fatal(error)
        elif self._ended and not self._held and not self._paused:
            self._end()

    def _read(self) -> ssl.SSLError | None:
        """Decrypt what has come, and hold it; return what is wrong with the rest."""
        try:
            while chunk := self._tls.read(READ_SIZE):
                self._held.append(chunk)
                if not self._incoming.pending:
                    return None  # spares the exception that says "no more"
            self._ended = True  # close_notify
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended = True  # close_notify, after ours
        except ssl.SSLError as exc:
            return exc
        return None

    def _deliver(self) -> None:
        if not self._held:
            return
        data = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        self._held.clear()
        if isinstance(self._above, asyncio.BufferedProtocol):
            self._deliver_into(self._above, memoryview(data))
        elif self._above is not None:
            self._above.data_received(data)

    def _deliver_into(self, protocol: asyncio.BufferedProtocol, view: memoryview) -> None:
        while view and self._above is protocol and not self._paused:
            if self._below.is_closing():
                return
            buffer = memoryview(protocol.get_buffer(len(view))).cast("B")
            size = min(len(view), len(buffer))
            if not size:
                raise RuntimeError("get_buffer() returned an empty buffer")  # asyncio's words
            buffer[:size] = view[:size]
            view = view[size:]
            protocol.buffer_updated(size)
        if view:
            self._held.insert(0, bytes(view))
            if not self._paused:
                self._deliver()  # to the one that has taken its place

    def _end(self) -> None:
        """Say once that nothing more comes, unless nobody wants to know any more."""
        if self._told or self._above is None or self._below.is_closing():
            return
        self._told = True
        if not self._above.eof_received():
            self.close()

    def _notify(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # SSLWantRead: nobody waits for theirs
            self._tls.unwrap()
        self._flush()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and not self._finished and not self._below.is_closing():
            self._below.write(data)

    def _fatal(self, exc: Exception) -> None:
        """End a connection that cannot go on."""
        self._closing = True
        self._error = exc
        self._flush()  # the alert that tells the peer why
        self._below.abort()


def _no_prompt() -> str:
    raise ValueError("the key is encrypted; load it into an SSLContext and give that")


def _reason(exc: Exception) -> str:
    reason = getattr(exc, "reason", None)
    return reason.replace("_", " ").lower() if isinstance(reason, str) else str(exc)
