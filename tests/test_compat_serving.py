"""`serve_forever`, `handle_request` and `shutdown`: how a server begins and how it ends.

Every test runs on the standard library and on compat: what real programs do with `socketserver` has
to come out the same. What compat makes better is in `test_compat_better.py`.
"""

import asyncio
import os
import select
import signal
import socket
import threading

import pytest

from tests.dropin import ANY, Upper, ask, serving


def test_shutdown_may_be_overridden_and_close(module):
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
def test_mangled_flag_stops_the_server(module, where):
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


def test_one_call_of_handle_request_noblock_is_one_request(module):
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


def test_overridden_handle_request_noblock_is_what_serves(module):
    class Server(module.TCPServer):
        calls = 0

        def _handle_request_noblock(self):
            self.calls += 1
            super()._handle_request_noblock()

    with serving(Server(ANY, Upper)) as server:
        assert ask(server) == b"HELLO\n"
    assert server.calls >= 1


def test_handle_request_honours_the_sockets_timeout_and_the_servers(module):
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


def test_serve_forever_does_not_call_handle_request(module):
    class Server(module.ThreadingTCPServer):
        def handle_request(self, request, client_address):
            raise AssertionError("not what serve_forever may call")

    with serving(Server(ANY, Upper)) as server:
        assert ask(server) == b"HELLO\n"


def test_server_may_live_in_a_daemon_thread_as_in_a_fixture(module):
    server = module.ThreadingTCPServer(("localhost", 0), Upper)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    assert server.server_address[1] > 0
    assert ask(server) == b"HELLO\n"
    server.shutdown()
    server.server_close()
    thread.join(10)
    assert not thread.is_alive()


def test_shutdown_asked_for_before_serving_is_not_forgotten(module):
    with module.TCPServer(ANY, Upper) as server:
        server._BaseServer__shutdown_request = True
        server.serve_forever(poll_interval=60)  # returns at once
        with serving(server):
            assert ask(server) == b"HELLO\n"


def test_poll_interval_is_kept_for_service_actions(module):
    class Server(module.TCPServer):
        ticked = threading.Event()

        def service_actions(self):
            self.ticked.set()

    with serving(Server(ANY, Upper), poll_interval=0.01) as server:
        assert server.ticked.wait(10)


async def test_serves_inside_a_running_loop(module):
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


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, LookupError, GeneratorExit])
def test_what_a_signal_handler_raises_leaves_serve_forever(module, kind):
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


def test_handle_request_needs_no_serve_forever(module):
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


def test_serves_again_after_shutdown(module):
    server = module.ThreadingTCPServer(ANY, Upper)
    for _ in range(3):
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        assert ask(server) == b"HELLO\n"
        server.shutdown()
        thread.join()
    server.server_close()


def test_threaded_handler_may_call_shutdown(module):
    class Handler(Upper):
        def handle(self):
            super().handle()
            self.server.shutdown()

    with module.ThreadingTCPServer(ANY, Handler) as server:
        client = threading.Thread(target=ask, args=(server,))
        client.start()
        server.serve_forever(poll_interval=0.01)
        client.join()
