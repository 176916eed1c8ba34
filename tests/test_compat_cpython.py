"""CPython's own suites, of this interpreter, end the same on our classes as on the standard ones."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SUITES = {
    "test.test_socketserver": [],
    "test.test_httpservers": [],
    "test.test_xmlrpc": [],
    "test.test_docxmlrpc": [],
    "test.test_wsgiref": [],
    "test.test_logging": [
        "SocketHandlerTest", "UnixSocketHandlerTest", "DatagramHandlerTest",
        "UnixDatagramHandlerTest", "SysLogHandlerTest", "UnixSysLogHandlerTest", "HTTPHandlerTest",
        "ConfigDictTest.test_listen_config_10_ok", "ConfigDictTest.test_listen_config_1_ok",
        "ConfigDictTest.test_listen_verify",
    ],
    "idlelib.idle_test.test_rpc": [],
}  # fmt: skip
# What cannot be the same when our classes are not at home in the module `socketserver`.
OF_ANOTHER_MODULE = {"test.test_socketserver.MiscTestCase.test_all"}


WAYS = ("standard", "install", "swap")


def start(how: str, suite: str, directory: str) -> "subprocess.Popen[str]":
    """Run a suite; in a directory of its own, where the suites write what they please."""
    os.mkdir(os.path.join(directory, how))
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "cpython.py"), how, suite, *SUITES[suite]],
        cwd=os.path.join(directory, how), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def outcomes(process: "subprocess.Popen[str]") -> dict[str, str]:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    found: dict[str, str] = json.loads(out.rpartition("outcomes ")[2])
    return found


@pytest.mark.timeout(120)
@pytest.mark.parametrize("suite", SUITES)
def test_suite_ends_as_with_the_standard_library(suite, directory):
    try:
        if importlib.util.find_spec(suite) is None:
            pytest.skip(f"this interpreter comes without {suite}")
        if suite.startswith("idlelib"):
            importlib.import_module("tkinter")
    except ImportError as exc:
        pytest.skip(f"this interpreter cannot run {suite}: {exc}")
    # At once: they mostly wait, some for seconds.
    expected, installed, swapped = map(outcomes, [start(how, suite, directory) for how in WAYS])
    assert "passed" in expected.values()
    assert installed == expected
    for name in OF_ANOTHER_MODULE & set(expected):
        assert expected[name] == "passed"
        swapped[name] = "passed"
    assert swapped == expected
