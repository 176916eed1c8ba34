"""What all tests share: both loops, several families, clients, and a check that nothing is left.

Every async test runs on the stock loop, on it in debug mode, and on uvloop; mark a test with
`@pytest.mark.asyncio(loop_factories=["virtual"])` to give it the clock that jumps.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import socketserver
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trustme
import uvloop

import asyncserver
import compat
from asyncserver import Address, Server
from asyncserver.testing import Recorder, VirtualClockLoop
from compat._cpython import SHUTDOWN_REQUEST

# A shell that runs the tests in the background has Ctrl-C ignored, and every program that a test
# starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def debugging_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 5.0  # a shared machine has its pauses
    return loop


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "debug": debugging_loop,
    "uvloop": uvloop.new_event_loop,
}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    marker = item.get_closest_marker("asyncio")
    if marker is not None and marker.kwargs.get("loop_factories") == ["virtual"]:
        return {"virtual": VirtualClockLoop}
    return LOOPS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What repeats on the loop in debug mode is not on the fast path: `-m "not slow"`."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and "debug" in callspec.id.split("-"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def directory() -> Iterator[str]:
    """A directory whose path is short enough for a Unix socket."""
    path = tempfile.mkdtemp(prefix="as-")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@dataclass
class TLS:
    """Both ends of TLS, and the files of the server's."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    certificate: str
    key: str
    authority: str


@pytest.fixture(scope="session")
def tls(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> TLS:
    directory = tmp_path_factory.mktemp("tls")
    leaf = authority.issue_cert("localhost", "127.0.0.1", "::1")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    leaf.configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    files = [str(directory / name) for name in ("certificate.pem", "key.pem", "authority.pem")]
    for blob in leaf.cert_chain_pems:
        blob.write_to_path(files[0], append=True)
    leaf.private_key_pem.write_to_path(files[1])
    authority.cert_pem.write_to_path(files[2])
    return TLS(server, client, *files)


@pytest.fixture(params=["tcp", "tcp6", "unix"])
def url(request: pytest.FixtureRequest, directory: str) -> str:
    """A stream address to bind, of every family in turn."""
    return {
        "tcp": "tcp://127.0.0.1:0",
        "tcp6": "tcp://[::1]:0",
        "unix": f"unix://{directory}/server.sock",
    }[request.param]


@pytest.fixture(params=["standard", "compat"])
def module(request: pytest.FixtureRequest) -> Any:
    """`socketserver` or `compat`: the same names."""
    return socketserver if request.param == "standard" else compat


@pytest.fixture
def forked() -> Callable[[Any, Callable[[Any], Any]], Any]:
    """Serve in a process with one thread, since forking with more is what nobody should do."""

    def run(server: Any, client: Any) -> Any:
        with server:
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    signal.signal(
                        signal.SIGTERM, lambda *_: setattr(server, SHUTDOWN_REQUEST, True)
                    )
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


# A StreamWriter; but its transport can also be told not to read, which its type does not know.
Streams = tuple[asyncio.StreamReader, Any]


@asynccontextmanager
async def connect(address: Address, **options: Any) -> AsyncIterator[Streams]:
    """A client's end of a connection to `address`, of the stock kind; closed at the end."""
    if address.path.startswith("@"):
        sock = socket.socket(socket.AF_UNIX)  # uvloop's own connect has no abstract names
        sock.connect("\0" + address.path[1:])
        reader, writer = await asyncio.open_unix_connection(sock=sock, **options)
    elif address.is_unix:
        reader, writer = await asyncio.open_unix_connection(address.path, **options)
    else:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
        reader, writer = await asyncio.open_connection(host, address.port, **options)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def serving(
    handler: Any, *addresses: str | socket.socket, **options: Any
) -> AsyncIterator[Server]:
    """A server that is closed without grace, so that no test waits for a handler."""
    server = Server(handler, *addresses, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.close(grace=0)


async def upper(connection: asyncserver.Connection) -> None:
    async for line in connection.lines():
        await connection.send(line.upper())


def descriptors() -> int:
    """How many descriptors this process has open, but for the one that libuv keeps in reserve."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the directory's own is gone by now
            count += os.readlink(f"/proc/self/fd/{name}") != "/dev/null"
    return count
