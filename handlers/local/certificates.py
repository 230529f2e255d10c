"""Look at the files of TLS before they are used: OpenSSL says "PEM lib" whatever is wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router_core.errors import Misconfigured

if TYPE_CHECKING:
    from handlers.local.server import ServeOptions

__all__ = ["check_certificates"]

_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"
_LARGEST: Final = 10 * 1024 * 1024


def check_certificates(options: ServeOptions) -> None:
    """Raise Misconfigured, with the option and the file, unless TLS can be served or was not asked for."""
    cert, key = options.certfile, options.keyfile
    if options.client_ca and not cert:
        raise Misconfigured("--client-ca needs a certificate of the server too: --tls-cert and --tls-key")
    if key and not cert:
        raise Misconfigured("--tls-key needs the certificate that belongs to it: --tls-cert")
    if not cert:
        return
    held = _read("--tls-cert", cert)
    keys = _read("--tls-key", key) if key else held
    if _CERTIFICATE not in held:
        swapped = _KEY in held and _CERTIFICATE in keys
        raise Misconfigured(
            f"--tls-cert {cert} holds no certificate (PEM)"
            + (f", and --tls-key {key} does: they are swapped" if swapped else "")
        )
    if _KEY not in keys:
        raise Misconfigured(
            f"--tls-key {key} holds no private key (PEM)" if key else
            f"--tls-cert {cert} holds no private key: name its file with --tls-key"
        )  # fmt: skip
    if options.client_ca and _CERTIFICATE not in _read("--client-ca", options.client_ca):
        raise Misconfigured(f"--client-ca {options.client_ca} holds no certificate (PEM)")
    _pair(cert, key)


def _pair(cert: str, key: str) -> None:
    import ssl  # 20 ms, and most servers here have no TLS

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key or None, password=_no_password)
    except ssl.SSLError as error:
        named = f"--tls-cert {cert}" + (f" and --tls-key {key}" if key else "")
        if error.reason == "KEY_VALUES_MISMATCH":
            raise Misconfigured(f"{named} do not belong together: the key is that of another one") from None
        raise Misconfigured(f"{named} cannot be used: {error.reason or error}") from None


def _no_password() -> str:
    """Stand in the way of OpenSSL, which would ask for it on the terminal."""
    raise Misconfigured(
        "the private key is encrypted, and a server has nobody to ask for its password: "
        "decrypt it (openssl pkey -in key.pem -out plain.pem)"
    )


def _read(option: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_LARGEST)
    except OSError as error:
        raise Misconfigured(f"{option} {path} cannot be read: {error.strerror}") from None
