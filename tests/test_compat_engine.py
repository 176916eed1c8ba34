"""The drop-in's engine: what it waits for, who wakes it, and what it must not come between.

What "as before" means is asked of the standard library itself: most tests run on both.
"""

import _thread
import asyncio
import contextlib
import ctypes
import decimal
import errno
import fractions
import gc
import importlib.util
import math
import os
import select
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

import compat
from compat import bells, engine
from compat.state import engines_of
from tests.conftest import TLS, descriptors
from tests.test_compat_programs import UpperDatagram
from tests.test_compat_rows import ANY, Upper, ask, module, over, serving, stop

__all__ = ("module",)  # a fixture

SOON = 10.0  # seconds; a guard, and no promise


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        select.select([], [], [], 0.001)


@contextlib.contextmanager
def handling(number: int, handler: Any):
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def beside(function: Callable[[], object]):
    """Call `function` in a thread while the test serves in its own."""
    thread = threading.Thread(target=function)
    thread.start()
    try:
        yield
    finally:
        thread.join()


# -- many servers in one process -------------------------------------------------------------------


def test_many_servers_need_no_descriptors_of_their_own():
    before = descriptors()
    with contextlib.ExitStack() as stack:
        servers = [compat.TCPServer(ANY, Upper) for _ in range(60)]
        listening = descriptors()
        for server in servers:
            stack.enter_context(serving(server, poll_interval=None))
        assert [ask(server) for server in servers] == [b"HELLO\n"] * 60
        wait_until(lambda: descriptors() - listening <= bells.MOST)  # the last request is closed
    gc.collect()
    assert descriptors() == before


def test_a_thousand_servers_at_the_limit_that_the_standard_library_needs():
    program = """
import resource, socket, sys, threading
import compat
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
class Handler(compat.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"x")
servers = [compat.TCPServer(("127.0.0.1", 0), Handler) for _ in range(1000)]
threads = [threading.Thread(target=server.serve_forever, args=(None,)) for server in servers]
for thread in threads:
    thread.start()
for server in servers[::100]:
    with socket.create_connection(server.server_address, 10) as client:
        assert client.recv(1) == b"x"
for server in servers:
    server.shutdown()
    server.server_close()
for thread in threads:
    thread.join()
"""
    result = subprocess.run(
        [sys.executable, "-c", program], timeout=60, capture_output=True, text=True, check=False
    )
    assert (result.stderr, result.returncode) == ("", 0)


def test_without_a_descriptor_for_a_bell_it_serves_and_looks_every_poll_interval(monkeypatch):
    def none_left(*_: Any) -> int:
        raise OSError(errno.EMFILE, "no more")

    monkeypatch.setattr(os, "eventfd", none_left)
    with serving(compat.TCPServer(ANY, Upper), poll_interval=0.02) as server:
        assert ask(server) == b"HELLO\n"


def test_where_there_is_no_eventfd_a_pipe_rings(monkeypatch):
    monkeypatch.delattr(os, "eventfd")
    before = descriptors()
    with serving(compat.TCPServer(ANY, Upper), poll_interval=None) as server:
        assert ask(server) == b"HELLO\n"
    assert descriptors() == before


def test_who_shares_a_bell_sleeps_while_another_is_slow_to_answer(monkeypatch):
    """And hears it all the same when it is meant."""
    monkeypatch.setattr(bells, "MOST", 1)
    inside, leave = threading.Event(), threading.Event()
    turns = []

    class Slow(compat.TCPServer):
        def service_actions(self):
            turns.append(1)

    class Busy(compat.BaseRequestHandler):
        def handle(self):
            inside.set()
            leave.wait(SOON)

    with (
        serving(compat.TCPServer(ANY, Busy), poll_interval=None) as busy,
        serving(Slow(ANY, Upper), poll_interval=None) as other,
    ):
        with socket.create_connection(busy.server_address):
            assert inside.wait(SOON)
            (bell,) = bells._bells
            (meant,) = [each for each in bell.users if each.server is busy]
            bell.ring(meant)  # as if it had been called right before it began to handle
            wait_until(lambda: turns)
            count, used = len(turns), time.process_time()
            select.select([], [], [], 0.2)
            assert len(turns) - count <= 2 * 0.2 / engine.LOOK_AWAY
            assert time.process_time() - used < 0.15
            assert ask(other) == b"HELLO\n"
            leave.set()
        wait_until(lambda: not select.select([bell.fileno], [], [], 0)[0])


# -- signals and exceptions ------------------------------------------------------------------------


class PeculiarError(Exception):
    pass


class Stop(BaseException):
    pass


@pytest.mark.parametrize(
    "kind", [TimeoutError, BlockingIOError, OSError, StopIteration, PeculiarError]
)
def test_what_a_signal_handler_raises_comes_out_as_it_is(module, kind):
    error = kind("mine")

    def handler(*_):
        raise error

    waiting = threading.Event()

    class Server(module.TCPServer):
        def service_actions(self):
            waiting.set()

    before = descriptors()
    with handling(signal.SIGUSR1, handler), Server(ANY, Upper) as server:
        with beside(lambda: (waiting.wait(SOON), os.kill(os.getpid(), signal.SIGUSR1))):
            with pytest.raises(kind) as caught:
                server.serve_forever(poll_interval=0.01)
        assert caught.value is error
    assert descriptors() == before


# Between accept() and the handler a connection is nobody's, also in the standard library.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_storm_of_signals_leaves_nothing_behind():
    def handler(*_):
        raise Stop

    outcomes = []
    with handling(signal.SIGALRM, handler), compat.TCPServer(ANY, Upper) as server:
        stopped = threading.Event()

        def clients():
            while not stopped.is_set():
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection(server.server_address, 1) as client,
                ):
                    client.sendall(b"x\n")
                    client.shutdown(socket.SHUT_WR)
                    client.recv(10)

        with beside(clients):
            try:
                for number in range(100):
                    try:
                        signal.setitimer(signal.ITIMER_REAL, 0.0005 + 0.00005 * number)
                        server.serve_forever()
                    except BaseException as exc:
                        outcomes.append(type(exc))
                    assert not bells._bells
                    assert not engine._running
                    assert server._BaseServer__is_shut_down.is_set()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                stopped.set()
        with serving(server):
            assert ask(server) == b"HELLO\n"
    assert outcomes == [Stop] * 100


@pytest.mark.parametrize("how", ["asyncio.run", "uvloop"])
def test_a_signal_handler_may_run_an_event_loop(module, how):
    ran = []

    async def goodbye():
        await asyncio.sleep(0)
        ran.append(how)

    def handler(*_):
        if how == "uvloop":
            with asyncio.Runner(loop_factory=__import__("uvloop").new_event_loop) as runner:
                runner.run(goodbye())
        else:
            asyncio.run(goodbye())
        raise SystemExit

    waiting = threading.Event()

    class Server(module.TCPServer):
        def service_actions(self):
            waiting.set()

    with handling(signal.SIGUSR1, handler), Server(ANY, Upper) as server:
        with beside(lambda: (waiting.wait(SOON), os.kill(os.getpid(), signal.SIGUSR1))):
            with pytest.raises(SystemExit):
                server.serve_forever(poll_interval=0.01)
    assert ran == [how]


@pytest.mark.parametrize("what", ["asyncio's handlers", "uvloop's handlers", "wake-up descriptor"])
@pytest.mark.parametrize("where", ["handler", "hook"])
def test_ctrl_c_is_heard_after_a_handler_had_to_do_with_signals(module, what, where):
    done = threading.Event()

    async def wait_for_signals():
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR2, lambda: None)
        loop.remove_signal_handler(signal.SIGUSR2)

    def act():
        if what == "wake-up descriptor":
            signal.set_wakeup_fd(-1)
        else:
            factory = __import__("uvloop").new_event_loop if "uvloop" in what else None
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(wait_for_signals())

    class Handler(module.BaseRequestHandler):
        def handle(self):
            if where == "handler":
                act()
            self.request.sendall(b"x")

    class Server(module.TCPServer):
        def verify_request(self, request, client_address):
            if where == "hook":
                act()
            return True

        def service_actions(self):
            if done.is_set():
                waits.set()

    waits = threading.Event()

    def client():
        assert ask(server) == b"x"
        done.set()
        assert waits.wait(SOON)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGUSR2)
    with Server(ANY, Handler) as server, handling(signal.SIGINT, signal.default_int_handler):
        with beside(client), pytest.raises(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.01)
    signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize("how", ["SetAsyncExc", "interrupt_main"])
def test_what_is_sent_into_the_thread_arrives_within_poll_interval(module, how):
    me = threading.get_ident()
    ticks = []

    class Server(module.TCPServer):
        def service_actions(self):
            ticks.append(1)

    def send():
        wait_until(lambda: ticks)
        if how == "interrupt_main":
            _thread.interrupt_main(signal.SIGUSR1)
        else:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(me), ctypes.py_object(PeculiarError)
            )

    def handler(*_):
        raise PeculiarError

    with handling(signal.SIGUSR1, handler), Server(ANY, Upper) as server:
        with beside(send), pytest.raises(PeculiarError):
            server.serve_forever(poll_interval=0.02)


@pytest.mark.parametrize(
    "hook", ["verify_request", "service_actions", "handle_error", "process_request"]
)
@pytest.mark.parametrize(
    "kind", [OSError, TimeoutError, BlockingIOError, PeculiarError, KeyboardInterrupt]
)
def test_what_a_hook_raises_comes_out_and_leaves_nothing_locked(module, hook, kind):
    class Server(module.TCPServer):
        armed = True

    def fail(self, *args):
        if self.armed:
            if args and hook != "process_request":
                args[0].close()
            raise kind("mine")
        return getattr(module.TCPServer, hook)(self, *args)

    def broken(self, request, client_address):
        if self.armed:
            raise LookupError
        module.TCPServer.finish_request(self, request, client_address)

    setattr(Server, hook, fail)
    if hook == "handle_error":
        Server.finish_request = broken
    escapes = hook != "process_request" or kind is KeyboardInterrupt
    with Server(ANY, Upper) as server:
        if hook == "process_request":  # an Exception there is the request's own affair
            server.handle_error = lambda *_: stop(server)
        with socket.create_connection(server.server_address) as client:
            client.sendall(b"hello\n")
            if escapes:
                with pytest.raises(kind, match="mine"):
                    server.serve_forever(poll_interval=0.01)
            else:
                server.serve_forever(poll_interval=0.01)
        server.armed = False
        with serving(server):
            assert ask(server) == b"HELLO\n"


# -- what is waited for ----------------------------------------------------------------------------


INTERVALS = [
    0.01, 0, -1, -0.0, False, True / 50, fractions.Fraction(1, 50), 1e-9, "x", "0.5", b"1", [], (), {},
    1j, object, math.inf, -math.inf, math.nan, 1e10, 1e300, 10**30, decimal.Decimal("0.01"),
    decimal.Decimal(-1), None, 2**31, 86400.0,
]  # fmt: skip


@pytest.mark.parametrize("interval", INTERVALS, ids=repr)
def test_poll_interval_means_what_it_meant_or_raises_what_it_raised(interval):
    def outcome(module: Any) -> Any:
        class Handler(module.BaseRequestHandler):
            def handle(self):
                stop(self.server)

        with (
            module.TCPServer(ANY, Handler) as server,
            socket.create_connection(server.server_address),
        ):
            try:
                return server.serve_forever(interval)
            except BaseException as exc:
                return type(exc), str(exc)

    assert outcome(compat) == outcome(socketserver)


class OfFiles(socketserver.BaseServer):
    """Serves what it is given as `descriptor`."""

    def __init__(self, descriptor: Any) -> None:
        super().__init__("a file", None)  # type: ignore[arg-type]
        self.descriptor = descriptor
        self.seen: list[bytes] = []

    def get_request(self):
        return os.read(int(self.descriptor), 1), "the writer"

    def finish_request(self, request, client_address):
        self.seen.append(request)
        if len(self.seen) == 2:
            stop(self)


def of_files(module: Any, descriptor: Any, fileno: Any) -> Any:
    kind = type(
        "Server", (OfFiles, module.BaseServer), {} if fileno is None else {"fileno": fileno}
    )
    return kind(descriptor)


@pytest.mark.parametrize("kind", ["file", "pipe", "terminal", "socket", "eventfd"])
def test_whatever_can_be_polled_can_be_served(module, kind):
    with contextlib.ExitStack() as stack:
        if kind == "file":  # epoll(7) refuses these, poll(2) does not
            file = stack.enter_context(tempfile.TemporaryFile())
            file.write(b"ab")
            file.flush()
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            reader = file.fileno()
        else:
            reader, writer = {
                "pipe": os.pipe,
                "terminal": os.openpty,
                "socket": lambda: tuple(each.detach() for each in socket.socketpair()),
                "eventfd": os.pipe,
            }[kind]()
            stack.callback(os.close, reader)
            stack.callback(os.close, writer)
            os.write(writer, b"ab\n")
        server = of_files(module, reader, lambda self: self.descriptor)
        server.serve_forever(poll_interval=0.01)
    assert server.seen == [b"a", b"b"]


@pytest.mark.parametrize(
    "fileno",
    [
        None,
        lambda self: -1,
        lambda self: "x",
        lambda self: None,
        lambda self: [1],
        lambda self: 1 / 0,
        lambda self: 3.5j,
    ],
    ids=["none", "-1", "str", "None", "list", "raises", "complex"],
)
def test_what_cannot_be_polled_raises_as_before(fileno):
    def outcome(module: Any) -> Any:
        server = of_files(module, 0, fileno)
        try:
            return server.serve_forever(0.01)
        except Exception as exc:
            server._BaseServer__is_shut_down.wait(SOON)
            return type(exc), str(exc).partition(" object at")[0].rpartition(".")[2]

    assert outcome(compat) == outcome(socketserver)


def uninitialised(module: Any) -> list[Any]:
    server = module.TCPServer.__new__(module.TCPServer)
    found: list[Any] = []
    for name in ("_BaseServer__is_shut_down", "_BaseServer__shutdown_request"):
        found += [hasattr(server, name), getattr(server, name, "default")]
        try:
            getattr(server, name)
        except AttributeError as exc:
            found += [str(exc), exc.name, exc.obj is server]
    for call in (server.serve_forever, server.shutdown, server.handle_request, server.fileno):
        try:
            found.append(call())
        except Exception as exc:
            found += [type(exc), str(exc)]
    mock.Mock(spec=module.TCPServer.__new__(module.TCPServer))
    return found


def test_before_init_attributes_are_missing_as_ever():
    assert uninitialised(compat) == uninitialised(socketserver)


def test_state_before_init_is_the_same_when_installed():
    expected = uninitialised(socketserver)
    with compat.installed():
        assert uninitialised(socketserver) == expected


def test_a_hook_may_take_more_than_one_datagram_and_wait_for_it(module):
    class Server(module.UDPServer):
        def get_request(self):
            (one, _), address = super().get_request()
            self.socket.sendto(b"more", address)
            (two, sock), address = super().get_request()
            return (one + two, sock), address

    with (
        serving(Server(ANY, UpperDatagram)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(SOON)
        client.sendto(b"a", server.server_address)
        assert client.recv(10) == b"more"
        client.sendto(b"b", server.server_address)
        assert client.recv(10) == b"AB"


def test_a_handler_may_wait_for_a_datagram_also_if_the_hook_has_not_asked_us(module):
    class Server(module.UDPServer):
        def get_request(self):
            data, address = self.socket.recvfrom(100)
            return (data, self.socket), address

    class Handler(module.BaseRequestHandler):
        def handle(self):
            data, sock = self.request
            sock.sendto(b"more", self.client_address)
            (more, _), _ = module.UDPServer.get_request(self.server)
            sock.sendto(data + more, self.client_address)

    with (
        serving(Server(ANY, Handler)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(SOON)
        client.sendto(b"a", server.server_address)
        assert client.recv(10) == b"more"
        select.select([], [], [], 0.05)  # so that the handler has to wait
        client.sendto(b"b", server.server_address)
        assert client.recv(10) == b"ab"


def test_shut_down_and_closed_while_it_begins_it_returns():
    class Server(compat.TCPServer):
        def fileno(self):
            stop(self)
            self.server_close()
            return super().fileno()

    Server(ANY, Upper).serve_forever()


async def test_r11_asyncio_run_works_in_a_handler_also_inside_a_running_loop():
    """As in a notebook."""

    async def answer():
        await asyncio.sleep(0)
        return b"from a loop"

    class Handler(compat.StreamRequestHandler):
        def handle(self):
            self.wfile.write(asyncio.run(answer()))
            stop(self.server)

    answers: list[bytes] = []
    with compat.TCPServer(ANY, Handler) as server, beside(lambda: answers.append(ask(server))):
        server.serve_forever()
    assert answers == [b"from a loop"]
    await asyncio.sleep(0)


# -- several at once -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer", "ThreadingTCPServer"])
def test_one_server_driven_by_several_threads(kind):
    handler = UpperDatagram if kind == "UDPServer" else Upper
    server = getattr(compat, kind)(ANY, handler)
    threads = [threading.Thread(target=server.serve_forever, args=(3600,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(beside(lambda: [ask(server) for _ in range(20)]))
        assert [ask(server) for _ in range(20)] == [b"HELLO\n"] * 20
    server.shutdown()  # all of them, and waits for all
    for thread in threads:
        thread.join(SOON)
        assert not thread.is_alive()
    server.server_close()


def test_driven_by_two_threads_one_at_a_time_accepts():
    """Or the other would wait in accept() for what this one took, and hear nothing."""
    inside, leave = threading.Event(), threading.Event()

    class Server(compat.TCPServer):
        now = most = 0

        def get_request(self):
            self.now += 1
            self.most = max(self.most, self.now)
            request = super().get_request()
            inside.set()
            leave.wait(SOON)
            self.now -= 1
            return request

    server: Any = Server(ANY, Upper)
    threads = [threading.Thread(target=server.serve_forever, args=(3600,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(engines_of(server)) == 2)
    with beside(lambda: ask(server)), beside(lambda: ask(server)):
        assert inside.wait(SOON)
        select.select([], [], [], 2 * engine.BACK_OFF)
        leave.set()
    server.shutdown()
    for thread in threads:
        thread.join(SOON)
        assert not thread.is_alive()
    server.server_close()
    assert server.most == 1


def test_who_waits_while_another_thread_accepts_hears_shutdown():
    inside, leave = threading.Event(), threading.Event()

    class Server(compat.TCPServer):
        def get_request(self):
            inside.set()
            leave.wait(SOON)
            return super().get_request()

    with Server(ANY, Upper) as server:
        threads = [threading.Thread(target=server.serve_forever, args=(3600,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(engines_of(server)) == 2)
        with beside(lambda: ask(server)):
            assert inside.wait(SOON)
            select.select([], [], [], 0.05)  # so that the other one waits for its turn
            with beside(server.shutdown):
                try:
                    wait_until(lambda: len(engines_of(server)) == 1)
                finally:
                    leave.set()
        for thread in threads:
            thread.join(SOON)
            assert not thread.is_alive()


def test_serving_inside_of_serving_ends_inside_first(module):
    """As a dialogue that waits for one answer."""
    log = []

    class Handler(module.StreamRequestHandler):
        def handle(self):
            line = self.rfile.readline()
            log.append(line)
            if line == b"outer\n":
                self.wfile.write(b"go on\n")
                self.server.serve_forever(poll_interval=0.01)
                self.wfile.write(b"done\n")
            else:
                stop(self.server)

    server: Any = module.TCPServer(ANY, Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    with socket.create_connection(server.server_address, SOON) as client:
        client.sendall(b"outer\n")
        assert client.recv(6) == b"go on\n"
        ask(server, b"inner\n")
        assert client.recv(6) == b"done\n"
    ask(server, b"last\n")
    thread.join(SOON)
    assert not thread.is_alive()
    assert log == [b"outer\n", b"inner\n", b"last\n"]
    server.server_close()


# -- nobody waits for others -----------------------------------------------------------------------


@contextlib.contextmanager
def flood(address: Any, clients: int = 4):
    """Clients that connect as fast as they can."""
    stopped = threading.Event()

    def connect() -> None:
        while not stopped.is_set():
            with contextlib.suppress(OSError), socket.create_connection(address, 1) as client:
                client.sendall(b"x\n")
                client.shutdown(socket.SHUT_WR)
                client.recv(10)

    with contextlib.ExitStack() as stack:
        for _ in range(clients):
            stack.enter_context(beside(connect))
        stack.callback(stopped.set)
        yield


def test_one_request_a_turn(tls: TLS):
    """Whatever else is ready gets its turn after one request, not after a batch."""
    log: list[str] = []

    class Server(compat.TCPServer):
        def get_request(self):
            log.append("request")
            return super().get_request()

        def service_actions(self):
            log.append("actions")

    with Server(ANY, Upper) as server, contextlib.ExitStack() as stack:
        for _ in range(10):
            client = stack.enter_context(socket.create_connection(server.server_address))
            client.sendall(b"x\n")
        log.clear()
        with beside(lambda: (wait_until(lambda: len(log) >= 20), server.shutdown())):
            server.serve_forever(None)
    assert log[:20] == ["request", "actions"] * 10


def test_who_comes_after_shutdown_is_left_to_the_backlog(module):
    """Also if both happen while the server waits, as in a signal handler that interrupts it."""
    waiting = threading.Event()

    class Server(module.TCPServer):
        accepted = 0

        def get_request(self):
            self.accepted += 1
            return super().get_request()

        def service_actions(self):
            waiting.set()

    with Server(ANY, Upper) as server, contextlib.ExitStack() as stack:

        def handler(*_):
            stop(server)
            stack.enter_context(socket.create_connection(server.server_address))

        def interrupt():
            waiting.wait(SOON)
            wait_until(lambda: all(each._waits for each in engines_of(server)))
            os.kill(os.getpid(), signal.SIGUSR1)

        with handling(signal.SIGUSR1, handler), beside(interrupt):
            server.serve_forever(poll_interval=0.2)
        assert server.accepted == 0


def test_a_handshake_goes_on_while_others_flood(tls: TLS):
    class Server(compat.TCPServer):
        def get_request(self):
            sock, address = super().get_request()
            if sock.recv(1, socket.MSG_PEEK) == b"\x16":
                sock = tls.server.wrap_socket(sock, server_side=True)
            return sock, address

    with serving(Server(ANY, Upper), poll_interval=3600) as server:
        with flood(server.server_address):
            for _ in range(5):
                with socket.create_connection(server.server_address, SOON) as client:
                    assert over(client, tls) == b"HELLO\n"


def test_shutdown_is_heard_while_others_flood():
    for kind in ("TCPServer", "ThreadingTCPServer"):
        with getattr(compat, kind)(ANY, Upper) as server:
            thread = threading.Thread(target=server.serve_forever, args=(3600,))
            thread.start()
            with flood(server.server_address):
                assert ask(server) == b"HELLO\n"
                server.shutdown()
                thread.join(SOON)
                assert not thread.is_alive()


# -- TLS -------------------------------------------------------------------------------------------


def silent(address: Any, what: bytes) -> socket.socket:
    client = socket.create_connection(address, SOON)
    client.sendall(what)
    return client


HELLO = bytes.fromhex("16030100fa010000f60303")  # how a ClientHello begins, and no more of it


@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer", "ForkingTCPServer"])
@pytest.mark.parametrize("way", ["super", "accept", "listener", "listener accept"])
@pytest.mark.parametrize("says", [b"", b"\x16", HELLO], ids=["nothing", "a byte", "half a hello"])
def test_r14_silent_tls_clients_hold_up_nobody_in_any_hook(kind, way, says, tls: TLS):
    class Server(getattr(compat, kind)):  # type: ignore[misc]
        def get_request(self):
            accept = self.socket.accept if "accept" in way else super().get_request
            sock, address = accept()
            if "listener" not in way:
                sock = tls.server.wrap_socket(sock, server_side=True)
            return sock, address

    server: Any = Server(ANY, Upper)
    if "listener" in way:
        server.socket = tls.server.wrap_socket(server.socket, server_side=True)
    kinds = type(server.socket)
    with serving(server, poll_interval=3600), contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(silent(server.server_address, says))
        client = stack.enter_context(socket.create_connection(server.server_address, SOON))
        if kind != "ForkingTCPServer":  # which is not to fork while threads are alive
            assert over(client, tls) == b"HELLO\n"
    assert type(server.socket) is kinds


def test_what_takes_too_long_for_its_handshake_is_closed(tls: TLS, monkeypatch):
    from compat import handshakes

    monkeypatch.setattr(handshakes, "HANDSHAKE_TIMEOUT", 0.05)
    server: Any = compat.TCPServer(ANY, Upper)
    server.socket = tls.server.wrap_socket(server.socket, server_side=True)
    with serving(server, poll_interval=3600):
        with silent(server.server_address, b"") as one, silent(server.server_address, HELLO) as two:
            assert one.recv(1) == b""
            with contextlib.suppress(ConnectionError):
                assert two.recv(1) == b""
        with socket.create_connection(server.server_address, SOON) as client:
            assert over(client, tls) == b"HELLO\n"


def test_the_tick_goes_on_while_a_client_shakes_hands(tls: TLS):
    class Server(compat.TCPServer):
        accepted = ticks = 0

        def get_request(self):
            self.accepted += 1
            return super().get_request()

        def service_actions(self):
            self.ticks += 1

    server: Any = Server(ANY, Upper)
    server.socket = tls.server.wrap_socket(server.socket, server_side=True)
    with serving(server, poll_interval=0.01), silent(server.server_address, b""):
        wait_until(lambda: server.accepted)
        seen = server.ticks
        wait_until(lambda: server.ticks > seen + 5)


def test_after_a_failed_handshake_nobody_is_called(module, tls: TLS):
    called: list[str] = []

    class Server(module.TCPServer):
        def verify_request(self, request, client_address):
            called.append("verify_request")
            return True

        def handle_error(self, request, client_address):
            called.append("handle_error")

    server: Any = Server(ANY, Upper)
    server.socket = tls.server.wrap_socket(server.socket, server_side=True)
    with serving(server):
        with silent(server.server_address, b"GET / HTTP/1.0\r\n\r\n") as client:
            with contextlib.suppress(ConnectionError):
                while client.recv(100):
                    pass
        assert called == []
        with socket.create_connection(server.server_address, SOON) as client:
            assert over(client, tls) == b"HELLO\n"
    assert called == ["verify_request"]


def test_handshakes_that_are_open_at_the_end_are_closed(tls: TLS, monkeypatch):
    from compat import handshakes

    before = descriptors()
    server: Any = compat.TCPServer(ANY, Upper)
    server.socket = tls.server.wrap_socket(server.socket, server_side=True)
    with serving(server, poll_interval=3600):
        monkeypatch.setattr(handshakes, "HANDSHAKE_TIMEOUT", 0.2)
        with silent(server.server_address, b"") as client:
            with socket.create_connection(server.server_address, SOON) as good:
                assert over(good, tls) == b"HELLO\n"
            server.shutdown()  # which it does not hold up for longer than that
            assert client.recv(1) == b""
    gc.collect()
    assert descriptors() == before


def ask_over(client: Any, session: Any, incoming: Any, outgoing: Any) -> Any:
    """What `over` does, where a handshake has begun by hand."""
    for step, *args in (session.do_handshake,), (session.write, b"hello\n"), (session.read, 100):
        while True:
            try:
                result = step(*args)
                break
            except ssl.SSLWantReadError:
                client.sendall(outgoing.read())
                incoming.write(client.recv(10_000))
        client.sendall(outgoing.read())
    return result


@pytest.mark.parametrize("says", ["nothing", "half a hello"])
@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
@pytest.mark.parametrize("way", ["listener", "get_request"])
def test_who_was_accepted_before_shutdown_is_served(module, kind, way, says, tls: TLS):
    class Server(getattr(module, kind)):  # type: ignore[misc]
        accepted = threading.Event()

        def get_request(self):
            if way == "listener":
                self.socket.__class__ = Noted
                return super().get_request()
            sock, address = super().get_request()
            self.accepted.set()
            return tls.server.wrap_socket(sock, server_side=True), address

    class Noted(ssl.SSLSocket):
        def accept(self):
            self.__class__ = ssl.SSLSocket
            Server.accepted.set()
            return self.accept()

    server: Any = Server(ANY, Upper)
    if way == "listener":
        server.socket = tls.server.wrap_socket(server.socket, server_side=True)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    handshake = tls.client.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        handshake.do_handshake()
    hello = outgoing.read()
    with serving(server), socket.create_connection(server.server_address, SOON) as client:
        if says != "nothing":
            client.sendall(hello[:20])
        assert server.accepted.wait(SOON)
        stopping = threading.Thread(target=server.shutdown)
        stopping.start()
        wait_until(lambda: server._BaseServer__shutdown_request)
        client.sendall(hello if says == "nothing" else hello[20:])
        assert ask_over(client, handshake, incoming, outgoing) == b"HELLO\n"
        stopping.join()


async def test_who_never_shakes_hands_holds_up_no_cancelled_serve(tls: TLS, caplog):
    server: Any = compat.ThreadingTCPServer(ANY, Upper)
    server.socket = tls.server.wrap_socket(server.socket, server_side=True)
    task = asyncio.create_task(server.serve(grace=0.01))
    with silent(server.server_address, b"") as client:
        while not (engines_of(server) and engines_of(server)[0]._parked):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        client.settimeout(SOON / 2)
        assert client.recv(1) == b""
    server.server_close()
    assert not caplog.records


@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
def test_the_default_timeout_of_sockets_is_that_of_handshakes(module, kind, tls: TLS):
    socket.setdefaulttimeout(0.1)
    try:
        server: Any = getattr(module, kind)(ANY, Upper)
        server.socket = tls.server.wrap_socket(server.socket, server_side=True)
        with serving(server), silent(server.server_address, b"") as client:
            client.settimeout(SOON)
            begin = time.monotonic()
            with contextlib.suppress(ConnectionError):
                assert client.recv(1) == b""
            assert time.monotonic() - begin < SOON / 2
    finally:
        socket.setdefaulttimeout(None)


def test_each_handshake_has_its_own_deadline(tls: TLS):
    """One that began later may be over earlier."""

    class Server(compat.TCPServer):
        timeouts: list[float] = [0.1, SOON]
        accepted = 0

        def get_request(self):
            socket.setdefaulttimeout(self.timeouts.pop())
            try:
                return super().get_request()
            finally:
                socket.setdefaulttimeout(None)
                self.accepted += 1

    server: Any = Server(ANY, Upper)
    server.socket = tls.server.wrap_socket(server.socket, server_side=True)
    with serving(server, poll_interval=3600), silent(server.server_address, b"") as patient:
        wait_until(lambda: server.accepted)
        with silent(server.server_address, b"") as client:
            assert client.recv(1) == b""
        assert over(patient, tls) == b"HELLO\n"


def test_who_shakes_hands_counts_against_max_threads(tls: TLS):
    """As each will need a thread as soon as it has."""

    class Server(compat.ThreadingTCPServer):
        max_threads = 2
        accepted = 0

        def get_request(self):
            self.accepted += 1
            return super().get_request()

    server: Any = Server(ANY, Upper)
    server.socket = tls.server.wrap_socket(server.socket, server_side=True)
    with serving(server, poll_interval=3600):
        with socket.create_connection(server.server_address, SOON) as client:
            assert over(client, tls) == b"HELLO\n"
        with silent(server.server_address, b"") as one, silent(server.server_address, b""):
            wait_until(lambda: server.accepted == 3)
            with socket.create_connection(server.server_address, SOON) as client:
                assert not select.select([client], [], [], 0.05)[0]
                assert server.accepted == 3
                one.close()
                assert over(client, tls) == b"HELLO\n"


@pytest.mark.parametrize("hello", [b"", b"GET / HTTP/1.0\r\n\r\n"], ids=["silent", "no TLS"])
def test_a_deadline_and_an_except_of_the_hooks_own_are_kept(module, hello, tls: TLS):
    seen: list[Any] = []

    class Server(module.ThreadingTCPServer):
        def get_request(self):
            sock, address = super().get_request()
            sock.settimeout(0.05)
            try:
                return tls.server.wrap_socket(sock, server_side=True), address
            except OSError as exc:
                seen.append(type(exc))
                sock.close()
                raise

    with serving(Server(ANY, Upper)) as server:
        with silent(server.server_address, hello) as client, contextlib.suppress(ConnectionError):
            while client.recv(100):
                pass
        wait_until(lambda: seen)
        assert issubclass(seen[0], ssl.SSLError if hello else TimeoutError)


def test_the_hooks_own_timeout_stays_on_the_request(module, tls: TLS):
    class Handler(module.BaseRequestHandler):
        def handle(self):
            self.request.sendall(repr((self.request.gettimeout(), type(self.request))).encode())

    class Server(module.TCPServer):
        def get_request(self):
            sock, address = super().get_request()
            wrapped = tls.server.wrap_socket(sock, server_side=True)
            wrapped.settimeout(7)
            return wrapped, address

    with serving(Server(ANY, Handler)) as server:
        with socket.create_connection(server.server_address, SOON) as client:
            assert over(client, tls) == b"(7.0, <class 'ssl.SSLSocket'>)"


def test_nobody_elses_ssl_is_touched(module, tls: TLS, monkeypatch):
    """Not while it serves, not in a hook, and what others put there meanwhile stays."""
    before = dict(vars(ssl.SSLContext).items())
    seen: list[Any] = []

    class Server(module.TCPServer):
        def get_request(self):
            seen.append(dict(vars(ssl.SSLContext).items()) == before)
            seen.append(tls.server.sslsocket_class is ssl.SSLSocket)
            sock, address = super().get_request()
            return tls.server.wrap_socket(sock, server_side=True), address

    with serving(Server(ANY, Upper)) as server:
        with socket.create_connection(server.server_address, SOON) as client:
            assert over(client, tls) == b"HELLO\n"

        def mine(self, *args, **options):
            raise AssertionError

        monkeypatch.setattr(ssl.SSLContext, "wrap_socket", mine)
    assert ssl.SSLContext.wrap_socket is mine
    assert set(seen) == {True}


def test_a_mock_of_wrap_socket_gets_what_was_accepted(module, tls: TLS, monkeypatch):
    kinds: list[type] = []
    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", lambda self, sock, **_: sock)

    class Handler(module.BaseRequestHandler):
        def handle(self):
            kinds.append(type(self.request))
            self.request.sendall(b"in the clear")

    class Server(module.TCPServer):
        def get_request(self):
            sock, address = self.socket.accept()
            return tls.server.wrap_socket(sock, server_side=True), address

    with serving(Server(ANY, Handler)) as server:
        assert ask(server) == b"in the clear"
    assert kinds == [socket.socket]


def test_what_others_accept_and_wrap_meanwhile_is_theirs(tls: TLS):
    """A hook that is a server itself, for one connection; and another thread on the same listener."""
    other = socket.create_server(ANY)
    kinds: list[Any] = []

    class Server(compat.TCPServer):
        def get_request(self):
            request = super().get_request()
            sock, _ = other.accept()
            with tls.server.wrap_socket(sock, server_side=True) as wrapped:
                kinds.append((type(wrapped), wrapped.version()))
            return request

    def client() -> None:
        with socket.create_connection(other.getsockname(), SOON) as client:
            with tls.client.wrap_socket(client, server_hostname="localhost") as encrypted:
                encrypted.recv(1)

    with other, serving(Server(ANY, Upper)) as server, beside(client):
        assert ask(server) == b"HELLO\n"
    assert kinds == [(ssl.SSLSocket, "TLSv1.3")]


def test_sockets_are_of_their_own_class_again_when_the_hook_has_returned(tls: TLS):
    kept: list[socket.socket] = []

    class Server(compat.TCPServer):
        def get_request(self):
            assert isinstance(self.socket, socket.socket)
            sock, address = self.socket.accept()
            kept.append(sock)
            return sock, address

        def shutdown_request(self, request):
            pass

    with serving(Server(ANY, Upper)) as server:
        with socket.create_connection(server.server_address, SOON) as client:
            client.sendall(b"hello\n")
            assert client.recv(10) == b"HELLO\n"
        assert type(server.socket) is socket.socket
    assert [type(sock) for sock in kept] == [socket.socket]
    kept[0].close()


def test_an_sni_callback_may_run_an_event_loop(module, authority):
    leaf = authority.issue_cert("localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    leaf.configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    names: list[str] = []

    async def look(name: str) -> None:
        await asyncio.sleep(0)
        names.append(name)

    context.sni_callback = lambda _, name, __: asyncio.run(look(str(name)))
    server: Any = module.TCPServer(ANY, Upper)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server), socket.create_connection(server.server_address, SOON) as client:
        with trusting.wrap_socket(client, server_hostname="localhost") as encrypted:
            encrypted.sendall(b"hello\n")
            assert encrypted.recv(10) == b"HELLO\n"
    assert names == ["localhost"]


# -- fork ------------------------------------------------------------------------------------------


def run(program: str, module: Any) -> str:
    """What a program prints that runs on `module`."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import {module.__name__} as module\n{program}"],
        timeout=20, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.stderr, result.returncode) == ("", 0)
    return result.stdout


def test_a_child_may_close_the_server_while_the_parent_handles(module):
    program = """
import os, socket, threading
inside = threading.Event()
class Handler(module.BaseRequestHandler):
    def handle(self):
        inside.set()
        self.request.recv(10)
server = module.ThreadingTCPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, args=(0.01,)).start()
with socket.create_connection(server.server_address):
    inside.wait()
    pid = os.fork()
    if not pid:
        server.server_close()
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
server.shutdown()
server.server_close()
"""
    assert run(program, module) == "7\n"


def test_a_child_may_shut_down_what_only_its_parent_serves():
    program = """
import compat.engine, os, threading
server = module.TCPServer(("127.0.0.1", 0), None)
thread = threading.Thread(target=server.serve_forever, args=(None,))
thread.start()
while not any(engine._waits for engine in vars(server).get("_asyncserver_engine", ())):
    pass
pid = os.fork()
if not pid:
    server.shutdown()
    assert not compat.engine._running  # which would hold what is the parent's
    links = [os.readlink(f"/proc/self/fd/{number}") for number in range(3, 20)
             if os.path.exists(f"/proc/self/fd/{number}") or os.path.islink(f"/proc/self/fd/{number}")]
    assert not any("eventfd" in link for link in links), links  # the bells are the parent's
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), thread.is_alive())
server.shutdown()
thread.join()
"""
    assert run(program, compat) == "7 True\n"


def test_a_child_whose_handler_returns_serves_on_and_wakes_only_itself(module):
    program = """
import os, socket
class Handler(module.StreamRequestHandler):
    def handle(self):
        line = self.rfile.readline()
        if line == b"fork\\n":
            self.server.child = os.fork()
            if not self.server.child:
                self.server.socket = socket.create_server(("127.0.0.1", 0))
        self.server._BaseServer__shutdown_request = True
server = module.TCPServer(("127.0.0.1", 0), Handler)
with socket.create_connection(server.server_address) as client:
    client.sendall(b"fork\\n")
    server.serve_forever(0.01)
if not server.child:
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(server.child, 0)[1]))
"""
    assert run(program, module) == "7\n"


def test_such_a_child_has_a_bell_of_its_own():
    program = """
import os, socket, threading
class Handler(module.StreamRequestHandler):
    def handle(self):
        if self.rfile.readline() == b"fork\\n":
            self.server.child = os.fork()
            if not self.server.child:
                threading.Thread(target=stop_when_it_waits).start()
def stop_when_it_waits():
    (engine,) = vars(server)["_asyncserver_engine"]
    while not (engine._waits and engine._bell):
        pass
    server.shutdown()
server = module.TCPServer(("127.0.0.1", 0), Handler)
def client():
    with socket.create_connection(server.server_address) as client:
        client.sendall(b"fork\\n")
        client.recv(1)
        print(os.waitstatus_to_exitcode(os.waitpid(server.child, 0)[1]))
    print(vars(server)["_BaseServer__shutdown_request"])
    server.shutdown()
thread = threading.Thread(target=client)
thread.start()
server.serve_forever(None)
if not server.child:
    os._exit(7)
thread.join()
"""
    assert run(program, compat) == "7\nFalse\n"


def test_a_child_serves_though_another_thread_of_its_parents_held_all_locks():
    program = """
import compat.bells, compat.engine, os, signal, socket, threading
parent = os.getpid()
class Handler(module.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"x")
        self.server._BaseServer__shutdown_request = True
server = module.ThreadingTCPServer(("127.0.0.1", 0), Handler)
def serve():
    with socket.create_connection(server.server_address) as client:
        server.serve_forever(0.01)
        print(client.recv(10).decode(), flush=True)
serve()
held, leave = threading.Event(), threading.Event()
def hold():
    with compat.engine._lock, compat.bells._lock, vars(server)["_asyncserver_pool"]._lock:
        held.set()
        leave.wait()
threading.Thread(target=hold).start()
held.wait()
pid = os.fork()
if not pid:
    signal.alarm(10)
    serve()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
leave.set()
server.server_close()
"""
    assert run(program, compat) == "x\nx\n7\n"


def test_a_child_accepts_though_another_thread_of_its_parents_was_about_to():
    program = """
import os, signal, socket, threading
inside, leave = threading.Event(), threading.Event()
parent = os.getpid()
class Server(module.TCPServer):
    calls = 0
    def get_request(self):
        self.calls += 1
        if self.calls == 2:
            inside.set()
            leave.wait()
            raise OSError("the child has taken it")
        return super().get_request()
class Handler(module.StreamRequestHandler):
    def handle(self):
        if os.getpid() == parent:
            inside.wait()
            self.server.child = os.fork()
            signal.alarm(0 if self.server.child else 10)
        else:
            self.wfile.write(b"from the child")
            self.server._BaseServer__shutdown_request = True
def serve():
    server.serve_forever(3600)
    if os.getpid() != parent:
        os._exit(7)
server = Server(("127.0.0.1", 0), Handler)
threads = [threading.Thread(target=serve) for _ in range(2)]
for thread in threads:
    thread.start()
while len(vars(server).get("_asyncserver_engine", ())) < 2:
    pass
with socket.create_connection(server.server_address), \\
        socket.create_connection(server.server_address) as client:
    print(client.recv(20).decode())
leave.set()
print(os.waitstatus_to_exitcode(os.waitpid(server.child, 0)[1]))
server.shutdown()
server.server_close()
"""
    assert run(program, compat) == "from the child\n7\n"


@pytest.mark.parametrize("pidfd", ["there", "there, and no actions", "none left"])
def test_children_are_reaped_while_it_serves(pidfd):
    """By their descriptors; or, where the system has none left, one by one at each turn."""
    program = f"""
import errno, os, socket
def none_left(pid, flags=0):
    raise OSError(errno.EMFILE, "none left")
if {pidfd == "none left"}:
    os.pidfd_open = none_left
class Handler(module.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"x")
class Server(module.ForkingTCPServer):
    max_children = 1
    def service_actions(self):
        if {"no actions" not in pidfd}:
            super().service_actions()
        if not self.active_children and os.waitpid(client, os.WNOHANG)[0]:
            self._BaseServer__shutdown_request = True
server = Server(("127.0.0.1", 0), Handler)
client = os.fork()
if not client:
    for _ in range(3):
        with socket.create_connection(server.server_address) as sock:
            assert sock.recv(10) == b"x"
    os._exit(0)
before = len(os.listdir("/proc/self/fd"))
server.serve_forever(0.01)
print(server.active_children, len(os.listdir("/proc/self/fd")) - before)
"""
    result = subprocess.run(
        [sys.executable, "-c", f"import compat as module\n{program}"],
        timeout=20, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.stdout, result.returncode) == ("set() 0\n", 0), result.stderr
    assert "Traceback" not in result.stderr


def test_children_that_somebody_else_reaps_are_forgotten(module):
    """Here the system, which is told to; with `max_children` a server would wait for them for ever."""
    program = """
import errno, logging, os, signal, socket
logging.disable()
def none_left(pid, flags=0):
    raise OSError(errno.EMFILE, "none left")
os.pidfd_open = none_left
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
class Handler(module.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"x")
class Server(module.ForkingTCPServer):
    max_children = 1
    served = 0
    def process_request(self, *args):
        self.served += 1
        super().process_request(*args)
    def service_actions(self):
        super().service_actions()
        if self.served == 3 and not self.active_children:
            self._BaseServer__shutdown_request = True
server = Server(("127.0.0.1", 0), Handler)
clients = [socket.create_connection(server.server_address) for _ in range(3)]
signal.alarm(10)
server.serve_forever(0.01)
print(*[client.recv(10).decode() for client in clients], server.active_children)
"""
    assert run(program, module) == "x x x set()\n"


def test_server_close_waits_for_children_also_while_it_serves(module):
    program = """
import os, select, socket
class Handler(module.BaseRequestHandler):
    def handle(self):
        select.select([], [], [], 0.1)
class Server(module.ForkingTCPServer):
    def service_actions(self):
        if self.active_children:
            self.server_close()
            print(self.active_children)
            self._BaseServer__shutdown_request = True
server = Server(("127.0.0.1", 0), Handler)
with socket.create_connection(server.server_address):
    server.serve_forever(0.01)
"""
    assert run(program, module) == "set()\n"


def test_descriptors_of_children_that_outlive_serve_forever_are_closed():
    program = """
import os, socket
class Handler(module.BaseRequestHandler):
    def handle(self):
        self.request.recv(1)
class Server(module.ForkingTCPServer):
    def service_actions(self):
        if self.active_children:
            self._BaseServer__shutdown_request = True
server = Server(("127.0.0.1", 0), Handler)
before = len(os.listdir("/proc/self/fd"))
with socket.create_connection(server.server_address) as client:
    server.serve_forever(0.01)
    print(len(os.listdir("/proc/self/fd")) - before, len(server.active_children))
    client.sendall(b"x")
server.server_close()
print(server.active_children)
"""
    assert run(program, compat) == "1 1\nset()\n"  # the client's own


def test_one_that_ends_just_before_the_engine_asks_to_be_told_is_seen(monkeypatch):
    """Or nobody would ever resume."""
    monkeypatch.setattr(engine, "at_work", mock.Mock(side_effect=[(1, 1), (1, 1), (0, 1)]))
    with compat.ForkingTCPServer(ANY, Upper) as server:
        assert not engine.Engine(server, None).full


def test_only_who_had_to_wait_for_a_slot_is_told_that_one_is_free():
    """Or every request that ends would wake the server."""
    with compat.ThreadingTCPServer(ANY, Upper) as server:
        one = engine.Engine(server, None)
        one.enter()
        try:
            one._told_when_free = True
            one.slot_is_free()
            assert one._called
            one._called = False
            one.slot_is_free()
            assert not one._called
        finally:
            one.leave()


# -- greenlets -------------------------------------------------------------------------------------

FAKE = """
import select, selectors
class Poll:
    used = 0
    def __init__(self):
        self._poll = real()
        self.register, self.unregister, self.modify = self._poll.register, self._poll.unregister, self._poll.modify
    def poll(self, *args):
        Poll.used += 1
        return self._poll.poll(*args)
real, select.poll = select.poll, Poll
selectors.PollSelector._selector_cls = Poll
"""


def test_where_somebody_elses_poll_is_in_place_it_waits_in_that():
    """As gevent has it."""
    program = f"""
{FAKE}
import socket, threading
class Handler(module.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"x")
server = module.ThreadingTCPServer(("127.0.0.1", 0), Handler)
thread = threading.Thread(target=server.serve_forever, args=(0.01,))
thread.start()
with socket.create_connection(server.server_address) as client:
    print(client.recv(1), Poll.used > 0)
server.shutdown()
server.server_close()
thread.join()
"""
    assert run(program, compat) == "b'x' True\n"


def test_where_poll_has_been_taken_away_it_waits_in_select():
    """As eventlet has it, also when it comes later than `socketserver`."""
    program = """
import select, selectors, socketserver, threading, socket
del select.poll, selectors.PollSelector
class Handler(module.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"x")
server = module.TCPServer(("127.0.0.1", 0), Handler)
thread = threading.Thread(target=server.serve_forever, args=(0.01,))
thread.start()
with socket.create_connection(server.server_address) as client:
    print(client.recv(1), socketserver._ServerSelector.__name__)
server.shutdown()
server.server_close()
thread.join()
"""
    assert run(program, compat) == "b'x' SelectSelector\n"


@pytest.mark.parametrize("package", ["gevent", "eventlet"])
@pytest.mark.parametrize("first", ["patched first", "imported first"])
def test_greenlets_run_on(package, first):
    if importlib.util.find_spec(package) is None:  # importing it would change this process
        pytest.skip(f"there is no {package}")
    patch = {
        "gevent": "from gevent import monkey; monkey.patch_all()",
        "eventlet": "import eventlet; eventlet.monkey_patch()",
    }[package]
    program = f"""
{"import compat" if first == "imported first" else ""}
{patch}
import compat, socket, threading, time
class Handler(compat.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline())
server = compat.ThreadingTCPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
thread.start()
with socket.create_connection(server.server_address, timeout=5) as client:
    client.sendall(b"x\\n")
    print(client.recv(9))
server.shutdown()
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        timeout=20, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.stdout, result.returncode) == ("b'x\\n'\n", 0), result.stderr


# -- uninstall -------------------------------------------------------------------------------------


def test_uninstall_between_the_question_and_get_request_does_not_block(monkeypatch):
    """At the worst moment: after the engine has looked, and before it asks for the datagram."""
    compat.install()
    try:
        server: Any = socketserver.UDPServer(ANY, UpperDatagram)
        noblock = socketserver.BaseServer._handle_request_noblock  # type: ignore[attr-defined]

        def meanwhile(self):
            compat.uninstall()
            noblock(self)

        monkeypatch.setattr(server, "_handle_request_noblock", meanwhile.__get__(server))
        with serving(server, poll_interval=None):
            assert ask(server) == b"HELLO\n"
            assert ask(server) == b"HELLO\n"
    finally:
        compat.uninstall()


def test_uninstalled_a_server_that_waits_for_ever_still_hears_shutdown():
    compat.install()
    try:
        with serving(socketserver.TCPServer(ANY, Upper), poll_interval=None) as server:
            assert ask(server) == b"HELLO\n"
            compat.uninstall()
    finally:
        compat.uninstall()
