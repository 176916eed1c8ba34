"""Every address that is shown is one that a client can use, on sockets of all families and wildcards."""

import asyncio
import socket
from typing import Any

import pytest

from asyncserver import Address
from asyncserver.address import peer_address
from asyncserver.pktinfo import local_address
from tests.conftest import serving
from tests.test_datagram import client, receive
from tests.test_pktinfo import told4, told6

# Linux values that the socket module does not name: a message of 64 bytes with each datagram.
SO_TIMESTAMPING = 37
SOFTWARE = 1 << 3 | 1 << 4

# What a socket is bound to, what a client asks, and what it shall be told that it has asked.
IPV4 = [("127.0.0.1", "127.0.0.1"), ("127.0.0.2", "127.0.0.2"), ("::ffff:127.0.0.1", "127.0.0.1")]
IPV6 = [("::1", "::1")]
ASKED = [
    *(("0.0.0.0", *each) for each in IPV4),
    *(("::", *each) for each in IPV4 + IPV6),
    *(("::ffff:0.0.0.0", *each) for each in IPV4),
    ("127.0.0.2", "127.0.0.2", "127.0.0.2"),
    ("::ffff:127.0.0.2", "127.0.0.2", "127.0.0.2"),
    ("::1", "::1", "::1"),
]
MANY = [
    (bound, asked, "127.0.0.1")
    for asked in ("239.1.2.3", "127.255.255.255")
    for bound in ("0.0.0.0", "::", "::ffff:0.0.0.0", asked, f"::ffff:{asked}")
]


def bound_to(host, kind):
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    if ":" in host:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind((host, 0))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


def asking(host, kind):
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    sock.setblocking(False)
    return sock


def usable(shown):
    """Connect to what was shown, as a client would that has got it as text."""
    address = Address(Address.of_ip("udp", *shown))
    assert (address.host, address.port) == shown
    with socket.socket(
        socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_DGRAM
    ) as sock:
        sock.connect((address.host, address.port))
        return sock.getpeername()[:2] == shown


@pytest.mark.parametrize(("bound", "asked", "told"), ASKED)
async def test_both_ends_of_a_connection_are_shown_as_a_client_knows_them(bound, asked, told):
    shown: list[Any] = []

    async def handler(connection):
        shown.extend((connection.local, connection.peer))

    async with serving(handler, bound_to(bound, socket.SOCK_STREAM)) as server:
        (address,) = server.addresses
        assert Address(str(address)) == address
        with asking(asked, socket.SOCK_STREAM) as sock:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, (asked, address.port))
            assert await loop.sock_recv(sock, 1) == b""
            assert shown == [(told, address.port), peer_address(sock.getsockname())]
    assert all(map(usable, shown))


@pytest.mark.parametrize(("bound", "asked", "told"), ASKED + MANY)
async def test_both_ends_of_a_datagram_are_shown_as_a_client_knows_them(bound, asked, told):
    shown: list[Any] = []

    async def handler(datagram):
        shown.extend((datagram.local, datagram.peer))
        await datagram.reply(b"here")

    bound_socket = bound_to(bound, socket.SOCK_DGRAM)
    loopback = socket.inet_aton("127.0.0.1")
    group = socket.inet_aton("239.1.2.3") + loopback
    bound_socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    # Whoever has bound it may have asked the kernel for more than we do.
    bound_socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, SOFTWARE)
    async with serving(handler, bound_socket) as server:
        (address,) = server.addresses
        assert Address(str(address)) == address
        with asking(asked, socket.SOCK_DGRAM) as sock:
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
            sock.sendto(b"hello", (asked, address.port))
            async with asyncio.timeout(10):
                assert await receive(sock) == b"here"
            assert shown[0] == (told, address.port)
            assert shown[1][1] == sock.getsockname()[1]
    assert all(map(usable, shown))


async def test_a_relative_path_is_shown_from_the_root(directory, monkeypatch):
    async def handler(datagram):
        await datagram.reply(datagram.local.encode())

    monkeypatch.chdir(directory)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bound.bind("server.sock")
    async with serving(handler, bound) as server:
        (address,) = server.addresses
        with client(address, directory) as sock:
            sock.send(b"where?")
            assert await receive(sock) == address.path.encode()


# A zone is the number of the interface, which both recvmsg() and getsockname() tell.
LINK_LOCAL = [
    ("fe80::1", 3, "fe80::1%3"),
    ("fe80::1", 25, "fe80::1%25"),
    ("febf::1", 2, "febf::1%2"),
    ("fec0::1", 2, "fec0::1"),
    ("2001:db8::1", 2, "2001:db8::1"),
    ("::1", 1, "::1"),
]


@pytest.mark.parametrize(("host", "interface", "shown"), LINK_LOCAL)
def test_a_link_local_address_has_its_zone(host, interface, shown):
    told = local_address(told6(host, interface), ("::", 9999, 0, 0), ("fe80::2", 1, 0, interface))
    assert told == (shown, 9999)
    for scheme in ("tcp", "udp"):
        address = Address(Address.of_ip(scheme, *told))
        assert (address.host, address.port) == told
    if "%" in shown:
        assert peer_address((host, 9999, 0, interface)) == told


def test_a_message_that_was_cut_short_tells_nothing():
    (level, kind, raw), *_ = told4("127.0.0.2", "127.0.0.2")
    for length in range(len(raw)):
        told = local_address([(level, kind, raw[:length])], ("0.0.0.0", 9999), ("127.0.0.1", 1))
        assert told == ("0.0.0.0", 9999)


@pytest.mark.parametrize("url", ["tcp://[::ffff:127.0.0.1]:0", "udp://[::FFFF:7f00:1]:0"])
async def test_a_mapped_address_is_the_one_that_it_stands_for(url):
    async def handler(_):
        raise AssertionError

    assert Address(url).host == "127.0.0.1"
    async with serving(handler, url) as server:
        (address,) = server.addresses
        assert address == Address.of_ip(address.scheme, "127.0.0.1", address.port)
