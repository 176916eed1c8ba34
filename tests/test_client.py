"""The client behind `asyncserver send`, against plain sockets: what it says, reads and raises."""

import os
import shlex
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from asyncserver import Address
from asyncserver._cli.send import exchange, how_to_try

STREAMS = ["tcp", "tcp6", "unix", "abstract"]
DATAGRAMS = ["udp", "udp6", "unixgram", "abstract unixgram"]
BIG = os.urandom(1024) * 6 * 1024  # more than any pair of socket buffers holds


def bind(kind: str, directory: str) -> tuple[socket.socket, Address]:
    """A bound socket of that kind, and its URL."""
    stream = kind in STREAMS
    how = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
    if kind in ("tcp", "udp", "tcp6", "udp6"):
        family = socket.AF_INET6 if kind.endswith("6") else socket.AF_INET
        sock = socket.socket(family, how)
        sock.bind(("::1" if kind.endswith("6") else "127.0.0.1", 0))
        return sock, Address.of_ip(kind.removesuffix("6"), *sock.getsockname()[:2])
    sock = socket.socket(socket.AF_UNIX, how)
    path = f"@{directory}" if "abstract" in kind else f"{directory}/server.sock"
    sock.bind(path.replace("@", "\0"))
    return sock, Address.of_path("unix" if stream else "unixgram", path)


@contextmanager
def answering(
    kind: str, directory: str, answer: Callable[[socket.socket], object]
) -> Iterator[Address]:
    """A server in a thread: `answer` gets one connection, or the datagram socket."""
    sock, address = bind(kind, directory)

    def serve() -> None:
        if kind in STREAMS:
            with sock.accept()[0] as connection:
                connection.settimeout(10)
                answer(connection)
        else:
            answer(sock)

    with sock:
        sock.settimeout(10)
        if kind in STREAMS:
            sock.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield address
        finally:
            thread.join()


def echo(connection: socket.socket) -> None:
    while chunk := connection.recv(65_536):
        connection.sendall(chunk)


def echo_once(sock: socket.socket) -> None:
    data, peer = sock.recvfrom(100_000)
    if peer is None:
        sock.sendall(data)
    else:
        sock.sendto(data, peer)


def ask(address: Address, data: bytes = b"hello", timeout: float | None = 10) -> bytes:
    return b"".join(exchange(address, data, timeout))


# -- streams -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("data", [b"", b"hello\n"])
def test_stream_is_half_closed_and_read_to_its_end(kind, data, directory):
    def answer(connection: socket.socket) -> None:
        question = b"".join(iter(lambda: connection.recv(100), b""))  # ends, since it half-closes
        connection.sendall(b"you said ")
        connection.sendall(question)

    with answering(kind, directory, answer) as address:
        assert ask(address, data) == b"you said " + data


@pytest.mark.parametrize("kind", STREAMS)
def test_stream_is_read_while_it_is_written(kind, directory):
    with answering(kind, directory, echo) as address:
        assert ask(address, BIG) == BIG


def test_all_is_sent_to_a_server_that_says_its_last_word_first(directory):
    received = []

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"go on")
        connection.shutdown(socket.SHUT_WR)
        received.append(b"".join(iter(lambda: connection.recv(65_536), b"")))

    with answering("tcp", directory, answer) as address:
        assert ask(address, BIG) == b"go on"
    assert received == [BIG]


def test_answer_of_a_server_that_takes_not_all_is_read_before_it_raises(directory):
    with answering("unix", directory, lambda connection: connection.sendall(b"no")) as address:
        chunks = exchange(address, BIG, 10)
        assert next(chunks) == b"no"
        with pytest.raises(ConnectionError):
            next(chunks)


def test_reset_raises(directory):
    def answer(connection: socket.socket) -> None:
        connection.recv(100)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with answering("tcp", directory, answer) as address, pytest.raises(ConnectionResetError):
        ask(address)


# -- datagrams ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DATAGRAMS)
@pytest.mark.parametrize("data", [b"", b"hello\n", b"x" * 60_000])
def test_datagram_is_answered_by_one(kind, data, directory):
    with answering(kind, directory, echo_once) as address:
        assert list(exchange(address, data, 10)) == [data]


def test_long_unix_datagram_arrives_whole(directory):
    def answer(sock: socket.socket) -> None:
        _, peer = sock.recvfrom(100)
        sock.sendto(b"x" * 150_000, peer)

    with answering("unixgram", directory, answer) as address:
        assert len(ask(address)) == 150_000


def test_unix_datagram_client_may_be_answered_by_anybody_and_leaves_nothing(directory, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", directory)
    modes: list[int] = []

    def answer(sock: socket.socket) -> None:
        question, peer = sock.recvfrom(100)
        modes.extend(os.stat(path).st_mode & 0o777 for path in (os.path.dirname(peer), peer))
        sock.sendto(question, peer)

    with answering("unixgram", directory, answer) as address:
        assert ask(address) == b"hello"
    assert modes == [0o711, 0o666]
    assert os.listdir(directory) == ["server.sock"]


# -- nobody there ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STREAMS + DATAGRAMS)
def test_where_nobody_listens_it_raises(kind, directory):
    sock, address = bind(kind, directory)
    with sock:
        if kind in DATAGRAMS:
            sock.close()  # of streams it is enough not to listen, and keeps the port from others
        with pytest.raises(ConnectionRefusedError):
            ask(address)


@pytest.mark.parametrize("scheme", ["unix", "unixgram"])
def test_path_that_is_not_there_raises(scheme, directory):
    with pytest.raises(FileNotFoundError):
        ask(Address(f"{scheme}://{directory}/nothing.sock"))


@pytest.mark.parametrize("kind", STREAMS + DATAGRAMS)
def test_silence_ends_at_the_timeout(kind, directory):
    sock, address = bind(kind, directory)
    with sock:
        if kind in STREAMS:
            sock.listen()
        with pytest.raises(TimeoutError):
            ask(address, timeout=0.05)


def test_server_that_stops_reading_ends_at_the_timeout(directory):
    sock, address = bind("unix", directory)
    with sock:
        sock.listen()
        with pytest.raises(TimeoutError):
            ask(address, BIG, timeout=0.05)


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_other_ip_family_is_tried_when_nobody_listens_on_the_first(kind, directory, monkeypatch):
    look_up = socket.getaddrinfo

    def both(host: str, *args: int, **kwargs: int) -> list[object]:
        assert host == "localhost"
        return [*look_up("::1", *args, **kwargs), *look_up("127.0.0.1", *args, **kwargs)]

    with answering(kind, directory, echo_once) as address:
        monkeypatch.setattr(socket, "getaddrinfo", both)
        assert ask(Address(f"{kind}://localhost:{address.port}")) == b"hello"


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_no_host_is_this_machine(kind, directory):
    with answering(kind, directory, echo_once) as address:
        assert ask(Address(f"{kind}://:{address.port}")) == b"hello"


# -- what to type ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("tcp://127.0.0.1:9999", "send tcp://127.0.0.1:9999 hello"),
        ("tcp://0.0.0.0:9999", "send tcp://127.0.0.1:9999 hello"),
        ("udp://[::]:9999", "send 'udp://[::1]:9999' hello"),
        ("unix:///tmp/x.sock", "send unix:///tmp/x.sock hello"),
        ("unix:///tmp/two words", "send 'unix:///tmp/two words' hello"),
        ("unixgram:@name", "send unixgram:@name hello"),
    ],
)
def test_command_to_try_names_an_address_to_connect_to(url, words, monkeypatch, directory):
    monkeypatch.setenv("PATH", directory)
    python = shlex.quote(sys.executable)
    assert how_to_try(Address(url), encrypted=False) == f"{python} -m asyncserver {words}"
    with open(os.open(f"{directory}/asyncserver", os.O_CREAT | os.O_WRONLY, 0o755), "w"):
        assert how_to_try(Address(url), encrypted=False) == f"asyncserver {words}"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("tcp://0.0.0.0:9999", "openssl s_client -quiet -connect 127.0.0.1:9999"),
        ("tcp://[::1]:9999", "openssl s_client -quiet -connect '[::1]:9999'"),
        ("unix:///tmp/x.sock", "openssl s_client -quiet -unix /tmp/x.sock"),
        ("unix:@name", None),
    ],
)
def test_command_to_try_tls_is_openssl(url, words):
    assert how_to_try(Address(url), encrypted=True) == words
