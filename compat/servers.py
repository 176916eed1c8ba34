"""The four servers, and the one below them: what differs from `socketserver`, and nothing else.

`serve_forever` runs on an engine, `shutdown` wakes it, and a request goes the way that the standard
library made for it, hook by hook. Methods do not use `super()`: `install` puts them into the
standard library's own classes.
"""

import _socket
import errno
import socket
import socketserver
import threading
import time
from threading import get_ident
from typing import Any, Final

from compat import late
from compat.state import ENGINE, SHUTDOWN_REQUEST, engine_of
from compat.words import mirrors

__all__ = ("BaseServer", "TCPServer", "UDPServer", "UnixDatagramServer", "UnixStreamServer")

DEFAULT_GRACE: Final = 1.0  # seconds; whoever cancels is in a hurry
BACKLOG: Final = 128  # instead of 5, which resets clients that come together; see listen(2)
BACK_OFF: Final = 0.05  # seconds of pause when the system is out, where there is no engine to wait
OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
IS_SHUT_DOWN: Final = "_BaseServer__is_shut_down"

_family = _socket.socket.family.__get__  # a plain number
_type = _socket.socket.type.__get__
_get_datagram = socketserver.UDPServer.get_request
_server_activate = socketserver.TCPServer.server_activate


@mirrors(socketserver.BaseServer)
class BaseServer(socketserver.BaseServer):
    # Both flags are private by name and public in fact: programs set and read them. They stay where
    # the standard library has them, in the instance's __dict__, also for instances older than us.

    @property
    def __shutdown_request(self) -> bool:
        return bool(vars(self).get(SHUTDOWN_REQUEST, False))

    @__shutdown_request.setter
    def __shutdown_request(self, value: bool) -> None:
        vars(self)[SHUTDOWN_REQUEST] = value
        engine = engine_of(self)
        if value and engine is not None:
            engine.wake()

    @property
    def __is_shut_down(self) -> threading.Event:
        event: threading.Event = vars(self)[IS_SHUT_DOWN]
        return event

    @__is_shut_down.setter
    def __is_shut_down(self, event: threading.Event) -> None:
        late.prepare()  # here, because all servers come by when they are made
        vars(self)[IS_SHUT_DOWN] = event
        if engine_of(self) is None:
            event.set()  # who never served is shut down already, and nobody waits for it in vain

    def serve_forever(self, poll_interval: float | None = 0.5) -> None:
        late.prepare()  # for those that were made before `install`
        engine = late.engine().Engine(self, poll_interval, lambda: _never_blocks(self))
        self.__is_shut_down.clear()
        try:
            engine.run()
        finally:
            vars(self).pop(ENGINE, None)
            self.__shutdown_request = False
            self.__is_shut_down.set()

    def shutdown(self) -> None:
        self.__shutdown_request = True
        engine = engine_of(self)
        if engine is None or not engine.runs_here:  # waiting for ourselves would never end
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
        engine = vars(self).get(ENGINE)
        if engine is not None and engine.thread != get_ident():
            engine = None
        try:
            if engine is None:
                request, client_address = self.get_request()
            elif engine.never_blocks:
                engine.asking = True
                try:
                    request, client_address = self.get_request()
                finally:
                    engine.asking = False
            else:
                request, client_address = late.engine().put_off(self.get_request)
        except OSError as exc:
            if engine is not None:
                engine.back_off(exc)
            elif exc.errno in OUT_OF_RESOURCES:
                time.sleep(BACK_OFF)  # whoever calls this in a loop would spin
            return
        if engine is None:
            _handle(self, request, client_address)
        elif late.engine().is_late(request):
            engine.park(request, lambda: _handle(self, request, client_address))
        else:
            engine.request = request
            _handle(self, request, client_address)
            engine.request = None


def _never_blocks(server: Any) -> bool:
    """Whether `get_request` is ours for datagrams, on a socket that waits for nothing else."""
    get_request = getattr(server.get_request, "__func__", None)
    return get_request is vars(UDPServer)["get_request"] and server.socket.gettimeout() is None


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
        listener = self.socket
        if type(listener) is not socket.socket or listener.gettimeout() is not None:
            return listener.accept()
        # What accept() does, but for two enums that it makes only to take them apart again.
        fileno, client_address = listener._accept()  # type: ignore[attr-defined]
        kind = _family(listener), _type(listener), listener.proto
        return socket.socket(*kind, fileno=fileno), client_address


def _says_nothing_about_backlog(server: socketserver.TCPServer) -> bool:
    owners = (
        each for each in (server, *type(server).__mro__) if "request_queue_size" in vars(each)
    )
    return next(owners) is socketserver.TCPServer and server.request_queue_size == 5  # noqa: PLR2004


# The standard library's class first: what it says about datagrams goes before our TCPServer.
@mirrors(socketserver.UDPServer)
class UDPServer(socketserver.UDPServer, TCPServer):
    def get_request(self) -> Any:
        engine = vars(self).get(ENGINE)
        if engine is None or not engine.asking or engine.thread != get_ident():
            return _get_datagram(self)
        data, client_address = self.socket.recvfrom(self.max_packet_size, socket.MSG_DONTWAIT)
        return (data, self.socket), client_address


@mirrors(socketserver.UnixStreamServer)
class UnixStreamServer(socketserver.UnixStreamServer, TCPServer):
    pass


@mirrors(socketserver.UnixDatagramServer)
class UnixDatagramServer(socketserver.UnixDatagramServer, UDPServer):
    pass
