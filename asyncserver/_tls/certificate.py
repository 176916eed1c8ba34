"""Whether a TLS context can serve anybody: `ssl` does not tell, so a client in memory asks it.

A context without a certificate looks like any other, and fails each client alike; that belongs to the
start.
"""

import contextlib
import ssl
import warnings
from typing import Final

from asyncserver.errors import SettingError

__all__ = ("check_certificate",)

# What OpenSSL says where it has no certificate, or none that its ciphers can use.
NO_CERTIFICATE: Final = frozenset({
    "NO_SHARED_CIPHER", "NO_SUITABLE_SIGNATURE_ALGORITHM", "UNSUPPORTED_PROTOCOL",
})  # fmt: skip


def check_certificate(context: ssl.SSLContext) -> None:
    """Raise `SettingError` if `context` has no certificate to show.

    Contexts that get theirs from an SNI callback, or need none because of shared keys, are not asked.
    """
    if getattr(context, "sni_callback", None) is not None:
        return
    if any(cipher.get("auth") == "auth-psk" for cipher in context.get_ciphers()):
        return
    incoming = ssl.MemoryBIO()
    incoming.write(_hello())
    try:
        context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
    except ssl.SSLWantReadError:
        pass  # it has shown one, and waits for the client's answer
    except ssl.SSLError as exc:
        if exc.reason in NO_CERTIFICATE:
            raise SettingError(
                "the SSLContext in tls= has no certificate that it can show: call"
                " context.load_cert_chain(certificate, key), or write tls=(certificate, key)"
            ) from exc


def _hello() -> bytes:
    """Return the first words of a client that takes whatever it is offered."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of old versions, which some still need
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    hello = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello).do_handshake()
    return hello.read()
