"""Our classes have the names, signatures, attributes and words of this Python's `socketserver`."""

import inspect
import socketserver
import threading

import pytest

import compat

CLASSES = [name for name in socketserver.__all__ if not name.endswith("RequestHandler")]
NEW = {"max_threads", "max_idle_threads", "close_timeout", "serve"}  # and nothing else
FLAGS = {"_BaseServer__shutdown_request", "_BaseServer__is_shut_down"}


def test_every_name_is_there():
    forking = {"ForkingUnixStreamServer", "ForkingUnixDatagramServer"}  # since 3.12 there, too
    ours = {"install", "installed", "threaded", "uninstall"}
    assert set(compat.__all__) == set(socketserver.__all__) | forking | ours
    assert list(compat.__all__) == sorted(compat.__all__)


@pytest.mark.parametrize("name", [n for n in socketserver.__all__ if n.endswith("RequestHandler")])
def test_handlers_are_the_standard_ones(name):
    assert getattr(compat, name) is getattr(socketserver, name)


@pytest.mark.parametrize("name", CLASSES)
def test_class_is_a_subclass_of_its_original(name):
    ours, original = getattr(compat, name), getattr(socketserver, name)
    assert ours is not original
    assert issubclass(ours, original)
    for base in original.__mro__[1:-1]:
        assert issubclass(ours, getattr(compat, base.__name__))
    assert (ours.__name__, ours.__doc__) == (name, original.__doc__)
    assert ours.__module__ == "compat"


@pytest.mark.parametrize("name", CLASSES)
def test_members_are_the_same(name):
    ours, original = getattr(compat, name), getattr(socketserver, name)
    assert {m for m in dir(ours) if not m.startswith("__")} - NEW - FLAGS == {
        member for member in dir(original) if not member.startswith("__")
    }
    for member in dir(original):
        mine, theirs = getattr(ours, member), getattr(original, member)
        if inspect.isfunction(theirs):
            assert inspect.signature(mine) == inspect.signature(theirs), member
            assert mine.__doc__ == theirs.__doc__, member
        elif not member.startswith("__"):
            assert mine == theirs, member


@pytest.mark.parametrize("mixin", ["Threading", "Forking"])
@pytest.mark.parametrize("kind", ["TCP", "UDP", "UnixStream", "UnixDatagram"])
def test_combination_is_what_its_parts_make(mixin, kind):
    parts = getattr(compat, f"{mixin}MixIn"), getattr(compat, f"{kind}Server")
    combined = getattr(compat, f"{mixin}{kind}Server")
    made = type("Made", parts, {})
    for member in dir(made):
        if inspect.isfunction(getattr(made, member)):
            assert getattr(combined, member) is getattr(made, member), member
    order = [parts[0], getattr(socketserver, f"{mixin}MixIn"), parts[1], socketserver.TCPServer]
    assert sorted(order, key=combined.__mro__.index) == order


def test_instances_have_the_same_attributes():
    def attributes(module):
        with module.ThreadingTCPServer(("127.0.0.1", 0), module.BaseRequestHandler) as server:
            return set(vars(server))

    assert attributes(compat) - {"request_queue_size"} == attributes(socketserver)


def test_flags_stay_where_they_are():
    with compat.TCPServer(("127.0.0.1", 0), compat.BaseRequestHandler) as server:
        assert vars(server)["_BaseServer__shutdown_request"] is False
        assert isinstance(vars(server)["_BaseServer__is_shut_down"], threading.Event)
