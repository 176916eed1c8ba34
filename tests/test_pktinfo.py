"""Replies come from an address that a client can use, whatever address it has asked."""

import ipaddress
import socket
import struct

import pytest

from asyncserver._datagram.pktinfo import IPV4, IPV6, has_many, local_address, reply_control
from tests.conftest import serving
from tests.test_datagram import client, receive

LOOPBACK = socket.if_nametoindex("lo")


def told6(host: str, interface: int = 3):
    return [(*IPV6, ipaddress.IPv6Address(host).packed + struct.pack("@I", interface))]


def told4(host: str, meant: str):
    addresses = ipaddress.IPv4Address(meant).packed + ipaddress.IPv4Address(host).packed
    return [(*IPV4, struct.pack("@I", 3) + addresses)]


@pytest.mark.parametrize(
    ("host", "many"),
    [
        ("0.0.0.0", True),
        ("::", True),
        ("224.0.0.251", True),
        ("ff02::1", True),
        ("127.255.255.255", True),
        ("127.0.0.1", False),
        ("::1", False),
    ],
)
def test_who_receives_for_many(host, many):
    assert has_many(host) is many


@pytest.mark.parametrize("group", ["ff01::abc", "ff02::1", "ff0e::1", "::ffff:239.1.2.3"])
def test_nothing_is_sent_from_a_group(group):
    assert reply_control(told6(group)) == []


def test_only_link_local_replies_name_the_interface():
    assert reply_control(told6("2001:db8::1", 3)) == told6("2001:db8::1", 0)
    assert reply_control(told6("fe80::1", 3)) == told6("fe80::1", 3)


@pytest.mark.parametrize("host", ["127.0.0.2", "239.1.2.3", "127.255.255.255"])
def test_ipv4_replies_come_from_the_address_that_was_meant(host):
    told = told4(host, "127.0.0.2") + told6(f"::ffff:{host}")  # as a dual-stack socket has it
    assert local_address(told, ("::", 9999, 0, 0), ("127.0.0.1", 1)) == ("127.0.0.2", 9999)
    [(level, kind, raw)] = reply_control(told)
    assert (level, kind) == IPV4
    interface, source, _ = struct.unpack("@I4s4s", raw)
    assert (interface, socket.inet_ntop(socket.AF_INET, source)) == (0, "127.0.0.2")


def test_local_address():
    name = ("::", 9999, 0, 0)
    assert local_address(told6("2001:db8::1"), name, None) == ("2001:db8::1", 9999)
    assert local_address(told6("fe80::1", 3), name, None) == ("fe80::1%3", 9999)
    peer = ("::1", 1, 0, 0)
    assert local_address(told6("ff02::1", 3), name, peer) == ("::1", 9999)
    assert local_address([], ("127.0.0.1", 9999), None) == ("127.0.0.1", 9999)


@pytest.mark.parametrize("group", ["ff01::abc", "ff02::1", "ff0e::1"])
async def test_a_question_to_a_group_is_answered(group):
    async def handler(datagram):
        datagram._control = told6(group, LOOPBACK)
        await datagram.reply(repr(datagram.local).encode())

    async with serving(handler, "udp://[::]:0") as server:
        with client(server.addresses[0], "", host="::1") as sock:
            sock.send(b"who is there?")
            assert await receive(sock) == repr(("::1", server.addresses[0].port)).encode()


def dual_stack():
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    return sock


def bound_to(host):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    return sock


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "239.1.2.3", "127.255.255.255"])
@pytest.mark.parametrize("bind", [lambda _: dual_stack(), lambda _: bound_to("0.0.0.0"), bound_to])
async def test_ipv4_of_every_kind(host, bind):
    async def handler(datagram):
        await datagram.reply(repr(datagram.local).encode())

    sock = bind(host)
    loopback = socket.inet_aton("127.0.0.1")
    group = socket.inet_aton("239.1.2.3")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + loopback)
    async with serving(handler, sock) as server:
        port = server.addresses[0].port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.setblocking(False)
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
            asking.sendto(b"hello", (host, port))
            usable = host if host in ("127.0.0.1", "127.0.0.2") else "127.0.0.1"
            assert await receive(asking) == repr((usable, port)).encode()
