"""URLs in and out."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncserver.address import Address, peer_address
from asyncserver.errors import AddressError


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("tcp://127.0.0.1:9999", ("tcp", "127.0.0.1", 9999, "")),
        ("tcp://[::1]:0", ("tcp", "::1", 0, "")),
        ("tcp://[fe80::1%eth0]:1", ("tcp", "fe80::1%eth0", 1, "")),
        ("tcp://[fe80::1%25eth0]:1", ("tcp", "fe80::1%eth0", 1, "")),
        ("tcp://[fe80::1%d0]:1", ("tcp", "fe80::1%d0", 1, "")),  # %d0 is no byte
        ("tcp://[fe80::1%25d0]:1", ("tcp", "fe80::1%d0", 1, "")),
        ("tcp://[fe80::1%25a%2Fb]:1", ("tcp", "fe80::1%a/b", 1, "")),
        ("udp://[FE80::A%25Eth0]:1", ("udp", "fe80::a%Eth0", 1, "")),
        ("tcp://[fe80::1%2]:1", ("tcp", "fe80::1%2", 1, "")),
        ("tcp://[fe80::1%25]:1", ("tcp", "fe80::1%25", 1, "")),  # by its number, plainly
        ("tcp://LocalHost:1", ("tcp", "localhost", 1, "")),
        ("tcp://:9999", ("tcp", "", 9999, "")),
        ("tcp://localhost:9999/", ("tcp", "localhost", 9999, "")),
        ("udp://0.0.0.0:53", ("udp", "0.0.0.0", 53, "")),
        ("unix:///tmp/x.sock", ("unix", "", 0, "/tmp/x.sock")),
        ("unix:///tmp/a%20b", ("unix", "", 0, "/tmp/a b")),
        ("unix:/tmp/x.sock", ("unix", "", 0, "/tmp/x.sock")),
        ("unix:@name", ("unix", "", 0, "@name")),
        ("unix:///tmp/%ff", ("unix", "", 0, "/tmp/\udcff")),
        ("unix:@a%00b", ("unix", "", 0, "@a\0b")),
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
        ("localhost:80", "write 'tcp://localhost:80'"),
        ("[::1]:80", r"write 'tcp://\[::1\]:80'"),
        (":80", "write 'tcp://:80'"),
        ("/tmp/x.sock", "write 'unix:///tmp/x.sock'"),
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
        ("unix:@" + 108 * "x", "at most 108 bytes"),
        ("unix:///\ud800", "no text"),
        ("tcp://\ud800:1", "no blanks|no UTF-8"),
        ("tcp://local host:1", "no blanks"),
        ("tcp://local\nhost:1", "no blanks"),
        ("tcp://local%0ahost:1", "no blanks"),
        ("tcp://%ff:1", "no UTF-8"),
        ("tcp://127.0.0.1:1\n", "write 'tcp://127.0.0.1:1'"),
        (" tcp://127.0.0.1:1", "write 'tcp://127.0.0.1:1'"),
        ("unix:///tmp/x ", "write 'unix:///tmp/x'"),
        (" ", "write tcp://host:port"),
        ("tcp:localhost:1", "no // before"),
        ("tcp://localhost:", "has no port"),
        ("tcp://localhost:+1", "a number from 0 to 65535"),
        ("tcp://localhost:1_0", "a number from 0 to 65535"),
        ("tcp://localhost:\u0661", "a number from 0 to 65535"),
        ("tcp://localhost:" + 5000 * "1", "a number from 0 to 65535"),
        ("tcp://[::g]:1", "no IPv6 address"),
        ("tcp://[127.0.0.1]:1", "no IPv6 address"),
        ("tcp://[fe80::1%]:1", "the zone is empty"),
        ("tcp://[fe80::1%25%20]:1", "no blanks"),
        ("tcp://[fe80::1%25%ff]:1", "no IPv6 address"),
    ],
)
def test_mistakes_say_what_would_be_right(url, advice):
    with pytest.raises(AddressError, match=advice) as caught:
        Address(url)
    assert repr(url) in str(caught.value)


def test_ipv6_without_brackets_is_told_so():
    with pytest.raises(AddressError):
        Address("tcp://::1:9999")


def test_what_no_log_can_show_is_quoted():
    address = Address("unix:///tmp/a\n\udcff b")  # as the command line has it
    assert address == "unix:///tmp/a%0A%FF%20b"
    assert address.path == "/tmp/a\n\udcff b"


def test_scheme_may_be_in_capitals():
    assert Address("TCP://[::1]:1") == Address.of_ip("tcp", "::1", 1)
    assert Address("Unix:///tmp/X").path == "/tmp/X"


@pytest.mark.parametrize(
    ("thing", "advice"),
    [
        (("127.0.0.1", 80), "write 'tcp://127.0.0.1:80'"),
        (("::1", 80, 0, 0), "write 'tcp://[::1]:80'"),
        (["tcp://:1", "tcp://:2"], r"each address for itself, as in serve(handler, *addresses)"),
        (Path("/tmp/x"), "write 'unix:///tmp/x'"),
        (Path("x"), "write tcp://host:port"),
        (b"tcp://:1", "write 'tcp://:1'"),
        (9999, "write 'tcp://:9999', or socket.socket(fileno=9999)"),
        (None, "write tcp://host:port"),
        (print, "the handler comes first"),
    ],
)
def test_what_is_no_text_is_told_the_text(thing, advice):
    with pytest.raises(AddressError) as caught:
        Address(thing)
    assert str(caught.value).startswith(f"{thing!r} is no address: ")
    assert advice in str(caught.value)


@settings(deadline=None)  # a loaded machine has its pauses
@given(st.text(st.characters(exclude_categories=[]), max_size=30))
def test_any_text_is_an_address_or_an_address_error(text):
    for url in (text, f"tcp://{text}", f"udp://[{text}]:1", f"unix:///{text}", f"unixgram:@{text}"):
        try:
            address = Address(url)
        except AddressError:
            continue
        assert Address(str(address)) == address
        assert address.isprintable()


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=100))
def test_every_name_that_a_unix_socket_can_have_is_written_and_read_back(name):
    for raw, path in (
        (b"\0" + name, "@" + os.fsdecode(name)),
        (os.fsdecode(b"/" + name.replace(b"\0", b"/") + b"."),) * 2,
    ):
        peer = peer_address(raw)
        assert peer == path
        assert isinstance(peer, str)
        address = Address.of_path("unix", peer)
        assert address.path == Address(str(address)).path == path
        assert address.isascii()
        assert address.isprintable()


@settings(deadline=None)
@given(
    st.ip_addresses(v=6),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=15),
    st.integers(0, 65_535),
)
def test_every_zone_is_written_and_read_back(ip, zone, port):
    address = Address.of_ip("tcp", f"{ip}%{zone}", port)
    assert (address.host, address.port) == (f"{ip}%{zone}", port)


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


NO_TEXT = [True, 5, None, b"/x", [], memoryview(bytes(12)).cast("B", (3, 4)), object(), 1.5]


@pytest.mark.parametrize("thing", NO_TEXT, ids=lambda thing: type(thing).__name__)
@pytest.mark.parametrize(
    "make",
    [
        lambda thing: Address.of_ip("tcp", thing, 1),
        lambda thing: Address.of_path("unix", thing),
        Address,
    ],
)
def test_what_is_no_text_is_no_address(make, thing):
    with pytest.raises(AddressError, match=r"\bno (address|host|path): "):
        make(thing)


def test_what_stands_for_no_byte_is_no_address():
    for make in (
        lambda: Address.of_ip("tcp", "fe80::1%\ud800", 1),
        lambda: Address.of_path("unix", "/\ud800"),
    ):
        with pytest.raises(AddressError):
            make()


def test_a_released_view_is_no_address():
    view = memoryview(b"x")
    view.release()
    with pytest.raises(AddressError, match="write tcp:"):
        Address(view)  # type: ignore[arg-type]
