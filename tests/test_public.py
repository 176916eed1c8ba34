"""The public face: what each room exports, that all of it is documented, and its signatures."""

import ast
import importlib
import inspect
import pickle
import pkgutil

import anyio
import pytest

import asyncserver

ROOMS = sorted(
    room.name.removeprefix("asyncserver.")
    for room in pkgutil.walk_packages(asyncserver.__path__, "asyncserver.")
    if not room.ispkg and not room.name.endswith("__main__")
)
# What callers may rely on. A change here is a change for them: it wants a line in CHANGELOG.md.
SIGNATURES = {
    "BaseRequestHandler": "(request, client_address, server)",
    "Connection.aclose": "()",
    "Connection.lines": "(*, messages=None)",
    "Connection.read": "(n=-1)",
    "Connection.readexactly": "(n)",
    "Connection.readline": "()",
    "Connection.readuntil": "(separator=b'\\n')",
    "Connection.receive": "(max_bytes=65536)",
    "Connection.send": "(item)",
    "Connection.send_eof": "()",
    "Connection.start_tls": "(context)",
    "Datagram.reply": "(data)",
    "Limits": (
        "(*, connections=10000, per_host=5000, overflow='backlog', backlog=4096, line=65536,"
        " read_buffer=65536, write_buffer=65536, read_all=16777216, exactly=16777216, datagrams=1000,"
        " datagram_size=65536)"
    ),
    "Server": (
        "(handler, *addresses, tls=None, limits=Limits(), timeouts=Timeouts(), mode=None,"
        " reuse_port=False, observers=())"
    ),
    "Server.abort": "()",
    "Server.begin_close": "(grace)",
    "Server.close": "(grace=30.0)",
    "Server.start": "()",
    "Server.wait_closed": "()",
    "Timeouts": (
        "(*, handshake=10.0, idle=300.0, message=120.0, write=30.0, lifetime=86400.0, first=5.0,"
        " cleanup=0.45)"
    ),
    "run": "(handler, *addresses, grace=30.0, loop='auto', **options)",
    "serve": "(handler, *addresses, task_status=TASK_STATUS_IGNORED, **options)",
}


@pytest.mark.parametrize("name", ROOMS)
def test_all_is_sorted_and_true(name):
    room = importlib.import_module(f"asyncserver.{name}")
    assert sorted(room.__all__) == sorted(set(room.__all__))  # ruff keeps them in its order
    for exported in room.__all__:
        assert hasattr(room, exported)


def test_package_exports_what_its_init_imports():
    tree = ast.parse(inspect.getsource(asyncserver))
    imported = {
        alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert set(asyncserver.__all__) == imported
    assert list(asyncserver.__all__) == sorted(asyncserver.__all__)


OURS = [name for name in asyncserver.__all__ if name not in ("EndOfStream", "PeerAddress")]


@pytest.mark.parametrize("name", OURS)
def test_public_name_is_documented_and_at_home(name):
    found = getattr(asyncserver, name)
    assert inspect.getdoc(found)
    assert found.__module__ == "asyncserver"
    assert pickle.loads(pickle.dumps(found)) is found


def methods():
    for name in OURS:
        found = getattr(asyncserver, name)
        if isinstance(found, type):
            for attribute, value in vars(found).items():
                if not attribute.startswith("_") and callable(getattr(value, "fget", value)):
                    yield f"{name}.{attribute}", value


@pytest.mark.parametrize(("name", "method"), list(methods()))
def test_public_method_is_documented(name, method):
    documented = inspect.getdoc(method) or inspect.getdoc(
        getattr(getattr(asyncserver, name.partition(".")[0]), name.partition(".")[2])
    )
    assert documented, name


def bare(signature: inspect.Signature) -> str:
    """A signature without its annotations and `self`."""
    parameters = []
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        default = parameter.default
        if isinstance(default, asyncserver.Limits | asyncserver.Timeouts):
            assert default == type(default)()
            default = Shown(f"{type(default).__name__}()")
        elif type(default).__name__ == "_IgnoredTaskStatus":
            default = Shown("TASK_STATUS_IGNORED")
        parameters.append(parameter.replace(annotation=inspect.Parameter.empty, default=default))
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


class Shown(str):
    __slots__ = ()

    def __repr__(self):
        return str(self)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    found = asyncserver
    for part in name.split("."):
        found = getattr(found, part)
    assert bare(inspect.signature(found)) == SIGNATURES[name]  # type: ignore[arg-type]


def test_errors_carry_their_data_and_are_what_people_catch():
    for error, builtins, data in (
        (asyncserver.LineTooLongError(b"abc", 3), (anyio.DelimiterNotFound, ValueError),
         {"partial": b"abc", "limit": 3}),
        (asyncserver.IncompleteReadError(b"abc", 10), (anyio.IncompleteRead, EOFError),
         {"partial": b"abc", "expected": 10}),
        (asyncserver.DeadlineExceededError("idle", 10), (TimeoutError,),
         {"deadline": "idle", "seconds": 10}),
        (asyncserver.UpgradeRefusedError(7), (ConnectionError,), {"pending": 7}),
        (asyncserver.ConnectionBrokenError("gone"), (anyio.BrokenResourceError, ConnectionError), {}),
        (asyncserver.ConnectionClosedError("closed"), (anyio.ClosedResourceError,), {}),
        (asyncserver.ConnectionBusyError("reading"), (anyio.BusyResourceError, RuntimeError), {}),
        (asyncserver.BindError(98, "in use"), (OSError,), {"errno": 98, "strerror": "in use"}),
        (asyncserver.HandlerError("no"), (TypeError,), {}),
        (asyncserver.AddressError("no"), (ValueError,), {}),
        (asyncserver.SettingError("no"), (ValueError,), {}),
    ):  # fmt: skip
        assert isinstance(error, (asyncserver.AsyncServerError, *builtins))
        assert all(isinstance(error, builtin) for builtin in builtins)
        assert {name: getattr(error, name) for name in data} == data
        assert str(error)
