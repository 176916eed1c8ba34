"""The methods that programs override, in their order, their thread, and with what they may do.

Every test runs on the standard library and on compat: what real programs do with `socketserver` has
to come out the same. What compat makes better is in `test_compat_better.py`.
"""

import contextlib
import io
import re
import socket
import ssl
import sys
import threading
from queue import SimpleQueue
from typing import Any

import pytest

from tests.dropin import ANY, Upper, ask, serving


def test_get_request_may_fail_or_return_what_is_no_socket(module):
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


def test_get_request_is_called_once_a_request_in_the_serving_thread(module):
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


def test_get_request_that_returns_none_ends_handle_request(module):
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


def test_finish_request_may_peek_at_a_blocking_socket(module):
    class Server(module.ThreadingTCPServer):
        def finish_request(self, request, client_address):
            first = request.recv(1, socket.MSG_PEEK)
            request.sendall(first + request.recv(100))

    with serving(Server(ANY, None)) as server:
        assert ask(server, b"abc") == b"aabc"


def test_semaphore_may_stand_around_process_request(module):
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


def test_process_request_thread_may_have_another_signature(module):
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


def test_socket_stays_open_without_shutdown_request(module):
    kept: SimpleQueue[socket.socket] = SimpleQueue()

    class Server(module.TCPServer):
        def process_request(self, request, client_address):
            self.finish_request(request, client_address)  # and no shutdown_request

    class Handler(module.BaseRequestHandler):
        def handle(self):
            kept.put(self.request)

    with serving(Server(ANY, Handler)) as server:
        with socket.create_connection(server.server_address, 10) as client:
            client.sendall(b"x")
            with socket.create_connection(server.server_address, 10) as second:
                second.sendall(b"y")
                first, next_one = kept.get(timeout=10), kept.get(timeout=10)
            assert first.recv(1) == b"x"
            first.sendall(b"still open")
            assert client.recv(100) == b"still open"
    first.close()
    next_one.close()


def test_thread_locals_are_set_and_cleared_in_one_thread(module):
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


def test_verify_request_is_serial_and_may_return_any_falsy(module):
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


def test_service_actions_ticks_and_may_end_the_server(module):
    class Server(module.TCPServer):
        ticks = 0

        def service_actions(self):
            self.ticks += 1
            if self.ticks == 3:
                raise LookupError("enough")

    with Server(ANY, Upper) as server, pytest.raises(LookupError):
        server.serve_forever(poll_interval=0.01)
    assert server.ticks == 3


def test_service_actions_comes_after_every_request(module):
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


def test_handle_error_is_called_inside_the_except_block(module):
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


def test_bare_raise_in_handle_error_leaves_serve_forever(module):
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


def test_hooks_run_in_the_thread_that_called_serve_forever(module):
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


def test_handle_error_writes_what_the_standard_one_writes(module, monkeypatch):
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
