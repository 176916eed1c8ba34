"""What a type checker tells users of their handlers, before anything runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

GOOD = """
import asyncio
import socketserver

import asyncserver
import compat


async def stream(connection: asyncserver.Connection) -> None: ...
async def datagram(datagram: asyncserver.Datagram) -> int:
    return 1
async def either(request: asyncserver.Connection | asyncserver.Datagram) -> None: ...
class Mirror(asyncserver.StreamRequestHandler): ...
class Protocol(asyncio.Protocol): ...
class Classic(socketserver.StreamRequestHandler): ...
class Instance:
    async def __call__(self, connection: asyncserver.Connection) -> None: ...


for url in ("tcp://127.0.0.1:0",):
    asyncserver.Server(stream, url)
    asyncserver.Server(datagram, url)
    asyncserver.Server(either, url)
    asyncserver.Server(Mirror, url)
    asyncserver.Server(Protocol, url)
    asyncserver.Server(lambda: Protocol(), url)
    asyncserver.Server(compat.threaded(Classic), url)
    asyncserver.Server(Instance(), url)
    asyncserver.run(stream, url)
"""
BAD = """
import asyncio
import socketserver

import asyncserver


def blocking(connection: asyncserver.Connection) -> None: ...
async def two(connection: asyncserver.Connection, server: asyncserver.Server) -> None: ...
async def text(line: str) -> None: ...
class Mirror(asyncserver.StreamRequestHandler): ...
class Protocol(asyncio.Protocol): ...
class Classic(socketserver.StreamRequestHandler): ...


asyncserver.Server(blocking, "tcp://127.0.0.1:0")
asyncserver.Server(two, "tcp://127.0.0.1:0")
asyncserver.Server(text, "tcp://127.0.0.1:0")
asyncserver.Server(Protocol(), "tcp://127.0.0.1:0")
asyncserver.Server(Classic, "tcp://127.0.0.1:0")
asyncserver.Server(object(), "tcp://127.0.0.1:0")
asyncserver.run(blocking, "tcp://127.0.0.1:0")
asyncio.run(asyncserver.serve(two, "tcp://127.0.0.1:0"))
"""


@pytest.mark.timeout(300)  # mypy begins without what it remembers of other runs
def test_handlers_of_a_wrong_kind_are_type_errors(tmp_path):
    pytest.importorskip("mypy", reason="it comes with the extra `lint`")
    for name, text in (("good", GOOD), ("bad", BAD)):
        tmp_path.joinpath(f"{name}.py").write_text(text)
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "good.py", "bad.py"],
        cwd=tmp_path, env={"MYPYPATH": str(Path(__file__).parent.parent)}, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    found = re.findall(r"^(.*\.py):(\d+): error: .*\[(.*)\]$", result.stdout, re.MULTILINE)
    lines = [str(number) for number, line in enumerate(BAD.splitlines(), 1) if "tcp://" in line]
    assert found == [("bad.py", line, "arg-type") for line in lines], result.stdout + result.stderr
