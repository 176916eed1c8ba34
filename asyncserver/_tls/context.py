"""From what `tls=` takes to the `SSLContext` of a server: read once, when the server is made.

Whoever brings a context knows what is in it, and gets it back as it is. From files we make one, and
say at the start what is wrong with them, not at the first handshake. An expired certificate is
nothing that a server could judge: its clients do.
"""

import os
import ssl
from collections.abc import Sequence

from asyncserver._settings.checks import check_files
from asyncserver._tls.engine import reason
from asyncserver.errors import SettingError

__all__ = ("TLSSource", "server_context")

TLSSource = ssl.SSLContext | str | os.PathLike[str] | tuple[str | os.PathLike[str], ...]
"""What `tls=` takes: a context, a PEM file with both, or (certificate chain, key)."""


def server_context(source: TLSSource, *, tickets: bool = True) -> ssl.SSLContext:
    """Make the context of a server: TLS 1.2 or newer, Python's default ciphers, no renegotiation.

    Files are read now and never again: neither their removal nor another working directory changes
    what was made. A context that is given is never changed.

    Args:
        source: files, or a context.
        tickets: whether a context that is made gives out session tickets in TLS 1.3. Where nobody
            can hold them back until the first answer, as `Engine.take` does, they lose what a client
            sends that closes without reading. Without them each connection shakes hands in full.

    Raises:
        SettingError: it is neither, a file is missing or unreadable, or the key does not belong to
            the certificate.

    """
    check_files(source)
    if isinstance(source, ssl.SSLContext):
        if source.protocol == ssl.PROTOCOL_TLS_CLIENT:
            raise SettingError(
                "tls= has a client's context: write ssl.create_default_context(Purpose.CLIENT_AUTH)"
            )
        return source
    files = (source,) if isinstance(source, str | os.PathLike) else source
    if not isinstance(files, tuple | list):
        raise SettingError(f"tls= is {source!r}: write an SSLContext, or (certificate, key)")
    if not 1 <= len(files) <= 2:  # noqa: PLR2004 - certificate and key
        raise SettingError(f"tls= has {len(files)} files: write (certificate, key)")
    for file in files:
        if not os.access(file, os.R_OK):
            what = "cannot be read" if os.path.exists(file) else "does not exist"
            raise SettingError(f"the TLS file {os.fspath(file)} {what}")
    context = _from_files(files)
    if not tickets:
        context.num_tickets = 0
    return context


def _from_files(files: Sequence[str | os.PathLike[str]]) -> ssl.SSLContext:
    certificate, key = files[0], files[-1] if len(files) > 1 else None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.options |= ssl.OP_NO_RENEGOTIATION  # OpenSSL 1.1.1 lets a client ask for as many
    try:
        context.load_cert_chain(certificate, key, password=_no_prompt)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        names = " and ".join(os.fspath(file) for file in files)
        raise SettingError(f"the TLS files {names} do not work: {reason(exc)}") from exc
    return context


def _no_prompt() -> str:
    raise ValueError("the key is encrypted; load it into an SSLContext and give that")
