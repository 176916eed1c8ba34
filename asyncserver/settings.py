"""What callers give: every value is looked at before anything is opened.

Pure checks. Each either returns, or raises with one sentence that names the wrong and the right thing.
"""

import functools
import inspect
import math
import operator
import os
from collections.abc import Callable, Iterable
from typing import Any, Final, ParamSpec, TypeVar

from asyncserver.errors import SettingError

__all__ = (
    "HIGHEST",
    "PERMISSIONS",
    "check_count",
    "check_files",
    "check_flag",
    "check_grace",
    "check_kind",
    "check_mode",
    "check_observers",
    "check_seconds",
    "known_words_only",
    "octets",
    "shown",
    "whole_number",
)

P = ParamSpec("P")
T = TypeVar("T")

HIGHEST: Final = 2**31 - 1  # what listen(2) and the loops can count; as seconds, 68 years
PERMISSIONS: Final = 0o777  # sticky and set-id bits mean nothing for a socket

# What other libraries call it, and what it is called here.
OTHER_WORDS: Final = {
    "host": "an address, like 'tcp://127.0.0.1:9999'",
    "port": "an address, like 'tcp://127.0.0.1:9999'",
    "path": "an address, like 'unix:///tmp/x.sock'",
    "address": "it without a name, behind the handler",
    "addresses": "them without a name, behind the handler",
    "bind": "the address without a name, behind the handler",
    "url": "the address without a name, behind the handler",
    "sock": "the bound socket without a name, behind the handler",
    "socket": "the bound socket without a name, behind the handler",
    "sockets": "the bound sockets without a name, behind the handler",
    "fd": "socket.socket(fileno=fd) without a name, behind the handler",
    "ssl": "tls=",
    "ssl_context": "tls=",
    "sslcontext": "tls=",
    "certificate": "tls=(certificate, key)",
    "certfile": "tls=(certificate, key)",
    "ssl_handshake_timeout": "timeouts=Timeouts(handshake=10)",
    "timeout": "timeouts=Timeouts(idle=300)",
    "limit": "limits=Limits(line=65536)",
    "backlog": "limits=Limits(backlog=4096)",
    "umask": "mode=, the permissions themselves",
    "grace": "it to run() or to Server.close()",
    "loop": "it to run()",
    "observer": "observers=[observer]",
}


def known_words_only(function: Callable[P, T]) -> Callable[P, T]:
    """Let `function` say of a keyword that it does not know what to write instead."""
    parameters = inspect.signature(function).parameters
    known = [name for name, each in parameters.items() if each.kind is not each.VAR_POSITIONAL]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in kwargs:
            if name not in known:
                raise TypeError(f"there is no setting {name!r}: {_instead_of(name, known)}")
        return function(*args, **kwargs)

    return checked


def check_count(name: str, value: Any, *, optional: bool) -> None:
    """Demand a whole number, at least 1; `None` where it is `optional`."""
    if value is None and optional:
        return
    if not _is_whole(value) or value < 1:
        way_out = ", or None for no limit" if optional else ""
        raise SettingError(f"{name} is {shown(value)}: write a whole number, at least 1{way_out}")
    if not optional and value > HIGHEST:
        raise SettingError(f"{name} is {shown(value)}: write at most {HIGHEST}")


def check_seconds(name: str, value: Any) -> None:
    """Demand seconds, more than 0; or `None`."""
    if value is not None and not (_is_number(value) and 0 < value <= HIGHEST):
        raise SettingError(
            f"{name} is {shown(value)}: write seconds, more than 0{_limit(value)}, or None for no deadline"
        )


def check_grace(value: Any) -> None:
    """Demand seconds, 0 for at once; or `None`."""
    if value is not None and not (_is_number(value) and 0 <= value <= HIGHEST):
        raise SettingError(
            f"grace is {shown(value)}: write seconds, at least 0{_limit(value)}, or None for no limit"
        )


def check_mode(value: Any) -> None:
    """Demand permissions; or `None`."""
    if value is None or (_is_whole(value) and 0 <= value <= PERMISSIONS):
        return
    digits = value if isinstance(value, str) else shown(value)
    if digits.isascii() and digits.isdecimal() and set(digits) <= set("01234567"):
        meant = int(digits, 8)  # without its 0o, or as text
        example = f"{meant:#o}" if meant <= PERMISSIONS else "0o660"
    else:
        example = "0o660"
    what = f"{shown(value)}, which is {value:#o}" if _is_whole(value) else shown(value)
    raise SettingError(f"mode is {what}: write permissions in octal, like {example}")


def check_flag(name: str, value: Any, *, optional: bool = False) -> None:
    """Demand true or false; or `None` where it is `optional`."""
    if not isinstance(value, bool) and not (optional and value is None):
        choice = "True, False or None" if optional else "True or False"
        raise SettingError(f"{name} is {shown(value)}: write {choice}")


def check_files(value: Any) -> None:
    """Demand names that a file could have, where TLS files are given by name."""
    for each in value if isinstance(value, tuple | list) else ():
        if not isinstance(each, str | os.PathLike):
            raise SettingError(f"tls= has {shown(each)} for a file: write (certificate, key)")
    for each in value if isinstance(value, tuple | list) else (value,):
        if isinstance(each, str) and ("\0" in each or not _is_encodable(each)):
            raise SettingError(f"tls= has {shown(each)} for a file, which no file is called")


def check_kind(name: str, value: Any, kind: type) -> None:
    """Demand a value of this class."""
    if not isinstance(value, kind):
        words = ", ".join(f"{key}=..." for key in value) if isinstance(value, dict) else "..."
        raise SettingError(f"{name} is {shown(value)}: write {name}={kind.__name__}({words})")


def check_observers(value: Any) -> tuple[Callable[..., object], ...]:
    """Demand functions to call with events, and return them."""
    if callable(value) or isinstance(value, str) or not isinstance(value, Iterable):
        raise SettingError(f"observers is {shown(value)}: write a list, like observers=[observer]")
    observers = tuple(value)
    for each in observers:
        if not callable(each):
            raise SettingError(f"{shown(each)} among the observers cannot be called with an event")
        if inspect.iscoroutinefunction(each):
            raise SettingError(f"the observer {shown(each)} is async: it is called and not awaited")
    return observers


def _instead_of(name: str, known: Iterable[str]) -> str:
    if name in OTHER_WORDS:
        return f"give {OTHER_WORDS[name]}"
    return f"there are {', '.join(each for each in known if each not in {'self', 'handler'})}"


def _is_encodable(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeError:
        return False
    return True


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and not math.isnan(value))


def _limit(value: Any) -> str:
    return f" and at most {HIGHEST}" if _is_number(value) and value > HIGHEST else ""


def shown(value: object) -> str:
    """Return how to name a value in a sentence, whatever it is."""
    try:
        return repr(value)
    except Exception:  # its own, or of a number with more digits than Python writes
        return f"{type(value).__name__} that cannot be shown"


def whole_number(call: str, value: Any) -> int:
    """Return a number of bytes, of whatever kind, or say what `call` should have been given."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"{call} takes a whole number of bytes, not {type(value).__name__}"
        ) from None


def octets(call: str, data: object) -> bytes | memoryview:
    """Return what `len()` counts the bytes of, or say what `call` should have been given."""
    if isinstance(data, str):
        raise TypeError(f"{call} takes bytes, not str: write text.encode()")
    try:
        view = memoryview(data)  # type: ignore[arg-type] # which is to be found out
    except TypeError:
        raise TypeError(
            f"{call} takes bytes, a bytearray or a memoryview, not {type(data).__name__}"
        ) from None
    return view.cast("B") if view.c_contiguous else view.tobytes()
