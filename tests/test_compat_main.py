"""`python -m compat PROGRAM` is to the program what `python PROGRAM` is: both are run, and compared."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.machinery import FrozenImporter
from pathlib import Path

import pytest

PROBE = """
import json, os, sys, traceback
here = sys.modules["__main__"]
print(json.dumps({
    "argv": sys.argv, "path": sys.path, "cwd": os.getcwd(), "names": sorted(vars(here)),
    "is main": vars(here) is globals(), "warnings": sys.warnoptions, "xoptions": sys._xoptions,
    "attributes": [
        __name__, globals().get("__file__"), __package__, __doc__, type(__loader__).__name__,
        __spec__ and (__spec__.name, __spec__.origin), globals().get("__cached__"),
    ],
    "stack": traceback.format_stack(), "stdin": sys.stdin.read(),
    "flags": [] if sys.flags.isolated or "isolated" in sys.argv else list(sys.flags),
}))
"""
ROOT = str(Path(__file__).parent.parent)
FOUND = subprocess.run(
    [sys.executable, "-I", "-c", "import compat"], stderr=subprocess.DEVNULL, check=False
)
installed = pytest.mark.skipif(FOUND.returncode != 0, reason="compat is not installed here")
IS_OURS = "import socketserver; print(hasattr(socketserver.ThreadingMixIn, 'max_threads'))\n"


@pytest.fixture
def place(tmp_path):
    """A folder with a program in every shape."""
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "deep.py").write_text(PROBE)
    (tmp_path / "link.py").symlink_to(tmp_path / "inside" / "deep.py")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__main__.py").write_text(PROBE)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("print('imported once')")
    (tmp_path / "package" / "__main__.py").write_text(PROBE)
    (tmp_path / "package" / "module.py").write_text(PROBE)
    with zipfile.ZipFile(tmp_path / "app.pyz", "w") as archive:
        archive.writestr("__main__.py", PROBE)
    with zipfile.ZipFile(tmp_path / "empty.pyz", "w") as archive:
        archive.writestr("other.py", PROBE)
    (tmp_path / "noextension").write_text("# -*- coding: latin-1 -*-\n" + PROBE)
    return tmp_path


def start(
    place: Path, *arguments: str, environment: dict[str, str] | None = None
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=place, text=True, env=os.environ | (environment or {}),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def python(
    place: Path, *arguments: str, environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    process = start(place, *arguments, environment=environment)
    out, err = process.communicate("some input", timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def both(
    place: Path, options: list[str], words: list[str], environment: dict[str, str] | None = None
) -> "list[tuple[str, str, int]]":
    """How it goes with `python PROGRAM`, and with `python -m compat PROGRAM`."""
    ways = [[*options, *words], [*options, "-m", "compat", *words]]
    started = [start(place, *way, environment=environment) for way in ways]
    said = [each.communicate("some input", timeout=60) for each in started]
    return [(*each, process.returncode) for each, process in zip(said, started, strict=True)]


MANY = ["-u", "-O", "-W", "error", "-X", "utf8"]
SEEN: list[tuple[list[str], list[str]]] = [
    ([], ["probe.py"]), ([], ["./probe.py", "-m", "--threads", "x y"]), ([], ["inside/deep.py"]),
    ([], ["link.py"]), ([], ["folder"]), ([], ["folder/"]), ([], ["app.pyz", "a"]),
    ([], ["empty.pyz"]), ([], ["inside"]), ([], ["noextension"]), ([], ["-m", "probe", "-h"]),
    ([], ["-m", "package"]), ([], ["-m", "package.module"]), ([], ["-m", "package.nothing"]),
    (["-P"], ["probe.py"]), (["-P"], ["link.py"]), (["-P"], ["folder"]), (["-P"], ["app.pyz"]),
    (["-P"], ["-m", "json.tool", "--help"]), (MANY, ["probe.py"]), (MANY, ["-m", "package"]),
    (["-Bsb"], ["app.pyz"]), ([], ["-mprobe", "-c"]), (["-B"], ["-mpackage", "-m"]),
    ([], ["-c", PROBE, "-m"]), ([], [f"-c{PROBE}", "a", "-"]), (["-P"], ["-c", PROBE]),
    ([], ["-mpackage.nothing"]), (MANY, [f"-c{PROBE}"]), ([], ["-c", "x = ("]),
]  # fmt: skip


@pytest.mark.parametrize(("options", "words"), SEEN, ids=" ".join)
def test_program_sees_the_same(place, options, words):
    plain, ours = both(place, options, words)
    assert ours == plain


@pytest.mark.parametrize("words", [["-"], ["-", "-m", "a"]], ids=" ".join)
@pytest.mark.parametrize("options", [[], ["-P"]], ids=" ".join)
def test_program_from_standard_input(place, options, words):
    program = PROBE.replace("sys.stdin.read()", "sys.stdin.name")
    ways = [[*options, *words], [*options, "-m", "compat", *words]]
    plain, ours = (
        subprocess.run(
            [sys.executable, *way],
            cwd=place,
            input=program,
            capture_output=True,
            text=True,
            check=False,
        )
        for way in ways
    )
    assert (ours.stdout, ours.stderr, ours.returncode) == (plain.stdout, plain.stderr, 0)


@pytest.mark.parametrize(
    "words", [["-mis_ours"], ["-c", IS_OURS], [f"-c{IS_OURS}"], ["is_ours.py"]]
)
def test_every_kind_of_program_is_served_by_us(place, words):
    (place / "is_ours.py").write_text(IS_OURS)
    assert both(place, [], words, {"PYTHONPATH": ROOT}) == [("False\n", "", 0), ("True\n", "", 0)]


@pytest.mark.parametrize(
    "options", [["-S", "-m"], ["-Sm"], ["-BSm"], ["-S", "-s", "-m"]], ids=" ".join
)
def test_without_site_it_says_that_it_cannot(place, options):
    (place / "is_ours.py").write_text(IS_OURS)
    ended = python(place, *options, "compat", "is_ours.py", environment={"PYTHONPATH": ROOT})
    assert (ended.stdout, ended.returncode, ended.stderr.count("\n")) == ("", 2, 1)
    assert ended.stderr.startswith("compat: python -S")


@pytest.mark.parametrize("options", [["-um"], ["-m"], ["-Bm"]], ids=" ".join)
def test_module_option_may_be_joined_to_others(place, options):
    ours = python(place, *options, "compat", "probe.py")
    joined = python(place, f"{options[0]}compat", "probe.py")
    rest = [options[0][:-1]] if len(options[0]) > 2 else []
    assert ours.stdout == joined.stdout == python(place, *rest, "probe.py").stdout


@installed
@pytest.mark.parametrize("options", [["-I"], ["-E"]], ids=" ".join)
def test_python_that_ignores_the_environment(place, options):
    plain, ours = both(place, options, ["probe.py", "isolated"], {"PYTHONPATH": "/nowhere"})
    assert ours == plain
    (place / "is_ours.py").write_text(IS_OURS)
    assert both(place, options, ["is_ours.py"]) == [("False\n", "", 0), ("True\n", "", 0)]


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONSAFEPATH": "1"}, {"PYTHONPATH": f"inside:{ROOT}"},
        {"PYTHONPATH": f":inside:{ROOT}:"}, pytest.param({"PYTHONPATH": ""}, marks=installed),
        {"PYTHONWARNINGS": "error", "PYTHONUTF8": "1"},
    ],
    ids=str,
)  # fmt: skip
def test_environment_counts_as_ever(place, environment):
    plain, ours = both(place, [], ["probe.py"], environment)
    assert ours == plain


@pytest.mark.parametrize(
    "program",
    [
        "def f():\n    raise LookupError('oh')\nf()",
        "import socketserver\ndef f():\n    1/0\nf()",
        "x = (",
        "import sys; sys.exit()",
        "import sys; sys.exit(3)",
        "import sys; sys.exit('said')",
        "import sys; sys.exit([1])",
        "raise KeyboardInterrupt",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import os; os._exit(4)",
        "import sys\nsys.excepthook = lambda *args: print('mine', args[0], args[2].tb_lineno)\n1/0",
        "import atexit; atexit.register(print, 'bye'); raise SystemExit(5)",
        "raise BaseExceptionGroup('many', [SystemExit(1), KeyboardInterrupt()])",
    ],
)
def test_program_ends_the_same(place, program):
    (place / "program.py").write_text(program)
    plain, ours = both(place, [], ["program.py"])
    assert ours == plain


def test_another_sitecustomize_is_not_lost(place):
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "sitecustomize.py").write_text("import sys; sys.site = __file__")
    (place / "look.py").write_text("import sys; print(sys.site, sys.modules['sitecustomize'])")
    plain, ours = both(place, [], ["look.py"], {"PYTHONPATH": f"{place}/elsewhere:{ROOT}"})
    assert ours == plain
    (place / "elsewhere" / "sitecustomize.py").write_text("import nothing_at_all")
    plain, ours = both(place, [], ["look.py"], {"PYTHONPATH": f"{place}/elsewhere:{ROOT}"})
    assert "nothing_at_all" in plain[1]
    assert "nothing_at_all" in ours[1]


# -- children --------------------------------------------------------------------------------------

CHILDREN = {
    "spawn": """
import multiprocessing
def child():
    import socketserver
    print(hasattr(socketserver.ThreadingMixIn, 'max_threads'), __name__, flush=True)
if __name__ == "__main__":
    process = multiprocessing.get_context(METHOD).Process(target=child)
    process.start(); process.join()
""",
    "reload": """
import os, subprocess, sys, socketserver
if "CHILD" in os.environ:
    print(hasattr(socketserver.ThreadingMixIn, 'max_threads'), __name__, sys.argv[1:])
else:
    environment = dict(os.environ, CHILD="1")
    sys.exit(subprocess.call([sys.executable] + sys.argv, env=environment))
""",
    "exec": """
import os, sys, socketserver
if "CHILD" in os.environ:
    print(hasattr(socketserver.ThreadingMixIn, 'max_threads'), __name__, sys.argv[1:])
else:
    os.environ["CHILD"] = "1"
    os.execv(sys.executable, [sys.executable] + sys.argv)
""",
}


@pytest.mark.parametrize("kind", ["spawn", "forkserver", "reload", "exec"])
def test_children_run_on_compat_too(place, kind):
    program = CHILDREN.get(kind, CHILDREN["spawn"])
    (place / "parent.py").write_text(program.replace("METHOD", repr(kind)))
    plain, ours = both(place, [], ["parent.py", "-x"])
    assert (ours[1:], plain[1:]) == (("", 0), ("", 0))
    assert plain[0].startswith("False ")
    assert ours[0] == plain[0].replace("False", "True", 1)


def test_settings_reach_the_program_and_its_children(place):
    (place / "parent.py").write_text(
        "import os, subprocess, sys, socketserver\n"
        "from compat import late\n"
        "s = socketserver.TCPServer(('127.0.0.1', 0), None); s.server_close()\n"
        "print(socketserver.BaseServer.process_request.__module__, late.engine().__name__, flush=True)\n"
        "if sys.argv[1:]:\n"
        "    subprocess.call([sys.executable, sys.argv[0]])\n"
    )
    ended = python(
        place, "-m", "compat", "--threads", "3", "parent.py", "again",
        environment={"PYTHONPATH": ROOT},
    )  # fmt: skip
    assert ended.stdout == "compat.install compat.engine\n" * 2, ended.stderr


def test_another_python_among_the_children_is_left_alone(place):
    (place / "is_ours.py").write_text(IS_OURS)
    (place / "parent.py").write_text(
        "import os, subprocess, sys\n"
        "settings = os.environ['ASYNCSERVER_COMPAT'].split('\\n')\n"
        "os.environ['ASYNCSERVER_COMPAT'] = '\\n'.join([*settings[:2], '/another', '3.6'])\n"
        "subprocess.call([sys.executable, 'is_ours.py'])\n"
    )
    ended = python(place, "-m", "compat", "parent.py")
    assert (ended.stdout, ended.stderr) == ("False\n", "")


# -- a program with a compat of its own ------------------------------------------------------------

SERVES = """
import socket, socketserver, threading
class Upper(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline().upper())
with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Upper) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with socket.create_connection(server.server_address) as client:
        client.sendall(b"hello\\n")
        print(client.recv(100).decode(), end="")
    server.shutdown()
    thread.join()
assert hasattr(socketserver.ThreadingMixIn, "max_threads")
"""
OWN = "import sys; sys.path[:0] = PATH\nfrom compat import word\nimport compat\nprint(word, compat.__file__)\n"


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("shape", ["beside", "later", "package"])
def test_program_has_its_own_compat(place, order, shape):
    if shape == "later":
        (place / "library").mkdir()
        (place / "library" / "compat.py").write_text("word = 'mine'")
    elif shape == "package":
        (place / "compat").mkdir()
        (place / "compat" / "__init__.py").write_text("from compat.engine import word")
        (place / "compat" / "engine.py").write_text("word = 'mine'")
    else:
        (place / "compat.py").write_text("word = 'mine'")
    own = OWN.replace("PATH", repr(["library"] if shape == "later" else []))
    same = "import compat\nassert compat is before\n"
    before = own + "before = compat\n" + SERVES + same + own
    program = before if order == "before" else SERVES + own
    (place / "work").mkdir()
    shutil.move(place / "library", place / "work") if shape == "later" else None
    (place / "program.py").write_text(program)
    where = place / "work"
    plain = python(where, "../program.py")
    ours = python(where, "-m", "compat", "../program.py")
    assert "AssertionError" in plain.stderr  # the standard library does not know max_threads
    assert (ours.stderr, ours.returncode) == ("", 0)
    assert "HELLO\n" in ours.stdout
    assert plain.stdout in ours.stdout if order == "before" else "mine" in ours.stdout


def test_program_that_uses_compat_itself_finds_the_same(place):
    (place / "program.py").write_text(
        "import socketserver, compat, sys\n"
        "from compat import ThreadingTCPServer, threaded\n"
        "print(socketserver.BaseServer.serve_forever is compat.BaseServer.serve_forever)\n"
        "print(compat.__spec__.name, sys.modules['compat.servers'].TCPServer is compat.TCPServer)\n"
        "print(sys.modules['compat.late'].engine.__module__, len(compat.__path__))\n"
        "print(compat.late.handshakes() is sys.modules['compat.handshakes'])\n"  # so far not needed
    )
    ended = python(place, "-m", "compat", "program.py",
                   environment={"PYTHONPATH": ROOT})  # fmt: skip
    assert (ended.stdout, ended.stderr) == ("True\ncompat True\ncompat.late 1\nTrue\n", "")


@pytest.mark.parametrize("first", ["socketserver", "compat", "http.server"])
def test_there_is_one_compat_whoever_imports_it_first(place, first):
    (place / "program.py").write_text(
        f"import {first}, compat, socketserver\n"
        "print(socketserver.BaseServer.serve_forever is compat.BaseServer.serve_forever)\n"
        "from compat import install, late, servers\n"
        "print(vars(servers)['late'] is late, callable(install), type(late.at_home).__name__)\n"
    )
    ended = python(place, "-m", "compat", "program.py", environment={"PYTHONPATH": ROOT})
    assert (ended.stdout, ended.stderr) == ("True\nTrue True Hook\n", "")


def test_python_2_name_first(place):
    (place / "program.py").write_text(
        "import SocketServer, socketserver\n"
        "print(SocketServer is socketserver, socketserver.__spec__.name)\n" + IS_OURS
    )
    ended = python(place, "-m", "compat", "program.py")
    assert (ended.stdout, ended.stderr) == ("True socketserver\nTrue\n", "")


def test_pytest_has_nothing_to_warn_of(place):
    (place / "test_it.py").write_text(
        "import socketserver, pytest\n"
        "def test_server():\n"
        "    with socketserver.TCPServer(('127.0.0.1', 0), None):\n"
        "        assert hasattr(socketserver.ThreadingMixIn, 'max_threads')\n"
    )
    arguments = ["-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_it.py",
                 "-o", "asyncio_default_fixture_loop_scope=function"]  # fmt: skip
    ended = python(place, "-m", "compat", *arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout
    assert "warning" not in ended.stdout + ended.stderr


# -- a program with modules that are called as those of the standard library ------------------------

SERVES_TWICE = """
import os, socket, socketserver, sys, threading
class Upper(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline().upper())
        self.wfile.close()
        if "fail" in sys.argv:
            raise OSError("oh")
for kind in socketserver.ThreadingTCPServer, socketserver.TCPServer:
    with kind(("127.0.0.1", 0), Upper) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        with socket.create_connection(server.server_address, 10) as client:
            client.sendall(b"hello\\n")
            os.write(1, client.recv(100))
        server.shutdown()
        thread.join()
"""
ALL = """
import os, sys
for name in NAMES:
    module = __import__(name)
    os.write(1, (name + " " + str(getattr(module, "mine", None)) + "\\n").encode())
"""
HAS = "import os, sys; os.write(1, repr(hasattr(socketserver.ThreadingMixIn, 'max_threads')).encode())\n"


def modules_of(place: Path, *way: str) -> set[str]:
    (place / "modules.py").write_text(
        f"{SERVES_TWICE}\nos.write(1, ' '.join(sys.modules).encode())\n"
    )
    ended = python(place, *way, "modules.py", environment={"PYTHONPATH": ROOT})
    assert (ended.stderr, ended.returncode) == ("", 0)
    return set(ended.stdout.splitlines()[-1].split())


def shadows(place: Path) -> list[str]:
    """Write modules of one's own, but for what Python has inside of it, or needs in any such program."""
    taken = {name.partition(".")[0] for name in modules_of(place)}
    inside = {name for name in sys.stdlib_module_names if FrozenImporter.find_spec(name)}
    inside |= {*sys.builtin_module_names, "distutils"}  # which setuptools would answer for
    names = sorted(sys.stdlib_module_names - taken - inside)
    for number, name in enumerate(names):
        if number % 2:
            (place / f"{name}.py").write_text("mine = __name__\n")
        else:
            (place / name).mkdir()
            (place / name / "__init__.py").write_text("mine = __name__\n")
    return names


def test_program_sees_no_module_that_was_imported_for_us(place):
    plain, ours = modules_of(place), modules_of(place, "-m", "compat")
    assert ours - plain <= {"sitecustomize"}


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("word", ["", "fail"])
def test_program_has_its_own_of_every_name(place, order, word):
    own = ALL.replace("NAMES", repr(shadows(place)))
    program = own + SERVES_TWICE if order == "before" else SERVES_TWICE + own
    (place / "work").mkdir()
    (place / "program.py").write_text(program + SERVES_TWICE + HAS)
    plain = python(place / "work", "../program.py", word)
    ours = python(place / "work", "-m", "compat", "../program.py", word,
                  environment={"PYTHONPATH": ROOT})  # fmt: skip
    if word != "fail":  # the standard library's handle_error() prints by a module of the program's
        assert (plain.stderr, plain.stdout[-5:]) == ("", "False")
        assert ours.stderr == ""
        assert ours.stdout == plain.stdout.removesuffix("False") + "True"
    assert ours.stdout.count("HELLO\n") == 4
    assert ours.returncode == 0


# What runpy needs must be Python's own in the working directory, or no `python -m` would do.
@pytest.mark.parametrize(
    "name", ["logging", "typing", "click", "subprocess", "selectors", "socketserver"]
)
def test_program_in_the_working_directory_has_its_own(place, name):
    (place / f"{name}.py").write_text("mine = True\n")
    (place / "program.py").write_text(f"import {name}\nprint({name}.mine)\n{IS_OURS}")
    plain, ours = both(place, [], ["program.py"], {"PYTHONPATH": ROOT})
    assert ours[0] == plain[0].replace("False", "True")
    assert ours[2] == plain[2]
    assert (ours[1] == "") == (plain[1] == "")


def test_what_was_imported_for_us_is_what_the_program_imports(place):
    """There is one `logging`, whoever asked first, and what is in it."""
    (place / "program.py").write_text(
        "import socketserver, sys\n"
        "server = socketserver.TCPServer(('127.0.0.1', 0), None)\n"
        "server.server_close()\n"
        "import importlib.util\n"
        "found = importlib.util.find_spec('logging')\n"
        "print('logging' in sys.modules, found.name, found.loader.get_source('logging') is not None)\n"
        "import logging, logging.handlers, collections.abc, compat\n"
        "from compat import engine, late\n"
        "print(late.logger() is logging.getLogger('asyncserver'), engine.logging is logging)\n"
        "print(sys.modules['logging'] is logging, logging.__spec__.name, logging.handlers.logging is logging)\n"
        "print(engine.Callable is collections.abc.Callable, engine is sys.modules['compat.engine'])\n"
        "print(type(logging.__spec__.loader).__name__)\n"
        "import importlib; importlib.reload(logging)\n"
    )
    ended = python(place, "-m", "compat", "program.py", environment={"PYTHONPATH": ROOT})
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        "False logging True", "True True", "True logging True", "True True", "SourceFileLoader"
    ]  # fmt: skip


def test_other_threads_may_import_meanwhile(place):
    """They find in `sys.modules` what they have imported, and nothing is taken from under them."""
    (place / "program.py").write_text(
        "import importlib, os, socketserver, sys, threading\n"
        "together = threading.Barrier(20)\n"
        "names = 'logging traceback json decimal typing bisect dataclasses logging.handlers email.message'\n"
        "names = [*names.split(), 'concurrent.futures', 'asyncio', 'contextlib', 'functools', 'csv']\n"
        "def make():\n"
        "    together.wait()\n"
        "    socketserver.TCPServer(('127.0.0.1', 0), None).server_close()\n"
        "def read(first):\n"
        "    together.wait()\n"
        "    for name in names[first:] + names[:first]:\n"
        "        assert importlib.import_module(name) is sys.modules[name]\n"
        "threads = [threading.Thread(target=make) for _ in range(10)]\n"
        "threads += [threading.Thread(target=read, args=(n,)) for n in range(10)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
    )
    assert both(place, [], ["program.py"], {"PYTHONPATH": ROOT}) == [("", "", 0)] * 2


def test_program_with_a_socketserver_of_its_own(place):
    (place / "socketserver.py").write_text("class ThreadingMixIn: mine = True\n")
    (place / "program.py").write_text(
        "import socketserver\nprint(vars(socketserver)['ThreadingMixIn'].mine)"
    )
    plain, ours = both(place, [], ["program.py"], {"PYTHONPATH": ROOT})
    assert ours == plain == ("True\n", "", 0)


def test_program_with_a_python_2_name_of_its_own(place):
    (place / "SocketServer.py").write_text("mine = True\n")
    (place / "program.py").write_text("import socketserver, SocketServer\nprint(SocketServer.mine)")
    plain, ours = both(place, [], ["program.py"], {"PYTHONPATH": ROOT})
    assert ours == plain == ("True\n", "", 0)


# -- what it costs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["asyncio", "anyio", "asyncserver", "logging", "ssl", "uvloop"])
def test_importing_compat_imports_nothing_that_only_serving_needs(module, place):
    code = f"import sys, compat; print({module!r} in sys.modules)"
    assert python(place, "-c", code).stdout == "False\n"


def test_a_program_with_a_compat_of_its_own_serves_tls(place, tls):
    (place / "inside" / "compat.py").write_text("mine = True\n")
    (place / "inside" / "program.py").write_text(
        "import compat, socket, socketserver, ssl, threading\n"
        "assert compat.mine\n"
        "context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n"
        f"context.load_cert_chain({tls.certificate!r}, {tls.key!r})\n"
        "class Upper(socketserver.StreamRequestHandler):\n"
        "    def handle(self):\n"
        "        self.wfile.write(self.rfile.readline().upper())\n"
        "server = socketserver.ThreadingTCPServer(('127.0.0.1', 0), Upper)\n"
        "server.socket = context.wrap_socket(server.socket, server_side=True)\n"
        "threading.Thread(target=server.serve_forever).start()\n"
        f"client = ssl.create_default_context(cafile={tls.authority!r})\n"
        "with socket.create_connection(server.server_address, 10) as below:\n"
        "    with client.wrap_socket(below, server_hostname='localhost') as sock:\n"
        "        sock.sendall(b'hello\\n')\n"
        "        print(sock.recv(100))\n"
        "server.shutdown()\n"
        "server.server_close()\n"
    )
    ended = python(place, "-m", "compat", "inside/program.py", environment={"PYTHONPATH": ROOT})
    assert ended.stdout == "b'HELLO\\n'\n", ended.stderr


def test_a_module_that_is_called_as_one_of_pythons_is_found(place):
    (place / "json.py").write_text("mine = True\n")
    (place / "program.py").write_text("import json, socketserver\nprint(json.mine)\n")
    ended = python(place, "-m", "compat", "program.py", environment={"PYTHONPATH": ROOT})
    assert ended.stdout == "True\n", ended.stderr
