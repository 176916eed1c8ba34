"""The pages that people read: the programs in them, and what a reader is told to type for each.

A page tells with every program how to try it, in the way of a terminal:

    ```console
    $ python upper.py
    ```
    ```console
    $ asyncserver send tcp://127.0.0.1:9999 hello
    HELLO
    ```

A line with a dollar is typed, the others are what comes back, where `...` stands for anything. A
program has the name that is typed first; what goes on until the next program belongs to it.
"""

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from asyncserver import Address
from asyncserver._cli.send import exchange

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if not path.parent.name.startswith("_")  # what Sphinx makes
}
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORT = "9999"  # in the pages; whoever tries them out has it free
# Says where it listens, and takes the loop that the test asks for.
START = """
import asyncio, functools, logging, os, runpy, sys
if os.environ["LOOP"] == "uvloop":
    import uvloop
    def run(main):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    asyncio.run = run
logging.basicConfig(level="INFO", format="%(message)s")
sys.argv = sys.argv[1:]
sys.path[0] = ""
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass
class Program:
    """One program of a page, and what is typed to try it.

    Attributes:
        commands: what is typed, and what comes back.

    """

    page: str
    name: str
    source: str
    commands: list[tuple[str, str]]

    @property
    def serves(self) -> bool:
        """Whether it runs until a signal."""
        return bool(re.search(r"\basyncserver\.run\(|\.serve_forever\(", self.source))

    @property
    def handler(self) -> str | None:
        """What it gives to `asyncserver.run`, if that is a name."""
        found = re.search(r"asyncserver\.run\(\s*(\w+)\s*,", self.source)
        return found[1] if found else None


def programs() -> Iterator[Program]:
    """Every Python program of every page."""
    for page, text in PAGES.items():
        found: list[Program] = []
        for language, block in BLOCK.findall(text):
            if language == "python":
                found.append(Program(page, "", block, []))
            elif found:
                found[-1].commands += typed(block)
        for program in found:
            names = [re.search(r"\w+\.py\b", command) for command, _ in program.commands]
            program.name = next((name[0] for name in names if name), "")
            yield program


def typed(block: str) -> list[tuple[str, str]]:
    """Take a terminal apart: what is typed, and what comes back."""
    parts = re.split(r"^\$ ", textwrap.dedent(block).replace("\\\n", ""), flags=re.MULTILINE)
    return [
        (command.strip(), answer)
        for command, _, answer in (each.partition("\n") for each in parts[1:])
    ]


def local(text: str, directory: str) -> str:
    """The same program or command on ports and paths that nobody else has."""
    return text.replace(PORT, "0").replace("/tmp", directory)


def matches(expected: str, said: str) -> bool:
    """Whether this is what the page says, where `...` stands for anything."""
    pattern = re.escape(expected).replace(re.escape("..."), ".*")
    return re.fullmatch(pattern, said, re.DOTALL) is not None


@contextmanager
def running(
    command: list[str],
    directory: str,
    loop: str = "uvloop",
    *,
    count: int = 1,
    keep: Sequence[int] = (),
) -> Iterator[list[Address]]:
    """A server in a process of its own: yields where it says that it listens, then stops it."""
    process = subprocess.Popen(
        command, cwd=directory, env=environment(loop), pass_fds=keep,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said, found, blocking = [], [], False
    try:
        for line in process.stdout:
            said.append(line)
            if match := re.search(r"listening on (\S+)|^at port (\d+)", line):
                blocking = bool(match[2])
                address = Address(match[1] or f"tcp://127.0.0.1:{match[2]}")
                if address not in found:  # told by the log and by the program itself
                    found.append(address)
            if len(found) == count:
                break
        assert len(found) == count, "".join(said)
        yield found
        process.send_signal(signal.SIGINT if blocking else signal.SIGTERM)
        rest = process.stdout.read()
        if blocking:
            assert process.wait() != 0
            assert rest.endswith("KeyboardInterrupt\n")
        else:
            assert process.wait() == 0, rest
            assert "Traceback" not in rest
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def environment(loop: str = "uvloop") -> dict[str, str]:
    """What the programs find in their environment."""
    here = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "LOOP": loop, "PYTHONPATH": here, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def words_of(command: str, program: Program, loop: str) -> list[str]:
    """What to run in place of `python ...`, `asyncserver ...` and `pytest ...`."""
    python = [sys.executable, "-W", "error"]
    first, *words = command.split()
    if first == "asyncserver":
        more = ["--loop", loop] if words[0] == "serve" else []
        return [*python, "-m", "asyncserver", *words, *more]
    if first == "pytest":
        return [
            *python,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--rootdir=.",
            *words,
        ]
    assert first == "python", command
    return [*python, *(words if words[0] == "-m" else ["-c", START, *words])]


def try_out(
    program: Program, directory: str, loop: str, *, commands: list[tuple[str, str]] | None = None
) -> None:
    """Type all that a page says about a program, and compare what comes back."""
    Path(directory, program.name).write_text(local(program.source, directory))
    addresses: list[Address] = []
    with ExitStack() as servers:
        for command, answer in program.commands if commands is None else commands:
            if is_server(command, program):
                servers.close()  # the one before
                words = words_of(local(command, directory), program, loop)
                urls = command if "asyncserver serve" in command else program.source
                count = max(
                    1, len(set(re.findall(r"\b(?:tcp|udp|unix|unixgram):[/@][^\s\"']+", urls)))
                )
                addresses = servers.enter_context(running(words, directory, loop, count=count))
            else:
                said = talk(command, program, directory, loop, addresses)
                assert matches(answer, said), f"{command}\n{said}"


def is_server(command: str, program: Program) -> bool:
    if command.startswith("asyncserver serve "):
        return True
    return program.serves and bool(re.match(rf"python (-m compat )?{program.name}$", command))


def talk(
    command: str, program: Program, directory: str, loop: str, addresses: list[Address]
) -> str:
    """Type a command that ends by itself; return what it says."""
    words = command.split()
    if words[:2] == ["asyncserver", "send"]:
        scheme = words[2].partition(":")[0]
        address = next(each for each in addresses if each.scheme == scheme)
        text = " ".join(words[3:]).strip("'\"").encode() + b"\n"
        return b"".join(exchange(address, text, 10)).decode()
    if words[0] in ("python", "pytest"):
        ready = words_of(local(command.removesuffix(" 2> /dev/null"), directory), program, loop)
    else:
        port = next((str(each.port) for each in addresses if each.port), PORT)
        ready = ["bash", "-c", command.replace(PORT, port)]
    result = subprocess.run(
        ready, cwd=directory, env=environment(loop), check=False, text=True,
        stdin=subprocess.DEVNULL, capture_output=True, timeout=25,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
