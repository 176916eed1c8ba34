"""What real programs do with `socketserver`, row by row of what was collected from them.

Every test runs on the standard library and on compat. A row that compat makes
better is asserted twice, for each as it is. `C..` are habits of real code, `R..` the places where
"unchanged" and an event loop could collide.
"""

import asyncio
import contextlib
import contextvars
import functools
import io
import os
import re
import select
import signal
import socket
import socketserver
import ssl
import struct
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import compat
from tests.conftest import TLS

Module = Any  # `socketserver` or `compat`: the same names


@pytest.fixture(params=["standard", "compat"])
def module(request) -> Module:
    return socketserver if request.param == "standard" else compat


@contextlib.contextmanager
def serving(server: Any, **options: Any) -> Iterator[Any]:
    """Serve in a thread; at the end no thread of it is left."""
    errors: list[BaseException] = []

    def serve() -> None:
        try:
            server.serve_forever(**{"poll_interval": 0.02} | options)
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    if errors:
        raise errors[0]


def ask(server: Any, text: bytes = b"hello\n") -> bytes:
    """What a client gets that sends `text` and says that it is done."""
    if server.socket_type == socket.SOCK_DGRAM:
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(socket.socket(server.address_family, socket.SOCK_DGRAM))
            client.settimeout(10)
            if server.address_family == getattr(socket, "AF_UNIX", None):
                client.bind(b"")  # an abstract name of the kernel's choice
            client.sendto(text, server.server_address)
            return client.recv(70_000)
    with socket.socket(server.address_family) as client:
        client.settimeout(10)
        client.connect(server.server_address)
        client.sendall(text)
        with contextlib.suppress(OSError):  # ENOTCONN: it was refused meanwhile
            client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(1000), b""))


class Upper(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline().upper())


ANY = ("127.0.0.1", 0)


def over(client: Any, ca: TLS) -> bytes:
    with ca.client.wrap_socket(client, server_hostname="localhost") as encrypted:
        encrypted.sendall(b"hello\n")
        return b"".join(iter(lambda: encrypted.recv(1000), b""))


# -- habits ----------------------------------------------------------------------------------------


def test_c1_listener_is_wrapped_after_init(module, tls: TLS):
    server = module.ThreadingTCPServer(ANY, Upper)
    server.socket = tls.server.wrap_socket(server.socket, server_side=True)
    with serving(server), socket.create_connection(server.server_address, 10) as client:
        assert over(client, tls) == b"HELLO\n"


def test_c2_get_request_returns_no_socket_or_fails(module):
    class Wrapped:
        def __init__(self, sock):
            self.sock = sock

        def __getattr__(self, name):
            return getattr(self.sock, name)

    class Server(module.TCPServer):
        calls = 0

        def get_request(self):
            self.calls += 1
            sock, address = super().get_request()
            if self.calls == 1:
                sock.close()
                raise ssl.SSLError("the first one is not welcome")
            return Wrapped(sock), address

    with serving(Server(ANY, Upper)) as server:
        with contextlib.suppress(ConnectionError):
            assert ask(server) == b""
        assert ask(server) == b"HELLO\n"
        assert server.calls == 2


def test_c3_get_request_sets_options_once_in_the_serving_thread(module):
    class Server(module.ThreadingTCPServer):
        threads: list[int] = []

        def get_request(self):
            self.threads.append(threading.get_ident())
            sock, address = super().get_request()
            sock.settimeout(7)
            return sock, address

    class Handler(module.BaseRequestHandler):
        def handle(self):
            self.request.sendall(str(self.request.gettimeout()).encode())

    with serving(Server(ANY, Handler)) as server:
        assert [ask(server), ask(server)] == [b"7.0", b"7.0"]
    assert len(server.threads) == 2
    assert len(set(server.threads)) == 1


def test_c4_get_request_returning_none_ends_handle_request(module):
    class Server(module.TCPServer):
        def get_request(self):
            self.socket.settimeout(0.01)
            try:
                return self.socket.accept()
            except TimeoutError:
                return None

    with (
        Server(ANY, module.BaseRequestHandler) as server,
        socket.create_connection(server.server_address),
    ):
        server.handle_request()
        with pytest.raises(TypeError):
            server._handle_request_noblock()


def test_c5_listener_is_the_connection(module):
    ours, theirs = socket.socketpair()

    class Server(module.TCPServer):
        def server_bind(self):
            pass

        def server_activate(self):
            self.socket.close()
            self.socket = ours

        def get_request(self):
            return self.socket, "the only one"

    class Handler(module.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.client_address.encode())

    with theirs, Server(("nowhere", 0), Handler) as server:
        theirs.sendall(b"x")
        server.handle_request()
        assert theirs.recv(100) == b"the only one"


def test_c6_activate_replaces_the_socket(module, tls: TLS):
    class Server(module.TCPServer):
        def server_activate(self):
            self.socket = tls.server.wrap_socket(self.socket, server_side=True)
            super().server_activate()

    with (
        serving(Server(ANY, Upper)) as server,
        socket.create_connection(server.server_address, 10) as client,
    ):
        assert over(client, tls) == b"HELLO\n"


def test_c7_bind_takes_a_socket_from_elsewhere(module):
    inherited = socket.create_server(ANY)

    class Server(module.TCPServer):
        def server_bind(self):
            self.socket.close()
            self.socket = socket.socket(fileno=os.dup(inherited.fileno()))
            self.server_address = self.socket.getsockname()

    with inherited, serving(Server(ANY, Upper)) as server:
        assert server.server_address == inherited.getsockname()
        assert ask(server) == b"HELLO\n"


def test_c8_close_before_serving_then_another_socket(module):
    server = module.TCPServer(ANY, Upper, bind_and_activate=False)
    server.server_close()
    server.socket = socket.create_server(ANY)
    server.server_address = server.socket.getsockname()
    with serving(server):
        assert ask(server) == b"HELLO\n"


def test_c9_attributes_set_before_init_stay(module):
    class Server(module.ThreadingTCPServer):
        def __init__(self):
            self.allow_reuse_address = True
            self.daemon_threads = True
            self.address_family = socket.AF_INET6
            self.request_queue_size = 5
            super().__init__(("::1", 0), Upper)

    with serving(Server()) as server:
        assert ask(server) == b"HELLO\n"
        assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
        assert (server.daemon_threads, server.request_queue_size) == (True, 5)


def test_c10_flags_set_on_the_standard_class_are_seen(module, monkeypatch):
    monkeypatch.setattr(socketserver.TCPServer, "allow_reuse_address", True)
    monkeypatch.setattr(socketserver.TCPServer, "request_queue_size", 7)
    with module.ThreadingTCPServer(ANY, Upper) as server:
        assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
        assert server.request_queue_size == 7


@pytest.mark.parametrize("way", ["partial", "closure", "type"])
def test_c11_handler_is_any_callable(module, way):
    class Handler(module.StreamRequestHandler):
        def __init__(self, *args, word=b""):
            self.word = word
            super().__init__(*args)

        def handle(self):
            self.wfile.write(self.word)

    handlers = {
        "partial": functools.partial(Handler, word=b"hi"),
        "closure": lambda *args: Handler(*args, word=b"hi"),
        "type": type("Made", (Handler,), {"handle": lambda self: self.wfile.write(b"hi")}),
    }
    with serving(module.ThreadingTCPServer(ANY, handlers[way])) as server:
        assert server.RequestHandlerClass is handlers[way]
        assert ask(server) == b"hi"


def test_c12_finish_request_peeks_at_a_blocking_socket(module):
    class Server(module.ThreadingTCPServer):
        def finish_request(self, request, client_address):
            first = request.recv(1, socket.MSG_PEEK)
            request.sendall(first + request.recv(100))

    with serving(Server(ANY, None)) as server:
        assert ask(server, b"abc") == b"aabc"


def test_c13_semaphore_around_process_request(module):
    class Server(module.ThreadingTCPServer):
        slots = threading.BoundedSemaphore(2)
        log: list[str] = []

        def process_request(self, request, client_address):
            self.slots.acquire()
            self.log.append("process_request")
            super().process_request(request, client_address)

        def process_request_thread(self, request, client_address):
            self.log.append("process_request_thread")
            try:
                super().process_request_thread(request, client_address)
            finally:
                self.slots.release()  # raises if called twice

        def shutdown_request(self, request):
            self.log.append("shutdown_request")
            super().shutdown_request(request)

    with serving(Server(ANY, Upper)) as server:
        for _ in range(5):
            assert ask(server) == b"HELLO\n"
    for name in ("process_request", "process_request_thread", "shutdown_request"):
        assert server.log.count(name) == 5


def test_c14_own_pool_and_another_signature(module):
    class Server(module.ThreadingTCPServer):
        def process_request(self, request, client_address):
            self.job = (request, client_address)
            thread = threading.Thread(target=self.process_request_thread)
            thread.start()
            thread.join()

        def process_request_thread(self):
            self.finish_request(*self.job)
            self.shutdown_request(self.job[0])

    with serving(Server(ANY, Upper)) as server:
        assert ask(server) == b"HELLO\n"


def test_c15_a_thread_of_the_handlers_keeps_the_socket(module):
    kept = []

    class Server(module.TCPServer):
        def process_request(self, request, client_address):
            self.finish_request(request, client_address)  # and no shutdown_request

    class Handler(module.BaseRequestHandler):
        def handle(self):
            kept.append(self.request)

    with serving(Server(ANY, Handler)) as server:
        with socket.create_connection(server.server_address, 10) as client:
            client.sendall(b"x")
            with socket.create_connection(server.server_address, 10) as second:
                second.sendall(b"y")
                while len(kept) < 2:
                    select.select([], [], [], 0.001)
            assert kept[0].recv(1) == b"x"
            kept[0].sendall(b"still open")
            assert client.recv(100) == b"still open"
    for sock in kept:
        sock.close()


def test_c16_thread_locals_are_set_and_cleared_in_one_thread(module):
    local = threading.local()

    class Server(module.ThreadingTCPServer):
        seen: list[Any] = []
        cleared: list[Any] = []

        def process_request_thread(self, request, client_address):
            self.seen.append(getattr(local, "value", None))
            local.value = "set"
            super().process_request_thread(request, client_address)

        def close_request(self, request):
            self.cleared.append(local.value)
            del local.value
            super().close_request(request)

    with serving(Server(ANY, Upper)) as server:
        for _ in range(3):
            ask(server)
    assert (server.seen, server.cleared) == ([None] * 3, ["set"] * 3)


def test_c17_verify_request_is_serial_and_may_be_any_falsy(module):
    class Server(module.ThreadingTCPServer):
        seen: list[int] = []

        def verify_request(self, request, client_address):
            self.seen.append(threading.get_ident())
            return len(self.seen) % 2

    with serving(Server(ANY, Upper)) as server:
        answers = []
        for _ in range(4):
            with contextlib.suppress(ConnectionError):  # the refused ones' bytes were not read
                answers.append(ask(server))
    assert [each for each in answers if each] == [b"HELLO\n"] * 2
    assert len(server.seen) == 4
    assert len(set(server.seen)) == 1


def test_c18_service_actions_ticks_and_may_end_the_server(module):
    class Server(module.TCPServer):
        ticks = 0

        def service_actions(self):
            self.ticks += 1
            if self.ticks == 3:
                raise LookupError("enough")

    with Server(ANY, Upper) as server, pytest.raises(LookupError):
        server.serve_forever(poll_interval=0.01)
    assert server.ticks == 3


def test_c18_service_actions_comes_after_every_request(module):
    log = []

    class Server(module.TCPServer):
        def finish_request(self, request, client_address):
            log.append("request")
            super().finish_request(request, client_address)

        def service_actions(self):
            log.append("actions")

    with serving(Server(ANY, Upper), poll_interval=0.05) as server:
        for _ in range(3):
            ask(server)
    assert re.sub("a+", "a", "".join(each[0] for each in log)).lstrip("a") == "rarara"


def test_c19_handle_error_is_called_inside_the_except_block(module):
    class Server(module.ThreadingTCPServer):
        seen: list[Any] = []

        def handle_error(self, request, client_address):
            self.seen += [sys.exc_info()[0], request.getsockname(), threading.get_ident()]

    class Handler(module.BaseRequestHandler):
        def handle(self):
            self.server.seen.append(threading.get_ident())
            raise LookupError

    with serving(Server(ANY, Handler)) as server:
        assert ask(server, b"") == b""
    thread, kind, name, same = server.seen
    assert (kind, name, same) == (LookupError, server.server_address, thread)


def test_c19_bare_raise_in_handle_error_leaves_serve_forever(module):
    class Server(module.TCPServer):
        def handle_error(self, request, client_address):
            request.close()
            raise  # noqa: PLE0704 - passthrough, as real code has it

    class Handler(module.BaseRequestHandler):
        def handle(self):
            raise LookupError("mine")

    with (
        Server(ANY, Handler) as server,
        socket.create_connection(server.server_address),
        pytest.raises(LookupError, match="mine"),
    ):
        server.serve_forever()


def test_c20_shutdown_is_overridden_and_closes(module):
    class Server(module.TCPServer):
        stopped = False

        def shutdown(self):
            self.stopped = True
            super().shutdown()
            self.server_close()

    with serving(Server(ANY, Upper)) as server:
        assert ask(server) == b"HELLO\n"
    assert server.stopped
    assert server.fileno() == -1


@pytest.mark.parametrize("where", ["handler", "thread"])
def test_c21_mangled_flag_stops_the_server(module, where):
    class Handler(module.BaseRequestHandler):
        def handle(self):
            if where == "handler":
                self.server._BaseServer__shutdown_request = True

    with module.TCPServer(ANY, Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        ask(server, b"")
        assert not server._BaseServer__is_shut_down.is_set() or where == "handler"
        if where == "thread":
            server._BaseServer__shutdown_request = True
        assert server._BaseServer__is_shut_down.wait(10)
        thread.join()
        assert server._BaseServer__shutdown_request is False


def test_c22_one_call_of_noblock_is_one_request(module):
    handled = []

    class Handler(module.BaseRequestHandler):
        def handle(self):
            handled.append(1)

    with (
        module.TCPServer(ANY, Handler) as server,
        socket.create_connection(server.server_address),
        socket.create_connection(server.server_address),
        select.epoll() as poll,
    ):
        poll.register(server.fileno(), select.EPOLLIN)
        for number in (1, 2):
            assert poll.poll(10)
            server._handle_request_noblock()
            assert len(handled) == number


def test_c22_overridden_noblock_is_what_serves(module):
    class Server(module.TCPServer):
        calls = 0

        def _handle_request_noblock(self):
            self.calls += 1
            super()._handle_request_noblock()

    with serving(Server(ANY, Upper)) as server:
        assert ask(server) == b"HELLO\n"
    assert server.calls >= 1


def test_c23_handle_request_honours_both_timeouts(module):
    class Server(module.TCPServer):
        timeouts = 0
        timeout = 60

        def handle_timeout(self):
            self.timeouts += 1

    with Server(ANY, Upper) as server:
        server.socket.settimeout(0.01)
        server.handle_request()
        server.socket.settimeout(60)
        server.timeout = 0.01
        server.handle_request()
        assert server.timeouts == 2


def test_c24_handle_request_may_mean_something_else(module):
    class Server(module.ThreadingTCPServer):
        def handle_request(self, request, client_address):
            raise AssertionError("not what serve_forever may call")

    with serving(Server(ANY, Upper)) as server:
        assert ask(server) == b"HELLO\n"


def test_c25_fileno_is_the_sockets(module):
    server = module.TCPServer(ANY, Upper)
    before = server.fileno()
    with serving(server):
        ask(server)
        assert server.fileno() == before == server.socket.fileno()
        server.socket.set_inheritable(True)
    assert server.fileno() == -1


def test_c26_request_is_a_raw_blocking_socket(module):
    class Handler(module.StreamRequestHandler):
        def handle(self):
            assert select.select([self.request, self.rfile], [], [], 10)[0]
            answer = (
                f"{type(self.request)} {self.request.gettimeout()} {self.request.getblocking()}"
            )
            self.wfile.write(answer.encode())

    with serving(module.ThreadingTCPServer(ANY, Handler)) as server:
        assert ask(server) == b"<class 'socket.socket'> None True"


NAMES = [
    "threads",
    "context",
    "loop",
    "slots",
    "deadline",
    "limits",
    "address",
    "handler",
    "handlers",
    "engine",
    "pool",
    "queue",
    "state",
    "stats",
    "connections",
    "clients",
    "running",
    "draining",
    "closed",
    "timeouts",
    "gate",
    "worker",
    "workers",
    "jobs",
    "lock",
    "events",
    "executor",
    "selector",
    "acceptor",
    "transport",
    "protocol",
    "task",
    "tasks",
    "options",
    "settings",
    "config",
    "name",
    "host",
    "port",
    "url",
    "path",
    "mode",
    "grace",
    "backlog",
    "peer",
    "local",
    "request",
    "requests",
    "response",
    "session",
    "sessions",
    "conf",
]


def test_c27_subclass_may_use_any_name(module):
    class Server(module.ThreadingTCPServer):
        def __init__(self):
            for name in NAMES:
                setattr(self, name, name)
            super().__init__(ANY, Upper)

    assert len(NAMES) >= 50
    with serving(Server()) as server:
        assert ask(server) == b"HELLO\n"
    assert [getattr(server, name) for name in NAMES] == NAMES


def test_c28_standard_mixin_on_top(module):
    made = type("Made", (socketserver.ThreadingMixIn, module.TCPServer), {})
    with serving(made(ANY, Upper)) as server:
        assert isinstance(server, socketserver.ThreadingMixIn)
        assert isinstance(server, socketserver.TCPServer)
        assert ask(server) == b"HELLO\n"
    assert issubclass(module.ThreadingTCPServer, socketserver.ThreadingTCPServer)


@pytest.mark.parametrize("kind", ["UDPServer", "ThreadingUDPServer", "UnixDatagramServer"])
def test_c29_datagram_request_is_bytes_and_socket(module, kind, directory):
    class Handler(module.BaseRequestHandler):
        def handle(self):
            data, sock = self.request
            assert isinstance(data, bytes)
            assert sock is self.server.socket
            sock.sendto(data.upper(), self.client_address)

    address: Any = os.path.join(directory, "s") if "Unix" in kind else ANY
    with serving(getattr(module, kind)(address, Handler)) as server:
        assert ask(server) == b"HELLO\n"


def test_c29_max_packet_size_is_honoured(module):
    class Server(module.UDPServer):
        max_packet_size = 4

    class Handler(module.DatagramRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.read())

    with serving(Server(ANY, Handler)) as server:
        assert ask(server) == b"hell"


def test_c29_a_handler_waits_for_the_next_datagram_itself(module):
    class Handler(module.DatagramRequestHandler):
        def handle(self):
            self.socket.sendto(b"more", self.client_address)
            (data, _), _ = self.server.get_request()
            self.wfile.write(self.rfile.read() + data)

    with (
        serving(module.UDPServer(ANY, Handler)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(10)
        client.sendto(b"one ", server.server_address)
        assert client.recv(100) == b"more"
        client.sendto(b"two", server.server_address)
        assert client.recv(100) == b"one two"


def test_c30_threads_are_a_list_that_joins(module):
    inside, leave = threading.Event(), threading.Event()

    class Handler(module.BaseRequestHandler):
        def handle(self):
            inside.set()
            leave.wait(10)

    server = module.ThreadingTCPServer(ANY, Handler)
    assert isinstance(server._threads, socketserver._NoThreads)
    with serving(server), socket.create_connection(server.server_address):
        inside.wait(10)
        (thread,) = server._threads
        assert thread.is_alive()
        assert not thread.daemon
        assert "process_request_thread" in thread.name
        leave.set()
        server._threads.join()
        assert not thread.is_alive()
        assert list(server._threads) == []


def test_c31_children_change_nothing_in_the_parent(module, forked):
    class Handler(module.StreamRequestHandler):
        def handle(self):
            os.environ["ONLY_IN_A_CHILD"] = "1"
            self.server.count += 1
            self.wfile.write(f"{os.getpid()} {self.server.count}".encode())

    class Server(module.ForkingTCPServer):
        count = 0
        max_children = 1

    def client(server):
        return [ask(server).split() for _ in range(4)]

    answers = forked(Server(ANY, Handler), client)
    assert [count for _, count in answers] == [b"1"] * 4
    assert len({pid for pid, _ in answers} | {str(os.getpid()).encode()}) == 5
    assert "ONLY_IN_A_CHILD" not in os.environ


def test_c32_fixture_life(module):
    server = module.ThreadingTCPServer(("localhost", 0), Upper)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    assert server.server_address[1] > 0
    assert ask(server) == b"HELLO\n"
    server.shutdown()
    server.server_close()
    thread.join(10)
    assert not thread.is_alive()


def test_c33_server_without_a_socket(module):
    class Server(module.BaseServer):
        def __init__(self):
            super().__init__("a pipe", None)
            self.pipe = os.pipe()
            self.seen = []

        def fileno(self):
            return self.pipe[0]

        def get_request(self):
            return os.read(self.pipe[0], 1), "the writer"

        def finish_request(self, request, client_address):
            self.seen.append((request, client_address))
            if request == b"c":
                self._BaseServer__shutdown_request = True

    server = Server()
    os.write(server.pipe[1], b"abc")
    server.serve_forever(poll_interval=0.01)
    assert server.seen == [(each, "the writer") for each in (b"a", b"b", b"c")]
    for fileno in server.pipe:
        os.close(fileno)


# -- collisions ------------------------------------------------------------------------------------


def test_r1_mixes_with_the_standard_librarys_servers(module):
    import http.server

    bases = (http.server.HTTPServer,)
    if module is compat:
        bases = (compat.TCPServer, *bases)
    made: Any = type("Made", bases, {})
    with serving(made(ANY, http.server.BaseHTTPRequestHandler)) as server:
        assert server.server_name
        assert b"501" in ask(server, b"GET / HTTP/1.0\r\n\r\n").splitlines()[0]


@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
def test_r2_plain_server_is_serial_in_the_calling_thread(module, kind):
    inside = []

    class Handler(module.BaseRequestHandler):
        def handle(self):
            inside.append(threading.get_ident())
            if kind == "UDPServer":
                self.request[1].sendto(b"", self.client_address)
            else:
                self.request.recv(100)

    with serving(getattr(module, kind)(ANY, Handler)) as server:
        hooks = threading.Thread(target=lambda: [ask(server, b"x") for _ in range(3)])
        hooks.start()
        [ask(server, b"x") for _ in range(3)]
        hooks.join()
    assert len(inside) == 6
    assert len(set(inside)) == 1


def test_r3_hooks_run_in_the_thread_that_called(module):
    class Server(module.ThreadingTCPServer):
        seen: set[int] = set()

        def get_request(self):
            self.seen.add(threading.get_ident())
            return super().get_request()

        def verify_request(self, request, client_address):
            self.seen.add(threading.get_ident())
            return True

        def process_request(self, request, client_address):
            self.seen.add(threading.get_ident())
            super().process_request(request, client_address)

        def service_actions(self):
            self.seen.add(threading.get_ident())

    class Handler(Upper):
        def handle(self):
            super().handle()
            self.server.shutdown()

    server: Any = Server(ANY, Handler)
    client = threading.Thread(target=ask, args=(server,))
    client.start()
    server.serve_forever()
    client.join()
    server.server_close()
    assert server.seen == {threading.get_ident()}


def test_r4_handlers_that_wait_for_each_other_meet(module):
    barrier = threading.Barrier(8)

    class Handler(module.StreamRequestHandler):
        def handle(self):
            barrier.wait(10)
            self.wfile.write(b"met")

    with serving(module.ThreadingTCPServer(ANY, Handler)) as server:
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(socket.create_connection(server.server_address, 10))
                for _ in range(8)
            ]
            assert [client.recv(10) for client in clients] == [b"met"] * 8


def test_r7_every_request_has_an_empty_context(module):
    variable = contextvars.ContextVar("variable", default=b"empty")
    variable.set(b"the server's")

    class Handler(module.StreamRequestHandler):
        def handle(self):
            self.wfile.write(variable.get())
            variable.set(b"somebody else's")

    with serving(module.ThreadingTCPServer(ANY, Handler)) as server:
        assert [ask(server) for _ in range(3)] == [b"empty"] * 3


def test_r8_shutdown_is_sticky(module):
    with module.TCPServer(ANY, Upper) as server:
        server._BaseServer__shutdown_request = True
        server.serve_forever(poll_interval=60)  # returns at once
        with serving(server):
            assert ask(server) == b"HELLO\n"


def test_r10_tick_is_kept_for_service_actions(module):
    class Server(module.TCPServer):
        ticked = threading.Event()

        def service_actions(self):
            self.ticked.set()

    with serving(Server(ANY, Upper), poll_interval=0.01) as server:
        assert server.ticked.wait(10)


async def test_r11_serves_inside_a_running_loop(module):
    class Handler(Upper):
        def handle(self):
            super().handle()
            self.server._BaseServer__shutdown_request = True

    loop = asyncio.get_running_loop()
    with module.TCPServer(ANY, Handler) as server:
        client = threading.Thread(target=ask, args=(server,))
        client.start()
        server.serve_forever(poll_interval=0.01)
        client.join()
    assert asyncio.get_running_loop() is loop
    await asyncio.sleep(0)


def test_r11_asyncio_run_works_in_a_handler(module):
    async def answer():
        await asyncio.sleep(0)
        return b"from a loop"

    class Handler(module.StreamRequestHandler):
        def handle(self):
            self.wfile.write(asyncio.run(answer()))

    with serving(module.TCPServer(ANY, Handler)) as server:
        assert ask(server) == b"from a loop"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, LookupError, GeneratorExit])
def test_r12_what_a_signal_handler_raises_leaves_serve_forever(module, kind):
    def handler(*_):
        raise kind

    before = signal.signal(signal.SIGUSR1, handler)
    waiting = threading.Event()

    class Server(module.TCPServer):
        def service_actions(self):
            waiting.set()

    def interrupt():
        waiting.wait(10)
        os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=interrupt)
    try:
        with Server(ANY, Upper) as server:
            thread.start()
            with pytest.raises(kind):
                server.serve_forever(poll_interval=0.01)
            with serving(server):
                assert ask(server) == b"HELLO\n"
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_r13_listener_keeps_its_blocking_mode(module, timeout):
    server = module.TCPServer(ANY, Upper)
    server.socket.settimeout(timeout)
    with serving(server):
        ask(server)
        assert server.socket.gettimeout() == timeout
        assert os.get_blocking(server.fileno()) == (timeout is None)


def test_r15_socket_is_a_file_with_a_descriptor_of_its_own(module):
    class Handler(module.BaseRequestHandler):
        def handle(self):
            with socket.socket(fileno=os.dup(self.request.fileno())) as same:
                same.sendall(struct.pack("!I", 7))

    with serving(module.ThreadingTCPServer(ANY, Handler)) as server:
        assert ask(server, b"") == bytes([0, 0, 0, 7])


def test_r16_handle_request_without_serving(module):
    class Server(module.ThreadingTCPServer):
        timeout = 0.01
        timeouts = 0

        def handle_timeout(self):
            self.timeouts += 1

    with Server(ANY, Upper) as server:
        server.handle_request()
        assert server.timeouts == 1
        with socket.create_connection(server.server_address, 10) as client:
            client.sendall(b"hello\n")
            server.handle_request()
            assert client.recv(100) == b"HELLO\n"


def test_r18_handle_error_writes_the_same(module, monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)

    class Handler(module.BaseRequestHandler):
        def handle(self):
            raise LookupError("oh")

    with serving(module.TCPServer(ANY, Handler)) as server:
        ask(server, b"")
    lines = stderr.getvalue().splitlines()
    assert lines[0] == lines[-1] == "-" * 40
    assert lines[1].startswith("Exception occurred during processing of request from ('127.0.0.1',")
    assert lines[2] == "Traceback (most recent call last):"
    assert lines[-2] == "LookupError: oh"
    assert "compat" not in lines[1]


def test_r20_datagrams_are_cut_and_answered_as_ever(module):
    class Handler(module.DatagramRequestHandler):
        def handle(self):
            if len(self.packet) > 10:
                self.wfile.write(str(len(self.packet)).encode())

    with serving(module.UDPServer(ANY, Handler)) as server:
        assert ask(server, bytes(20_000)) == b"8192"
        assert ask(server, b"x") == b""  # an empty datagram, which nobody wrote


def test_r22_serves_again_after_shutdown(module):
    server = module.ThreadingTCPServer(ANY, Upper)
    for _ in range(3):
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        assert ask(server) == b"HELLO\n"
        server.shutdown()
        thread.join()
    server.server_close()


def test_r24_shutdown_from_a_threaded_handler(module):
    class Handler(Upper):
        def handle(self):
            super().handle()
            self.server.shutdown()

    with module.ThreadingTCPServer(ANY, Handler) as server:
        client = threading.Thread(target=ask, args=(server,))
        client.start()
        server.serve_forever(poll_interval=0.01)
        client.join()


# -- tools -----------------------------------------------------------------------------------------


def stop(server: Any) -> None:
    """What `shutdown` does, without the wait in which the standard library would deadlock here."""
    server._BaseServer__shutdown_request = True


@pytest.fixture
def forked():
    """Serve in a process with one thread, since forking with more is what nobody should do."""

    def run(server: Any, client: Any) -> Any:
        with server:
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    signal.signal(signal.SIGTERM, lambda *_: stop(server))
                    server.serve_forever(poll_interval=0.01)
                    server.server_close()
                    status = 0
                finally:
                    os._exit(status)
            try:
                return client(server)
            finally:
                os.kill(pid, signal.SIGTERM)
                assert os.waitpid(pid, 0)[1] == 0

    return run
