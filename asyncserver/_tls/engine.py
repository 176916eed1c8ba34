"""One end of TLS that knows no loop: bytes in; plain bytes, bytes to send and the end out.

It feeds OpenSSL a record at a time, over `ssl.MemoryBIO`, and so has what OpenSSL has not: a bound
for what one call decrypts, an eye for records that carry nothing, and never a byte inside OpenSSL
that nobody has asked for (which breaks it when it says close_notify).
"""

import contextlib
import ssl
from typing import Final

__all__ = ("Engine", "reason")

# How much is decrypted, or encrypted, in one turn of the loop. The price of a record is told in the
# bytes of a long one that take as long (on the machine of the benchmarks: 16 KiB in 8 to 18 us, a
# byte in 3 us, a KeyUpdate that wants an answer in 60 us). So a turn takes some 0.1 to 0.3 ms
# whatever the peer sends: fifty that flood at once leave the loop three times in 50 ms.
TURN: Final = 128 * 1024
RECORD: Final = 2 * 1024  # for each
NO_DATA: Final = 32 * 1024  # for one without data, on top
# That many in a row without a byte of data in either direction are an attack (RFC 8446, section 5.4,
# lets an implementation limit them; OpenSSL's own limit, for empty ones only, is the same).
MOST_WITHOUT_DATA: Final = 32

# One record, which is all that one OpenSSL read returns. asyncio and uvloop ask for 256 KiB, which
# malloc(3) may map and unmap each time: that makes small messages up to twice as dear on uvloop.
READ_SIZE: Final = 16 * 1024
HEADER: Final = 5  # RFC 8446, section 5.1: type, version (2), length (2)


class Engine:
    """The server's end of one connection.

    Attributes:
        tls: what OpenSSL says about it.
        shaken: the handshake is over.
        calm: after `decrypt`, nothing else is to be seen to: more data, answers, end or error.
        ended: the peer has said close_notify; what comes behind it is ignored (RFC 8446, 6.1).
        error: what is wrong with what came last; nothing can follow.

    """

    __slots__ = (
        "_arrived", "_at", "_incoming", "_outgoing", "_rest", "_tickets", "_without_data", "calm", "ended", "error",
        "shaken", "tls",
    )  # fmt: skip

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.shaken = False
        self.calm = True
        self.ended = False
        self.error: ssl.SSLError | None = None
        self._arrived: bytes | memoryview = b""
        self._at = 0  # up to here it was given to OpenSSL
        self._rest = 0  # bytes that the record before `_at` still lacks
        self._without_data = 0  # records in a row
        self._tickets = b""

    # -- what comes ----------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Bytes that came and that OpenSSL has not seen."""
        return len(self._arrived) - self._at

    @property
    def ready(self) -> bool:
        """Whether `decrypt` can go on."""
        return self.waiting >= (1 if self._rest else HEADER)

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        if self._arrived:
            data = b"".join((self._arrived[self._at :], data))
        self._arrived = data
        self._at = 0

    def shake(self) -> bool:
        """Go on with the handshake; return whether it is over.

        Raises:
            ssl.SSLError, ssl.CertificateError: it failed; `take` has the alert.

        """
        self._incoming.write(self._arrived)  # OpenSSL knows by the first bytes what is none
        self._arrived = b""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.shaken = True
        self._arrived = self._incoming.read()  # it has not looked at what is behind the handshake
        if self.tls.version() == "TLSv1.3":
            self._tickets = self._outgoing.read()
        return True

    def decrypt(self, data: bytes = b"") -> bytes:
        """Take what has come, and return a turn's worth of what it says, perhaps nothing."""
        self.calm = not self.ended and self.error is None
        if not self.calm:
            return b""
        if not self._arrived and not self._rest and _is_one_record(data):
            return self._open(data)
        if data:
            self.feed(data)
        left = TURN
        chunks = []
        while left > 0 and (piece := self._next()):
            if chunk := self._open(piece):
                chunks.append(chunk)
            elif not self._rest:
                left -= NO_DATA
            left -= len(piece) + RECORD
        if self.ready:
            self.calm = False
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _next(self) -> bytes | memoryview:
        """Take as much as has come of one record, once its length is known."""
        at, arrived = self._at, self._arrived
        if not self._rest:
            if len(arrived) - at < HEADER:
                return b""
            self._rest = HEADER + (arrived[at + 3] << 8 | arrived[at + 4])
        if type(arrived) is bytes:
            self._arrived = arrived = memoryview(arrived)
        piece = arrived[at : at + self._rest]
        self._rest -= len(piece)
        self._at = at + len(piece)
        if self._at == len(arrived):
            self._arrived, self._at = b"", 0
        return piece

    def _open(self, piece: bytes | memoryview) -> bytes:
        """Return the data of a record, or of the end of one; none before that."""
        self._incoming.write(piece)
        try:
            chunk = self.tls.read(READ_SIZE)
        except ssl.SSLWantReadError:
            if not self._rest:
                self._count_one_without_data()
        except ssl.SSLZeroReturnError:  # close_notify, after ours
            self._stop(None)
        except ssl.SSLError as exc:
            self._stop(exc)
        else:
            self._without_data = 0
            if not chunk:  # close_notify
                self._stop(None)
            return chunk
        return b""

    def _stop(self, error: ssl.SSLError | None) -> None:
        self.calm = False
        self.ended = error is None
        self.error = error
        self._arrived, self._at, self._rest = b"", 0, 0

    def _count_one_without_data(self) -> None:
        self.calm = False  # OpenSSL may have answered it
        self._without_data += 1
        if self._without_data > MOST_WITHOUT_DATA:
            self._stop(ssl.SSLError(f"more than {MOST_WITHOUT_DATA} records in a row without data"))

    # -- what goes -----------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Bytes that `take` would return, session tickets aside."""
        return self._outgoing.pending

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return what is to be sent for all of `data`.

        Raises:
            ssl.SSLError: it cannot be done any more.

        """
        self._without_data = 0
        size = len(data)
        while (written := self.tls.write(data)) < size:  # a record at a time
            data = memoryview(data)[written:]
            size -= written
        return self.take() if self._tickets else self._outgoing.read()

    def say_close_notify(self) -> None:
        """Say that nothing more goes; the peer may go on."""
        with contextlib.suppress(ssl.SSLError):  # SSLWantRead: nobody waits for theirs
            self.tls.unwrap()

    def take(self) -> bytes:
        """Take what is to be sent.

        The session tickets of TLS 1.3 go out with what is sent first behind the handshake. A client
        that only sends, and closes without reading, would have them unread; then its kernel resets
        the connection (RFC 2525, section 2.17), and what it sent last is lost.
        """
        data = self._outgoing.read()
        if data and self._tickets:
            data, self._tickets = self._tickets + data, b""
        return data


def _is_one_record(data: bytes) -> bool:
    return len(data) >= HEADER and len(data) == HEADER + (data[3] << 8 | data[4])


def reason(exc: Exception) -> str:
    """Say what went wrong in OpenSSL, in lower case and without its numbers."""
    words = getattr(exc, "reason", None)
    return words.replace("_", " ").lower() if isinstance(words, str) else str(exc)
