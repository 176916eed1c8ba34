"""Which room may use which: the imports are read, all of them, and any other edge fails."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The packages and modules of asyncserver, from the top down: each may use those below it.
ORDER = (
    "__main__", "_cli", "embedding", "testing", "demo", "__init__", "_server", "_handlers", "_datagram", "_stream", "_tls",
    "_listen", "_observe", "_settings", "_lifecycle", "_cpython", "events", "errors",
)  # fmt: skip
PUBLIC = {"__init__", "embedding", "errors", "events", "testing", "demo"}  # and nothing else
# What decides, and knows neither a loop, nor a socket, nor the time.
PURE = {
    "errors", "events", "_lifecycle", "_settings.checks", "_settings.limits", "_listen.address", "_listen.admission",
    "_observe.stats", "_observe.rates", "_stream.buffer", "_stream.deadlines",
}  # fmt: skip
BY_NAME = {"import_module", "lazy_module", "_import_ours", "__import__"}  # what imports by a string
IMPURE = {"asyncio", "socket", "ssl", "time", "selectors", "threading"}
LONGEST = 350  # lines, of which many are docstrings


def modules(package: str) -> dict[str, ast.Module]:
    """All modules of a package by their names within it, like `_stream.buffer`."""
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT / package).with_suffix("").parts
        if (
            parts[0] != "_startup"
        ):  # read by any Python that a program starts, and importing none of us
            found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text())
    return found


ASYNCSERVER, COMPAT = modules("asyncserver"), modules("compat")


def imports(tree: ast.AST) -> set[tuple[str, str]]:
    """All names that are imported, wherever, also for type checkers: the module, and what of it."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "no relative imports"
            found |= {(node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Call) and name_of(node.func) in BY_NAME:
            found |= {(str(each.value), "") for each in node.args if isinstance(each, ast.Constant)}
    return found


def name_of(called: ast.expr) -> str:
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def uses(package: str, found: dict[str, ast.Module], name: str) -> set[str]:
    """Other modules of the same package that a module uses."""
    used = set()
    for module, what in imports(found[name]):
        if module == package:
            used.add(what if what in found else "__init__")
        elif module.startswith(f"{package}."):
            inner = module.removeprefix(f"{package}.")
            used.add(f"{inner}.{what}" if f"{inner}.{what}" in found else inner)
    return used


def circle(package: str, found: dict[str, ast.Module]) -> list[str]:
    """Modules that use each other in a circle, if there is one."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name not in done:
            for each in sorted(uses(package, found, name)):
                if round_trip := visit(each, [*way, name]):
                    return round_trip
            done.add(name)
        return []

    return next(filter(None, (visit(name, []) for name in sorted(found))), [])


@pytest.mark.parametrize(("package", "found"), [("asyncserver", ASYNCSERVER), ("compat", COMPAT)])
def test_no_two_modules_use_each_other(package, found):
    assert circle(package, found) == []


def test_every_package_has_its_place():
    assert {name.partition(".")[0] for name in ASYNCSERVER} == set(ORDER)


def test_what_is_public_is_bare_and_what_is_not_has_an_underscore():
    assert {name for name in ORDER if not name.startswith("_") or name == "__init__"} == PUBLIC


@pytest.mark.parametrize("name", sorted(ASYNCSERVER))
def test_imports_point_down(name):
    package = name.partition(".")[0]
    for used in uses("asyncserver", ASYNCSERVER, name):
        other = used.partition(".")[0]
        assert ORDER.index(other) >= ORDER.index(package), f"{name} must not use {used}"


@pytest.mark.parametrize("name", sorted(PURE))
def test_what_decides_is_pure(name):
    used = {module.partition(".")[0] for module, _ in imports(ASYNCSERVER[name])}
    assert not used & IMPURE


@pytest.mark.parametrize("name", sorted(ASYNCSERVER))
def test_uvloop_is_imported_only_when_a_loop_is_made(name):
    top = {
        alias.name
        for node in ASYNCSERVER[name].body
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert "uvloop" not in top


@pytest.mark.parametrize("name", sorted(ASYNCSERVER))
def test_asyncserver_does_not_know_compat(name):
    """But lazily, for a person at the command line."""
    used = {module.partition(".")[0] for module, _ in imports(ASYNCSERVER[name])}
    assert "compat" not in used or name.startswith("_cli.")


@pytest.mark.parametrize("name", sorted(COMPAT))
def test_compat_uses_only_what_is_public(name):
    for module, what in imports(COMPAT[name]):
        if module.partition(".")[0] == "asyncserver":
            assert module.removeprefix("asyncserver").lstrip(".") in {"", *PUBLIC}
            assert not what or what in {*importlib.import_module(module).__all__, *PUBLIC}


@pytest.mark.parametrize(
    ("package", "name"),
    [("asyncserver", name) for name in sorted(ASYNCSERVER)]
    + [("compat", name) for name in sorted(COMPAT)],
)
def test_a_module_says_what_it_is_for_and_is_read_in_one_sitting(package, name):
    found = {"asyncserver": ASYNCSERVER, "compat": COMPAT}[package][name]
    assert ast.get_docstring(found)
    path = ROOT.joinpath(package, *name.split(".")).with_suffix(".py")
    if path.exists():
        assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("*.py")), ids=lambda path: path.stem)
def test_no_test_waits_by_sleeping(path):
    """But on the virtual clock, where sleeping is how time passes."""
    if "loop_factories" in path.read_text():
        return
    assert not re.findall(r"\bsleep\((?!0\))", path.read_text())
