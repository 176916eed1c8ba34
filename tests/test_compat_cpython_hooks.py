"""What compat takes from private parts of CPython and anyio is there, and does what it is taken for.

Each failure is a sentence: what is gone or other in this version, and what of ours leans on it.
"""

import ast
import asyncio
import inspect
import queue
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import anyio.from_thread
import pytest

from compat import _cpython
from tests.conftest import TLS

PYTHON = f"Python {sys.version.split()[0]}"
HERE = f"{PYTHON} with anyio {version('anyio')}"
COMPAT = Path(_cpython.__file__).parent
SOON = 10
# What our classes override, as many programs do: a name is all that we know of it.
OVERRIDDEN = {"_handle_request_noblock", "_threads"}


def said(what: str, why: str) -> str:
    return f"{HERE}: {what}; {why}. See compat/_cpython.py."


def test_a_server_has_its_flags_where_programs_look_for_them():
    with socketserver.TCPServer(("127.0.0.1", 0), None) as server:  # type: ignore[arg-type]
        for name in (_cpython.SHUTDOWN_REQUEST, _cpython.IS_SHUT_DOWN):
            assert name in vars(server), said(
                f"a server has no {name}", "shutdown() of ours sets and reads it"
            )


@pytest.mark.parametrize("name", ["_handle_request_noblock", "get_request", "process_request"])
def test_a_server_handles_requests_by_the_method_that_ours_replace(name):
    source = inspect.getsource(socketserver.BaseServer)
    assert f"self.{name}(" in source, said(
        f"BaseServer does not call {name}()", "our servers override it, and serve by it"
    )


def test_threads_to_join_are_a_list_of_a_class_of_their_own():
    methods = {"append", "pop_all", "join", "reap"}
    assert methods <= set(vars(_cpython.ThreadList)), said(
        "socketserver._Threads has other methods", "ThreadingMixIn joins its requests by it"
    )
    source = inspect.getsource(socketserver.ThreadingMixIn)
    assert "_threads" in source, said(
        "ThreadingMixIn keeps no _threads", "server_close() joins what we put there"
    )


def test_the_selector_of_servers_can_be_chosen(monkeypatch):
    monkeypatch.setattr(socketserver, "_ServerSelector", socketserver._ServerSelector)  # type: ignore[attr-defined]
    chosen = type("Chosen", (), {})
    _cpython.select_with(chosen)
    source = inspect.getsource(socketserver.BaseServer.serve_forever)
    assert "_ServerSelector" in source, said(
        "serve_forever() takes its selector from elsewhere", "greenlets wait in the one set there"
    )


def test_a_connection_is_accepted_as_by_accept():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as client:
            accepted, address = _cpython.accept(listener)
            with accepted:
                found = (accepted.family, accepted.type, accepted.proto, address)
                expected = (listener.family, listener.type, listener.proto, client.getsockname())
                assert found == expected, said(
                    "socket._accept() is not what accept() is made of", "TCPServer accepts by it"
                )
                assert accepted.getpeername() == client.getsockname()


@pytest.mark.parametrize("asked", [True, False])
def test_a_socket_is_known_while_it_is_wrapped(asked, tls: TLS):
    found: list[object] = []

    class Plain(socket.socket):
        def detach(self) -> int:
            found.append(_cpython.socket_being_wrapped())
            return super().detach()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()):
            sock = listener.accept()[0]
            plain = Plain(fileno=sock.detach())
            plain.settimeout(0)  # or it would wait for a client that says nothing
            options = {"server_side": True, "do_handshake_on_connect": asked}
            try:
                tls.server.wrap_socket(plain, **options).close()
            except (ValueError, OSError):
                assert asked
    expected = [ssl.SSLSocket] if asked else [type(None)]
    assert [*map(type, found)] == expected, said(
        "SSLSocket._create does not take a socket over by detach(), with these variables",
        "handshakes are deferred there",
    )


def test_a_thread_waits_for_its_start_by_an_event_that_can_be_replaced():
    thread = threading.Thread(target=int)
    assert isinstance(vars(thread).get("_started"), threading.Event), said(
        "a thread has no event in _started", "a pool's jobs wait by another one"
    )
    thread._started = _cpython.Started()  # type: ignore[attr-defined]
    thread.start()
    thread.join(SOON)
    assert not thread.is_alive()


def test_one_thread_can_take_the_place_of_another():
    seen: list[object] = []
    job = threading.Thread(name="job")

    def work() -> None:
        own = threading.current_thread()
        _cpython.take_identity(job, own)
        _cpython.appear_as(job)
        seen.extend([threading.current_thread(), job.ident == threading.get_ident()])
        _cpython.appear_as(None)
        seen.append(job in threading.enumerate())
        _cpython.appear_as(own)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(SOON)
    assert seen == [job, True, False], said(
        "threads are not listed in threading._active", "each job of a pool looks like a new thread"
    )


def test_all_that_a_thread_is_to_the_system_is_known():
    """What `start` sets is what a job that begins in a thread has to be given."""
    thread, done = threading.Thread(target=lambda: done.wait(SOON)), threading.Event()
    before = dict(vars(thread))
    thread.start()
    after = dict(vars(thread))
    done.set()
    thread.join(SOON)
    changed = {name for name, value in after.items() if before.get(name) is not value}
    others = {"_target", "_args", "_kwargs"}  # taken away when it has run
    assert changed - others <= set(_cpython.IDENTITY), said(
        f"a thread that starts gets {sorted(changed - others)}", "jobs of a pool are given the same"
    )


def test_what_a_job_raises_reaches_the_hook(monkeypatch):
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_type))
    thread = threading.Thread()
    try:
        raise LookupError
    except LookupError:
        _cpython.call_excepthook(thread)
    assert told == [LookupError], said(
        "Thread._invoke_excepthook does not call threading.excepthook", "jobs tell what they raise"
    )


def test_idle_threads_are_told_before_the_interpreter_waits_for_them():
    program = (
        "import threading\nfrom compat import _cpython\nleave = threading.Event()\n"
        "threading.Thread(target=leave.wait, args=(20,)).start()\n"
        "print(_cpython.before_threads_are_joined(leave.set))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], timeout=15, capture_output=True, text=True, check=False
    )
    assert (result.stdout, result.stderr) == ("True\n", ""), said(
        "threading._register_atexit does not call before threads are joined", "pools end by it"
    )


def test_a_running_loop_can_be_hidden():
    async def word() -> str:
        return "inner"

    async def main() -> list[object]:
        loop = _cpython.hide_running_loop()
        try:
            inner = asyncio.run(word())
        finally:
            _cpython.show_running_loop(loop)
        return [loop is asyncio.get_running_loop(), inner]

    assert asyncio.run(main()) == [True, "inner"], said(
        "_asyncio does not say which loop runs",
        "a server may serve where one does, as in a notebook",
    )


async def test_a_thread_of_ours_can_reach_the_loop():
    loop = asyncio.get_running_loop()

    async def answer() -> str:
        return "reached"

    def work() -> str:
        with _cpython.reach_loop(loop):
            return anyio.from_thread.run(answer)

    result = await loop.run_in_executor(None, work)
    assert result == "reached", said(
        "claim_worker_thread does not", "anyio.from_thread works in hosted handlers by it"
    )


def test_queues_are_those_of_queue():
    assert (_cpython.SimpleQueue, _cpython.Empty) == (queue.SimpleQueue, queue.Empty), said(
        "queue takes its classes from elsewhere than _queue", "pools hand jobs over by them"
    )


def test_the_interpreters_options_can_be_told():
    program = "from compat import _cpython\nprint(*_cpython.interpreter_flags())"
    result = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", program],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.stdout == "-B -Werror\n", said(
        f"subprocess does not tell them: {result.stderr}", "the command line starts Python anew"
    )


def test_the_import_system_has_what_sitecustomize_takes_from_it():
    for name, finder in (
        ("_frozen_importlib", "BuiltinImporter"), ("_frozen_importlib", "FrozenImporter"),
        ("_frozen_importlib_external", "PathFinder"),
    ):  # fmt: skip
        assert hasattr(sys.modules[name], finder), said(
            f"{name} has no {finder}",
            "programs of asyncserver run are given their own modules by it",
        )
    spec = asyncio.__spec__
    assert spec is not None
    assert hasattr(spec, "_initializing"), said(
        "a spec does not say whether its module is being imported", "other threads may be at it"
    )


# -- and nowhere else ------------------------------------------------------------------------------


def private_parts(path: Path) -> set[str]:
    """Private names of modules that are not ours, as a module of compat uses them."""
    tree = ast.parse(path.read_text())
    imported: set[str] = set()
    found: set[str] = set()
    for node in ast.walk(tree):
        names = [alias.name for alias in getattr(node, "names", ()) if isinstance(alias, ast.alias)]
        where = getattr(node, "module", None) or ""
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and where):
            if where.partition(".")[0] in {"compat", "__future__"}:
                continue
            imported |= {name.partition(".")[0] for name in names}
            parts = [part for name in [where, *names] for part in name.split(".")]
            found |= {part for part in parts if part.startswith("_") and part[:2] != "__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr[:1] == "_" and node.attr[:2] != "__":
            root: ast.expr = node
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in imported:
                found.add(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", sorted(COMPAT.glob("*.py")), ids=lambda path: path.stem)
def test_private_parts_of_others_are_used_in_one_room(path):
    found = private_parts(path)
    if path.stem == "_cpython":
        assert "anyio._core._eventloop" in path.read_text()
        assert found
    else:
        assert {each for each in found if each.rpartition(".")[2] not in OVERRIDDEN} == set()
