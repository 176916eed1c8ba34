"""The README is true: each of its programs runs, its commands work, its defaults are the code's."""

import dataclasses
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asyncserver import Address, Limits, Timeouts
from asyncserver._cli.send import exchange
from tests.conftest import TLS

README = Path(__file__).parent.parent.joinpath("README.md").read_text()


def programs() -> dict[str, str]:
    """Every Python program, by the heading it stands under."""
    found: dict[str, str] = {}
    for section in re.split(r"^## ", README, flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL), 1):
            found[f"{heading} {number}"] = block
    return found


PROGRAMS = programs()
# What to say to the programs that serve until a signal, and what they answer.
SERVING = {
    "The smallest server 1": (b"hello\n", b"HELLO\n"),
    "The smallest server 2": (b"hello\n", b"HELLO\n"),
    "The same from socketserver 1": (b"hello\n", b"HELLO\n"),
    "Limits and deadlines 1": (b"hello\n", b"hello\n"),
    "How fast 1": (b"hello\n", b"hello\n"),
}
# What the others print.
PRINTING = {
    "Moving from socketserver 3": "b'blocking hello\\n'\nb'async hello\\n'\nb'blocking hello\\n'\n",
    "Inside an async program 1": "b'HELLO\\n'\n",
    "Stopping well 1": "b'done one\\n'\nb'done two\\n' ServerState.CLOSED\n",
    "Stopping well 2": "b'5 bytes\\n'\nb'5 bytes\\n' b''\n",
}
ENCRYPTED = "TLS 1"
# Blocking programs, that run until Ctrl-C.
BLOCKING = ["Moving from socketserver 1", "Moving from socketserver 2"]


def test_every_program_is_run_by_a_test():
    assert set(PROGRAMS) == {*SERVING, *PRINTING, *BLOCKING, ENCRYPTED}


@contextmanager
def running(arguments: list[str], directory: str) -> Iterator[list[Address]]:
    """A server in a process of its own: yields where it says that it listens, then stops it."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", *arguments],
        cwd=directory, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        expected = sum(text.count("://") for text in arguments)
        found = []
        for line in process.stderr:
            if match := re.search(r"listening on (\S+)", line):
                found.append(Address(match[1]))
            if len(found) == expected:
                break
        yield found
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait() == 0, rest
        assert "Traceback" not in rest
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def local(text: str, directory: str) -> str:
    """The same program or command on ports and paths that nobody else has."""
    return text.replace(":9999", ":0").replace("/tmp", directory)


def with_log(program: str) -> list[str]:
    log = "import logging, sys; logging.basicConfig(level='INFO', format='%(message)s')\n"
    return ["-c", log + program]


@pytest.mark.parametrize("name", SERVING)
def test_program_serves(name, directory):
    question, answer = SERVING[name]
    with running(with_log(local(PROGRAMS[name], directory)), directory) as addresses:
        assert addresses
        for address in addresses:
            assert b"".join(exchange(address, question, 10)) == answer


@pytest.mark.parametrize("name", PRINTING)
def test_program_prints(name):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAMS[name]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.stdout, result.stderr, result.returncode) == (PRINTING[name], "", 0)


@pytest.mark.parametrize("name", BLOCKING)
@pytest.mark.parametrize("road", [[], ["-m", "compat"]])
def test_blocking_program_serves(name, road, directory):
    script = Path(directory, "program.py")
    script.write_text(local(PROGRAMS[name], directory).replace("9999", "0"))
    process = subprocess.Popen(
        [sys.executable, "-W", "error", *road, str(script)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    port = int(process.stdout.readline().rpartition(" ")[2])
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(b"hello\n")
        assert client.recv(100) == b"HELLO\n"
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=10)[1]
    assert error.endswith("KeyboardInterrupt\n")


def test_program_serves_tls(directory, tls: TLS):
    os.symlink(tls.certificate, os.path.join(directory, "certificate.pem"))
    os.symlink(tls.key, os.path.join(directory, "key.pem"))
    program = with_log(local(PROGRAMS[ENCRYPTED], directory))
    with (
        running(program, directory) as (address,),
        socket.create_connection((address.host, address.port), 10) as plain,
        tls.client.wrap_socket(plain, server_hostname="localhost") as encrypted,
    ):
        said = b"".join(iter(lambda: encrypted.recv(1000), b""))
        assert said == f"{encrypted.version()} from {encrypted.getsockname()}\n".encode()


def test_commands_run_a_server_and_talk_to_it(directory):
    serve, send, tests = re.findall(r"```sh\n(.*)\n```", README)[:3]
    assert "pytest" in tests
    environment, _, serve = serve.rpartition("&& ")
    assert "venv" in environment
    words = shlex.split(local(serve, directory))
    assert words[0] == ".venv/bin/asyncserver"
    talk = re.search(r"do \.venv/bin/asyncserver send \$url (\w+);", send)
    assert talk is not None
    with running(["-m", "asyncserver", *words[1:]], directory) as addresses:
        assert [each.scheme for each in addresses] == ["tcp", "udp", "unix"]
        assert send.count("://") == len(addresses)
        for address in addresses:
            result = subprocess.run(
                [sys.executable, "-m", "asyncserver", "send", address, talk[1]],
                capture_output=True, check=False,
            )  # fmt: skip
            assert (result.stdout, result.stderr) == (talk[1].upper().encode() + b"\n", b"")


@pytest.mark.parametrize("settings", [Limits(), Timeouts()])
def test_tables_name_every_setting_and_its_default(settings):
    table = README.partition(f"| `{type(settings).__name__}` |")[2].partition("\n\n")[0]
    written = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", table, re.MULTILINE))
    scale = {"KiB": 1024, "MiB": 1024**2}
    meant = {}
    for name, text in written.items():
        number, _, unit = text.replace(",", "").partition(" ")
        meant[name] = float(number) * scale.get(unit, 1)
    assert meant == {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name != "overflow"  # stands in the row of `connections`
    }
