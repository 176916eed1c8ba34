"""TLS handshakes that wait for their turn outside of `get_request`.

A listener that was wrapped by `SSLContext.wrap_socket` shakes hands inside `accept()`, and so does a
`get_request` that wraps what it accepted: one silent client stops the server. While a hook is called
under `put_off`, such a socket comes back without its handshake, as a `LateSocket`, and the engine
waits for the client's part. Whoever asks it earlier for what only a handshake can tell (the peer's
certificate, say) makes it shake hands at once, as before.
"""

import contextlib
import functools
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ("LateSocket", "possible", "put_off")

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

_wrap_socket = ssl.SSLContext.wrap_socket
_here = threading.local()
_lock = threading.Lock()
_users = 0


def _wrap_socket_late(
    self: ssl.SSLContext,
    sock: Any,
    server_side: bool = False,  # noqa: FBT001, FBT002
    do_handshake_on_connect: bool = True,  # noqa: FBT001, FBT002
    *args: Any,
    **options: Any,
) -> ssl.SSLSocket:
    late = (
        server_side
        and do_handshake_on_connect
        and getattr(_here, "puts_off", False)
        and self.sslsocket_class is ssl.SSLSocket
    )
    wrapped = _wrap_socket(
        self, sock, server_side, do_handshake_on_connect and not late, *args, **options
    )
    if late and type(wrapped) is ssl.SSLSocket:
        wrapped.__class__ = LateSocket
    return wrapped


@contextlib.contextmanager
def possible() -> Iterator[None]:
    """Make `put_off` work inside, by a patch of `SSLContext` that other threads do not notice."""
    global _users  # noqa: PLW0603 - as global as what it counts the users of
    with _lock:
        _users += 1
        ssl.SSLContext.wrap_socket = _wrap_socket_late  # type: ignore[method-assign]
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                ssl.SSLContext.wrap_socket = _wrap_socket  # type: ignore[method-assign]


def put_off(function: Callable[[], Any]) -> Any:
    """Call `function`; what this thread wraps meanwhile does not shake hands."""
    _here.puts_off = True
    try:
        return function()
    finally:
        _here.puts_off = False
