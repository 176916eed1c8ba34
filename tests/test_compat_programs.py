"""Programs that nobody changes: a classic introduction's, and the standard library's own."""

import contextlib
import http.client
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import asyncserver
import compat
from tests.dropin import ANY, Upper, ask, serving

pytestmark = pytest.mark.slow

BASE = """
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.data = self.request.recv(1024).strip()
        print("from", self.client_address or "a client", flush=True)
        self.request.sendall(self.data.upper())
"""
STREAM = """
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.data = self.rfile.readline().strip()
        self.wfile.write(self.data.upper())
"""
DATAGRAM = """
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        data, socket = self.request
        socket.sendto(data.strip().upper(), self.client_address)
"""
SERVE = """
if __name__ == "__main__":
    with socketserver.{kind}(ADDRESS, Handler) as server:
        print("at", server.server_address, flush=True)
        server.serve_forever()
"""
THREADED = """
import socket, threading

class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        data = self.request.recv(1024)
        name = threading.current_thread().name
        self.request.sendall(name.encode() + b": " + data)

def client(address, message):
    with socket.socket({family}) as sock:
        sock.connect(address)
        sock.sendall(message)
        print(sock.recv(1024).decode())

if __name__ == "__main__":
    server = socketserver.{kind}(ADDRESS, Handler)
    with server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        for number in range(1, 4):
            client(server.server_address, f"hello {{number}}".encode())
        server.shutdown()
"""
PROGRAMS = {
    "TCP": (BASE, "TCPServer"),
    "TCP stream": (STREAM, "TCPServer"),
    "UDP": (DATAGRAM, "UDPServer"),
    "Unix": (BASE, "UnixStreamServer"),
    "Unix stream": (STREAM, "UnixStreamServer"),
    "Unix datagram": (DATAGRAM, "UnixDatagramServer"),
}
ROADS = ["standard", "import", "nothing"]


def command(road: str, program: str, directory: str) -> list[str]:
    """How to run `program` with the standard library, the other import, or `python -m compat`."""
    path = Path(directory, "program.py")
    path.write_text(f"import {'compat as ' if road == 'import' else ''}socketserver\n{program}")
    return [
        sys.executable,
        "-W",
        "error",
        *(["-m", "compat"] if road == "nothing" else []),
        str(path),
    ]


@contextlib.contextmanager
def running(arguments: list[str]) -> Iterator[Any]:
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=10)[1]
        assert "Traceback" not in error or error.endswith("KeyboardInterrupt\n")
    finally:
        process.kill()
        process.communicate()


def address_of(kind: str, directory: str) -> str:
    return repr(os.path.join(directory, "socket") if "Unix" in kind else ANY)


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_classic_program(road, name, directory):
    handler, kind = PROGRAMS[name]
    program = f"ADDRESS = {address_of(kind, directory)}\n{handler}{SERVE.format(kind=kind)}"
    with running(command(road, program, directory)) as process:
        said = process.stdout.readline()
        server = getattr(socketserver, kind)
        fake = type("Server", (), {
            "socket_type": server.socket_type,
            "address_family": server.address_family,
            "server_address": eval(said.removeprefix("at ")) if "(" in said else said[3:-1],
        })  # fmt: skip
        for _ in range(2):
            assert ask(fake, b"hello\n") == b"HELLO"
        if handler is BASE:
            assert process.stdout.readline().startswith("from")


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("kind", ["ThreadingTCPServer", "ThreadingUnixStreamServer"])
def test_classic_threaded_program(road, kind, directory):
    family = "socket.AF_UNIX" if "Unix" in kind else "socket.AF_INET"
    program = (
        f"ADDRESS = {address_of(kind, directory)}\n{THREADED.format(kind=kind, family=family)}"
    )
    result = subprocess.run(
        command(road, program, directory), capture_output=True, text=True, timeout=20, check=False
    )
    assert (result.stderr, result.returncode) == ("", 0)
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    for number, line in enumerate(lines, 1):
        assert re.fullmatch(rf"Thread-\d+ \(process_request_thread\): hello {number}", line)


@pytest.mark.parametrize("name", PROGRAMS)
async def test_classic_handler_on_the_native_server(name, directory):
    handler, kind = PROGRAMS[name]
    names: dict[str, Any] = {"socketserver": socketserver, "print": lambda *_, **__: None}
    exec(handler, names)
    url = {
        "TCPServer": "tcp://127.0.0.1:0",
        "UDPServer": "udp://127.0.0.1:0",
        "UnixStreamServer": f"unix://{directory}/socket",
        "UnixDatagramServer": f"unixgram://{directory}/socket",
    }[kind]
    async with asyncserver.Server(compat.threaded(names["Handler"]), url) as server:
        process = __import__("asyncio").create_subprocess_exec(
            sys.executable, "-m", "asyncserver", "send", server.addresses[0], "hello",
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert (await (await process).communicate())[0] == b"HELLO"


def test_command_line_takes_a_blocking_handler(directory):
    Path(directory, "legacy.py").write_text(f"import socketserver\n{STREAM}")
    arguments = ["-m", "asyncserver", "serve", f"{directory}/legacy.py:Handler"]
    process = subprocess.Popen(
        [sys.executable, *arguments, "--bind", f"unix://{directory}/s"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert "listening" in process.stderr.readline()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{directory}/s")
        client.sendall(b"hello\n")
        assert client.recv(100) == b"HELLO"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 0


# -- the standard library's programs ---------------------------------------------------------------


def test_http_server_module_runs(directory):
    Path(directory, "page.txt").write_text("hello")
    arguments = ["-u", "-m", "compat", "-m", "http.server", "0", "-b", "127.0.0.1", "-d", directory]
    with running([sys.executable, *arguments]) as process:
        port = re.search(r"port (\d+)", process.stdout.readline())
        assert port is not None
        connection = http.client.HTTPConnection("127.0.0.1", int(port[1]), timeout=10)
        connection.request("GET", "/page.txt")
        assert connection.getresponse().read() == b"hello"
        connection.close()


def test_xmlrpc_server_runs_in_place():
    from xmlrpc.server import SimpleXMLRPCServer

    with compat.installed(), serving(SimpleXMLRPCServer(ANY, logRequests=False)) as server:
        server.register_function(pow)
        with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{server.server_address[1]}") as proxy:
            assert proxy.pow(2, 5) == 32
        assert type(server).serve_forever is compat.BaseServer.serve_forever


def test_wsgi_server_runs_in_place():
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log_message(self, *_):
            pass

    def application(environ, start_response):
        start_response("200 OK", [])
        return [environ["PATH_INFO"].encode()]

    with (
        compat.installed(),
        serving(make_server(*ANY, application, handler_class=Silent)) as server,
    ):
        answer = ask(server, b"GET /path HTTP/1.0\r\n\r\n")
        assert answer.endswith(b"\r\n\r\n/path")


# -- install ---------------------------------------------------------------------------------------


def test_install_patches_and_uninstall_takes_it_back():
    kinds = [socketserver.BaseServer, socketserver.TCPServer, socketserver.ThreadingMixIn]
    before = [dict(vars(kind)) for kind in kinds]
    with socketserver.ThreadingTCPServer(ANY, Upper) as older:
        with compat.installed():
            compat.install()  # twice is as good as once
            assert socketserver.BaseServer.shutdown is compat.BaseServer.shutdown
            assert __import__("SocketServer") is socketserver
            with serving(older, poll_interval=3600):
                assert ask(older) == b"HELLO\n"
    assert [dict(vars(kind)) for kind in kinds] == before
    assert "SocketServer" not in sys.modules


class UpperDatagram(socketserver.DatagramRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.read().upper())


@pytest.mark.parametrize(
    ("kind", "handler"),
    [(socketserver.TCPServer, Upper), (socketserver.UDPServer, UpperDatagram)],
)
def test_uninstall_while_serving_leaves_a_server_that_can_be_stopped(kind, handler):
    compat.install()
    try:
        with serving(kind(ANY, handler)) as server:
            assert ask(server) == b"HELLO\n"
            compat.uninstall()
            assert ask(server) == b"HELLO\n"
    finally:
        compat.uninstall()


def test_threads_make_a_plain_server_concurrent_and_say_so(caplog):
    barrier = __import__("threading").Barrier(2)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            barrier.wait(10)
            self.wfile.write(b"met")

    with compat.installed(threads=2), serving(socketserver.TCPServer(ANY, Handler)) as server:
        clients = [socket.create_connection(server.server_address, 10) for _ in range(2)]
        assert [client.recv(10) for client in clients] == [b"met", b"met"]
        for client in clients:
            client.close()
    said = [each.message for each in caplog.records if "handles up to 2 requests" in each.message]
    assert len(said) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a script, or -m and a module"),
        (["nothing.py"], "no file nothing.py"),
        (["--threads", "0", "x.py"], "Invalid value for '--threads': 0 is not in the range x>=1."),
        (["-m", "json"], "No module named json.__main__"),
        (["--what"], "No such option"),
    ],
)
def test_mistake_is_one_line_and_status_2(arguments, message, directory):
    result = subprocess.run(
        [sys.executable, "-m", "compat", *arguments],
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.startswith(f"compat: {message}")
    assert result.stderr.count("\n") == 1


def test_script_gets_its_arguments_and_its_exit_status(directory):
    script = Path(directory, "script.py")
    script.write_text("import sys, SocketServer\nprint(sys.argv[1:], __name__)\nsys.exit(3)\n")
    result = subprocess.run(
        [sys.executable, "-m", "compat", str(script), "-m", "--threads"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.stdout, result.returncode) == ("['-m', '--threads'] __main__\n", 3)
