"""Where compat is meant to be better than the standard library, and what is new in it."""

import contextlib
import errno
import itertools
import os
import select
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

import compat
from asyncserver import SettingError
from compat import telling, turns
from compat.pool import Job, Pool
from compat.state import engines_of
from tests.conftest import TLS
from tests.test_compat_programs import UpperDatagram
from tests.test_compat_rows import ANY, Upper, ask, over, serving


class Waits(socketserver.StreamRequestHandler):
    """Says hello, then waits for its peer."""

    def handle(self):
        self.wfile.write(b"hello\n")
        self.rfile.read()


@contextlib.contextmanager
def waiting_client(server: Any):
    with socket.create_connection(server.server_address, 10) as client:
        assert client.recv(6) == b"hello\n"
        yield client


# -- shutdown --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
def test_shutdown_does_not_wait_for_poll_interval(kind):
    with serving(getattr(compat, kind)(ANY, Upper), poll_interval=3600) as server:
        ask(server)


def test_shutdown_of_a_datagram_server_whose_socket_waits_for_long():
    with serving(compat.UDPServer(ANY, UpperDatagram), poll_interval=3600) as server:
        server.socket.settimeout(3600)
        assert ask(server) == b"HELLO\n"


@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
def test_shutdown_from_a_handler(kind):
    class Handler(Upper):
        def handle(self):
            super().handle()
            self.server.shutdown()

    with getattr(compat, kind)(ANY, Handler) as server:
        client = threading.Thread(target=ask, args=(server,))
        client.start()
        server.serve_forever(poll_interval=None)
        client.join()


@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
def test_shutdown_before_serving_and_twice(kind):
    with getattr(compat, kind)(ANY, Upper) as server:
        server.shutdown()
        server.shutdown()
        server.serve_forever(poll_interval=None)  # asked to stop already
        with serving(server):
            assert ask(server) == b"HELLO\n"


def test_shutdown_and_close_before_the_thread_has_begun():
    for _ in range(20):
        with compat.TCPServer(ANY, Upper) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
def test_shutdown_from_a_signal_handler(kind):
    with getattr(compat, kind)(ANY, Upper) as server:
        before = signal.signal(signal.SIGUSR1, lambda *_: server.shutdown())

        def interrupt():
            ask(server)
            os.kill(os.getpid(), signal.SIGUSR1)

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            server.serve_forever(poll_interval=None)
        finally:
            thread.join()
            signal.signal(signal.SIGUSR1, before)


def test_r24_server_close_in_a_threaded_handler_does_not_wait_for_itself():
    closed = threading.Event()

    class Handler(Upper):
        def handle(self):
            super().handle()
            self.server.server_close()
            closed.set()

    with serving(compat.ThreadingTCPServer(ANY, Handler)) as server:
        assert ask(server) == b"HELLO\n"
        assert closed.wait(10)


# -- threads ---------------------------------------------------------------------------------------


def test_r5_threads_are_daemon_as_the_server_says():
    class Handler(compat.StreamRequestHandler):
        def handle(self):
            self.wfile.write(str(threading.current_thread().daemon).encode())

    with serving(compat.ThreadingTCPServer(ANY, Handler)) as server:
        answers = []
        for daemon in (False, True, False):
            server.daemon_threads = daemon
            answers.append(ask(server))
    assert answers == [b"False", b"True", b"False"]


@pytest.mark.parametrize("module", [socketserver, compat])
def test_r5_server_close_does_not_wait_for_daemon_threads(module):
    inside, leave = threading.Event(), threading.Event()
    threads = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            threads.append(threading.current_thread())
            inside.set()
            leave.wait(10)

    server = module.ThreadingTCPServer(ANY, Handler)
    server.daemon_threads = True
    with serving(server):
        with socket.create_connection(server.server_address, 10):
            assert inside.wait(10)
            server.shutdown()
            server.server_close()
            assert threads[0].is_alive()
            leave.set()
    threads[0].join(10)


def test_r5_process_with_a_blocked_daemon_handler_exits():
    program = """
import compat, socket, threading
class Handler(compat.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"x")
        self.request.recv(1)
server = compat.ThreadingTCPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
client = socket.create_connection(server.server_address)
client.recv(1)
"""
    result = subprocess.run([sys.executable, "-c", program], timeout=20, check=False)
    assert result.returncode == 0


def test_idle_threads_do_not_keep_the_process():
    program = """
from compat.pool import Job, Pool
from compat.state import engines_of
pool = Pool("idle")
job = Job(int, (), daemon=False)
pool.run(job)
job.join()
"""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", program], timeout=20, check=True)
    assert time.monotonic() - start < 9  # an idle thread stays for 10 s


def test_r6_close_timeout_wakes_a_handler_that_waits_for_its_peer(caplog):
    with serving(compat.ThreadingTCPServer(ANY, Waits)) as server:
        server.close_timeout = 0.05
        with waiting_client(server) as client:
            server.shutdown()
            server.server_close()
            assert list(server._threads) == []
            assert client.recv(1) == b""
    assert not caplog.records  # it did end


def test_r4_at_max_threads_clients_wait_in_the_backlog():
    class Server(compat.ThreadingTCPServer):
        max_threads = 2
        accepted = 0

        def get_request(self):
            self.accepted += 1
            return super().get_request()

    with serving(Server(ANY, Waits)) as server:
        first, second = [socket.create_connection(server.server_address, 10) for _ in range(2)]
        assert first.recv(6) == second.recv(6) == b"hello\n"
        with socket.create_connection(server.server_address, 10) as third:
            assert not select.select([third], [], [], 0.05)[0]
            assert server.accepted == 2
            first.close()
            assert third.recv(6) == b"hello\n"
        second.close()
    assert server.accepted == 3


def test_max_threads_must_be_at_least_one():
    with compat.ThreadingTCPServer(ANY, Upper) as server:
        server.max_threads = 0
        with pytest.raises(SettingError, match="max_threads is 0"):
            server.serve_forever()


def test_r7_max_idle_threads_0_gives_every_request_a_fresh_thread():
    local = threading.local()

    class Handler(compat.StreamRequestHandler):
        def handle(self):
            local.count = getattr(local, "count", 0) + 1
            self.wfile.write(str(local.count).encode())

    with serving(compat.ThreadingTCPServer(ANY, Handler)) as server:
        server.max_idle_threads = 0
        assert [ask(server) for _ in range(3)] == [b"1"] * 3


def test_server_close_leaves_no_thread():
    before = set(threading.enumerate())
    with serving(compat.ThreadingTCPServer(ANY, Upper)) as server:
        for _ in range(3):
            ask(server)
    assert set(threading.enumerate()) == before


def test_pool_uses_a_thread_again_and_starts_one_for_whoever_comes():
    pool = Pool("test")
    threads = []
    for _ in range(3):
        job = Job(lambda: threads.append(threading.get_native_id()), (), daemon=True)
        pool.run(job)
        job.join()
    assert len(set(threads)) == 1
    barrier = threading.Barrier(5)
    jobs = [Job(barrier.wait, (10,), daemon=True) for _ in range(5)]
    for job in jobs:
        pool.run(job)
    for job in jobs:
        job.join()
    assert not barrier.broken
    pool.retire()


def test_r7_memory_of_requests_is_flat():
    """The list that `server_close` joins forgets who has finished."""
    longest = 0
    with serving(compat.ThreadingTCPServer(ANY, Upper)) as server:
        for _ in range(200):
            ask(server)
            for thread in list(server._threads):
                thread.join()  # a client may hear the last of it a little earlier
            longest = max(longest, len(server._threads))
    assert longest < 10


# -- exhaustion ------------------------------------------------------------------------------------


def test_r21_out_of_descriptors_does_not_spin(monkeypatch, caplog):
    calls = []
    enough = threading.Event()

    class Server(compat.TCPServer):
        def get_request(self):
            calls.append(time.monotonic())
            if len(calls) <= 3:
                raise OSError(errno.EMFILE, "no more")
            enough.set()
            return super().get_request()

    with serving(Server(ANY, Upper)) as server:
        assert ask(server) == b"HELLO\n"
    gaps = [later - earlier for earlier, later in itertools.pairwise(calls)]
    assert min(gaps[:3]) > 0.05
    assert [record.message for record in caplog.records] == [
        "cannot accept: [Errno 24] no more; trying again until it works"
    ]


def test_r21_each_time_that_descriptors_run_out_is_told_once(caplog):
    class Server(compat.TCPServer):
        turns = 0
        fails = True

        def get_request(self):
            if self.fails:
                self.fails = False
                raise OSError(errno.EMFILE, "no more")
            return super().get_request()

        def service_actions(self):
            self.turns += 1

    with serving(Server(ANY, Upper), poll_interval=0.01) as server:
        for _ in range(2):
            server.fails = True
            assert ask(server) == b"HELLO\n"
            seen = server.turns
            while server.turns < seen + 3:  # nobody waits any more
                select.select([], [], [], 0.001)
    assert [record.message for record in caplog.records] == [
        "cannot accept: [Errno 24] no more; trying again until it works"
    ] * 2


def test_listener_closed_while_serving_is_asked_once_and_never_again():
    class Server(compat.TCPServer):
        asked = turns = 0

        def get_request(self):
            self.asked += 1
            return super().get_request()

        def service_actions(self):
            self.turns += 1

    def several_turns(server: Any) -> None:
        seen = server.turns
        while server.turns < seen + 5:
            select.select([], [], [], 0.001)

    with serving(Server(ANY, Upper), poll_interval=0.01) as server:
        ask(server)
        server.server_close()
        several_turns(server)
        asked = server.asked
        assert asked <= 2
        (engine,) = engines_of(server)
        engine.wake()  # as a thread does that has become free
        several_turns(server)
        assert server.asked == asked


def test_r19_backlog_is_longer_unless_somebody_said_so():
    with compat.TCPServer(ANY, Upper) as server:
        assert server.request_queue_size == 128
        assert type(server).request_queue_size == 5
    said = type("Said", (compat.TCPServer,), {"request_queue_size": 5})
    with said(ANY, Upper) as server:
        assert server.request_queue_size == 5


# -- forking ---------------------------------------------------------------------------------------

FORKING = """
import os, signal, socket, sys, threading, warnings
import {module} as module
from compat import engine, telling, turns
warnings.simplefilter("error")
class Handler(module.StreamRequestHandler):
    def handle(self):
        assert threading.active_count() == 1
        self.wfile.write(self.rfile.readline())
class Server(module.ForkingTCPServer):
    max_children = 2
    def close_request(self, request):
        assert len(self.active_children or ()) <= self.max_children
        super().close_request(request)
server = Server(("127.0.0.1", 0), Handler)
reader, writer = os.pipe()
pid = os.fork()
if pid == 0:
    server.server_close()
    for _ in range(6):
        with socket.create_connection(server.server_address) as client:
            client.sendall(b"x\\n")
            assert client.recv(10) == b"x\\n"
            client.recv(1)
    idle = [socket.create_connection(server.server_address) for _ in range(2)]
    waits = socket.create_connection(server.server_address)
    waits.sendall(b"y\\n")
    idle[0].close()
    assert waits.recv(10) == b"y\\n"
    idle[1].close(), waits.close()
    os.write(writer, b"fine")
    os._exit(0)
child = os.pidfd_open(pid)
def stop():
    if os.waitid(os.P_PIDFD, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        server._BaseServer__shutdown_request = True
server.service_actions = lambda: (Server.service_actions(server), stop())
server.serve_forever(poll_interval=0.01)
server.server_close()
assert not server.active_children, server.active_children
assert threading.active_count() == 1
os.close(writer)
print(os.read(reader, 10).decode())  # server_close may have reaped it, as waitpid(-1) does
"""


def test_r17_forking_has_no_threads_no_warnings_and_keeps_to_max_children():
    program = FORKING.format(module="compat")
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert (result.stdout, result.returncode) == ("fine\n", 0), result.stderr
    full = "all threads or children are at work (2): new clients wait in the backlog"
    assert set(result.stderr.splitlines()) <= {full}


# -- TLS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
@pytest.mark.parametrize("way", ["listener", "get_request", "verified"])
def test_r14_silent_tls_clients_hold_up_nobody(kind, way, tls: TLS):
    class Server(getattr(compat, kind)):  # type: ignore[misc]
        verified: list[Any] = []

        def get_request(self):
            sock, address = super().get_request()
            if way == "get_request":
                sock = tls.server.wrap_socket(sock, server_side=True)
            return sock, address

        def verify_request(self, request, client_address):
            self.verified.append(request.version())
            return True

    if way == "listener":
        del Server.verify_request
    server = Server(ANY, Upper)
    if way != "get_request":
        server.socket = tls.server.wrap_socket(server.socket, server_side=True)
    with serving(server), contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(socket.create_connection(server.server_address, 10))
        client = stack.enter_context(socket.create_connection(server.server_address, 10))
        assert over(client, tls) == b"HELLO\n"
    assert set(server.verified) <= {"TLSv1.3"}


def test_certificate_asked_for_in_get_request_shakes_hands_there(tls: TLS):
    class Server(compat.TCPServer):
        seen: list[Any] = []

        def get_request(self):
            sock, address = super().get_request()
            wrapped = tls.server.wrap_socket(sock, server_side=True)
            self.seen.append((wrapped.version(), type(wrapped)))
            return wrapped, address

    with (
        serving(Server(ANY, Upper)) as server,
        socket.create_connection(server.server_address, 10) as client,
    ):
        assert over(client, tls) == b"HELLO\n"
    assert server.seen == [("TLSv1.3", ssl.SSLSocket)]


def test_ssl_context_is_left_as_it_was(tls: TLS):
    before = ssl.SSLContext.wrap_socket
    with serving(compat.TCPServer(ANY, Upper)) as server:
        ask(server)
    assert ssl.SSLContext.wrap_socket is before


# -- very many -------------------------------------------------------------------------------------


@pytest.fixture
def storm(monkeypatch):
    monkeypatch.setattr(telling, "_kinds", {})
    monkeypatch.setattr(telling, "_left_out", 0)
    now = [1000.0]
    monkeypatch.setattr("compat.telling.time.monotonic", lambda: now[0])
    return now


def fail(kind: type[Exception], count: int = 1) -> None:
    for _ in range(count):
        try:
            raise kind
        except kind:
            telling.tell("somebody")


def test_tracebacks_of_one_kind_are_limited_in_rate_and_counted(storm, capsys):
    fail(LookupError, 1000)
    said = capsys.readouterr().err
    assert said.count("LookupError") == said.count("Traceback") == telling.PER_SECOND
    fail(ZeroDivisionError)  # another kind
    assert capsys.readouterr().err.startswith("(990 more exceptions like those before")
    storm[0] += 1
    fail(LookupError, 1000)
    assert capsys.readouterr().err.count("Traceback") == telling.PER_SECOND
    telling.tell_rest()
    assert capsys.readouterr().err == "(990 more exceptions like those before were left out)\n"
    telling.tell_rest()
    assert capsys.readouterr().err == ""


def test_kinds_of_exceptions_are_not_remembered_for_ever(storm, capsys):
    for number in range(1000):
        fail(type(f"Error{number}", (Exception,), {}))
    assert len(telling._kinds) <= telling.KINDS
    assert capsys.readouterr().err.count("Traceback") == 1000


def test_server_close_tells_what_was_left_out(storm, capsys):
    with serving(compat.ThreadingTCPServer(ANY, Upper)):
        fail(LookupError, 11)
    assert "(1 more exceptions" in capsys.readouterr().err


@pytest.fixture
def interval(monkeypatch):
    usual = sys.getswitchinterval()
    monkeypatch.setattr(turns, "_ours", None)
    monkeypatch.setattr(turns, "_usual", usual)
    monkeypatch.setattr(turns, "_ends", 0)
    yield usual
    sys.setswitchinterval(usual)


def test_thousands_of_threads_ask_less_often_for_their_turn(interval):
    turns.at_work(100)
    assert sys.getswitchinterval() == interval
    turns.at_work(2000)
    assert sys.getswitchinterval() == pytest.approx(0.02)
    for _ in range(turns.RUSH):
        turns.at_work(2000, ended=True)
    assert sys.getswitchinterval() == pytest.approx(0.1)
    turns.at_work(400, ended=True)
    assert sys.getswitchinterval() == interval


def test_somebody_elses_interval_is_left_alone(interval):
    turns.at_work(2000)
    sys.setswitchinterval(0.5)
    turns.at_work(10, ended=True)
    assert sys.getswitchinterval() == 0.5


def test_somebody_elses_longer_interval_is_not_shortened(interval):
    sys.setswitchinterval(0.5)
    turns.at_work(2000)
    assert sys.getswitchinterval() == 0.5


def test_a_rush_lasts_for_the_second_after_it_and_no_longer(interval, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(turns, "_since", now)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(turns.RUSH):
        turns.at_work(2000, ended=True)
    for now, seconds in ((1001.5, 0.1), (1004.0, 0.02)):  # noqa: B007 - the clock looks at it
        turns.at_work(2000)
        assert sys.getswitchinterval() == pytest.approx(seconds)


STORM = """
import os, signal, socket, sys, threading
import compat as socketserver
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"x")
        self.rfile.readline()
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 1000
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
with Server(("127.0.0.1", 0), Handler) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""


def test_signal_is_heard_when_all_clients_vanish_at_once():
    process = subprocess.Popen(
        [sys.executable, "-c", STORM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process:
        port = int(process.stdout.readline())
        clients = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(400)]
        for client in clients:
            assert client.recv(1) == b"x"
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 7


# -- the end of the main thread --------------------------------------------------------------------

ENDED = """
import sys, threading, time
import {module} as socketserver
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline())
def client():
    threading.main_thread().join()
    import socket
    for _ in range(3):
        with socket.create_connection(server.server_address) as sock:
            sock.sendall(b"x\\n")
            assert sock.recv(10) == b"x\\n"
    server.shutdown()
    server.server_close()
    print("served", flush=True)
    global since
    since = time.monotonic()
def main():
    global server
    server = socketserver.{kind}(("127.0.0.1", 0), Handler)
    threading.Thread(target=client).start()
    server.serve_forever()
import atexit
atexit.register(lambda: print(time.monotonic() - since < 5))
{last}
"""


@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
@pytest.mark.parametrize("where", ["made before", "made in the thread"])
def test_server_outlives_the_main_thread_and_ends_at_once(kind, where):
    """As the last line of many scripts is a thread's start."""
    if sys.version_info[:2] == (3, 12) and (kind, where) != ("TCPServer", "made before"):
        pytest.skip("this Python starts no thread after the main one, for nobody")
    last = "threading.Thread(target=main).start()"
    if where == "made before":
        last = (
            f"server = socketserver.{kind}(('127.0.0.1', 0), Handler)\n"
            "threading.Thread(target=client).start()\n"
            "threading.Thread(target=server.serve_forever).start()"
        )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c",
         ENDED.format(module="compat", kind=kind, last=last)],
        capture_output=True, text=True, timeout=25, check=False,
    )  # fmt: skip
    assert (result.stdout, result.stderr) == ("served\nTrue\n", "")


def test_all_threads_can_be_joined_after_shutdown():
    with serving(compat.ThreadingTCPServer(ANY, Upper)) as server:
        before = set(threading.enumerate())
        for _ in range(3):
            ask(server)
        for thread in set(threading.enumerate()) - before:
            thread.join(10)
        assert set(threading.enumerate()) == before
        assert len(server._asyncserver_pool._idle) > 0


def test_close_timeout_counts_for_all_handlers_together():
    """However many there are, and not for each."""
    with serving(compat.ThreadingTCPServer(ANY, Waits)) as server:
        server.close_timeout = 0.2
        with contextlib.ExitStack() as stack:
            for _ in range(30):
                stack.enter_context(waiting_client(server))
            server.shutdown()
            start = time.monotonic()
            server.server_close()
            assert 0.2 <= time.monotonic() - start < 5  # and not 6


def test_server_close_waits_for_its_handlers_as_long_as_it_takes():
    leave = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(b"hello\n")
            leave.wait(10)
            self.request.sendall(b"done")

    with serving(compat.ThreadingTCPServer(ANY, Handler)) as server:
        with waiting_client(server) as client:
            server.shutdown()
            closing = threading.Thread(target=server.server_close)
            closing.start()
            closing.join(0.05)
            assert closing.is_alive()
            leave.set()
            closing.join(10)
            assert client.recv(10) == b"done"


def test_handler_that_was_woken_has_a_moment_to_finish(caplog):
    finished = threading.Event()

    class Handler(Waits):
        def finish(self):
            threading.Event().wait(0.1)
            super().finish()
            finished.set()

    with serving(compat.ThreadingTCPServer(ANY, Handler)) as server:
        server.close_timeout = 0
        with waiting_client(server):
            server.shutdown()
            server.server_close()
            assert finished.is_set()
    assert not caplog.records


def test_a_programs_own_max_threads_means_what_it_means_to_the_program():
    class Server(socketserver.ThreadingTCPServer):
        max_threads = 0
        daemon_threads = True

    with compat.installed(), Server(ANY, Upper) as server, serving(server):
        assert ask(server) == b"HELLO\n"
