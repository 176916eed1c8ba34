"""TLS handshakes that wait for their turn outside of `get_request`.

A listener that was wrapped by `SSLContext.wrap_socket` shakes hands inside `accept()`, and so does a
`get_request` that wraps what it accepted: one silent client stops the server. What a server accepts
while it is asked by its engine therefore comes back without its handshake, as a `LateSocket`, and the
engine waits for the client's part. Whoever asks it earlier for what only a handshake can tell (the
peer's certificate, say) makes it shake hands at once, as before.

Nobody else's `ssl` is touched: for the length of one `get_request`, and in its thread only, the
server's own listener is of a class that accepts such sockets.
"""

import functools
import logging
import select
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

__all__ = ("Handshake", "LateSocket", "accept", "put_off")

logger = logging.getLogger("asyncserver")

HANDSHAKE_TIMEOUT: Final = 10.0  # seconds, as asyncserver.Timeouts has it

# What a socket can be asked, or do, only after its handshake. Some exist on some Pythons only.
NEEDS_HANDSHAKE = (
    "cipher", "compression", "do_handshake", "get_channel_binding", "get_unverified_chain",
    "get_verified_chain", "getpeercert", "selected_alpn_protocol", "selected_npn_protocol",
    "shared_ciphers", "unwrap", "verify_client_post_handshake", "version",
)  # fmt: skip


class LateSocket(ssl.SSLSocket):
    """A server's end of a connection, the handshake of which has not begun."""

    def on_time(self) -> ssl.SSLSocket:
        """Become an ordinary socket: its handshake is about to happen."""
        self.__class__ = ssl.SSLSocket  # type: ignore[assignment] # of one layout, by intention
        return self


def _shake_first(name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(ssl.SSLSocket, name))
    def method(self: LateSocket, *args: Any, **options: Any) -> Any:
        sock = self.on_time()
        if name != "do_handshake":
            sock.do_handshake()
        return getattr(sock, name)(*args, **options)

    return method


for _name in NEEDS_HANDSHAKE:
    if hasattr(ssl.SSLSocket, _name):
        setattr(LateSocket, _name, _shake_first(_name))


class _Newborn(LateSocket):
    """One that `wrap_socket` is still at: the handshake that is its last step comes later."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        self.__class__ = LateSocket  # type: ignore[assignment] # of one layout, by intention


# -- what stands in for a server's own sockets while it is asked -----------------------------------


class _Here(threading.local):
    accepted: "list[_Accepted] | None" = None  # by the get_request that runs in this thread


_here = _Here()
_WRAPPING = ssl.SSLSocket._create.__func__.__code__  # type: ignore[attr-defined] # private, but in all Pythons


class _Accepted(socket.socket):
    """A connection whose TLS, if it is wrapped before `get_request` returns, shakes hands late."""

    __slots__ = ()

    def detach(self) -> int:
        # SSLSocket takes the descriptor over, having made itself and before it shakes hands. With a
        # deadline of the user's own the handshake stays where it is, bounded and in his hands.
        caller = sys._getframe(1)
        if _here.accepted is not None and caller.f_code is _WRAPPING and self.gettimeout() is None:
            wants = caller.f_locals
            if (
                wants["server_side"]
                and wants["do_handshake_on_connect"]
                and type(wants["self"]) is ssl.SSLSocket
            ):
                wants["self"].__class__ = _Newborn
        return super().detach()


class _Listener(socket.socket):
    __slots__ = ()

    def accept(self) -> tuple[socket.socket, Any]:
        sock, address = super().accept()
        if _here.accepted is not None and type(sock) is socket.socket:
            sock.__class__ = _Accepted
            _here.accepted.append(sock)  # type: ignore[arg-type]
        return sock, address


class _TLSListener(ssl.SSLSocket):
    def accept(self) -> tuple[ssl.SSLSocket, Any]:
        return super().accept() if _here.accepted is None else accept(self)


_STAND_INS: Final[dict[type, type]] = {socket.socket: _Listener, ssl.SSLSocket: _TLSListener}
# Of one that a signal handler's exception has left standing.
_STOOD_IN_FOR: Final = {stand_in: kind for kind, stand_in in _STAND_INS.items()}


def accept(listener: Any) -> tuple[ssl.SSLSocket, Any]:
    """Do what `SSLSocket.accept` does, but for the handshake."""
    kind: Any = type(listener)
    if not issubclass(kind, ssl.SSLSocket):  # but that of another module of this name
        return listener.accept()  # type: ignore[no-any-return]
    context = listener.context
    if not listener.do_handshake_on_connect or context.sslsocket_class is not ssl.SSLSocket:
        return ssl.SSLSocket.accept(listener)
    sock, address = socket.socket.accept(listener)
    wrapped = context.wrap_socket(
        sock,
        do_handshake_on_connect=sock.gettimeout() == 0,  # which is an error, as ever
        suppress_ragged_eofs=listener.suppress_ragged_eofs,
        server_side=True,
    )
    if type(wrapped) is ssl.SSLSocket:  # and nothing that a test has put there
        wrapped.__class__ = LateSocket
    return wrapped, address


def put_off(get_request: Callable[[], Any], listener: Any) -> Any:
    """Call `get_request`; what it accepts from `listener` and wraps does not shake hands."""
    kind = _STOOD_IN_FOR.get(type(listener), type(listener))
    if kind not in _STAND_INS:
        return get_request()
    before, _here.accepted = _here.accepted, []
    try:
        listener.__class__ = _STAND_INS[kind]
        return get_request()
    finally:
        accepted, _here.accepted = _here.accepted, before
        listener.__class__ = kind
        for sock in accepted or ():
            sock.__class__ = socket.socket  # type: ignore[assignment]


# -- waiting for the client's part -----------------------------------------------------------------


class Handshake:
    """One handshake, a step at a time, whenever its descriptor is ready.

    Args:
        sock: what has to shake hands.
        go_on: called when it has.

    Attributes:
        deadline: when it is over, by `time.monotonic`.
        fileno: what it waits for; stays open while it does.
        sock: whose it is.

    """

    def __init__(self, sock: LateSocket, go_on: Callable[[], object]) -> None:
        self._timeout = sock.gettimeout()  # the user's: of setdefaulttimeout(), for instance
        seconds = HANDSHAKE_TIMEOUT if self._timeout is None else self._timeout
        self.deadline = time.monotonic() + seconds
        self.go_on = go_on
        self.fileno = sock.fileno()
        # Holds the descriptor, should a deadline of the user's close the socket meanwhile.
        self._held = sock.makefile("rb", buffering=0)
        self.sock = sock.on_time()
        self.sock.setblocking(False)

    def step(self) -> int:
        """Go on with it; return what to poll its descriptor for, or 0 when it has ended."""
        try:
            self.sock.do_handshake()
            self.sock.settimeout(self._timeout)
        except ssl.SSLWantReadError:
            return select.POLLIN
        except ssl.SSLWantWriteError:
            return select.POLLOUT
        except (OSError, ValueError) as exc:  # SSLError is an OSError
            self.fail(exc)
        self._held.close()
        return 0

    def fail(self, why: object) -> None:
        """End it, and the connection."""
        logger.debug("TLS handshake failed: %s", why)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()
        self._held.close()

    @property
    def succeeded(self) -> bool:
        """Whether there is an open connection, of which `go_on` may make use."""
        return self.sock.fileno() >= 0
