"""Bound sockets: ports, families, and who owns the path of a Unix socket."""

import asyncio
import contextlib
import errno
import fcntl
import os
import shlex
import socket
import stat
import subprocess
import sys
import tempfile
import threading

import pytest

from asyncserver import Address, BindError, Server
from asyncserver._listen.adopted import adopt
from asyncserver._listen.bind import listen, resolve
from tests.conftest import connect, descriptors, serving, upper


def bound(url, **options):
    address = Address(url)
    hosts = [] if address.is_unix else asyncio.run(resolve(address))
    return listen(address, hosts, backlog=100, **options)


@pytest.fixture(params=["unix", "unixgram"])
def scheme(request):
    return request.param


async def refused(url, **options) -> BindError:
    server = Server(upper, url, **options)
    before = descriptors()
    with pytest.raises(BindError) as caught:
        await server.start()
    assert descriptors() == before
    assert url in str(caught.value)
    return caught.value


# -- Unix paths ----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["unix", "unixgram"])
async def test_live_socket_is_not_replaced(scheme, first, directory):
    path = f"{directory}/s"
    async with serving(upper, f"{first}://{path}") as server:
        error = await refused(f"{scheme}://{path}")
        assert error.errno == errno.EADDRINUSE
        if first == "unix":
            async with connect(server.addresses[0]) as (reader, writer):
                writer.write(b"hello\n")
                assert await reader.readline() == b"HELLO\n"
    assert os.listdir(directory) == []


def test_live_socket_with_a_full_backlog_is_not_replaced(directory):
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(f"{directory}/s")
        busy.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(f"{directory}/s")
        with pytest.raises(BindError) as caught:
            bound(f"unix://{directory}/s")
        assert caught.value.errno == errno.EADDRINUSE


async def test_stale_socket_is_replaced(scheme, directory):
    kind = socket.SOCK_STREAM if scheme == "unix" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(f"{directory}/s")
    assert os.listdir(directory) == ["s"]
    async with serving(upper, f"{scheme}://{directory}/s"):
        assert os.listdir(directory) == ["s"]
    assert os.listdir(directory) == []


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
@pytest.mark.parametrize("how", ["absolute", "relative", "through a link"])
async def test_path_of_a_socket_that_is_bound_and_does_not_listen_yet(
    kind, how, scheme, directory, monkeypatch
):
    """As of a server of the standard library between its two calls."""
    monkeypatch.chdir(directory)
    os.symlink(directory, f"{directory}/link")
    name = f"s{os.getpid()}"  # a relative one counts wherever it is, so others must not have it
    path = f"{directory}/{name}"
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(
            {"absolute": path, "relative": f"./{name}", "through a link": f"link/{name}"}[how]
        )
        assert (await refused(f"{scheme}://{path}")).errno == errno.EADDRINUSE
        if kind != socket.SOCK_DGRAM:
            sock.listen()
        with socket.socket(socket.AF_UNIX, kind) as client_:
            client_.connect(path)
    async with serving(upper, f"{scheme}://{path}"):  # dead, and therefore stale
        pass


async def test_stale_path_is_replaced_whatever_else_bears_its_name(scheme, directory):
    """A listener elsewhere, and a connection that its dead server has accepted."""
    os.mkdir(f"{directory}/other")
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]
        others[0].bind(f"{directory}/other/s")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(f"{directory}/s")
            dead.listen()
            others[1].connect(f"{directory}/s")
            stack.enter_context(dead.accept()[0])
        async with serving(upper, f"{scheme}://{directory}/s"):
            pass


async def test_directory_that_somebody_has_locked(scheme, directory):
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(f"{directory}/s")
        async with asyncio.timeout(10), serving(upper, f"{scheme}://{directory}/s"):
            assert os.listdir(directory) == ["s"]
            assert (await refused(f"{scheme}://{directory}/s")).errno == errno.EADDRINUSE
    finally:
        os.close(fd)
    assert os.listdir(directory) == []


async def test_directory_that_cannot_be_read(scheme):
    user = os.geteuid()
    # Not in $TMPDIR, which may be for its owner only.
    with tempfile.TemporaryDirectory(prefix="as-", dir="/tmp") as directory:
        os.chmod(directory, 0o733)
        if user == 0:
            os.seteuid(NOBODY)  # root may read everywhere
        try:
            async with serving(upper, f"{scheme}://{directory}/s"):
                assert stat.S_ISSOCK(os.lstat(f"{directory}/s").st_mode)
            assert not os.path.lexists(f"{directory}/s")
        finally:
            os.seteuid(user)
            os.chmod(directory, 0o700)


async def test_nothing_is_left_of_a_path_that_could_not_be_listened_on(directory, monkeypatch):
    def chmod(path, mode):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("asyncserver._listen.paths.os.chmod", chmod)
    error = await refused(f"unix://{directory}/s", mode=0o600)
    assert error.errno == errno.EPERM
    assert os.listdir(directory) == []


async def test_path_that_is_no_utf8(scheme, directory):
    async with serving(upper, f"{scheme}://{directory}/\udcff\n.") as server:
        assert os.listdir(os.fsencode(directory)) == [b"\xff\n."]
        assert server.addresses == (f"{scheme}://{directory}/%FF%0A.",)
    assert os.listdir(directory) == []


@pytest.mark.parametrize("what", ["file", "directory", "symlink"])
async def test_what_is_no_socket_is_never_touched(what, scheme, directory):
    path = f"{directory}/s"
    match what:
        case "file":
            with open(path, "w") as file:
                file.write("precious")
        case "directory":
            os.mkdir(path)
        case "symlink":
            os.symlink("elsewhere", path)
    before = os.lstat(path)
    error = await refused(f"{scheme}://{path}")
    assert error.errno == errno.EADDRINUSE
    assert os.lstat(path) == before


async def test_path_that_is_not_ours_any_more_stays(scheme, directory):
    path = f"{directory}/s"
    async with serving(upper, f"{scheme}://{path}"):
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)
            theirs = os.lstat(path).st_ino
    assert os.lstat(path).st_ino == theirs


def test_one_of_many_that_start_at_once_wins(directory):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{directory}/s")
    winners, losers = [], []
    start = threading.Barrier(8)

    def try_it():
        start.wait()
        try:
            winners.extend(bound(f"unix://{directory}/s"))
        except BindError as exc:
            losers.append(exc.errno)

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert losers == 7 * [errno.EADDRINUSE]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{directory}/s")
    winners[0].close()
    assert os.listdir(directory) == []


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_mode_is_exact_whatever_the_umask(mode, scheme, directory):
    before = os.umask(0o077)
    try:
        (listener,) = bound(f"{scheme}://{directory}/s", mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(f"{directory}/s").st_mode) == mode
    listener.close()


async def test_missing_directory(scheme, directory):
    error = await refused(f"{scheme}://{directory}/missing/s")
    assert error.errno == errno.ENOENT


NOBODY = 65_534


def test_directory_without_permission(scheme, directory):
    os.chmod(directory, 0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)  # root may write everywhere
    try:
        with pytest.raises(BindError, match="Permission denied") as caught:
            bound(f"{scheme}://{directory}/s")
    finally:
        os.seteuid(user)
        os.chmod(directory, 0o700)
    assert caught.value.errno == errno.EACCES


async def test_abstract_name(directory):
    url = f"unix:@{directory}"
    async with serving(upper, url) as server:
        assert server.addresses == (url,)
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"hello\n")
            assert await reader.readline() == b"HELLO\n"
        assert (await refused(url)).errno == errno.EADDRINUSE


async def test_path_with_spaces(directory):
    async with serving(upper, f"unix://{directory}/a%20b") as server:
        assert os.listdir(directory) == ["a b"]
        async with connect(server.addresses[0]):
            pass


# -- ports ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_second_server_on_a_port_is_refused(protocol):
    async with serving(upper, f"{protocol}://127.0.0.1:0") as server:
        assert (await refused(server.addresses[0])).errno == errno.EADDRINUSE


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_reuse_port_lets_both(protocol):
    async with serving(upper, f"{protocol}://127.0.0.1:0", reuse_port=True) as server:
        async with serving(upper, server.addresses[0], reuse_port=True) as second:
            assert second.addresses == server.addresses


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_free_port_is_the_same_on_both_families(protocol):
    for _ in range(20):
        listeners = bound(f"{protocol}://:0")
        hosts = [listener.address.host for listener in listeners]
        ports = {listener.address.port for listener in listeners}
        for listener in listeners:
            listener.close()
        assert hosts == ["::", "0.0.0.0"]
        assert len(ports) == 1


async def test_port_can_be_bound_again_right_after():
    async with serving(upper, "tcp://127.0.0.1:0") as server:
        address = server.addresses[0]
        async with connect(address) as (reader, writer):
            writer.write(b"hello\n")
            await reader.readline()
            await server.close(grace=1)  # so that this end has the TIME_WAIT
            assert await reader.read() == b""
    async with serving(upper, address):
        pass


async def test_name_binds_all_that_it_stands_for():
    async with serving(upper, "tcp://localhost:0") as server:
        assert {address.host for address in server.addresses} <= {"127.0.0.1", "::1"}
        for address in server.addresses:
            async with connect(address) as (reader, writer):
                writer.write(b"hello\n")
                assert await reader.readline() == b"HELLO\n"


async def test_name_that_cannot_be_found(monkeypatch):
    async def getaddrinfo(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(
        "asyncserver._listen.bind.asyncio.get_running_loop",
        lambda: type("Loop", (), {"getaddrinfo": staticmethod(getaddrinfo)}),
    )
    with pytest.raises(BindError, match=r"tcp://nowhere.example:1: Name or service not known"):
        await resolve(Address("tcp://nowhere.example:1"))


async def test_address_of_another_machine():
    error = await refused("tcp://192.0.2.1:0")
    assert error.errno == errno.EADDRNOTAVAIL


def test_machine_without_ipv6(monkeypatch):
    class NoIPv6(socket.socket):
        def __init__(self, family=-1, *args, **kwargs):
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported")
            super().__init__(family, *args, **kwargs)

    monkeypatch.setattr("asyncserver._listen.bind.socket.socket", NoIPv6)
    (listener,) = bound("tcp://:0")
    assert listener.address.host == "0.0.0.0"
    listener.close()


async def test_all_addresses_or_none(directory):
    before = descriptors()
    server = Server(upper, f"unix://{directory}/s", "tcp://127.0.0.1:0", "tcp://192.0.2.1:0")
    with pytest.raises(BindError):
        await server.start()
    assert descriptors() == before
    assert os.listdir(directory) == []


LINK_LOCAL = """
import asyncio, socket, sys, uvloop, asyncserver
from asyncserver.demo import upper

async def ask(url):
    async with asyncserver.Server(upper, url) as server:
        (address,) = server.addresses
        again = asyncserver.Address(str(address))
        assert (again.host, again.port) == (address.host, address.port) == ("fe80::1%lo", address.port)
        reader, writer = await asyncio.open_connection(again.host, again.port)
        writer.write(b"hello\\n")
        assert await reader.readline() == b"HELLO\\n"
        writer.close()
    async with asyncserver.Server(upper, str(address)) as second:
        assert second.addresses == (address,)

async def adopt():
    sock = socket.socket(socket.AF_INET6)
    sock.bind(socket.getaddrinfo("fe80::1%lo", 0)[0][4])
    async with asyncserver.Server(upper, sock) as server:
        (address,) = server.addresses
        again = asyncserver.Address(str(address))
        assert again.host == address.host == f"fe80::1%{socket.if_nametoindex('lo')}"
        reader, writer = await asyncio.open_connection(again.host, again.port)
        writer.close()

for factory in (asyncio.new_event_loop, uvloop.new_event_loop):
    with asyncio.Runner(loop_factory=factory) as runner:
        for url in ("tcp://[fe80::1%25lo]:0", "tcp://[fe80::1%lo]:0"):
            runner.run(ask(url))
        runner.run(adopt())
print("served")
"""


@pytest.mark.slow
def test_link_local_address_is_bound_with_its_zone():
    """In a network namespace of its own, where the loopback device has such an address."""
    script = "ip link set lo up && ip -6 addr add fe80::1/64 dev lo && exec unshare true"
    try:
        possible = (
            subprocess.run(["unshare", "-rn", "sh", "-c", script], check=False).returncode == 0
        )
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("this system lets us have no network namespace")
    program = [sys.executable, "-W", "error", "-c", LINK_LOCAL]
    script = script.replace("exec unshare true", f"exec {shlex.join(program)}")
    result = subprocess.run(
        ["unshare", "-rn", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=25,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "served\n", "")


# -- sockets that are bound already --------------------------------------------------------------


@pytest.mark.parametrize("listening", [False, True])
async def test_bound_socket_of_every_kind_is_adopted(url, listening):
    address = Address(url)
    family = socket.AF_UNIX if address.is_unix else socket.AF_INET6
    family = socket.AF_INET if address.host == "127.0.0.1" else family
    sock = socket.socket(family)
    sock.bind(address.path if address.is_unix else (address.host, 0))
    if listening:
        sock.listen(5)
    async with serving(upper, sock) as server:
        assert server.addresses[0].scheme == address.scheme
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"hello\n")
            assert await reader.readline() == b"HELLO\n"
    assert sock.fileno() == -1  # it belonged to the server
    if address.is_unix:
        assert os.path.exists(address.path)  # but the path does not


def test_sockets_that_cannot_be_adopted(tls):
    with socket.socket(socket.AF_UNIX) as unbound, pytest.raises(BindError, match="must be bound"):
        adopt(unbound)
    with socket.socket() as plain:
        plain.bind(("127.0.0.1", 0))
        with tls.server.wrap_socket(plain, server_side=True) as wrapped:
            with pytest.raises(BindError, match="tls="):
                adopt(wrapped)


async def test_adopted_socket_is_closed_with_a_server_that_never_served():
    sock = socket.create_server(("127.0.0.1", 0))
    await Server(upper, sock).close()
    assert sock.fileno() == -1
