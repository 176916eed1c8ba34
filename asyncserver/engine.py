"""One end of TLS that knows no loop: bytes in; plain bytes, bytes to send and the end out.

It feeds OpenSSL a record at a time, over `ssl.MemoryBIO`, and so has what OpenSSL has not: a bound
for what one call decrypts, an eye for records that carry nothing, and never a byte inside OpenSSL
that nobody has asked for (which breaks it when it says close_notify).
"""

import contextlib
import ssl
from typing import Final

__all__ = ("TURN", "Engine", "reason")

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
        ended: the peer has said close_notify; what comes behind it is ignored (RFC 8446, 6.1).

    """

    __slots__ = (
        "_arrived", "_at", "_incoming", "_outgoing", "_rest", "_tickets", "_without_data", "ended", "shaken", "tls",
    )  # fmt: skip

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.shaken = False
        self.ended = False
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
        if not self.ended:
            left = self._arrived[self._at :]
            self._arrived = b"".join((left, data)) if left else data
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

    def decrypt(self, plain: list[bytes]) -> None:
        """Append a turn's worth of data to `plain`.

        Raises:
            ssl.SSLError: what comes next is wrong; `plain` has what came before.

        """
        left = TURN
        while left > 0 and (piece := self._next()):
            self._incoming.write(piece)
            left -= len(piece) + RECORD
            try:
                chunk = self.tls.read(READ_SIZE)
            except ssl.SSLWantReadError:
                if not self._rest:
                    self._count_one_without_data()
                    left -= NO_DATA
            except ssl.SSLZeroReturnError:  # close_notify, after ours
                self._end()
            else:
                self._without_data = 0
                if chunk:
                    plain.append(chunk)
                else:  # close_notify
                    self._end()

    def _next(self) -> bytes | memoryview:
        """Take as much as has come of one record, once its length is known."""
        at, arrived = self._at, self._arrived
        if not self._rest:
            if len(arrived) - at < HEADER:
                return b""
            self._rest = HEADER + (arrived[at + 3] << 8 | arrived[at + 4])
        if not at and len(arrived) <= self._rest:
            piece = arrived
        else:
            if type(arrived) is bytes:
                self._arrived = arrived = memoryview(arrived)
            piece = arrived[at : at + self._rest]
        self._rest -= len(piece)
        self._at = at + len(piece)
        if self._at == len(arrived):
            self._arrived, self._at = b"", 0
        return piece

    def _end(self) -> None:
        self.ended = True
        self._arrived, self._at = b"", 0

    def _count_one_without_data(self) -> None:
        self._without_data += 1
        if self._without_data > MOST_WITHOUT_DATA:
            raise ssl.SSLError(f"more than {MOST_WITHOUT_DATA} records in a row without data")

    # -- what goes -----------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Bytes that `take` would return, session tickets aside."""
        return self._outgoing.pending

    def encrypt(self, data: bytes | memoryview) -> None:
        """Encrypt all of `data`.

        Raises:
            ssl.SSLError: it cannot be done any more.

        """
        self._without_data = 0
        while (written := self.tls.write(data)) < len(data):  # a record at a time
            data = memoryview(data)[written:]

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


def reason(exc: Exception) -> str:
    """Say what went wrong in OpenSSL, in lower case and without its numbers."""
    words = getattr(exc, "reason", None)
    return words.replace("_", " ").lower() if isinstance(words, str) else str(exc)
