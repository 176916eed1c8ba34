"""Blocking code in async programs: handlers on the native server, and whole servers awaited."""

import asyncio
import contextlib
import functools
import os
import re
import select
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

import compat
from asyncserver import HandlerError, Limits, SettingError, Timeouts
from asyncserver.events import Closed, Disconnected, Drained, Expired, Failed, Opened
from compat import awaiting, hosting
from tests.conftest import TLS, connect, serving, upper


class Upper(socketserver.StreamRequestHandler):
    word = b""

    def handle(self):
        self.wfile.write(self.word + self.rfile.readline().upper())


class Waits(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"hello\n")
        self.rfile.read()


def function(sock):
    assert isinstance(sock, socket.socket)
    assert sock.gettimeout() is None
    assert os.get_blocking(sock.fileno())
    sock.sendall(sock.recv(100).upper())


class CalledAsync:
    async def __call__(self, sock):
        pass


class HandlesAsync(socketserver.StreamRequestHandler):
    async def handle(self):  # type: ignore[override]
        pass


async def three(request, client_address, server):
    pass


class Awaitable:
    def __await__(self):
        yield


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


class TurnsOutAsync(socketserver.BaseRequestHandler):
    handle = wrapped(upper)


REFUSED = r"is async: serve it without compat\.threaded\(\)"


@pytest.mark.parametrize(
    "handler",
    [upper, three, functools.partial(three, 1, 2), CalledAsync(), HandlesAsync,
     functools.partial(HandlesAsync)],
)  # fmt: skip
def test_async_handler_is_refused(handler):
    with pytest.raises(HandlerError, match=REFUSED):
        compat.threaded(handler)


@pytest.mark.parametrize(
    ("handler", "scheme"),
    [
        (lambda sock: upper(sock), "tcp"),  # noqa: PLW0108 - so that nobody sees what is inside
        (lambda request, _, server: three(request, _, server), "tcp"),  # noqa: PLW0108
        (lambda request, _, server: three(request, _, server), "udp"),  # noqa: PLW0108
        (lambda _: Awaitable(), "tcp"),
        (wrapped(upper), "tcp"),
        (wrapped(three), "tcp"),
        (wrapped(three), "udp"),
        (functools.partial(wrapped(functools.partial(three, 1)), 2), "tcp"),
        (wrapped(CalledAsync()), "tcp"),
        (TurnsOutAsync, "tcp"),
        (TurnsOutAsync, "udp"),
    ],
)
async def test_handler_that_turns_out_to_be_async_is_an_error(handler, scheme, caplog):
    failed = asyncio.Event()
    seen: list[Failed] = []

    def observe(event: Any) -> None:
        if isinstance(event, Failed):
            seen.append(event)
            failed.set()

    hosted = compat.threaded(handler)
    async with serving(hosted, f"{scheme}://127.0.0.1:0", observers=[observe]) as server:
        host, _, port = server.addresses[0].rpartition("//")[2].rpartition(":")
        kind = socket.SOCK_STREAM if scheme == "tcp" else socket.SOCK_DGRAM
        with socket.socket(type=kind) as client:
            client.connect((host, int(port)))
            client.send(b"hello\n")
            await asyncio.wait_for(failed.wait(), 10)
    assert [type(each.error) for each in seen] == [HandlerError]
    assert re.search(REFUSED, str(seen[0].error))
    assert [each.levelname for each in caplog.records] == ["ERROR"]


@pytest.mark.parametrize("handler", [Upper, functools.partial(Upper), function])
async def test_blocking_handler_serves_streams(handler, url):
    async with (
        serving(compat.threaded(handler), url) as server,
        connect(server.addresses[0]) as (reader, writer),
    ):
        writer.write(b"hello\n")
        assert await reader.read() == b"HELLO\n"
        assert server.stats.accepted == 1


async def test_tls_handler_gets_a_socket_that_has_shaken_hands(tls: TLS):
    def handler(sock):
        assert isinstance(sock, ssl.SSLSocket)
        sock.sendall(str(sock.version()).encode())

    async with serving(compat.threaded(handler), "tcp://127.0.0.1:0", tls=tls.server) as server:
        silent = [await asyncio.open_connection(*_host(server)) for _ in range(20)]
        options = {"ssl": tls.client, "server_hostname": "localhost"}
        async with connect(server.addresses[0], **options) as (reader, _):
            assert await reader.read() == b"TLSv1.3"
        for _, writer in silent:
            writer.transport.abort()


async def test_handshake_has_its_deadline(tls: TLS):
    async with (
        serving(
            compat.threaded(function), "tcp://127.0.0.1:0",
            tls=tls.server, timeouts=Timeouts(handshake=0.05),
        ) as server,
        connect(server.addresses[0]) as (reader, _),
    ):  # fmt: skip
        assert await reader.read() == b""
        assert server.stats.handshakes_failed == 1


@pytest.mark.parametrize("limits", [Limits(connections=1), Limits()])
async def test_at_the_cap_clients_wait_in_the_backlog(limits, recorder):
    handler = compat.threaded(Waits, max_threads=1)
    async with (
        serving(handler, "tcp://127.0.0.1:0", limits=limits) as server,
        connect(server.addresses[0]) as (reader, writer),
    ):
        assert await reader.readline() == b"hello\n"
        async with connect(server.addresses[0]) as (second, _):
            assert server.stats.accepted == 1
            writer.close()
            assert await second.readline() == b"hello\n"


async def test_handlers_that_wait_for_each_other_meet():
    barrier = threading.Barrier(3)

    def handler(sock):
        barrier.wait(10)
        sock.sendall(b"met")

    async with serving(compat.threaded(handler), "tcp://127.0.0.1:0") as server:
        clients = [await asyncio.open_connection(*_host(server)) for _ in range(3)]
        for reader, writer in clients:
            assert await reader.read() == b"met"
            writer.close()


async def test_connection_ends_with_the_handler_though_somebody_holds_a_copy():
    """As in `socketserver`: who starts a program that inherits the socket keeps no client waiting."""
    copies = []

    def handler(sock):
        copies.append(sock.dup())
        sock.sendall(b"done")

    async with (
        serving(compat.threaded(handler), "tcp://127.0.0.1:0") as server,
        connect(server.addresses[0]) as (reader, _),
    ):
        async with asyncio.timeout(10):
            assert await reader.read() == b"done"
    for copy in copies:
        copy.close()


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
async def test_drain_waits_for_a_handler_that_ends(encrypted, tls: TLS):
    inside, leave = threading.Event(), threading.Event()

    def handler(sock):
        inside.set()
        leave.wait(10)
        sock.sendall(b"done")

    options: Any = {"ssl": tls.client, "server_hostname": "localhost"} if encrypted else {}
    async with (
        serving(
            compat.threaded(handler), "tcp://127.0.0.1:0",
            tls=tls.server if encrypted else None, timeouts=Timeouts(first=1e-9),
        ) as server,
        connect(server.addresses[0], **options) as (reader, _),
    ):  # fmt: skip
        await asyncio.to_thread(inside.wait, 10)
        server.begin_close(10)
        for _ in range(10):  # it has told everybody by then
            await asyncio.sleep(0)
        leave.set()
        await server.wait_closed()
        assert await reader.read() == b"done"


async def test_drain_wakes_a_handler_that_waits_for_its_peer():
    async with (
        serving(compat.threaded(Waits), "tcp://127.0.0.1:0") as server,
        connect(server.addresses[0]) as (reader, _),
    ):
        assert await reader.readline() == b"hello\n"
        await server.close(grace=0.05)
        assert await reader.read() == b""


async def test_drain_waits_for_the_end_of_a_handler_that_it_has_woken():
    ended = []

    def handler(sock):
        sock.sendall(b"hello\n")
        sock.recv(1)
        select.select([], [], [], 0.05)  # as clean-up does
        ended.append(1)

    timeouts = Timeouts(cleanup=10)
    async with (
        serving(compat.threaded(handler), "tcp://127.0.0.1:0", timeouts=timeouts) as server,
        connect(server.addresses[0]) as (reader, _),
    ):
        assert await reader.readline() == b"hello\n"
        await server.close(grace=0)
        assert ended == [1]


async def test_drain_gives_up_a_handler_whose_peer_has_reset(recorder):
    inside, leave = threading.Event(), threading.Event()
    threads = []

    def handler(sock):
        threads.append(threading.current_thread())
        inside.set()
        leave.wait(10)

    async with serving(
        compat.threaded(handler), "tcp://127.0.0.1:0",
        timeouts=Timeouts(cleanup=0.01), observers=[recorder],
    ) as server:  # fmt: skip
        with socket.create_connection(_host(server)) as client:
            await asyncio.to_thread(inside.wait, 10)
            reset(client)
        await server.close(grace=0)
        assert recorder.of(Drained)[0].aborted == 1
        leave.set()
        await asyncio.to_thread(threads[0].join, 10)


def reset(client):
    """Close it so that the other end hears ECONNRESET."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


async def test_peer_that_resets_in_its_handshake_has_failed_in_it(tls: TLS, recorder):
    async with serving(
        compat.threaded(function), "tcp://127.0.0.1:0", tls=tls.server, observers=[recorder]
    ) as server:
        with socket.create_connection(_host(server)) as client:
            await recorder.wait_for(Opened)
            reset(client)
        await recorder.wait_for(Closed)
        assert server.stats.handshakes_failed == 1
        assert not recorder.of(Disconnected)


async def test_exception_is_one_event_and_the_end_of_the_connection(recorder):
    def handler(sock):
        raise LookupError("oh")

    async with (
        serving(compat.threaded(handler), "tcp://127.0.0.1:0", observers=[recorder]) as server,
        connect(server.addresses[0]) as (reader, _),
    ):
        assert await reader.read() == b""
        await recorder.wait_for(Failed)
        assert server.stats.handler_errors == 1


async def test_peer_that_resets_is_not_the_handlers_fault(recorder):
    def handler(sock):
        raise ConnectionResetError

    async with (
        serving(compat.threaded(handler), "tcp://127.0.0.1:0", observers=[recorder]) as server,
        connect(server.addresses[0]),
    ):
        await recorder.wait_for(Disconnected)


@pytest.mark.parametrize("deadline", ["idle", "lifetime"])
async def test_deadline_ends_a_handler_that_waits(deadline, recorder):
    def handler(sock):
        sock.recv(1)

    timeouts = Timeouts(**{deadline: 0.05})
    async with (
        serving(
            compat.threaded(handler), "tcp://127.0.0.1:0", timeouts=timeouts, observers=[recorder]
        ) as server,
        connect(server.addresses[0]) as (reader, _),
    ):
        assert await reader.read() == b""
        await recorder.wait_for(Expired)
        assert server.stats.expired == {deadline: 1}


async def test_anyio_reaches_the_loop_from_the_thread():
    loop = asyncio.get_running_loop()

    async def answer():
        await asyncio.sleep(0)
        return asyncio.get_running_loop() is loop

    def handler(sock):
        both = anyio.from_thread.run(answer), anyio.from_thread.run_sync(asyncio.get_running_loop)
        sock.sendall(str((both[0], both[1] is loop)).encode())

    async with (
        serving(compat.threaded(handler), "tcp://127.0.0.1:0") as server,
        connect(server.addresses[0]) as (reader, _),
    ):
        assert await reader.read() == b"(True, True)"


async def test_handler_may_shut_the_server_down():
    class Handler(Upper):
        def handle(self):
            super().handle()
            assert self.server.server_address == self.request.getsockname()
            assert self.server.RequestHandlerClass is Handler
            self.server.shutdown()

    async with (
        serving(compat.threaded(Handler), "tcp://127.0.0.1:0") as server,
        connect(server.addresses[0]) as (reader, writer),
    ):
        writer.write(b"hello\n")
        assert await reader.read() == b"HELLO\n"
        await server.wait_closed()


async def test_handler_that_shuts_the_server_down_can_still_answer():
    class Handler(socketserver.BaseRequestHandler):
        server: Any

        def handle(self):
            self.server.shutdown()
            assert not select.select([self.request], [], [], 0.05)[0]
            self.request.sendall(b"done")

    async with (
        serving(compat.threaded(Handler), "tcp://127.0.0.1:0") as server,
        connect(server.addresses[0]) as (reader, _),
    ):
        assert await reader.read() == b"done"


@pytest.mark.parametrize(
    ("handler", "error"), [(upper, "is async"), (object(), "cannot be hosted"), (print, None)]
)
def test_what_cannot_be_hosted_says_so(handler, error):
    if error is None:
        compat.threaded(handler)
    else:
        with pytest.raises(HandlerError, match=error):
            compat.threaded(handler)
    with pytest.raises(SettingError, match="max_threads is 0"):
        compat.threaded(Upper, max_threads=0)


# -- a whole server --------------------------------------------------------------------------------


def _host(server: Any) -> tuple[str, int]:
    return "127.0.0.1", server.addresses[0].port


async def _ask(address: Any) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"hello\n")
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
async def test_drop_in_server_beside_a_native_one(kind):
    with getattr(compat, kind)(("127.0.0.1", 0), Upper) as server:
        task = asyncio.create_task(server.serve())
        async with (
            serving(upper, "tcp://127.0.0.1:0") as native,
            connect(native.addresses[0]) as io,
        ):
            io[1].write(b"native\n")
            assert await io[0].readline() == b"NATIVE\n"
            assert await _ask(server.server_address) == b"HELLO\n"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_blocking_hooks_do_not_block_the_loop():
    inside, leave = threading.Event(), threading.Event()

    class Server(compat.TCPServer):
        def verify_request(self, request, client_address):
            inside.set()
            return leave.wait(10)

    with Server(("127.0.0.1", 0), Upper) as server:
        task = asyncio.create_task(server.serve())
        asked = asyncio.create_task(_ask(server.server_address))
        await asyncio.to_thread(inside.wait, 10)
        leave.set()  # which a blocked loop would never get to
        assert await asked == b"HELLO\n"
        server.shutdown()
        await task


@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
async def test_cancelling_wakes_a_handler_that_waits(kind):
    with getattr(compat, kind)(("127.0.0.1", 0), Waits) as server:
        task = asyncio.create_task(server.serve(grace=0.05))
        reader, writer = await asyncio.open_connection(*server.server_address)
        assert await reader.readline() == b"hello\n"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await reader.read() == b""
        writer.close()


async def test_what_a_hook_raises_comes_out_of_serve():
    class Server(compat.TCPServer):
        def service_actions(self):
            raise LookupError("enough")

    with Server(("127.0.0.1", 0), Upper) as server:
        task = asyncio.create_task(server.serve())
        await _ask(server.server_address)
        with pytest.raises(LookupError, match="enough"):
            await task


class Lingers(socketserver.StreamRequestHandler):
    """Needs a moment when its peer is gone."""

    ended: list[int]

    def handle(self):
        self.wfile.write(b"hello\n")
        self.rfile.read()
        select.select([], [], [], 0.02)
        self.ended.append(1)


@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
async def test_cancelled_scope_waits_for_handlers_that_were_woken(kind, caplog, monkeypatch):
    assert awaiting.WAKE_GRACE == 0.25  # what the docs promise
    monkeypatch.setattr(awaiting, "WAKE_GRACE", 10)  # a shared machine has its pauses
    Lingers.ended = []
    with getattr(compat, kind)(("127.0.0.1", 0), Lingers) as server:
        async with anyio.create_task_group() as group:
            group.start_soon(functools.partial(server.serve, grace=0.01))
            reader, writer = await asyncio.open_connection(*server.server_address)
            assert await reader.readline() == b"hello\n"
            group.cancel_scope.cancel()
        assert Lingers.ended == [1]
        writer.close()
    assert not caplog.records


@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
def test_cancelling_does_not_wait_for_a_handler_that_does_not_end(kind, caplog, monkeypatch):
    """Who ends after the loop has done so, too, without a word."""
    monkeypatch.setattr(awaiting, "WAKE_GRACE", 0.01)
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    inside, leave = threading.Event(), threading.Event()
    threads = []

    class Stubborn(socketserver.BaseRequestHandler):
        def handle(self):
            threads.append(threading.current_thread())
            inside.set()
            leave.wait(10)

    async def main(server):
        task = asyncio.create_task(server.serve(grace=0.01))
        _, writer = await asyncio.open_connection(*server.server_address)
        await asyncio.to_thread(inside.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        writer.close()

    with getattr(compat, kind)(("127.0.0.1", 0), Stubborn) as server:
        asyncio.run(main(server))
        assert [each.getMessage() for each in caplog.records] == [
            "serve(): 1 threads did not end within the grace"
        ]
        leave.set()
        for thread in threads:
            thread.join(10)
        server.shutdown()
    assert not told


@pytest.mark.parametrize("hook", ["shutdown", "service_actions"])
async def test_what_a_hook_raises_while_serve_is_cancelled_is_logged(hook, caplog):
    class Server(compat.TCPServer):
        stopping = False
        failed = threading.Event()

        def service_actions(self):
            if self.stopping and hook == "service_actions":
                self.failed.set()
                raise LookupError("in service_actions")

        def shutdown(self):
            self.stopping = True
            if hook == "service_actions":
                socket.create_connection(self.server_address[:2]).close()  # type: ignore[arg-type]
                self.failed.wait(10)
            super().shutdown()
            if hook == "shutdown":
                raise LookupError("in shutdown")

    with Server(("127.0.0.1", 0), Upper) as server:
        task = asyncio.create_task(server.serve())
        assert await _ask(server.server_address) == b"HELLO\n"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(10):
            while not caplog.records:  # its thread may end a moment later
                await asyncio.sleep(0)
    (record,) = caplog.records
    assert record.getMessage() == "stopping a server failed"
    assert str(record.exc_info[1]) == f"in {hook}"


# -- as in ThreadingTCPServer ----------------------------------------------------------------------


class Odd(BaseException):
    """Such as a library's panic."""


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, Odd, StopIteration, GeneratorExit])
@pytest.mark.parametrize("family", ["tcp", "udp"])
async def test_what_a_handler_raises_ends_its_thread_and_nothing_else(kind, family, recorder):
    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            raise kind

    url = f"{family}://127.0.0.1:0"
    async with serving(compat.threaded(Handler), url, observers=[recorder]) as server:
        for count in (1, 2):
            if family == "tcp":
                async with connect(server.addresses[0]) as (reader, _):
                    assert await reader.read() == b""
            else:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.sendto(b"x", ("127.0.0.1", server.addresses[0].port))
                while server.stats.datagrams_in < count:
                    await asyncio.sleep(0)
            if kind is not SystemExit:  # which ends a thread without a word
                assert type((await recorder.wait_for(Failed, count)).error) is kind
        assert server.state.name == "SERVING"
        await server.close(grace=10)
        assert server.stats.handler_errors == (0 if kind is SystemExit else 2)


async def test_system_exit_of_a_hook_comes_out_of_serve():
    class Server(compat.TCPServer):
        def service_actions(self):
            raise StopIteration

    with Server(("127.0.0.1", 0), Upper) as server:
        task = asyncio.create_task(server.serve())
        await _ask(server.server_address)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await task


async def test_handlers_find_one_server_for_each_address(directory):
    seen: list[Any] = []

    class Handler(Upper):
        server: Any

        def handle(self):
            self.server.clients = [*getattr(self.server, "clients", []), self.client_address]
            seen.append((self.server, self.server.socket.getsockname(), self.server.fileno()))
            super().handle()

    async with serving(
        compat.threaded(Handler), "tcp://127.0.0.1:0", f"unix://{directory}/s"
    ) as server:
        for address in [*server.addresses, *server.addresses]:
            async with connect(address) as (reader, writer):
                writer.write(b"hello\n")
                assert await reader.read() == b"HELLO\n"
        tcp, unix = seen[0][0], seen[1][0]
        assert [host for host, _, _ in seen] == [tcp, unix, tcp, unix]
        assert [len(host.clients) for host in (tcp, unix)] == [2, 2]
        assert tcp.server_address == seen[0][1] == ("127.0.0.1", server.addresses[0].port)
        assert unix.server_address == seen[1][1] == f"{directory}/s"
        assert tcp.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        assert seen[0][2] == tcp.socket.fileno()
        assert tcp.native is server


async def test_addresses_of_two_families_with_one_port_have_two_servers():
    class Handler(socketserver.BaseRequestHandler):
        server: Any

        def handle(self):
            self.request.sendall(self.server.server_address[0].encode())

    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(each) for each in _of_two_families()]
        async with serving(compat.threaded(Handler), *listeners) as server:
            for address, host in zip(server.addresses, (b"127.0.0.1", b"::1"), strict=True):
                async with connect(address) as (reader, _):
                    assert await reader.read() == host


def _of_two_families() -> list[socket.socket]:
    while True:
        four = socket.create_server(("127.0.0.1", 0))
        try:
            six = ("::1", four.getsockname()[1])
            return [four, socket.create_server(six, family=socket.AF_INET6)]
        except OSError:  # somebody else has the port there
            four.close()


async def test_attribute_that_the_server_lacks_says_what_to_do():
    caught: list[str] = []

    class Handler(socketserver.BaseRequestHandler):
        server: Any

        def handle(self):
            assert not hasattr(self.server, "nothing")
            try:
                self.server.conf  # noqa: B018
            except AttributeError as exc:
                caught.append(str(exc))

    async with (
        serving(compat.threaded(Handler), "tcp://127.0.0.1:0") as server,
        connect(server.addresses[0]) as (reader, _),
    ):
        assert await reader.read() == b""
        assert "finds no server.conf" in caught[0]


async def test_datagram_handler_sends_through_the_servers_socket():
    class Handler(socketserver.BaseRequestHandler):
        server: Any

        def handle(self):
            self.server.socket.sendto(self.request[0].upper(), self.client_address)

    async with serving(compat.threaded(Handler), "udp://127.0.0.1:0") as server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(("127.0.0.1", server.addresses[0].port))
            client.send(b"hello")
            while True:
                try:
                    assert client.recv(10) == b"HELLO"
                except BlockingIOError:
                    await asyncio.sleep(0)
                else:
                    break


@contextlib.contextmanager
def _full(path: str):
    """A client whose queue takes no more until it reads."""
    kind = socket.AF_UNIX, socket.SOCK_DGRAM
    with socket.socket(*kind) as client, socket.socket(*kind) as filler:
        client.bind(path)
        filler.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                filler.sendto(b"before", path)
        yield client


class Replies(socketserver.BaseRequestHandler):
    trying: threading.Event

    def handle(self):
        self.trying.set()
        self.request[1].sendto(b"reply", self.client_address)


async def test_reply_to_a_datagram_waits_for_room(directory, recorder):
    Replies.trying = threading.Event()
    url = f"unixgram://{directory}/s"
    async with serving(compat.threaded(Replies), url, observers=[recorder]):
        with _full(f"{directory}/c") as client:
            client.sendto(b"x", f"{directory}/s")
            await asyncio.to_thread(Replies.trying.wait, 10)
            await asyncio.to_thread(select.select, [], [], [], 0.02)
            assert not any(isinstance(each, Failed) for each in recorder.events)
            client.settimeout(10)
            while await asyncio.to_thread(client.recv, 10) != b"reply":
                pass


async def test_reply_to_a_datagram_does_not_wait_for_ever(directory, recorder, monkeypatch):
    monkeypatch.setattr(hosting, "SEND_TIMEOUT", 0.02)
    Replies.trying = threading.Event()
    url = f"unixgram://{directory}/s"
    async with serving(compat.threaded(Replies), url, observers=[recorder]):
        with _full(f"{directory}/c") as client:
            client.sendto(b"x", f"{directory}/s")
            assert isinstance((await recorder.wait_for(Failed)).error, TimeoutError)


async def test_datagram_handler_that_outlives_the_server_ends_without_a_word(caplog):
    inside, leave = threading.Event(), threading.Event()
    threads = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            threads.append(threading.current_thread())
            inside.set()
            leave.wait(10)

    async with serving(compat.threaded(Handler), "udp://127.0.0.1:0") as server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", ("127.0.0.1", server.addresses[0].port))
        await asyncio.to_thread(inside.wait, 10)
        await server.close(grace=0)
    leave.set()
    await asyncio.to_thread(threads[0].join, 10)
    for _ in range(2):  # for what the thread has left to the loop
        await asyncio.sleep(0)
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


def test_max_threads_is_finite_unless_somebody_says_so():
    server: Any = None
    assert compat.threaded(Upper).service(server).capacity == 1000
    assert compat.threaded(Upper, max_threads=None).service(server).capacity is None
    assert compat.ThreadingTCPServer.max_threads is None  # as in the standard library


# -- stopped by a signal ---------------------------------------------------------------------------

HANDLER = """
import socketserver
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"first " + self.rfile.readline())
        self.wfile.write(b"second " + self.rfile.readline())
"""
WAYS = {
    "command line": ["-m", "asyncserver", "serve", "legacy.py:Handler", "--grace", "5",
                     "--bind", "unix:///{directory}/s"],
    "threaded": ["-c", ("import asyncserver, compat, legacy; asyncserver.run("
                 "compat.threaded(legacy.Handler), 'unix:///{directory}/s', grace=5)")],
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stubborn", [False, True])
def test_drain_lets_handlers_in_threads_finish(way, stubborn, directory):
    Path(directory, "legacy.py").write_text(HANDLER)
    arguments = [each.format(directory=directory) for each in WAYS[way]]
    if stubborn:
        arguments = [each.replace("grace=5", "grace=0.2") for each in arguments]
        arguments = ["0.2" if each == "5" else each for each in arguments]
    process = subprocess.Popen([sys.executable, *arguments], cwd=directory)
    try:
        clients = []
        for _ in range(20):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(10)
            while client.connect_ex(f"{directory}/s"):
                select.select([], [], [], 0.01)
            client.sendall(b"line\n")
            clients.append(client)
        for client in clients:
            assert client.recv(100) == b"first line\n"
        process.send_signal(signal.SIGTERM)
        while os.path.exists(f"{directory}/s"):  # it takes nobody in any more
            select.select([], [], [], 0.01)
        for client in clients:
            if not stubborn:
                client.sendall(b"line\n")
            with client.makefile("rb") as file:  # woken when the grace is over, it finds nobody
                assert file.read() == (b"" if stubborn else b"second line\n")
            client.close()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
