"""URLs in and out."""

import pytest

from asyncserver.address import Address, peer_address
from asyncserver.errors import AddressError


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("tcp://127.0.0.1:9999", ("tcp", "127.0.0.1", 9999, "")),
        ("tcp://[::1]:0", ("tcp", "::1", 0, "")),
        ("tcp://[fe80::1%eth0]:1", ("tcp", "fe80::1%eth0", 1, "")),
        ("tcp://:9999", ("tcp", "", 9999, "")),
        ("tcp://localhost:9999/", ("tcp", "localhost", 9999, "")),
        ("udp://0.0.0.0:53", ("udp", "0.0.0.0", 53, "")),
        ("unix:///tmp/x.sock", ("unix", "", 0, "/tmp/x.sock")),
        ("unix:///tmp/a%20b", ("unix", "", 0, "/tmp/a b")),
        ("unix:/tmp/x.sock", ("unix", "", 0, "/tmp/x.sock")),
        ("unix:@name", ("unix", "", 0, "@name")),
        ("unixgram:///tmp/x.sock", ("unixgram", "", 0, "/tmp/x.sock")),
    ],
)
def test_parts(url, parts):
    address = Address(url)
    assert (address.scheme, address.host, address.port, address.path) == parts
    assert address == url
    assert address.is_unix is url.startswith("unix")
    assert address.is_stream is (address.scheme in ("tcp", "unix"))


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("", "write tcp://host:port"),
        ("localhost:80", "write tcp://host:port"),
        ("http://localhost:80", "write tcp://host:port"),
        ("9999", "write tcp://host:port"),
        ("tcp://localhost", "has no port"),
        ("tcp://localhost:port", "write it like tcp://127.0.0.1:9999"),
        ("tcp://localhost:65536", "write it like tcp://127.0.0.1:9999"),
        ("tcp://localhost:-1", "write it like tcp://127.0.0.1:9999"),
        ("tcp://user@localhost:1", "says more than host and port"),
        ("tcp://localhost:1/path", "says more than host and port"),
        ("udp://localhost:1?x", "says more than host and port"),
        ("unix:relative", "unix:///absolute/path"),
        ("unix://", "unix:///absolute/path"),
        ("unix:///", "unix:///absolute/path"),
        ("unix:@", "unix:///absolute/path"),
        ("unix:///a%00b", "null byte"),
        ("unix:///" + 107 * "x", "at most 107 bytes"),
    ],
)
def test_mistakes_say_what_would_be_right(url, advice):
    with pytest.raises(AddressError, match=advice) as caught:
        Address(url)
    assert repr(url) in str(caught.value)


def test_ipv6_without_brackets_is_told_so():
    with pytest.raises(AddressError):
        Address("tcp://::1:9999")


@pytest.mark.parametrize("path", ["/tmp/x", "/tmp/a b%", "@abstract", "/tmp/ü"])
def test_paths_survive_the_way_out_and_in(path):
    assert Address(Address.of_path("unix", path)).path == path


def test_ip_addresses_survive_the_way_out_and_in():
    for host in ("127.0.0.1", "::1", "fe80::1%lo"):
        address = Address.of_ip("tcp", host, 1)
        assert (address.host, address.port) == (host, 1)


@pytest.mark.parametrize(
    ("raw", "peer"),
    [
        (("127.0.0.1", 1), ("127.0.0.1", 1)),
        (("::1", 1, 0, 0), ("::1", 1)),
        (("::ffff:192.0.2.1", 1, 0, 0), ("192.0.2.1", 1)),
        (("fe80::1", 1, 0, 2), ("fe80::1%2", 1)),
        (("fe80::1%lo", 1, 7, 2), ("fe80::1%lo", 1)),
        ("/tmp/x", "/tmp/x"),
        ("", ""),
        (b"", ""),
        (None, ""),
        (b"\0name", "@name"),
    ],
)
def test_peers(raw, peer):
    assert peer_address(raw) == peer
