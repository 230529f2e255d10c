"""Whom a client trusts, and what a secure connection that was not made means to a caller."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from router_core.errors import Misconfigured

__all__ = ["Verify", "explain", "trust"]

Verify = ssl.SSLContext | str | Path | bool
"""True: the authorities that everybody trusts, or those of SSL_CERT_FILE and SSL_CERT_DIR. A path: the
certificates in that file or folder. A context: whatever it says."""


def trust(verify: Verify, environ: Mapping[str, str]) -> ssl.SSLContext | bool:
    """Return what httpx checks certificates with; raises Misconfigured for a file that holds none."""
    if isinstance(verify, (str, Path)):
        return _context(str(verify), "")
    if verify is not True:
        return verify
    file, folder = environ.get("SSL_CERT_FILE", ""), environ.get("SSL_CERT_DIR", "")
    return _context(file, folder, " (SSL_CERT_FILE)" if file else "") if file or folder else True


def _context(file: str, folder: str, source: str = "") -> ssl.SSLContext:
    if os.path.isdir(file):
        file, folder = "", file
    try:
        # an empty text is no path: OpenSSL would report a missing file
        return ssl.create_default_context(cafile=file or None, capath=folder or None)
    except ssl.SSLError:
        raise Misconfigured(f"{file}{source} holds no certificate in PEM form") from None
    except OSError as error:
        raise Misconfigured(f"the certificates in {file}{source} cannot be read: {error.strerror}") from None


def explain(error: ssl.SSLError) -> str:
    """Say what is wrong with the other side's certificate, or else with the connection, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message.rstrip(".")
        return _BY_CODE.get(error.verify_code, _UNTRUSTED).format(said=said)
    reason = error.reason or ""
    for word, text in _BY_REASON:
        if word in reason:
            return text
    return f"no secure connection ({reason.replace('_', ' ').lower() or error})"


_UNTRUSTED: Final = (
    "its certificate is not trusted ({said}): name a file with the certificate of its authority, by "
    'connect(verify="ca.pem"), --cacert ca.pem or SSL_CERT_FILE'
)
_OTHER_NAME: Final = (
    "its certificate is for another name ({said}): call it by the name that its certificate holds, "
    "or give it one for this name"
)
_BY_CODE: Final[Mapping[int, str]] = {  # X509_V_ERR_* of OpenSSL
    9: "its certificate is not valid yet: check the clocks of both sides",
    10: "its certificate has expired: it has to be renewed at the service",
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}
_BY_REASON: Final = (
    ("WRONG_VERSION_NUMBER", "what answers there speaks no TLS: is its address http:// instead of https://?"),
    ("HTTP_REQUEST", "what answers there speaks no TLS: is its address http:// instead of https://?"),
    ("CERTIFICATE_REQUIRED", "it asks for a certificate of yours: connect(verify=context), with a "
                             "ssl.SSLContext that has loaded one (load_cert_chain)"),
    ("UNKNOWN_CA", "it does not trust the certificate that was shown to it"),
)  # fmt: skip
