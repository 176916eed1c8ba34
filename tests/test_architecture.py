"""Which room may use which: the imports are read, and any other edge fails."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "asyncserver"

# From the ground up. A room may use the rooms below its floor.
FLOORS = [
    {"errors", "settings", "states", "limits", "gate", "address", "buffer", "deadlines", "events", "rates", "stats"},
    {"logs", "paths", "listeners", "adopted", "acceptor", "attributes", "blocking", "closing", "debugging", "driver", "foreign", "outbox", "pace", "pktinfo", "protocol", "certificate", "contexts", "engine", "handshakes", "tls", "unread"},
    {"iteration", "reader", "connection", "datagram", "handlers", "kinds", "options", "drain"},
    {"session", "packets", "crew", "doors", "server"},
    {"serve"},
    {"cli", "client", "target", "demo", "testing", "__main__"},
]  # fmt: skip
# And of its own floor only these.
LEVEL = {
    "states": {"errors"},
    "settings": {"errors"},
    "limits": {"errors", "settings"},
    "gate": {"limits"},
    "address": {"errors"},
    "buffer": {"errors"},
    "deadlines": {"limits"},
    "listeners": {"paths"},
    "adopted": {"listeners"},
    "protocol": {"driver", "pace"},
    "debugging": {"protocol"},
    "outbox": {"pktinfo", "unread"},
    "contexts": {"engine"},
    "tls": {"engine", "handshakes"},
    "stats": {"events"},
    "reader": {"iteration"},
    "connection": {"reader"},
    "handlers": {"connection", "datagram"},
    "kinds": {"connection", "datagram", "handlers"},
    "packets": {"session"},
    "crew": {"packets", "session"},
    "doors": {"crew", "session"},
    "server": {"crew", "doors", "session"},
    "cli": {"client", "target"},
    "__main__": {"cli"},
}
# The drop-in's rooms, likewise; a room may use those before it.
COMPAT = (
    "words", "late", "telling", "turns", "worker", "pool", "waking", "state", "bells", "handshakes", "engine", "awaiting", "hosting", "servers",
    "mixins", "install", "__main__",
)  # fmt: skip
# Only these know asyncserver, and of it what a room offers in its `__all__`.
BOTH_WORLDS = {"hosting"}
IMPURE = {"asyncio", "socket", "ssl", "time", "selectors", "threading"}
LONGEST = 300  # lines, of which many are docstrings
LONGER = {
    "cli": "one table of all settings, and the words of its help",
    "protocol": "what the transport calls from below, and what the connection asks from above",
    "server": "what can be seen of it beside its life",
    "session": "three kinds of handlers, each with its own way to open",
    "tls": "both faces of a layer: a transport's and a protocol's methods",
}


def rooms() -> dict[str, ast.Module]:
    return {
        path.stem: ast.parse(path.read_text())
        for path in PACKAGE.glob("*.py")
        if path.stem != "__init__"
    }


ROOMS = rooms()


def imports(tree: ast.AST) -> set[str]:
    """Names of all modules that are imported, wherever, but for the eyes of a type checker."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "no relative imports"
            found.add(node.module)
            if node.module == "asyncserver":
                found |= {f"asyncserver.{alias.name}" for alias in node.names}
                found.discard("asyncserver")
        else:
            found |= imports(node)
    return found


def floor(room: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if room in names)


def test_every_room_has_its_floor():
    assert set().union(*FLOORS) == set(ROOMS)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_imports_point_down(room):
    for name in imports(ROOMS[room]):
        if name.startswith("asyncserver."):
            used = name.removeprefix("asyncserver.")
            allowed = floor(used) < floor(room) or used in LEVEL.get(room, ())
            assert allowed, (
                f"{room} (floor {floor(room)}) must not use {used} (floor {floor(used)})"
            )
        assert name != "asyncserver", f"{room} imports the package from inside itself"
        assert room == "cli" or not name.startswith("compat"), "but lazily, on the command line"


@pytest.mark.parametrize("room", sorted(LEVEL))
def test_no_edge_is_allowed_that_nobody_uses(room):
    used = {name.removeprefix("asyncserver.") for name in imports(ROOMS[room])}
    assert LEVEL[room] <= used


@pytest.mark.parametrize("room", sorted(FLOORS[0]))
def test_ground_floor_is_pure(room):
    assert not {name.partition(".")[0] for name in imports(ROOMS[room])} & IMPURE


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_uvloop_is_imported_only_when_a_loop_is_made(room):
    top = {
        alias.name
        for node in ROOMS[room].body
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert "uvloop" not in top


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_room_can_be_read_in_one_sitting(room):
    lines = len((PACKAGE / f"{room}.py").read_text().splitlines())
    assert (lines > LONGEST) == (room in LONGER), lines
    assert ast.get_docstring(ROOMS[room])


def test_every_room_of_compat_has_its_place():
    assert {path.stem for path in (ROOT / "compat").glob("*.py")} == {*COMPAT, "__init__"}


@pytest.mark.parametrize("room", COMPAT)
def test_compat_imports_point_down_and_are_public(room):
    path = ROOT / "compat" / f"{room}.py"
    tree = ast.parse(path.read_text())
    for_types_only = {
        inner
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in set(ast.walk(tree)) - for_types_only:
        assert not (isinstance(node, ast.Import) and "compat" in ast.unparse(node))
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        package, _, used = node.module.partition(".")
        names = {alias.name for alias in node.names}
        if package == "compat":
            for each in {used} if used else names:
                assert COMPAT.index(each) < COMPAT.index(room)
        elif package == "asyncserver":
            assert room in BOTH_WORLDS
            assert names <= set(importlib.import_module(node.module).__all__)
    assert ast.get_docstring(ast.parse(path.read_text()))
    assert (
        len(path.read_text().splitlines()) <= LONGEST or room == "engine"
    )  # where both worlds meet


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("*.py")), ids=lambda path: path.stem)
def test_no_test_waits_by_sleeping(path):
    """But on the virtual clock, where sleeping is how time passes."""
    if "loop_factories" in path.read_text():
        return
    assert not re.findall(r"\bsleep\((?!0\))", path.read_text())
