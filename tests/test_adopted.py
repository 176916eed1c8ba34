"""Sockets from outside: served rightly, or refused before anything is open."""

import contextlib
import errno
import os
import socket

import pytest

from asyncserver import Address, BindError, Server
from asyncserver._listen.adopted import adopt
from asyncserver.demo import upper
from asyncserver.events import AddressBound
from tests.conftest import TLS, connect, descriptors, serving
from tests.test_datagram import client, receive

STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


def bound(family, kind, name, *, v6only=None):
    sock = socket.socket(family, kind)
    if v6only is not None:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    sock.bind(name)
    return sock


def connected_tcp():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return socket.create_connection(listener.getsockname())


def accepted_tcp():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()):
            return listener.accept()[0]


def connected_udp():
    sock = bound(socket.AF_INET, DGRAM, ("127.0.0.1", 0))
    sock.connect(("127.0.0.1", 9))
    return sock


def one_of_a_pair(kind):
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    other.close()
    return one


def closed():
    sock = socket.create_server(("127.0.0.1", 0))
    sock.close()
    return sock


def mislabelled():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return socket.socket(socket.AF_UNIX, STREAM, fileno=os.dup(sock.fileno()))


def unbound(family, kind):
    return lambda directory: socket.socket(family, kind)


WRONG = {
    "closed": (lambda directory: closed(), errno.EBADF, "closed"),
    "netlink": (unbound(16, socket.SOCK_RAW), errno.ESOCKTNOSUPPORT, "no TCP, UDP or Unix socket"),
    "vsock": (unbound(40, STREAM), errno.ESOCKTNOSUPPORT, "no TCP, UDP or Unix socket"),
    "raw": (unbound(socket.AF_INET, socket.SOCK_RAW), errno.ESOCKTNOSUPPORT, "no TCP, UDP"),
    "packet": (unbound(17, socket.SOCK_RAW), errno.ESOCKTNOSUPPORT, "no TCP, UDP"),
    "seqpacket": (
        lambda directory: bound(socket.AF_UNIX, socket.SOCK_SEQPACKET, f"{directory}/other"),
        errno.ESOCKTNOSUPPORT, "no TCP, UDP or Unix socket",
    ),
    "ping": (
        lambda directory: socket.socket(socket.AF_INET, DGRAM, socket.IPPROTO_ICMP),
        errno.EPROTONOSUPPORT, "another protocol",
    ),
    "sctp": (
        lambda directory: socket.socket(socket.AF_INET, STREAM, 132),
        errno.EPROTONOSUPPORT, "another protocol",
    ),
    "reset": (lambda directory: connected_tcp(), errno.EINVAL, "tcp://127.0.0.1"),
    "accepted": (lambda directory: accepted_tcp(), errno.EISCONN, "is connected to"),
    "connected UDP": (lambda directory: connected_udp(), errno.EISCONN, "is connected to"),
    "stream pair": (lambda directory: one_of_a_pair(STREAM), None, "is connected|must be bound"),
    "datagram pair": (lambda directory: one_of_a_pair(DGRAM), None, "is connected|must be bound"),
    "mislabelled": (lambda directory: mislabelled(), errno.EPROTOTYPE, r"socket\(fileno=...\)"),
    **{
        f"unbound {family.name} {kind.name}": (unbound(family, kind), errno.EINVAL, "must be bound")
        for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
        for kind in (STREAM, DGRAM)
    },
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
async def test_what_cannot_be_served_is_refused_before_anything_is_open(what, directory, recorder):
    make, number, text = WRONG[what]
    before = descriptors()
    try:
        sock = make(directory)
    except OSError as exc:
        pytest.skip(f"this system makes no such socket: {exc}")
    here, shown = set(os.listdir(directory)), repr(sock)
    with sock:
        server = Server(upper, f"unix://{directory}/s", sock, observers=[recorder])
        with pytest.raises(BindError, match=text) as caught:
            await server.start()
        assert number in (None, caught.value.errno)
        assert what == "reset" or shown in str(caught.value)
        assert "\n" not in str(caught.value)
        assert recorder.of(AddressBound) == []
        assert set(os.listdir(directory)) == here
        assert sock.fileno() == -1  # it belonged to the server
    assert descriptors() == before


def test_descriptor_that_somebody_closed_below_the_socket():
    sock = socket.create_server(("127.0.0.1", 0))
    os.close(sock.fileno())
    try:
        with pytest.raises(BindError) as caught:
            adopt(sock)
        assert caught.value.errno == errno.EBADF
    finally:
        sock.detach()


async def test_encrypted_socket(tls: TLS):
    with socket.create_server(("127.0.0.1", 0)) as plain:
        with tls.server.wrap_socket(plain, server_side=True) as wrapped:
            with pytest.raises(BindError, match="the SSLContext as tls="):
                adopt(wrapped)


async def test_one_socket_twice():
    sock = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(BindError, match="given twice"):
        await Server(upper, sock, sock).start()


async def test_port_that_somebody_else_listens_on():
    socks: list[socket.socket] = []
    for _ in range(2):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(socks[0].getsockname() if socks else ("127.0.0.1", 0))
        socks.append(sock)
    with socks[0]:
        socks[0].listen()
        with pytest.raises(BindError) as caught:
            await Server(upper, socks[1]).start()
        assert caught.value.errno == errno.EADDRINUSE


# -- what is served ------------------------------------------------------------------------------

NAMES = {
    "ipv4": (socket.AF_INET, ("127.0.0.1", 0), "127.0.0.1"),
    "ipv6": (socket.AF_INET6, ("::1", 0), "::1"),
    "mapped": (socket.AF_INET6, ("::ffff:127.0.0.1", 0), "127.0.0.1"),
    "path": (socket.AF_UNIX, "{directory}/s", "{directory}/s"),
    "not UTF-8": (socket.AF_UNIX, "{directory}/\udcff\n", "{directory}/\udcff\n"),
    "abstract": (socket.AF_UNIX, "\0{directory}", "@{directory}"),
    "binary abstract": (socket.AF_UNIX, "\0{directory}\udcff\0\n", "@{directory}\udcff\0\n"),
}


@pytest.mark.parametrize("kind", [STREAM, DGRAM], ids=["stream", "datagram"])
@pytest.mark.parametrize("name", NAMES)
async def test_every_name_is_served_and_parses_back(name, kind, directory, recorder):
    family, raw, expected = NAMES[name]
    if isinstance(raw, str):
        raw = raw.format(directory=directory)
    v6only = 0 if name == "mapped" else None
    sock = bound(family, kind, raw, v6only=v6only)
    async with serving(upper, sock, observers=[recorder]) as server:
        (address,) = server.addresses
        assert (address.host or address.path) == expected.format(directory=directory)
        assert Address(str(address)) == address
        assert vars_of(Address(str(address))) == vars_of(address)
        assert recorder.of(AddressBound) == [AddressBound(address)]
        await ask(address, directory)


def vars_of(address: Address) -> tuple[str, str, int, str]:
    return address.scheme, address.host, address.port, address.path


async def ask(address: Address, directory: str) -> None:
    if address.is_stream:
        async with connect(address) as (reader, writer):
            writer.write(b"hello\n")
            assert await reader.readline() == b"HELLO\n"
    else:
        with client(address, directory) as sock:
            sock.send(b"hello")
            assert await receive(sock) == b"HELLO"


@pytest.mark.parametrize("kind", [STREAM, DGRAM], ids=["stream", "datagram"])
async def test_dual_stack_socket_serves_both_families(kind, directory):
    sock = bound(socket.AF_INET6, kind, ("::", 0), v6only=0)
    async with serving(upper, sock) as server:
        (address,) = server.addresses
        assert address.host == "::"
        assert vars_of(Address(str(address))) == vars_of(address)
        for host in ("127.0.0.1", "::1"):
            await ask(Address.of_ip(address.scheme, host, address.port), directory)


RELATIVE = f"s{os.getpid()}"  # counts wherever it is, so tests beside this one must not have it


@pytest.mark.parametrize("kind", [STREAM, DGRAM], ids=["stream", "datagram"])
async def test_relative_path_is_where_it_leads_to(kind, directory, monkeypatch):
    monkeypatch.chdir(directory)
    sock = bound(socket.AF_UNIX, kind, RELATIVE)
    async with serving(upper, sock) as server:
        assert server.addresses[0].path == os.path.join(os.path.realpath(directory), RELATIVE)
        await ask(server.addresses[0], directory)


@pytest.mark.parametrize("gone", [False, True])
async def test_relative_path_that_leads_nowhere_any_more(gone, directory, monkeypatch):
    monkeypatch.chdir(directory)
    sock = bound(socket.AF_UNIX, STREAM, RELATIVE)
    os.mkdir("elsewhere")
    monkeypatch.chdir("elsewhere")
    if gone:
        os.rmdir(f"{directory}/elsewhere")
    with pytest.raises(BindError) as caught:
        await Server(upper, sock).start()
    assert caught.value.errno == errno.ENOENT


async def test_socket_that_listens_already_keeps_those_who_wait():
    with contextlib.ExitStack() as stack:
        sock = socket.create_server(("127.0.0.1", 0))
        waiting = stack.enter_context(socket.create_connection(sock.getsockname()))
        waiting.sendall(b"hello\n")
        waiting.setblocking(False)
        async with serving(upper, sock):
            assert await receive(waiting) == b"HELLO\n"
