"""The README is short and its commands work; its programs are run by `test_docs`, with those of `docs/`."""

import dataclasses
import re
import shlex
import subprocess
import sys

import pytest

from asyncserver import Limits, Timeouts
from tests.documents import PAGES, environment, local, running

pytestmark = pytest.mark.slow

README = PAGES["README.md"]
LONGEST = 800  # words


def test_it_is_short():
    assert len(README.split()) <= LONGEST


def test_its_first_sentence_says_what_it_is():
    assert README.splitlines()[2].startswith("`socketserver` for the asyncio age: ")


def test_the_commands_that_ci_looks_for_stand_in_it():
    assert re.search(r"^python3 -m venv .*pytest$", README, re.MULTILINE)
    assert re.search(r"^python3 -m venv .* -m benchmarks$", README, re.MULTILINE)


@pytest.mark.slow
def test_commands_run_a_server_and_talk_to_it(directory):
    serve, send = re.findall(r"```sh\n(.*)\n```", README)[:2]
    preparation, _, serve = serve.rpartition("&& ")
    assert "venv" in preparation
    words = shlex.split(local(serve, directory))
    assert words[0] == ".venv/bin/asyncserver"
    talk = re.search(r"do \.venv/bin/asyncserver send \$url (\w+);", send)
    assert talk is not None
    command = [sys.executable, "-W", "error", "-m", "asyncserver"]
    with running([*command, *words[1:]], directory, count=3) as addresses:
        assert [each.scheme for each in addresses] == ["tcp", "udp", "unix"]
        assert send.count("://") == len(addresses)
        for address in addresses:
            result = subprocess.run(
                [*command, "send", address, talk[1]],
                env=environment(), capture_output=True, check=False,
            )  # fmt: skip
            assert (result.stdout, result.stderr) == (talk[1].upper().encode() + b"\n", b"")


@pytest.mark.parametrize("settings", [Limits(), Timeouts()])
def test_tables_name_every_setting_and_its_default(settings):
    page = PAGES["docs/reference/limits.md"]
    table = page.partition(f"| `{type(settings).__name__}` |")[2].partition("\n\n")[0]
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
