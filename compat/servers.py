"""The four servers, and the one below them: what differs from `socketserver`, and nothing else.

`serve_forever` runs on an engine, `shutdown` wakes it, and a request goes the way that the standard
library made for it, hook by hook. Methods do not use `super()`: `install` puts them into the
standard library's own classes.
"""

import errno
import selectors
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from compat import _cpython
from compat._cpython import IS_SHUT_DOWN, SHUTDOWN_REQUEST
from compat.attributes import check_limit
from compat.docstrings import copy_docstrings_from
from compat.lazy_imports import is_loaded, lazy_module, load

if TYPE_CHECKING:
    import logging

    from compat import engine, error_output, handshakes, poller, to_thread
else:
    logging = lazy_module("logging")
    engine = lazy_module("compat.engine")
    error_output = lazy_module("compat.error_output")
    handshakes = lazy_module("compat.handshakes")  # only where there is TLS
    poller = lazy_module("compat.poller")
    to_thread = lazy_module("compat.to_thread")

__all__ = (
    "BaseServer",
    "TCPServer",
    "UDPServer",
    "UnixDatagramServer",
    "UnixStreamServer",
    "prepare",
)

DEFAULT_GRACE: Final = 1.0  # seconds; whoever cancels is in a hurry
BACKLOG: Final = 128  # instead of 5, which resets clients that come together; see listen(2)
BACK_OFF: Final = 0.05  # seconds of pause when the system is out, where there is no engine to wait
OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_serve_forever = socketserver.BaseServer.serve_forever
_get_datagram = socketserver.UDPServer.get_request
_server_activate = socketserver.TCPServer.server_activate


@copy_docstrings_from(socketserver.BaseServer)
class BaseServer(socketserver.BaseServer):
    # Both flags are private by name and public in fact: programs set and read them. They stay where
    # the standard library has them, in the instance's __dict__, also for instances older than us.

    @property
    def __shutdown_request(self) -> bool:
        return bool(_attribute(self, SHUTDOWN_REQUEST))

    @__shutdown_request.setter
    def __shutdown_request(self, value: bool) -> None:
        vars(self)[SHUTDOWN_REQUEST] = value
        if value:
            for each in engine.engines_of(self):
                each.poller.wake()

    @property
    def __is_shut_down(self) -> threading.Event:
        event: threading.Event = _attribute(self, IS_SHUT_DOWN)
        return event

    @__is_shut_down.setter
    def __is_shut_down(self, event: threading.Event) -> None:
        prepare()  # here, because all servers come by when they are made
        vars(self)[IS_SHUT_DOWN] = event
        if engine.engine_of(self) is None:
            event.set()  # who never served is shut down already, and nobody waits for it in vain

    def serve_forever(self, poll_interval: float | None = 0.5) -> None:
        prepare()  # for those that were made before `install`
        if not poller.can_poll():
            _serve_greenlets(self, poll_interval)
            return
        check_limit(self)
        here = engine.Engine(self, poll_interval)
        is_shut_down = self.__is_shut_down  # which there is not, before __init__
        try:
            is_shut_down.clear()
            here.enter()
            here.run()
        finally:
            try:
                last = here.leave()
            except BaseException:  # a signal handler's, which may come at any time
                last = here.leave()
                raise
            finally:
                if last:
                    try:
                        _be_shut_down(self)
                    except BaseException:  # as above
                        _be_shut_down(self)
                        raise

    def shutdown(self) -> None:
        self.__shutdown_request = True
        # Waiting for ourselves would never end.
        if engine.engine_here(self) is None:
            self.__is_shut_down.wait()

    async def serve(self, *, grace: float | None = DEFAULT_GRACE) -> None:
        """Serve inside an async program: `serve_forever` in a thread of its own.

        Returns when somebody calls `shutdown`. Cancelling it calls `shutdown`, waits up to `grace`
        seconds for the requests in hand, wakes those that wait for their peer (shutdown(2) of
        their sockets), and does not wait for longer than another quarter of a second. Does not
        close the server.

        Args:
            grace: seconds; `None`: as long as it takes.

        """
        await to_thread.serve_in_thread(self, grace)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        error_output.print_exception(client_address)

    def _handle_request_noblock(self) -> None:
        here = engine.engine_here(self)
        try:
            if here is None:
                request, client_address = self.get_request()
            else:
                get_request = self.get_request
                at_once = _AT_ONCE.get(getattr(get_request, "__func__", None))
                if at_once is not None and here.acceptor.lock is None:
                    request, client_address = at_once(self)
                else:
                    request, client_address = here.acceptor.get_request(
                        get_request, defer_handshake=at_once is None
                    )
        except OSError as exc:
            if here is not None:
                here.acceptor.note_refusal(exc)
            elif exc.errno in OUT_OF_RESOURCES:
                time.sleep(BACK_OFF)  # whoever calls this in a loop would spin
            return
        if here is None:
            _handle(self, request, client_address)
        elif is_loaded(handshakes) and type(request) is handshakes.DeferredSocket:
            here.handshakes.add(request, lambda: _handle(self, request, client_address))
        else:
            here.request = request
            _handle(self, request, client_address)
            here.request = None


def prepare() -> None:
    """Import what serving needs: now, and not in the middle of a storm of errors."""
    load(engine, poller, error_output, logging)


def _be_shut_down(server: socketserver.BaseServer) -> None:
    vars(server)[SHUTDOWN_REQUEST] = False
    vars(server)[IS_SHUT_DOWN].set()


def _serve_greenlets(server: socketserver.BaseServer, poll_interval: Any) -> None:
    """Leave the waiting to the standard library, and so to what has been put in its place."""
    # The one that it would choose if it were imported now, and not before that was done.
    _cpython.select_with(getattr(selectors, "PollSelector", selectors.SelectSelector))
    _serve_forever(server, poll_interval)


def _attribute(server: socketserver.BaseServer, name: str) -> Any:
    try:
        return vars(server)[name]
    except KeyError:  # its __init__ has not run
        text = f"{type(server).__name__!r} object has no attribute {name!r}"
        raise AttributeError(text, name=name, obj=server) from None


def _handle(server: Any, request: Any, client_address: Any) -> None:
    """Do what comes after get_request."""
    if not server.verify_request(request, client_address):
        server.shutdown_request(request)
        return
    try:
        server.process_request(request, client_address)
    except Exception:
        server.handle_error(request, client_address)
        server.shutdown_request(request)
    except BaseException:
        server.shutdown_request(request)
        raise


@copy_docstrings_from(socketserver.TCPServer)
class TCPServer(BaseServer, socketserver.TCPServer):
    def server_activate(self) -> None:
        if _says_nothing_about_backlog(self):
            self.request_queue_size = BACKLOG
        _server_activate(self)

    def get_request(self) -> Any:
        return _accept(self) if _is_asked(self) else self.socket.accept()


def _accept(server: socketserver.TCPServer) -> Any:
    """Return a connection and its peer, for an engine that knows that somebody waits."""
    listener = server.socket
    if type(listener) is socket.socket and listener.gettimeout() is None:
        return _cpython.accept(listener)
    if type(listener) is getattr(sys.modules.get("ssl"), "SSLSocket", None):
        return handshakes.accept(listener)
    return listener.accept()


def _is_asked(server: socketserver.BaseServer) -> bool:
    """Whether its engine calls its `get_request`, and not somebody else, who may want to wait.

    Nor the same a second time, for one more: nobody knows whether there is one.
    """
    here = engine.engine_here(server)
    if here is None or not here.acceptor.in_get_request:
        return False
    here.acceptor.in_get_request = False
    return True


def _says_nothing_about_backlog(server: socketserver.TCPServer) -> bool:
    owners = (
        each for each in (server, *type(server).__mro__) if "request_queue_size" in vars(each)
    )
    return next(owners) is socketserver.TCPServer and server.request_queue_size == 5  # noqa: PLR2004


# The standard library's class first: what it says about datagrams goes before our TCPServer.
@copy_docstrings_from(socketserver.UDPServer)
class UDPServer(socketserver.UDPServer, TCPServer):
    def get_request(self) -> Any:
        return _receive(self) if _is_asked(self) else _get_datagram(self)


def _receive(server: socketserver.UDPServer) -> Any:
    """Return a datagram and its sender, for an engine that knows that there is one."""
    # Unless another process has taken it, or its checksum is wrong.
    data, client_address = server.socket.recvfrom(server.max_packet_size, socket.MSG_DONTWAIT)
    return (data, server.socket), client_address


@copy_docstrings_from(socketserver.UnixStreamServer)
class UnixStreamServer(socketserver.UnixStreamServer, TCPServer):
    pass


@copy_docstrings_from(socketserver.UnixDatagramServer)
class UnixDatagramServer(socketserver.UnixDatagramServer, UDPServer):
    pass


# What stands behind the methods of ours, if nobody has put another in their place.
_AT_ONCE: Final[dict[object, Callable[[Any], Any]]] = {
    vars(TCPServer)["get_request"]: _accept,
    vars(UDPServer)["get_request"]: _receive,
}
