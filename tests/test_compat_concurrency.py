"""One request at a time, one thread each, or one child each.

Every test runs on the standard library and on compat: what real programs do with `socketserver` has
to come out the same. What compat makes better is in `test_compat_better.py`.
"""

import contextlib
import os
import socket
import socketserver
import threading

import pytest

from tests.dropin import ANY, ask, serving


@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
def test_plain_server_is_serial_in_the_calling_thread(module, kind):
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


def test_handlers_that_wait_for_each_other_meet(module):
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


def test_threads_are_a_list_that_joins(module):
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


def test_children_change_nothing_in_the_parent(module, forked):
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
