"""The four servers, and the one below them: what differs from `socketserver`, and nothing else.

`serve_forever` runs on an engine, `shutdown` wakes it, and a request goes the way that the standard
library made for it, hook by hook. Methods do not use `super()`: `install` puts them into the
standard library's own classes.
"""

import _socket
import errno
import selectors
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from compat import late
from compat.state import SHUTDOWN_REQUEST, engine_here, engine_of, engines_of
from compat.words import mirrors

__all__ = ("BaseServer", "TCPServer", "UDPServer", "UnixDatagramServer", "UnixStreamServer")

DEFAULT_GRACE: Final = 1.0  # seconds; whoever cancels is in a hurry
BACKLOG: Final = 128  # instead of 5, which resets clients that come together; see listen(2)
BACK_OFF: Final = 0.05  # seconds of pause when the system is out, where there is no engine to wait
OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
IS_SHUT_DOWN: Final = "_BaseServer__is_shut_down"

_family = _socket.socket.family.__get__  # a plain number
_type = _socket.socket.type.__get__
_serve_forever = socketserver.BaseServer.serve_forever
_get_datagram = socketserver.UDPServer.get_request
_server_activate = socketserver.TCPServer.server_activate


@mirrors(socketserver.BaseServer)
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
            for engine in engines_of(self):
                engine.wake()

    @property
    def __is_shut_down(self) -> threading.Event:
        event: threading.Event = _attribute(self, IS_SHUT_DOWN)
        return event

    @__is_shut_down.setter
    def __is_shut_down(self, event: threading.Event) -> None:
        late.prepare()  # here, because all servers come by when they are made
        vars(self)[IS_SHUT_DOWN] = event
        if engine_of(self) is None:
            event.set()  # who never served is shut down already, and nobody waits for it in vain

    def serve_forever(self, poll_interval: float | None = 0.5) -> None:
        late.prepare()  # for those that were made before `install`
        if not late.engine().can_poll():
            _serve_greenlets(self, poll_interval)
            return
        late.engine().check_limit(self)
        self.__is_shut_down.clear()
        engine = late.engine().Engine(self, poll_interval)
        try:
            engine.enter()
            engine.run()
        finally:
            try:
                last = engine.leave()
            except BaseException:  # a signal handler's, which may come at any time
                last = engine.leave()
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
        if engine_here(self) is None:
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
        await late.awaiting().serve_in_thread(self, grace)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        late.telling().tell(client_address)

    def _handle_request_noblock(self) -> None:
        engine = engine_here(self)
        try:
            if engine is None:
                request, client_address = self.get_request()
            else:
                get_request = self.get_request
                at_once = _AT_ONCE.get(getattr(get_request, "__func__", None))
                if at_once is not None and engine.turnstile is None:
                    request, client_address = at_once(self)
                else:
                    request, client_address = engine.ask(get_request, put_off=at_once is None)
        except OSError as exc:
            if engine is not None:
                engine.back_off(exc)
            elif exc.errno in OUT_OF_RESOURCES:
                time.sleep(BACK_OFF)  # whoever calls this in a loop would spin
            return
        if engine is None:
            _handle(self, request, client_address)
        elif _is_late(request):
            engine.park(request, lambda: _handle(self, request, client_address))
        else:
            engine.request = request
            _handle(self, request, client_address)
            engine.request = None


def _be_shut_down(server: socketserver.BaseServer) -> None:
    vars(server)[SHUTDOWN_REQUEST] = False
    vars(server)[IS_SHUT_DOWN].set()


def _serve_greenlets(server: socketserver.BaseServer, poll_interval: Any) -> None:
    """Leave the waiting to the standard library, and so to what has been put in its place."""
    # The one that it would choose if it were imported now, and not before that was done.
    kind = getattr(selectors, "PollSelector", selectors.SelectSelector)
    socketserver._ServerSelector = kind  # type: ignore[attr-defined] # missing in typeshed
    _serve_forever(server, poll_interval)


def _attribute(server: socketserver.BaseServer, name: str) -> Any:
    try:
        return vars(server)[name]
    except KeyError:  # its __init__ has not run
        text = f"{type(server).__name__!r} object has no attribute {name!r}"
        raise AttributeError(text, name=name, obj=server) from None


def _is_late(request: Any) -> bool:
    if not late.handshakes.cache_info().currsize:
        return False
    return type(request) is late.handshakes().LateSocket


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


@mirrors(socketserver.TCPServer)
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
        # What accept() does, but for two enums that it makes only to take them apart again.
        fileno, client_address = listener._accept()  # type: ignore[attr-defined]
        kind = _family(listener), _type(listener), listener.proto
        return socket.socket(*kind, fileno=fileno), client_address
    if type(listener) is getattr(sys.modules.get("ssl"), "SSLSocket", None):
        return late.handshakes().accept(listener)
    return listener.accept()


def _is_asked(server: socketserver.BaseServer) -> bool:
    """Whether its engine calls its `get_request`, and not somebody else, who may want to wait.

    Nor the same a second time, for one more: nobody knows whether there is one.
    """
    engine = engine_here(server)
    if engine is None or not engine.asking:
        return False
    engine.asking = False
    return True


def _says_nothing_about_backlog(server: socketserver.TCPServer) -> bool:
    owners = (
        each for each in (server, *type(server).__mro__) if "request_queue_size" in vars(each)
    )
    return next(owners) is socketserver.TCPServer and server.request_queue_size == 5  # noqa: PLR2004


# The standard library's class first: what it says about datagrams goes before our TCPServer.
@mirrors(socketserver.UDPServer)
class UDPServer(socketserver.UDPServer, TCPServer):
    def get_request(self) -> Any:
        return _receive(self) if _is_asked(self) else _get_datagram(self)


def _receive(server: socketserver.UDPServer) -> Any:
    """Return a datagram and its sender, for an engine that knows that there is one."""
    # Unless another process has taken it, or its checksum is wrong.
    data, client_address = server.socket.recvfrom(server.max_packet_size, socket.MSG_DONTWAIT)
    return (data, server.socket), client_address


@mirrors(socketserver.UnixStreamServer)
class UnixStreamServer(socketserver.UnixStreamServer, TCPServer):
    pass


@mirrors(socketserver.UnixDatagramServer)
class UnixDatagramServer(socketserver.UnixDatagramServer, UDPServer):
    pass


# What stands behind the methods of ours, if nobody has put another in their place.
_AT_ONCE: Final[dict[object, Callable[[Any], Any]]] = {
    vars(TCPServer)["get_request"]: _accept,
    vars(UDPServer)["get_request"]: _receive,
}
