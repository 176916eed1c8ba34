"""Every kind of handler is served, and every mistake is told how to become one."""

import asyncio
import contextlib
import functools
import socket
import socketserver
from typing import Any

import pytest

import asyncserver
from asyncserver import HandlerError, IncompleteReadError, Server
from asyncserver.events import Closed, Disconnected, Failed, Opened
from tests.conftest import connect, serving
from tests.test_datagram import client, receive

TCP = "tcp://127.0.0.1:0"


async def function(connection):
    await connection.send((await connection.readline()).upper())


async def with_prefix(prefix, connection):
    await connection.send((await connection.readline()).upper())


class Object:
    async def method(self, connection):
        await function(connection)

    async def __call__(self, connection):
        await function(connection)


class Upper(asyncserver.StreamRequestHandler):
    async def handle(self):
        line = await self.rfile.readline()
        await self.wfile.write(line.upper())


class Plain(asyncserver.BaseRequestHandler):
    async def handle(self):
        await function(self.request)


class UpperProtocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data.upper())
        self.transport.close()


class Slotted(asyncio.BufferedProtocol):
    __slots__ = ("buffer", "transport")

    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray(100)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.transport.write(self.buffer[:nbytes].upper())
        self.transport.close()


class Duck:
    """A protocol by its methods, as both loops take it."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data.upper())
        self.transport.close()


class Renamed(Upper):
    def __init__(self, request, client_address, server, *, name):
        super().__init__(request, client_address, server)
        self.name = name


@pytest.mark.parametrize(
    "handler",
    [Duck, lambda: Duck(*()), functools.partial(Duck), functools.partial(Renamed, name="x"),
     functools.partial(Object()), function, functools.partial(with_prefix, "x"), Object().method, Object(), Upper, Plain,
     UpperProtocol, Slotted, lambda: UpperProtocol(*()), functools.partial(Slotted)],
    ids=["duck", "duck-lambda", "duck-partial", "partial-class", "partial-object", "function", "partial", "method", "object", "class", "plain-class", "protocol",
         "buffered", "lambda", "partial-protocol"],
)  # fmt: skip
async def test_every_kind_of_handler(handler, url, recorder):
    async with serving(handler, url, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"hello\n")
            assert await reader.read() == b"HELLO\n"
        await recorder.wait_for(Closed)
        assert server.stats.active == 0
        assert server.stats.handler_errors == 0


async def test_class_has_the_attributes_of_socketserver_and_its_order(url):
    calls: list[object] = []

    class Handler(asyncserver.StreamRequestHandler):
        async def setup(self):
            await super().setup()
            calls.append(("setup", self.server, self.client_address == self.request.peer))

        async def handle(self):
            calls.append([line async for line in self.rfile])
            await self.wfile.writelines([b"a", b"b"])
            await self.wfile.flush()

        async def finish(self):
            await super().finish()
            calls.append("finish")

    async with serving(Handler, url) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"one\ntwo\n")
            writer.write_eof()
            assert await reader.read() == b"ab"
    assert calls == [("setup", server, True), [b"one\n", b"two\n"], "finish"]


@pytest.mark.parametrize("stage", ["setup", "handle", "cancelled"])
async def test_finish_runs_whenever_setup_did(stage, recorder):
    calls = []

    class Handler(asyncserver.BaseRequestHandler):
        async def setup(self):
            if stage == "setup":
                raise ZeroDivisionError
            calls.append("setup")

        async def handle(self):
            if stage == "handle":
                raise ZeroDivisionError
            await asyncio.Event().wait()

        async def finish(self):
            calls.append("finish")

    async with serving(Handler, TCP, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, _):
            if stage == "cancelled":
                while not calls:
                    await asyncio.sleep(0)
                await server.close(grace=0)
            assert await reader.read() == b""
            await recorder.wait_for(Closed)
    assert calls == ([] if stage == "setup" else ["setup", "finish"])
    assert len(recorder.of(Failed)) == (stage != "cancelled")


@pytest.mark.parametrize("dgram", ["udp://127.0.0.1:0", "unixgram"])
async def test_datagram_class(dgram, directory):
    class Handler(asyncserver.DatagramRequestHandler):
        async def handle(self):
            assert self.client_address == self.request.peer
            first = await self.rfile.readline()
            rest = [line async for line in self.rfile]
            if self.packet != b"silence":
                await self.wfile.write(first.upper())
                await self.wfile.write(b"".join(rest))
                await self.wfile.flush()

    url = f"unixgram://{directory}/server.sock" if dgram == "unixgram" else dgram
    async with serving(Handler, url) as server:
        with client(server.addresses[0], directory) as sock:
            sock.send(b"silence")  # and no reply to it
            sock.send(b"hello\nworld\n")
            assert await receive(sock) == b"HELLO\nworld\n"
        assert server.stats.datagrams_out == 1


async def test_peer_that_leaves_in_the_middle_is_no_handler_error(recorder):
    async with serving(Upper, TCP, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"half a line")
            writer.write_eof()
            assert await reader.read() == b""
        gone = await recorder.wait_for(Disconnected)
        assert isinstance(gone.error, IncompleteReadError)
        assert server.stats.handler_errors == 0


@pytest.mark.parametrize("error", [EOFError, ConnectionResetError, asyncserver.EndOfStream])
async def test_trouble_with_another_stream_is_a_handler_error(error, recorder):
    async def proxy(connection):
        raise error("of the backend")

    async with serving(proxy, TCP, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, _):
            assert await reader.read() == b""
        assert isinstance((await recorder.wait_for(Failed)).error, error)


async def test_groups_of_errors_are_looked_into(recorder):
    async def handler(connection):
        async with asyncio.TaskGroup() as group:
            group.create_task(connection.readexactly(100))

    async with serving(handler, TCP, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (_, writer):
            writer.write_eof()
            assert isinstance((await recorder.wait_for(Disconnected)).error, ExceptionGroup)
    assert recorder.of(Failed) == []


# -- protocols -----------------------------------------------------------------------------------


class Silent(asyncio.Protocol):
    pass


async def test_connection_lost_is_called_once_and_the_slot_is_free(url, recorder):
    lost = []

    class Protocol(asyncio.Protocol):
        def connection_lost(self, exc):
            lost.append(exc)
            raise ZeroDivisionError  # the slot is free all the same

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    async with serving(Protocol, url, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (_, writer):
            writer.write_eof()
        await recorder.wait_for(Closed)
        assert lost == [None]
        assert server.stats.active == 0


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_exchanged_protocol_gives_its_slot_back(recorder):
    """As when a protocol hands its transport to another, say for a WebSocket."""

    class First(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            second = UpperProtocol()
            second.connection_made(self.transport)
            self.transport.set_protocol(second)
            exchanged.set()

    exchanged = asyncio.Event()
    async with serving(First, TCP, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"upgrade")
            await exchanged.wait()
            writer.write(b"hello")
            assert await reader.read() == b"HELLO"
        await recorder.wait_for(Closed)
        assert server.stats.active == 0


async def test_protocol_is_told_of_the_drain(url):
    class Polite(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            transport.write(b"hello ")

        def closing(self):
            self.transport.write(b"bye")
            self.transport.close()

    timeouts = asyncserver.Timeouts(first=0.01)
    serve = serving(Polite, url, timeouts=timeouts)
    async with serve as server, connect(server.addresses[0]) as (reader, _):
        assert await reader.readexactly(6) == b"hello "
        await server.close(grace=10)
        assert await reader.read() == b"bye"


async def test_protocol_that_fails_when_told_does_not_hold_up_the_drain(recorder):
    class Rude(asyncio.Protocol):
        def closing(self):
            raise ZeroDivisionError

    async with serving(Rude, TCP, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, _):
            await recorder.wait_for(Opened)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await server.close(grace=0)
            assert await reader.read() == b""
    assert server.state is asyncserver.ServerState.CLOSED


async def test_factory_that_returns_no_protocol(recorder):
    async with serving(lambda: None, TCP, observers=[recorder]) as server:
        async with connect(server.addresses[0]) as (reader, _):
            assert await reader.read() == b""
        failed = await recorder.wait_for(Failed)
        assert "must return an asyncio.Protocol" in str(failed.error)
        await recorder.wait_for(Closed)
        assert server.stats.active == 0


# -- mistakes ------------------------------------------------------------------------------------


def blocking(connection):
    pass


class Blocking(socketserver.StreamRequestHandler):
    pass


class Forgotten(asyncserver.BaseRequestHandler):
    def handle(self):
        pass


class Handleless(asyncserver.StreamRequestHandler):
    async def setup(self):
        pass


class Yielding(asyncserver.BaseRequestHandler):
    async def handle(self):
        yield b"hello"


class Lonely(asyncserver.StreamRequestHandler):
    def __init__(self, request):
        pass

    async def handle(self):
        pass


class Baseless:
    def handle(self):
        pass


class Needy(asyncio.Protocol):
    def __init__(self, backend):
        pass


class BufferedDuck:
    def connection_made(self, transport):
        pass

    def get_buffer(self, sizehint):
        pass

    def buffer_updated(self, nbytes):
        pass


def logged(handler):
    @functools.wraps(handler)
    def wrapper(*args):
        return handler(*args)

    return wrapper


def logged_without_a_trace(handler):
    def wrapper(*args):
        return handler(*args)

    return wrapper


class Decorated(asyncserver.BaseRequestHandler):
    handle = logged(Upper.handle)


class Wrapped:
    @logged
    async def method(self, connection):
        pass


async def generator(connection):
    yield b"hello"


async def streams(reader, writer):
    pass


async def nothing():
    pass


NO_FUNCTION = (
    r"is no async function: write `async def {0}\(connection\)`.*if it blocks.*threaded\({0}\)"
)
AROUND = r"{0}\(\) is async, but what a decorator has put around it is not: let .* `async def`"
MISTAKES = [
    (blocking, r"`async def blocking\(connection\)`.*compat.threaded\(blocking\)"),
    (blocking, NO_FUNCTION.format("blocking", "blocking")),
    (lambda connection: function(*[connection]), NO_FUNCTION.format("handler", "<lambda>")),
    (
        logged_without_a_trace(function),
        NO_FUNCTION.format("wrapper", "logged_without_a_trace.*wrapper"),
    ),
    (functools.partial(blocking), NO_FUNCTION.format("blocking", "blocking")),
    (logged(function), AROUND.format("function")),
    (logged(logged(function)), AROUND.format("function")),
    (functools.partial(logged(with_prefix), "x"), AROUND.format("with_prefix")),
    (logged(functools.partial(with_prefix, "x")), AROUND.format(".*with_prefix.*")),
    (Wrapped().method, AROUND.format("Wrapped.method")),
    (logged(generator), "is an async generator: a handler sends, it does not yield"),
    (contextlib.asynccontextmanager(generator), "does not yield"),
    (Blocking, r"asyncserver.StreamRequestHandler.*compat.threaded\(Blocking\)"),
    (functools.partial(Blocking, *()), r"asyncserver.StreamRequestHandler.*threaded\(Blocking\)"),
    (Forgotten, r"Forgotten.handle\(\) is not async: write `async def handle\(self\)`"),
    (Decorated, AROUND.format("Upper.handle")),
    (Handleless, r"Handleless has no handle\(\) of its own: write `async def handle\(self\)`"),
    (asyncserver.StreamRequestHandler, r"has no handle\(\) of its own"),
    (Yielding, r"Yielding.handle\(\) yields: a handler sends instead"),
    (Lonely, r"Lonely\(\) cannot be called with a request .*: it is called with the request, the"),
    (Baseless, "derive it from asyncserver.BaseRequestHandler"),
    (Needy, r"Needy\(\) cannot be called with nothing .*'backend'.*: write `lambda: Needy\(...\)`"),
    (BufferedDuck, "derive it from asyncio.BufferedProtocol"),
    (Object, r"its objects can be called: give one, like Object\(\)"),
    (Upper.__new__(Upper), "is an object: give its class, Upper"),
    (UpperProtocol(), "is an object: give its class, UpperProtocol"),
    (Duck(), "is an object: give its class, Duck"),
    (generator, "does not yield"),
    (generator(None), "is an async generator: a handler sends, it does not yield"),
    (
        streams,
        r"streams\(\) cannot be called with a connection .*`async def streams\(connection\)`",
    ),
    (nothing, r"`async def nothing\(connection\)`"),
    (Object.method, r"cannot be called with a connection"),
    ("handler", "'handler' is no handler: the handler comes first"),
    (("127.0.0.1", 80), "the handler comes first"),
    (None, "give an async function"),
    (42, "give an async function"),
    (dict, "give an async function"),
]


@pytest.mark.parametrize(("handler", "advice"), MISTAKES)
def test_mistake_is_a_type_error_that_says_what_to_do(handler, advice):
    with pytest.raises(TypeError, match=advice) as caught:
        Server(handler, TCP)
    assert isinstance(caught.value, HandlerError)
    assert "\n" not in str(caught.value)


async def test_task_instead_of_its_function():
    task = asyncio.create_task(nothing())
    with pytest.raises(HandlerError, match="runs already: give the async function"):
        Server(task, TCP)  # type: ignore[arg-type]
    await task


def test_coroutine_instead_of_its_function():
    with pytest.raises(TypeError, match="`function` and not a call of it"):
        Server(function(None), TCP)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("handler", "url"),
    [
        (asyncserver.DatagramRequestHandler, TCP),
        (asyncio.DatagramProtocol, TCP),
        (asyncserver.StreamRequestHandler, "udp://127.0.0.1:0"),
        (asyncio.Protocol, "udp://127.0.0.1:0"),
    ],
)
async def test_handler_for_the_other_kind_of_address(handler, url, directory):
    with pytest.raises(HandlerError, match=r"handles (datagrams|connections)"):
        Server(handler, url)
    kind = socket.SOCK_STREAM if url == TCP else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("127.0.0.1", 0))
    with pytest.raises(HandlerError, match=r"handles (datagrams|connections)"):
        await Server(handler, sock).start()


def test_no_address_and_unknown_setting():
    with pytest.raises(asyncserver.SettingError, match="at least one"):
        Server(function)
    with pytest.raises(TypeError, match="limit"):
        Server(function, TCP, limit=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("wrong", ["text", 5, None])
async def test_files_name_what_they_were_given(wrong, directory):
    kind = type(wrong).__name__

    class Stream(asyncserver.StreamRequestHandler):
        async def handle(self):
            with pytest.raises(TypeError, match=rf"^writelines\(\) takes bytes.*not {kind}"):
                await self.wfile.writelines([b"lost", wrong])
            lines: list[Any] = [b"kept ", memoryview(b"a.n.d")[::2]]
            await self.wfile.writelines(iter(lines))

    class Packet(asyncserver.DatagramRequestHandler):
        async def handle(self):
            with pytest.raises(TypeError, match=rf"^write\(\) takes bytes.*not {kind}"):
                await self.wfile.write(wrong)
            await self.wfile.write(memoryview(b"f.i.n.e")[::2])

    async with serving(Stream, TCP) as server, connect(server.addresses[0]) as (reader, _):
        assert await reader.read() == b"kept and"
    async with serving(Packet, "udp://127.0.0.1:0") as server:
        with client(server.addresses[0], directory) as sock:
            sock.send(b"x")
            assert await receive(sock) == b"fine"
