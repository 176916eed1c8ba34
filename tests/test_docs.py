"""The pages are true: each program runs as they say, on both loops, and every public name is described."""

import importlib
import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import compat
from asyncserver._cli.send import exchange
from asyncserver._lifecycle import MOVES
from asyncserver._stream import states
from tests.documents import (
    PAGES,
    ROOT,
    Program,
    is_server,
    local,
    programs,
    running,
    try_out,
)

PROGRAMS = {f"{each.page}: {each.name or number}": each for number, each in enumerate(programs())}
PUBLIC = (
    "asyncserver",
    "asyncserver.events",
    "asyncserver.testing",
    "asyncserver.embedding",
    "compat",
)
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")


def on_both_loops(program: Program) -> list[str]:
    """The loops that it makes a difference to run it on."""
    own = "Runner(" in program.source or "anyio.run(" in program.source  # it chooses for itself
    blocking = program.serves and program.handler is None
    return ["uvloop"] if own or blocking else ["uvloop", "asyncio"]


RUNS = [(name, loop) for name, each in PROGRAMS.items() for loop in on_both_loops(each)]


@pytest.fixture
def certificate(directory: str) -> None:
    """What the page about TLS tells a reader to make."""
    (command,) = re.findall(r"^openssl req .*", PAGES["docs/tutorial/tls.md"], re.MULTILINE)
    subprocess.run(["bash", "-c", command], cwd=directory, check=True, capture_output=True)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_page_says_how_to_try_each_program(name):
    program = PROGRAMS[name]
    assert program.name
    assert program.commands


@pytest.mark.slow
@pytest.mark.parametrize(("name", "loop"), RUNS)
def test_a_program_does_what_the_page_says(name, loop, directory, request):
    program = PROGRAMS[name]
    if "certificate.pem" in program.source:
        request.getfixturevalue("certificate")
    if loop == "asyncio" and program.handler and "certificate" not in program.source:
        # The handler alone, on the other loop, as a person may serve it from the command line.
        urls = re.findall(r"(?:tcp|udp|unix|unixgram):[/@][^\s\"']+", program.source)
        serve = f"asyncserver serve {program.name}:{program.handler} " + " ".join(
            f"--bind {url}" for url in dict.fromkeys(urls)
        )
        talks = [each for each in program.commands if not is_server(each[0], program)]
        try_out(program, directory, loop, commands=[(serve, ""), *talks])
    else:
        try_out(program, directory, loop)


@pytest.mark.parametrize("name", PROGRAMS)
def test_importing_a_program_serves_nothing(name, directory, monkeypatch):
    path = Path(directory, "program.py")
    path.write_text(local(PROGRAMS[name].source, directory))
    monkeypatch.chdir(directory)
    monkeypatch.setattr(socket.socket, "bind", None)
    runpy.run_path(str(path), run_name="program")


# -- what else the pages say -------------------------------------------------------------------


@pytest.mark.slow
def test_the_program_for_systemd_takes_its_sockets_and_says_that_it_is_ready(directory):
    (program,) = (each for each in PROGRAMS.values() if each.name == "activated.py")
    Path(directory, program.name).write_text(program.source)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told,
    ):
        told.bind(f"{directory}/notify")
        told.settimeout(10)
        log = "import logging, runpy; logging.basicConfig(level='INFO');"
        code = f"{log} runpy.run_path('{program.name}', run_name='__main__')"
        shell = (
            f"exec 3<&{listener.fileno()} && LISTEN_PID=$$ LISTEN_FDS=1 NOTIFY_SOCKET={directory}/notify"
            f' exec {sys.executable} -W error -c "{code}"'
        )
        with running(["bash", "-c", shell], directory, keep=[listener.fileno()]) as (address,):
            assert told.recv(100) == b"READY=1"
            assert address.port == listener.getsockname()[1]
            assert b"".join(exchange(address, b"hello\n", 10)) == b"HELLO\n"
        assert told.recv(100) == b"STOPPING=1"


async def test_the_example_of_a_test_is_one(url):
    (test,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(test, names)
    await next(each for name, each in names.items() if name.startswith("test_"))(url)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    for path, _ in LINK.findall(text):
        if path and "://" not in path and "_generated" not in path:
            assert (ROOT / page).parent.joinpath(path).exists(), path


def test_every_page_has_its_place():
    listed = {"docs/index.md", "README.md"}
    for page, text in PAGES.items():
        for entries in re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL):
            for entry in entries.split():
                if not entry.startswith(":") and entry not in "12":
                    listed.add(os.path.normpath(os.path.join(os.path.dirname(page), f"{entry}.md")))
    assert listed == set(PAGES)


@pytest.mark.parametrize("module", PUBLIC)
def test_the_reference_describes_every_public_name(module):
    text = "".join(PAGES[page] for page in PAGES if page.startswith("docs/reference/"))
    described = set(
        re.findall(rf"^\.\. auto(?!module)\w+:: {module}\.(\w+)(?:\(\))?$", text, re.MULTILINE)
    )
    mentioned = set(re.findall(rf"`{module}\.(\w+)(?:`|\.)", text))
    if re.search(rf"automodule:: {module}\n +:members:", text):
        return  # all of `__all__`
    public = set(importlib.import_module(module).__all__)
    assert described <= public
    assert public - described <= mentioned


def test_the_settings_of_threads_have_the_defaults_that_the_reference_tells():
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", PAGES["docs/reference/compat.md"], re.MULTILINE)
    assert rows
    for name, default in rows:
        assert str(getattr(compat.ThreadingMixIn, name)) == default


def test_every_error_is_described():
    described = re.findall(r"autoexception:: asyncserver\.(\w+)", PAGES["docs/reference/errors.md"])
    assert sorted(described) == sorted(importlib.import_module("asyncserver.errors").__all__)


def test_paths_of_files_in_the_architecture_exist():
    paths = re.findall(
        r"`((?:asyncserver|compat|tests|benchmarks)/[\w/.]*)`", PAGES["docs/architecture.md"]
    )
    assert len(paths) > 10
    for path in paths:
        assert (ROOT / path).exists(), path
    packages = {
        each.name for each in (ROOT / "asyncserver").iterdir() if (each / "__init__.py").exists()
    }
    assert packages == {
        path.split("/")[1] for path in paths if re.fullmatch(r"asyncserver/_\w+/", path)
    }


def test_the_life_of_a_server_is_drawn_from_its_table(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    lifecycle = importlib.import_module("lifecycle")
    assert set(lifecycle.CAUSES) == {
        (state, to) for state, all_to in MOVES.items() for to in all_to
    }
    picture = lifecycle.svg()
    for state in MOVES:
        assert f">{state.value}</text>" in picture
    for cause in lifecycle.CAUSES.values():
        assert f">{cause}</text>" in picture
    assert picture.count("<path") == 1 + len(lifecycle.CAUSES)  # one is the head of the arrows


def test_the_life_of_a_connection_is_listed_from_its_tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    lifecycle = importlib.import_module("lifecycle")
    for kind in (states.Receiving, states.Sending):
        rows = lifecycle.listed(kind, states.MOVES).splitlines()[2:]
        assert len(rows) == len(kind)
        for state, row in zip(kind, rows, strict=True):
            _, name, following, _ = (each.strip() for each in row.split("|"))
            assert name == state.value
            words = {each.value for each in states.MOVES[state]} or {"nothing else"}
            assert set(following.split(", ")) == words
