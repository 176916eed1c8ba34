"""The command line: what it takes, what it says, and how it ends.

Most tests call `main` in this process; what signals, pipes and real servers do has processes of its
own.
"""

import io
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, NamedTuple

import pytest

import asyncserver
from asyncserver import Address, Limits, Timeouts, cli, listeners
from tests.conftest import TLS

PYTHON = [sys.executable, "-W", "error"]

HANDLERS = """
import asyncserver

async def upper(request):
    if isinstance(request, asyncserver.Datagram):
        await request.reply(b"" if request.data == b"nothing\\n" else request.data.upper())
    else:
        async for chunk in request:
            await request.send(chunk.upper())

class Outer:
    class Inner(asyncserver.StreamRequestHandler):
        async def handle(self):
            await self.wfile.write(b"inner")

async def patient(connection):
    await connection.send(b"begun\\n")
    await connection.closing.wait()
    await connection.send(b"done\\n")

async def datagrams(datagram): ...

class Datagrams(asyncserver.DatagramRequestHandler): ...


number = 5
"""
FILES = {
    "handlers.py": HANDLERS,
    "raises.py": "import json\n\njson.loads('')\n",
    "typo.py": "x = 1\ndef f(:\n",
    "needs.py": "import nonexistent_library\n",
    "panics.py": "class Panic(BaseException): pass\n\nraise Panic('at once')\n",
    "exits.py": "import sys\nsys.exit('no\\nmore')\n",
    "sub/queue.py": HANDLERS,
    "script": HANDLERS,
    "sub/inner.py": "from neighbour import upper",
    "sub/neighbour.py": HANDLERS,
    "empty.pem": "",
}


class Result(NamedTuple):
    status: int | str | None
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def project(directory: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A current directory with modules in it; what is imported from there is forgotten."""
    for name, text in FILES.items():
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield directory
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(directory):
            del sys.modules[name]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`asyncserver WORDS`, in this process."""

    def call(*words: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "argv", ["asyncserver", *words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return Result(exit_.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def arguments(command: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What `asyncserver serve WORDS` gives to `run`."""

    def call(*words: str) -> dict[str, Any]:
        given: dict[str, Any] = {}

        def run(handler: object, *addresses: str, **options: object) -> None:
            given.update(options, handler=handler, addresses=addresses)

        monkeypatch.setattr(cli, "run", run)
        assert command("serve", *words) == (0, "", "")
        return given

    return call


BIND = ("--bind", "tcp://127.0.0.1:0")

OWN_COMPAT = {
    "compat.py": "import pathlib\npathlib.Path('ran').touch()\nmine = True\n",
    "compat/__init__.py": "import pathlib\npathlib.Path('ran').touch()\nmine = True\n",
    "other/compat/engine.py": "mine = True\n",  # a folder without __init__.py
}
BLOCKING = """
import socketserver
class Upper(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline().upper())
"""


@pytest.mark.parametrize("way", ["blocking", "blocking.py", "./blocking.py"])
@pytest.mark.parametrize("uses", ["", "import compat", "import compat\nassert compat.mine"])
@pytest.mark.parametrize("own", [*OWN_COMPAT, None])
def test_a_compat_of_the_users_own_is_the_users_own(own, uses, way, project, arguments):
    from compat import hosting

    if "mine" in uses and own not in {"compat.py", "compat/__init__.py"}:
        uses = "import compat"
    if own is not None:
        os.makedirs(os.path.dirname(own) or ".", exist_ok=True)
        with open(own, "w") as file:
            file.write(OWN_COMPAT[own])
    with open("blocking.py", "w") as file:
        file.write(f"{uses}\n{BLOCKING}")
    before = {
        name: sys.modules.pop(name)
        for name in list(sys.modules)
        if f"{name}.".startswith("compat.")
    }
    try:
        handler = arguments(f"{way}:Upper", *BIND)["handler"]
        assert (type(handler).__module__, type(handler).__name__) == ("compat.hosting", "Threaded")
        assert type(handler).__init__.__code__.co_filename == hosting.__file__
        assert os.path.exists("ran") == bool(uses and own in {"compat.py", "compat/__init__.py"})
        import compat

        assert hasattr(compat, "mine") == (own in {"compat.py", "compat/__init__.py"})
    finally:
        for name in [each for each in sys.modules if f"{each}.".startswith("compat.")]:
            del sys.modules[name]
        sys.modules.update(before)


# -- help --------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["send", "-h"]])
def test_help_fits_80_columns(words, columns, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    status, out, err = command(*words)
    assert (status, err) == (0, "")
    assert out.startswith("Usage: asyncserver ")
    assert max(len(line) for line in out.splitlines()) <= 80


def test_help_says_every_limit_and_deadline_and_its_default(command):
    out = command("serve", "--help").out
    for settings in (Limits(), Timeouts()):
        for field in fields(settings):
            default = getattr(settings, field.name)
            shown = f"{default:g}" if isinstance(default, float) else str(default)
            option = field.name.replace("_", "-")
            assert re.search(rf"^  --{option} .*\[{shown}\]$", out, re.MULTILINE), field.name
    for option in ("--bind", "--mode", "--reuse-port", "--certificate", "--key", "--grace",
                   "--loop", "--log-level"):  # fmt: skip
        assert f" {option}" in out


def test_examples_in_help_stand_on_lines_of_their_own(command):
    lines = command("serve", "--help").out.splitlines()
    assert sum(line.strip().startswith("asyncserver serve") for line in lines) == 2


def test_version(command):
    assert command("--version") == (0, f"asyncserver {asyncserver.__version__}\n", "")


def test_without_words_help_goes_to_stderr_and_the_status_is_2(command):
    status, out, err = command()
    assert (status, out) == (2, "")
    assert err.startswith("Usage: asyncserver ")
    assert "Traceback" not in err


# -- options -----------------------------------------------------------------------------------


def test_defaults_are_those_of_the_library(arguments, project):
    given = arguments("handlers:upper", *BIND)
    assert given["addresses"] == ("tcp://127.0.0.1:0",)
    assert given["handler"].__name__ == "upper"
    assert (given["limits"], given["timeouts"], given["grace"]) == (Limits(), Timeouts(), 30.0)
    assert (given["tls"], given["mode"], given["reuse_port"]) == (None, None, False)
    assert given["loop"] == "auto"


def test_every_setting_is_an_option(arguments, project):
    settings = {
        "connections": 1, "per_host": 2, "overflow": "close", "backlog": 3, "line": 4,
        "read_buffer": 5, "write_buffer": 6, "read_all": 7, "exactly": 10, "datagrams": 8, "datagram_size": 9,
    }  # fmt: skip
    deadlines = {
        "handshake": 0.5, "idle": 1.5, "message": 4.5, "write": 2.5, "lifetime": 3.5, "first": 5.5,
        "cleanup": 6.5,
    }  # fmt: skip
    assert {*settings, *deadlines} == {
        each.name for kind in (Limits, Timeouts) for each in fields(kind)
    }
    words = [
        f"--{name.replace('_', '-')}={value}" for name, value in (settings | deadlines).items()
    ]
    more = ["-b", "udp://:0", "--mode=660", "--reuse-port", "--grace=0", "--loop=asyncio"]
    files = ["--certificate=chain.pem", "--key=key.pem"]
    given = arguments("handlers:upper", *BIND, *words, *more, *files)
    assert given["limits"] == Limits(**settings)  # type: ignore[arg-type] # mixed on purpose
    assert given["timeouts"] == Timeouts(**deadlines)
    assert given["addresses"] == ("tcp://127.0.0.1:0", "udp://:0")
    assert (given["mode"], given["reuse_port"], given["grace"]) == (0o660, True, 0)
    assert (given["tls"], given["loop"]) == (("chain.pem", "key.pem"), "asyncio")


def test_none_lifts_every_limit_that_can_be_lifted(arguments, project):
    limits = [each.name for each in fields(Limits) if "None" in str(each.type)]
    deadlines = [each.name for each in fields(Timeouts)]
    words = [f"--{name.replace('_', '-')}=none" for name in [*limits, *deadlines, "grace"]]
    given = arguments("handlers:upper", *BIND, *words)
    assert given["limits"] == Limits(**dict.fromkeys(limits))  # type: ignore[arg-type]
    assert given["timeouts"] == Timeouts(**dict.fromkeys(deadlines))
    assert given["grace"] is None


# -- targets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("handlers:upper", "upper"),
        ("handlers:Outer.Inner", "Outer.Inner"),
        ("handlers.py:upper", "upper"),
        ("./handlers.py:upper", "upper"),
        ("{directory}/handlers.py:Outer.Inner", "Outer.Inner"),
        ("sub/inner.py:upper", "upper"),  # imports its neighbour
        ("./script:upper", "upper"),
        ("sub/queue.py:upper", "upper"),
        ("asyncserver.demo:upper", "upper"),
    ],
)
def test_target_may_be_a_module_or_a_file(target, name, arguments, project):
    import queue

    given = arguments(target.format(directory=project), *BIND)
    assert given["handler"].__qualname__ == name
    assert sys.modules["queue"] is queue


# -- mistakes ----------------------------------------------------------------------------------

MISTAKES = {
    "unknown command": (["sevre"], "No such command 'sevre'"),
    "unknown option": (["serve", "handlers:upper", *BIND, "--idel", "3"], "--idel"),
    "no target": (["serve", *BIND], "MODULE:OBJECT"),
    "no bind": (["serve", "handlers:upper"], "--bind"),
    "too many words": (["serve", "handlers:upper", "more", *BIND], "more"),
    "target without object": (["serve", "handlers", *BIND], "'handlers' is no target"),
    "target with nothing after the colon": (["serve", "handlers:", *BIND], "'handlers:'"),
    "wrong module": (["serve", "handelrs:upper", *BIND], "No module named 'handelrs'"),
    "wrong submodule": (["serve", "handlers.more:x", *BIND], "No module named 'handlers.more'"),
    "relative module": (["serve", ".handlers:upper", *BIND], "'.handlers'"),
    "wrong file": (["serve", "./nothing.py:upper", *BIND], "no file ./nothing.py"),
    "wrong directory": (["serve", "./sub:upper", *BIND], "no file ./sub"),
    "wrong object": (["serve", "handlers:lower", *BIND], "handlers.py) has no 'lower'"),
    "wrong attribute": (["serve", "handlers:Outer.No", *BIND], "has no 'Outer.No'"),
    "wrong object of a built-in module": (["serve", "sys:no", *BIND], "sys (no file) has no 'no'"),
    "module raises": (["serve", "raises:x", *BIND], "JSONDecodeError: .*raises.py:3 -> .*json"),
    "file raises": (["serve", "raises.py:x", *BIND], "JSONDecodeError: .*raises.py:3 -> .*json"),
    "module with a syntax error": (["serve", "typo:x", *BIND], "SyntaxError: .*typo.py:2"),
    "file with a syntax error": (["serve", "typo.py:x", *BIND], "SyntaxError: .*typo.py:2"),
    "module needs another": (
        ["serve", "needs:x", *BIND], "importing needs failed: .*'nonexistent_library'.*needs.py:1",
    ),
    "module panics": (["serve", "panics:x", *BIND], "Panic: at once .*panics.py:3"),
    "module exits": (["serve", "exits:x", *BIND], "SystemExit: no more .*exits.py:2"),
    "no handler": (["serve", "handlers:number", *BIND], "5 cannot handle requests"),
    "datagrams on tcp": (
        ["serve", "handlers:Datagrams", *BIND], "Datagrams handles datagrams; tcp://127.0.0.1:0",
    ),
    "connections on udp": (
        ["serve", "handlers:Outer.Inner", "-b", "udp://127.0.0.1:0"], "handles connections; udp://",
    ),
    "bad URL": (["serve", "handlers:upper", "-b", "127.0.0.1:9999"], "'127.0.0.1:9999' is no address"),
    "bad port": (["serve", "handlers:upper", "-b", "tcp://x:99999"], "tcp://x:99999"),
    "relative path": (["serve", "handlers:upper", "-b", "unix:x.sock"], "unix:x.sock"),
    "missing directory": (
        ["serve", "handlers:upper", "-b", "unix:///no/where/x.sock"],
        "unix:///no/where/x.sock: No such file or directory",
    ),
    "no address of ours": (
        ["serve", "handlers:upper", "-b", "tcp://192.0.2.1:0"], "tcp://192.0.2.1:0: Cannot assign",
    ),
    "missing certificate": (
        ["serve", "handlers:upper", *BIND, "--certificate", "no.pem"], "no.pem does not exist",
    ),
    "empty certificate": (
        ["serve", "handlers:upper", *BIND, "--certificate", "empty.pem"], "empty.pem do not work",
    ),
    "key alone": (["serve", "handlers:upper", *BIND, "--key", "k.pem"], "--key needs --certificate"),
    "bad number": (["serve", "handlers:upper", *BIND, "--connections", "many"], "--connections.*'many'"),
    "number 0": (["serve", "handlers:upper", *BIND, "--connections", "0"], "--connections.*'0'"),
    "huge number": (["serve", "handlers:upper", *BIND, "--backlog", "9" * 20], "--backlog.*to 2147483647"),
    "no limit for a buffer": (["serve", "handlers:upper", *BIND, "--read-buffer", "none"], "--read-buffer"),
    "seconds 0": (["serve", "handlers:upper", *BIND, "--idle", "0.0"], "--idle.*'0.0'"),
    "seconds below 0": (["serve", "handlers:upper", *BIND, "--grace", "-1"], "--grace.*'-1'"),
    "infinite seconds": (["serve", "handlers:upper", *BIND, "--write", "inf"], "--write.*'inf'"),
    "seconds not a number": (["serve", "handlers:upper", *BIND, "--write", "nan"], "--write.*'nan'"),
    "bad permissions": (["serve", "handlers:upper", *BIND, "--mode", "rw"], "--mode.*'rw'"),
    "unknown loop": (["serve", "handlers:upper", *BIND, "--loop", "trio"], "--loop.*'trio'"),
    "unknown level": (["serve", "handlers:upper", *BIND, "--log-level", "loud"], "--log-level.*'loud'"),
    "unknown overflow": (["serve", "handlers:upper", *BIND, "--overflow", "x"], "--overflow.*'x'"),
    "send without URL": (["send"], "URL"),
    "send to a bad URL": (["send", "http://localhost"], "'http://localhost' is no address"),
    "send to a bad host": (["send", f"tcp://{'x' * 64}:9", "hi"], "tcp://x+:9: "),
    "send to a bad host by UDP": (["send", f"udp://{'x' * 64}:9", "hi"], "udp://x+:9: "),
    "send to no path": (["send", "unix:///no/x.sock", "hi"], "unix:///no/x.sock: No such file"),
    "send with no time": (["send", "unix:///no/x.sock", "--timeout", "0"], "--timeout.*'0'"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_line_and_status_2(mistake, command, project):
    words, message = MISTAKES[mistake]
    assert_one_line(command(*words), message)


def assert_one_line(result: Result, message: str) -> None:
    assert (result.status, result.out) == (2, "")
    assert re.fullmatch(r"asyncserver: [^\n]+\n", result.err)
    assert re.search(message.replace("(", "\\(").replace(")", "\\)"), result.err), result.err


@pytest.mark.parametrize("scheme", ["tcp", "udp", "unix"])
def test_address_in_use_is_one_line(scheme, command, project):
    kind = socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_UNIX if scheme == "unix" else socket.AF_INET, kind) as taken:
        taken.bind(f"{project}/x.sock" if scheme == "unix" else ("127.0.0.1", 0))
        if scheme != "udp":
            taken.listen()
        name = taken.getsockname()
        url = f"unix://{name}" if scheme == "unix" else f"{scheme}://127.0.0.1:{name[1]}"
        result = command("serve", "handlers:upper", "--bind", url)
    assert_one_line(result, f"{url}: Address already in use")


def test_no_permission_is_one_line(command, project, monkeypatch):
    def bind(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")  # as a port below 1024 does; not to root

    monkeypatch.setattr(listeners, "_bind_ip", bind)
    result = command("serve", "handlers:upper", "--bind", "tcp://127.0.0.1:80")
    assert_one_line(result, "tcp://127.0.0.1:80: Permission denied")


def test_key_of_another_certificate_is_one_line(command, project, tls: TLS, authority):
    authority.issue_cert("other").private_key_pem.write_to_path("other.pem")
    files = ("--certificate", tls.certificate, "--key", "other.pem")
    assert_one_line(
        command("serve", "handlers:upper", *BIND, *files), "other.pem do not work: .*key"
    )


def test_missing_uvloop_is_one_line(command, project, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    result = command("serve", "handlers:upper", *BIND, "--loop", "uvloop")
    assert_one_line(result, "uvloop is not installed")


# -- send, and the addresses that it is told ---------------------------------------------------


class Serving(NamedTuple):
    process: subprocess.Popen[str]
    addresses: list[Address]
    hints: list[str]


@contextmanager
def serving(directory: str, target: str, *binds: str, words: list[str]) -> Iterator[Serving]:
    """`asyncserver serve` in a process of its own, and what it says."""
    given = [word for url in binds for word in ("--bind", url)]
    process = subprocess.Popen(
        [*PYTHON, "-m", "asyncserver", "serve", target, *given, *words],
        cwd=directory, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PATH": os.defpath},  # where there is no `asyncserver`
    )  # fmt: skip
    assert process.stderr is not None
    addresses: list[Address] = []
    hints: list[str] = []
    try:
        # `tcp://:0` is two addresses.
        expected = len(binds) + sum("://:" in url for url in binds)
        while len(hints) < expected:
            line = process.stderr.readline()
            assert line, "the server ended"
            if match := re.search(r"listening on (\S+)", line):
                addresses.append(Address(match[1]))
            if match := re.search(r"try it: (.+)", line):
                hints.append(match[1])
        yield Serving(process, addresses, hints)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Serving]]:
    """One server on all kinds of addresses: its address and its hint by what was asked for."""
    directory = str(tmp_path_factory.mktemp("cli"))
    with open(f"{directory}/handlers.py", "w") as file:
        file.write(HANDLERS)
    name = f"as-{os.getpid()}"
    binds = {
        "tcp": "tcp://127.0.0.1:0", "tcp6": "tcp://[::1]:0", "udp": "udp://127.0.0.1:0",
        "udp6": "udp://[::1]:0", "unix": f"unix:///tmp/{name}.sock", "abstract": f"unix:@{name}",
        "unixgram": f"unixgram:///tmp/{name}.dgram", "any tcp": "tcp://0.0.0.0:0",
        "any udp": "udp://0.0.0.0:0", "any tcp6": "tcp://[::]:0", "any udp6": "udp://[::]:0",
    }  # fmt: skip
    with serving(directory, "handlers.py:upper", *binds.values(), words=["--grace=1"]) as server:
        yield {
            kind: Serving(server.process, [address], [hint])
            for kind, address, hint in zip(binds, server.addresses, server.hints, strict=True)
        }
        server.process.terminate()
        assert server.process.wait(10) == 0


KINDS = ["tcp", "tcp6", "udp", "udp6", "unix", "abstract", "unixgram"]
WILDCARDS = ["any tcp", "any tcp6", "any udp", "any udp6"]


@pytest.mark.parametrize("kind", KINDS)
def test_send_prints_the_answer(kind, everywhere, command):
    assert command("send", everywhere[kind].addresses[0], "grüße") == (0, "GRüßE\n", "")


@pytest.mark.parametrize("kind", KINDS)
def test_send_takes_standard_input_as_it_is(kind, everywhere, command):
    assert command("send", everywhere[kind].addresses[0], stdin=b"a\nb") == (0, "A\nB", "")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_send_takes_much_input(kind, everywhere, command):
    result = command("send", everywhere[kind].addresses[0], stdin=b"x" * 8_000_000)
    assert (result.status, len(result.out), result.err) == (0, 8_000_000, "")


@pytest.mark.parametrize("kind", ["udp", "unixgram"])
def test_send_prints_an_empty_answer(kind, everywhere, command):
    assert command("send", everywhere[kind].addresses[0], "nothing") == (0, "", "")


def test_send_sends_the_bytes_that_were_typed(everywhere, command):
    text = os.fsdecode(b"\xff")  # as Python shows a byte of an argument that is no UTF-8
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        assert_one_line(command("send", url, text, "--timeout", "0.05"), "no answer within 0.05 s")
        with listener.accept()[0] as connection:
            assert connection.recv(100) == b"\xff\n"


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_send_where_nobody_listens_is_one_line(scheme, command):
    kind = socket.SOCK_STREAM if scheme == "tcp" else socket.SOCK_DGRAM
    with socket.socket(type=kind) as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"{scheme}://127.0.0.1:{sock.getsockname()[1]}"
        if scheme == "udp":
            sock.close()
        assert_one_line(command("send", url, "hello"), f"{url}: Connection refused")


@pytest.mark.parametrize("kind", KINDS + WILDCARDS)
def test_hint_works(kind, everywhere, command):
    words = shlex.split(everywhere[kind].hints[0])
    assert words[:4] == [sys.executable, "-m", "asyncserver", "send"]
    assert command(*words[3:]) == (0, "HELLO\n", "")


def test_hint_can_be_pasted_into_a_shell(everywhere):
    hint = everywhere["tcp6"].hints[0]
    result = subprocess.run(["sh", "-c", hint], cwd="/", capture_output=True, check=False)
    assert result.stdout == b"HELLO\n", result.stderr


def test_one_hint_an_ip_family_for_all_addresses(command, directory):
    with serving(directory, "asyncserver.demo:upper", "tcp://:0", words=[]) as server:
        assert sorted(each.host for each in server.addresses) == ["0.0.0.0", "::"]
        for hint in server.hints:
            assert command(*shlex.split(hint)[3:]).out == "HELLO\n"


def test_hint_for_tls_works(directory, tls: TLS):
    words = ["--certificate", tls.certificate, "--key", tls.key]
    urls = ["tcp://0.0.0.0:0", "tcp://[::1]:0", f"unix://{directory}/x.sock"]
    with serving(directory, "asyncserver.demo:upper", *urls, words=words) as server:
        for hint in server.hints:
            with subprocess.Popen(
                shlex.split(hint),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            ) as process:  # fmt: skip
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(b"hello\n")
                process.stdin.flush()
                assert process.stdout.readline() == b"HELLO\n"
                process.kill()


# -- signals and pipes -------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_drains_at_a_signal_and_exits_with_0(number, loop, project):
    words = ["--loop", loop]
    with (
        serving(project, "handlers:patient", "tcp://127.0.0.1:0", words=words) as server,
        socket.create_connection((server.addresses[0].host, server.addresses[0].port)) as client,
        client.makefile("rb") as answer,
    ):
        assert answer.readline() == b"begun\n"
        server.process.send_signal(number)
        assert answer.read() == b"done\n"
        assert server.process.wait(10) == 0
        assert server.process.stderr is not None
        rest = server.process.stderr.read()
        assert re.fullmatch(r"\S+ \S+ INFO closed: 1 handlers? finished.*\n", rest), rest


def test_serve_says_nothing_below_its_log_level(project):
    with subprocess.Popen(
        [*PYTHON, "-m", "asyncserver", "serve", "handlers:patient", "--log-level=warning",
         "-b", f"unix://{project}/x.sock"],
        cwd=project, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        with socket.socket(socket.AF_UNIX) as client:
            while client.connect_ex(f"{project}/x.sock"):
                assert process.poll() is None
                os.sched_yield()
            assert client.recv(100) == b"begun\n"
            process.terminate()
            assert client.recv(100) == b"done\n"
        assert process.wait(10) == 0
        assert process.stderr.read() == b""


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


def test_send_ends_with_130_at_ctrl_c(silent):
    with sending(silent) as process:
        with silent.accept()[0] as connection:
            assert connection.recv(100) == b"hello\n"  # it is at work
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
        assert process.stderr is not None
        assert process.stderr.read().strip() == b""


def test_send_ends_without_a_word_when_nobody_reads_what_it_prints(silent):
    with sending(silent) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        with silent.accept()[0] as connection:
            assert connection.recv(100) == b"hello\n"
            connection.sendall(b"answer")
            assert process.wait(10) == 141
        assert process.stderr.read() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")
def test_send_says_that_it_cannot_print(silent):
    with open("/dev/full", "wb") as full, sending(silent, stdout=full) as process:
        with silent.accept()[0] as connection:
            connection.sendall(b"answer")
            assert process.wait(10) == 2
        assert process.stderr is not None
        expected = b"asyncserver: standard output: No space left on device\n"
        assert process.stderr.read() == expected


def sending(listener: socket.socket, stdout: Any = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """`asyncserver send` to that listener."""
    url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    return subprocess.Popen(
        [*PYTHON, "-m", "asyncserver", "send", url, "hello", "--timeout", "20"],
        stdout=stdout, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_standard_streams_may_be_closed(everywhere):
    address = everywhere["tcp"].addresses[0]
    program = shlex.join([*PYTHON, "-m", "asyncserver", "send", address])
    script = (
        f"{program} hello >&-; echo $?; {program} <&- 2>&1; echo $?; {program} -x 2>&-; echo $?"
    )
    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    said = "asyncserver: standard input is closed: give TEXT"
    assert (result.stdout, result.stderr) == (f"0\n{said}\n2\n2\n", "")


# -- started in odd places -----------------------------------------------------------------------

CLOSED = ["<&-", "2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"]
loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def answers(process: subprocess.Popen[bytes], path: str) -> bool:
    """Whether a server that cannot say so serves on that path; waits until it does."""
    with socket.socket(socket.AF_UNIX) as client:
        while client.connect_ex(path):
            assert process.poll() is None
            os.sched_yield()
        client.sendall(b"hello\n")
        return client.recv(100) == b"HELLO\n"


@loops
@pytest.mark.parametrize("redirections", CLOSED)
def test_serve_with_standard_streams_closed_or_full(redirections, loop, directory):
    url = f"unix://{directory}/x.sock"
    words = ["-m", "asyncserver", "serve", "asyncserver.demo:upper", "-b", url, "--loop", loop]
    script = f"exec {shlex.join([*PYTHON, *words])} {redirections}"
    with subprocess.Popen(["sh", "-c", script], stderr=subprocess.PIPE) as process:
        try:
            assert answers(process, f"{directory}/x.sock")
            for number in range(3):  # what somebody prints must not go to a client
                target = os.readlink(f"/proc/{process.pid}/fd/{number}")
                assert not target.startswith(("socket", "anon_inode")), target
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()
    assert os.listdir(directory) == []


@pytest.mark.parametrize(
    ("words", "redirections", "status"),
    [
        ("serve", "2>/dev/full", 2),
        ("send", "2>&-", 2),
        ("--help", ">/dev/full", 2),
        ("--help", ">&-", 0),
    ],
)
def test_status_is_right_where_nothing_can_be_said(words, redirections, status):
    script = f"{shlex.join([*PYTHON, '-m', 'asyncserver'])} {words} {redirections}"
    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr


SHADOW = "import sys\nsys.stderr.write('SHADOW\\n')\nraise ImportError\n"


@pytest.mark.parametrize("safe", [(), ("-P",)], ids=["plain", "-P"])
def test_file_in_the_working_directory_does_not_become_our_uvloop(safe, project):
    with open("uvloop.py", "w") as file:
        file.write(SHADOW)
    program = [*PYTHON, *safe, "-m", "asyncserver", "serve", "asyncserver.demo:upper"]
    with subprocess.Popen(
        [*program, "-b", f"unix://{project}/x.sock"], stderr=subprocess.PIPE
    ) as process:
        try:
            assert answers(process, f"{project}/x.sock")
            process.terminate()
            assert process.wait(10) == 0
            assert process.stderr is not None
            assert b"SHADOW" not in process.stderr.read()
        finally:
            process.kill()


def test_auto_means_the_loop_that_was_there_before_the_target(arguments, project, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert arguments("handlers:upper", *BIND)["loop"] == "asyncio"


@pytest.mark.parametrize("target", ["handlers:upper", "sub/inner.py:upper"])
def test_safe_path_is_respected(target, project):
    program = [*PYTHON, "-P", "-m", "asyncserver", "serve", target, *BIND]
    result = subprocess.run(program, capture_output=True, text=True, check=False, timeout=20)
    assert_one_line(Result(result.returncode, result.stdout, result.stderr), "No module named")
    assert "(looked in" not in result.stderr


@loops
def test_working_directory_that_was_deleted(loop, directory):
    home = f"{directory}/gone"
    os.mkdir(home)
    words = ["-m", "asyncserver", "serve", "asyncserver.demo:upper", "--loop", loop]
    program = shlex.join([*PYTHON, *words, "-b", f"unix://{directory}/x.sock"])
    with subprocess.Popen(
        ["sh", "-c", f"rmdir {home}; exec {program}"], cwd=home, stderr=subprocess.PIPE
    ) as process:
        try:
            assert answers(process, f"{directory}/x.sock")
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert os.listdir(directory) == []


def test_target_in_a_working_directory_that_was_deleted(command, project, monkeypatch):
    os.mkdir("gone")
    monkeypatch.chdir("gone")
    os.rmdir(f"{project}/gone")
    assert_one_line(
        command("serve", "nowhere:upper", *BIND), "looked in a working directory that was"
    )
    assert_one_line(command("serve", "nowhere.py:upper", *BIND), "no file nowhere.py")


@pytest.mark.parametrize("blocking", [True, False])
def test_send_reads_standard_input_from_a_socket(blocking, everywhere):
    ours, theirs = socket.socketpair()
    theirs.setblocking(blocking)  # as inetd, or whoever shares it, has it
    url = everywhere["tcp"].addresses[0]
    program = [*PYTHON, "-m", "asyncserver", "send", url]
    with ours, theirs:
        with subprocess.Popen(program, stdin=theirs.fileno(), stdout=subprocess.PIPE) as process:
            ours.sendall(b"hel")
            ours.sendall(b"lo\n")
            ours.shutdown(socket.SHUT_WR)
            assert process.communicate(timeout=20)[0] == b"HELLO\n"
        assert process.returncode == 0


def test_send_says_that_it_cannot_read(everywhere, project):
    url = everywhere["tcp"].addresses[0]
    with open("writable", "wb") as file:
        result = subprocess.run(
            [*PYTHON, "-m", "asyncserver", "send", url],
            stdin=file,
            capture_output=True,
            check=False,
        )
    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr == b"asyncserver: standard input: Bad file descriptor\n"


@pytest.mark.parametrize("mode", ["1224", "-1", "0o1777", "888"])
def test_permissions_are_those_of_a_socket(mode, command, project):
    assert_one_line(command("serve", "handlers:upper", *BIND, "--mode", mode), "--mode.*like 660")
