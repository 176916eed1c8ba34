"""`run` in a process of its own: signals, exit statuses, and what is written to stderr."""

import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import asyncserver
from asyncserver import AddressError, ServerStateError, SettingError
from asyncserver._server.run import refusing_to_run
from tests.conftest import upper

pytestmark = pytest.mark.slow

PROGRAM = """
import asyncio, logging, sys
import asyncserver
logging.basicConfig(level="INFO", format="%(message)s")

async def upper(connection):
    async for line in connection.lines():
        await connection.send(line.upper())

async def slow(connection):
    line = await connection.readline()
    await connection.send(b"begun\\n")
    await connection.draining.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    await connection.send(line.upper())

async def stubborn(connection):
    await connection.send(b"begun\\n")
    await connection.draining.wait()
    await connection.send(b"told\\n")
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

async def patient(connection):
    await connection.send(b"begun\\n")
    await asyncio.Event().wait()

async def leaves(connection):
    sys.exit(3)

async def interrupts(connection):
    raise KeyboardInterrupt

async def fails(connection):
    if await connection.readline() == b"bad\\n":
        raise ZeroDivisionError("a bug")
    await connection.send(b"fine\\n")

asyncserver.run({handler}, "tcp://127.0.0.1:0", loop="{loop}", grace={grace})
print("returned")
"""


@contextmanager
def running(
    handler: str, loop: str, grace: float = 30
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that serves, and its port."""
    program = PROGRAM.replace("{handler}", handler).replace("{loop}", loop)
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program.replace("{grace}", str(grace))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stdout is not None
    try:
        found = re.search(r"listening on tcp://127.0.0.1:(\d+)", process.stderr.readline())
        assert found is not None
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 20)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit status, and what it wrote since."""
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
signals = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@loops
@signals
def test_first_signal_drains(loop, number):
    with running("slow", loop) as (process, port), connected(port) as client:
        client.sendall(b"hello\n")
        assert client.recv(6) == b"begun\n"
        process.send_signal(number)
        assert client.recv(100) == b"HELLO\n"
        assert client.recv(100) == b""
        assert ended(process) == (
            0, "returned\n", "closed: 1 handlers finished, 0 cancelled, 0 aborted\n",
        )  # fmt: skip


@loops
@signals
def test_second_signal_aborts(loop, number):
    with running("stubborn", loop) as (process, port), connected(port) as client:
        assert client.recv(6) == b"begun\n"
        process.send_signal(number)
        assert client.recv(5) == b"told\n"
        process.send_signal(number)
        assert client.recv(100) == b""
        assert ended(process) == (
            128 + number, "", "closed: 0 handlers finished, 0 cancelled, 1 aborted\n",
        )  # fmt: skip


@loops
def test_what_is_left_after_the_grace_is_cancelled(loop):
    with running("patient", loop, grace=0.1) as (process, port), connected(port) as client:
        assert client.recv(6) == b"begun\n"
        process.terminate()
        assert client.recv(100) == b""
        assert ended(process) == (
            0, "returned\n", "closed: 0 handlers finished, 1 cancelled, 0 aborted\n",
        )  # fmt: skip


@loops
def test_stubborn_handler_does_not_keep_the_process(loop):
    with running("stubborn", loop, grace=0.1) as (process, port), connected(port) as client:
        assert client.recv(6) == b"begun\n"
        process.terminate()
        assert ended(process) == (
            0, "returned\n", "closed: 0 handlers finished, 0 cancelled, 1 aborted\n",
        )  # fmt: skip


@loops
def test_system_exit_in_a_handler_ends_the_program_with_its_status(loop):
    with running("leaves", loop) as (process, port), connected(port) as client:
        assert client.recv(100) == b""
        status, out, err = ended(process)
        assert (status, out) == (3, "")
        assert "Traceback" not in err
        assert "never retrieved" not in err


@loops
def test_keyboard_interrupt_in_a_handler_is_as_ctrl_c_in_any_program(loop):
    with running("interrupts", loop) as (process, port), connected(port) as client:
        assert client.recv(100) == b""
        status, out, err = ended(process)
        assert (status, out) == (-signal.SIGINT, "")
        assert err.rstrip().endswith("KeyboardInterrupt")
        assert "never retrieved" not in err


@loops
def test_handler_exception_is_one_record_and_serving_goes_on(loop):
    with running("fails", loop) as (process, port):
        with connected(port) as client:
            client.sendall(b"bad\n")
            assert client.recv(100) == b""
            peer = "{}:{}".format(*client.getsockname())
        with connected(port) as client:
            client.sendall(b"good\n")
            assert client.recv(100) == b"fine\n"
            assert client.recv(100) == b""
        process.terminate()
        status, _, err = ended(process)
        assert status == 0
        assert err.count("Traceback") == 1
        assert f"{peer}: the handler failed" in err
        assert "ZeroDivisionError: a bug" in err


@pytest.mark.parametrize("loop", ["auto", "asyncio", "uvloop"])
def test_run_in_a_thread_serves_until_it_is_closed(loop):
    listening = threading.Event()

    class Bye(asyncserver.BaseRequestHandler):
        async def handle(self):
            await self.server.close(grace=5)

    ports = []

    def observer(event):
        if isinstance(event, asyncserver.events.AddressBound):
            ports.append(asyncserver.Address(event.address).port)
            listening.set()

    thread = threading.Thread(
        target=asyncserver.run,
        args=(Bye, "tcp://127.0.0.1:0"),
        kwargs={"loop": loop, "observers": [observer]},
    )
    thread.start()
    assert listening.wait(20)
    with connected(ports[0]) as client:
        assert client.recv(100) == b""
    thread.join(20)
    assert not thread.is_alive()


def test_unknown_loop():
    with pytest.raises(SettingError, match="'auto', 'uvloop' or 'asyncio'"):
        asyncserver.run(print, "tcp://127.0.0.1:0", loop="trio")  # type: ignore[arg-type]


@loops
def test_standard_descriptors_that_are_closed_do_not_become_sockets(loop):
    program = PROGRAM.replace("{handler}", "hold").replace("{loop}", loop).replace("{grace}", "1")
    hold = (
        "import os, signal\nasync def hold(connection): pass\n"
        "def bound(event):\n"
        "    if type(event).__name__ != 'AddressBound': return\n"
        "    kinds = [os.readlink(f'/proc/self/fd/{fd}') for fd in range(3)]\n"
        "    os._exit(7) if kinds != 3 * ['/dev/null'] else signal.raise_signal(signal.SIGTERM)\n"
    )
    program = hold + program.replace("grace=1", "grace=1, observers=[bound]")
    script = f"{shlex.join([sys.executable, '-W', 'error', '-c', program])} <&- >&- 2>&-"
    result = subprocess.run(["sh", "-c", script], check=False, timeout=20)
    assert result.returncode == 0


@loops
@signals
def test_signal_at_the_moment_of_the_first_news_drains(loop, number):
    program = PROGRAM.replace("{handler}", "upper").replace("{loop}", loop).replace("{grace}", "1")
    program = f"""
import os
def news(event):
    if type(event).__name__ == "AddressBound":
        os.kill(os.getpid(), {number})
{program.replace("grace=1", "grace=1, observers=[news]")}"""
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=20,
        check=False,
    )  # fmt: skip
    assert (process.returncode, process.stdout) == (0, "returned\n")
    assert process.stderr.endswith("closed: 0 handlers finished, 0 cancelled, 0 aborted\n")


@loops
@signals
def test_signal_before_it_serves_ends_it(loop, number):
    program = f"""
import asyncio, os, asyncserver, asyncserver._server.listeners
async def resolve(address):
    os.kill(os.getpid(), {number})
    for _ in range(10):
        await asyncio.sleep(0)
    return ["127.0.0.1"]
asyncserver._server.listeners.resolve = resolve
async def handler(connection): pass
asyncserver.run(handler, "tcp://localhost:0", loop="{loop}")
print("returned")
"""
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=20,
        check=False,
    )  # fmt: skip
    assert (process.returncode, process.stdout, process.stderr) == (0, "returned\n", "")


UNTOLD = """
import logging, sys
import asyncserver
{setup}

async def upper(connection):
    async for line in connection.lines():
        await connection.send(line.upper())

asyncserver.run(upper, "tcp://127.0.0.1:0", "unix://{path}", loop="{loop}", observers=[{observer}])
"""
TELLS = "lambda event: print(type(event).__name__, flush=True)"


def stopped(setup: str, loop: str, path: str) -> tuple[int, str, str]:
    """How such a program ends, that is asked to as soon as it listens, and what it has written."""
    program = UNTOLD.replace("{setup}", setup).replace("{loop}", loop).replace("{path}", path)
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program.replace("{observer}", TELLS)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for _ in range(2):
            assert process.stdout.readline() == "AddressBound\n"
        process.terminate()
        return ended(process)


@loops
def test_where_it_listens_is_said_to_who_has_not_set_up_logging(loop, directory):
    status, _, err = stopped("", loop, f"{directory}/s")
    expected = rf"listening on tcp://127.0.0.1:\d+\nlistening on unix://{directory}/s\n"
    assert status == 0
    assert re.fullmatch(expected, err), err


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        ("logging.basicConfig(level='INFO', format='%(message)s')", 3),
        ("logging.basicConfig()", 0),
        ("logging.getLogger('asyncserver').addHandler(logging.NullHandler())", 0),
        ("logging.getLogger('asyncserver').setLevel('WARNING')", 0),
        ("logging.disable()", 0),
        ("sys.stderr = None", 0),
        ("sys.stderr = open(0, closefd=False)", 0),  # which cannot be written
    ],
)
def test_where_it_listens_is_said_once_or_as_logging_says(setup, said, directory):
    status, _, err = stopped(setup, "asyncio", f"{directory}/s")
    assert (status, len(err.splitlines())) == (0, said), err


def test_run_is_refused_while_its_program_is_imported():
    with (
        refusing_to_run("somebody imports this"),
        pytest.raises(ServerStateError, match="somebody"),
    ):
        asyncserver.run(upper, "tcp://127.0.0.1:0")
    with pytest.raises(AddressError):  # and not afterwards
        asyncserver.run(upper, "nowhere")
