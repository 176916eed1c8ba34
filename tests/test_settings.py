"""Every argument is looked at before anything is opened, and a wrong one is told the right one."""

import asyncio
import math
import ssl
from typing import Any

import pytest
import trustme

import asyncserver
from asyncserver import Limits, Server, ServerStateError, SettingError, Timeouts
from asyncserver.demo import upper
from asyncserver.settings import check_grace, check_mode
from tests.conftest import TLS, connect, descriptors, serving

TCP = "tcp://127.0.0.1:0"
NAN, INF = math.nan, math.inf


async def observer(event):
    pass


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "decimal permissions": ({"mode": 660}, "mode is 660, which is 0o1224: .* octal, like 0o660"),
    "more decimal permissions": ({"mode": 777}, "like 0o777"),
    "special bits": ({"mode": 0o1777}, "mode is 1023, which is 0o1777"),
    "permissions as text": ({"mode": "600"}, "mode is '600': .* like 0o600"),
    "permissions as words": ({"mode": "rw"}, "mode is 'rw': .* like 0o660"),
    "negative permissions": ({"mode": -1}, "mode is -1, which is -0o1: .* like 0o660"),
    "true permissions": ({"mode": True}, "mode is True: write permissions"),
    "broken permissions": ({"mode": 6.0}, "mode is 6.0: write permissions"),
    "limits as a dict": (
        {"limits": {"connections": 5, "line": 3}},
        r"limits is {.*}: write limits=Limits\(connections=..., line=...\)",
    ),
    "no limits": ({"limits": None}, r"limits is None: write limits=Limits\(...\)"),
    "limits as a class": ({"limits": Limits}, r"write limits=Limits\(...\)"),
    "timeouts as a number": ({"timeouts": 5}, r"timeouts is 5: write timeouts=Timeouts\(...\)"),
    "each other's": ({"timeouts": Limits()}, r"write timeouts=Timeouts\(...\)"),
    "one observer": ({"observers": print}, r"observers is <built-in .*>: write .*observers=\["),
    "no observers": ({"observers": None}, "observers is None: write a list"),
    "observers as text": ({"observers": "print"}, "observers is 'print': write a list"),
    "no observer": ({"observers": [print, 5]}, "5 among the observers cannot be called"),
    "async observer": ({"observers": [observer]}, "is async: it is called and not awaited"),
    "number for a flag": ({"reuse_port": 1}, "reuse_port is 1: write True or False"),
    "text for a flag": ({"reuse_port": "no"}, "reuse_port is 'no': write True or False"),
    "TLS files that are none": ({"tls": (None, None)}, r"tls= has None for a file: write \(cert"),
    "TLS numbers": ({"tls": (1, 2)}, "tls= has 1 for a file"),
    "TLS bytes": ({"tls": (b"x", b"y")}, "tls= has b'x' for a file"),
    "TLS null byte": ({"tls": "a\0b"}, r"tls= has 'a\\x00b' for a file"),
    "TLS surrogate": ({"tls": "\ud800"}, r"tls= has '\\ud800' for a file"),
    "TLS directory": ({"tls": "/"}, "the TLS files / do not work"),
    "TLS flag": ({"tls": True}, "tls= is True: write an SSLContext"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("verb", ["Server", "serve", "run"])
def test_mistake_in_a_setting(mistake, verb):
    setting, advice = MISTAKES[mistake]
    before = descriptors()
    with pytest.raises(SettingError, match=advice) as caught:
        call(verb, **setting)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    assert descriptors() == before


def call(verb, handler=upper, *addresses, **options):
    addresses = addresses or (TCP,)
    if verb == "serve":
        asyncio.run(asyncserver.serve(handler, *addresses, **options))
    elif verb == "run":
        asyncserver.run(handler, *addresses, loop="asyncio", **options)
    else:
        Server(handler, *addresses, **options)


WORDS = {
    "host": "'tcp://127.0.0.1:9999'", "port": "'tcp://127.0.0.1:9999'", "ssl": "give tls=",
    "sock": "the bound socket without a name, behind the handler",
    "addresses": "give them without a name", "limit": r"limits=Limits\(", "timeout": r"timeouts=Timeouts\(", "modus": "there are tls, limits,",
}  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("verb", ["Server", "serve", "run"])
def test_unknown_keyword_is_a_type_error_that_says_what_to_write(word, verb):
    with pytest.raises(TypeError, match=f"there is no setting '{word}': .*{WORDS[word]}"):
        call(verb, **{word: 1})


def test_grace_has_its_places():
    with pytest.raises(TypeError, match=r"'grace': give it to run\(\) or to Server.close\(\)"):
        call("serve", grace=3)


@pytest.mark.parametrize("value", [-1, -0.1, NAN, INF, -INF, "5", True, 10**400, [3], 2.0**31])
def test_wrong_grace_changes_nothing(value):
    with pytest.raises(SettingError, match=r"grace is .*: write seconds, at least 0.*or None"):
        check_grace(value)
    before = descriptors()
    with pytest.raises(SettingError, match="grace is"):
        asyncserver.run(upper, TCP, grace=value)
    assert descriptors() == before


async def test_server_that_was_given_a_wrong_grace_serves_on_and_can_be_closed(url):
    async with serving(upper, url) as server:
        wrong: Any = "5"
        with pytest.raises(SettingError):
            await server.close(wrong)
        with pytest.raises(SettingError):
            server.begin_close(wrong)
        assert server.state is asyncserver.ServerState.SERVING
        async with connect(server.addresses[0]) as (reader, writer):
            writer.write(b"hello\n")
            assert await reader.readline() == b"HELLO\n"
        await server.close(0)


@pytest.mark.parametrize("value", [None, 0, 0.0, 1, 30.0, 2**31 - 1])
def test_right_grace(value):
    check_grace(value)


@pytest.mark.parametrize("value", [None, 0, 0o600, 0o777])
def test_right_mode(value):
    check_mode(value)


@pytest.mark.parametrize("value", [INF, 10**400, 2**31, [1], 1j])
def test_wrong_seconds(value):
    with pytest.raises(SettingError, match=r"Timeouts.idle is .*: write seconds, more than 0"):
        Timeouts(idle=value)


async def test_observers_may_be_anything_to_iterate_over():
    seen: list[object] = []
    async with serving(upper, TCP, observers=(each for each in [seen.append])):
        assert len(seen) == 1


async def test_run_inside_a_running_loop():
    before = descriptors()
    with pytest.raises(ServerStateError, match=r"write `await asyncserver.serve\(...\)`"):
        asyncserver.run(upper, TCP)
    assert descriptors() == before


@pytest.mark.parametrize("loop", ["trio", None, asyncio.new_event_loop, 5])
def test_wrong_loop(loop):
    with pytest.raises(SettingError, match="write 'auto', 'uvloop' or 'asyncio'"):
        asyncserver.run(upper, TCP, loop=loop)


@pytest.mark.parametrize("verb", ["Server", "serve", "run"])
def test_handler_and_address_in_the_wrong_order(verb):
    with pytest.raises(asyncserver.AddressError, match="the handler comes first"):
        call(verb, TCP, upper)


# -- TLS -----------------------------------------------------------------------------------------


def context(**settings: Any) -> ssl.SSLContext:
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for name, value in settings.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    "settings",
    [{}, {"maximum_version": ssl.TLSVersion.TLSv1_2}, {"minimum_version": ssl.TLSVersion.TLSv1_3}],
    ids=["any", "1.2", "1.3"],
)
@pytest.mark.parametrize("certified", [False, True])
async def test_context_without_a_certificate(certified, settings, authority: trustme.CA):
    made = context(**settings)
    authority.configure_trust(made)  # which is about clients
    if certified:
        authority.issue_cert("localhost").configure_cert(made)
        Server(upper, TCP, tls=made)
    else:
        with pytest.raises(SettingError, match=r"tls= has no certificate.*load_cert_chain"):
            Server(upper, TCP, tls=made)


def test_context_of_a_client():
    with pytest.raises(SettingError, match="tls= has a client's context"):
        Server(upper, TCP, tls=ssl.create_default_context())


def test_context_whose_certificate_does_not_fit_its_ciphers(authority: trustme.CA):
    made = context(maximum_version=ssl.TLSVersion.TLSv1_2)
    made.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    authority.issue_cert("x", key_type=trustme.KeyType.ECDSA).configure_cert(made)
    with pytest.raises(SettingError, match="no certificate that it can show"):
        Server(upper, TCP, tls=made)


@pytest.mark.parametrize("key", list(trustme.KeyType))
async def test_certificates_of_every_kind_and_clients_that_need_one(key, authority: trustme.CA):
    made = context(verify_mode=ssl.CERT_REQUIRED)
    authority.issue_cert("localhost", key_type=key).configure_cert(made)
    Server(upper, TCP, tls=made)


async def test_certificate_that_comes_with_the_name(tls: TLS):
    made = context()
    asked = []

    def choose(sock, name, _):
        asked.append(name)
        sock.context = tls.server

    made.sni_callback = choose
    async with serving(upper, TCP, tls=made) as server:
        assert asked == []  # it may cost much, or be counted
        address = server.addresses[0]
        async with connect(address, ssl=tls.client, server_hostname="localhost") as (
            reader,
            writer,
        ):
            writer.write(b"hello\n")
            assert await reader.readline() == b"HELLO\n"
    assert asked == ["localhost"]


@pytest.mark.skipif(not hasattr(ssl.SSLContext, "set_psk_server_callback"), reason="since 3.13")
async def test_shared_keys_need_no_certificate():
    made: Any = context(maximum_version=ssl.TLSVersion.TLSv1_2)
    made.set_ciphers("PSK")
    made.set_psk_server_callback(lambda identity: b"key")
    Server(upper, TCP, tls=made)


class Unspeakable:
    """Whatever cannot even be shown."""

    def __repr__(self):
        raise LookupError


@pytest.mark.parametrize("value", [10**5000, Unspeakable()], ids=["too long", "unspeakable"])
def test_a_value_that_cannot_be_shown_is_refused_by_its_kind(value):
    kind = type(value).__name__
    for name, make in {
        "Limits.backlog": lambda: Limits(backlog=value),
        "Timeouts.idle": lambda: Timeouts(idle=value),
        "grace": lambda: check_grace(value),
        "reuse_port": lambda: Server(upper, TCP, reuse_port=value),
        "observers": lambda: Server(upper, TCP, observers=value),
        "limits": lambda: Server(upper, TCP, limits=value),
    }.items():
        with pytest.raises(SettingError, match=f"^{name} is {kind} that cannot be shown: write"):
            make()
    with pytest.raises(SettingError, match="write permissions in octal, like 0o660"):
        check_mode(value)
