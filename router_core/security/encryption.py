"""Encryption of what is kept: AES-256 in Galois/Counter Mode (NIST SP 800-38D), with keys that change.

A setting holds one key or several, the newest first: ``base64`` of 32 bytes each, apart by commas. The first
one encrypts, all of them decrypt. What is encrypted names its key by the beginning of the key's hash, and is
bound to the place where it stands: moved elsewhere it cannot be read. Nonces are random, so a key should be
replaced long before it has encrypted 2**32 values.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

from router_core.errors import Misconfigured, StoreError

__all__ = ["MARK", "OVERHEAD", "Cipher", "generate_encryption_key", "parse_encryption_keys"]

MARK: Final = b"\x00rc\x01"
"""What everything encrypted begins with; text and JSON never do."""
_KEY_BYTES: Final = 32
_ID_BYTES: Final = 4
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_HEAD: Final = len(MARK) + _ID_BYTES + _NONCE_BYTES
OVERHEAD: Final = _HEAD + _TAG_BYTES
"""Bytes that encryption adds."""


class _Aead(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...
    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


class Cipher:
    """Encrypts with the newest key, decrypts with every one."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Raises Misconfigured without a key, or without the package that encrypts."""
        if not keys:
            raise Misconfigured("ROUTER_ENCRYPTION_KEY is set and holds no key")
        make, self._invalid = _aead()
        self._by_id: dict[bytes, _Aead] = {
            hashlib.sha256(key).digest()[:_ID_BYTES]: make(key) for key in keys
        }
        self._id = hashlib.sha256(keys[0]).digest()[:_ID_BYTES]
        self._own = self._by_id[self._id]

    def seal(self, data: bytes, place: str) -> bytes:
        """Return what may be kept of ``data`` at a place, such as ``job/<id>/result``."""
        nonce = os.urandom(_NONCE_BYTES)
        return MARK + self._id + nonce + self._own.encrypt(nonce, data, place.encode())

    def unseal(self, data: bytes, place: str) -> bytes:
        """Return what was sealed at that place; what was never encrypted comes back as it is.

        Raises StoreError for another key, another place, and bytes that have changed.
        """
        if not data.startswith(MARK):
            return data
        aead = self._by_id.get(data[len(MARK) : len(MARK) + _ID_BYTES])
        if aead is None:
            raise StoreError("what is kept here was encrypted with a key that ROUTER_ENCRYPTION_KEY lacks")
        nonce, sealed = data[len(MARK) + _ID_BYTES : _HEAD], data[_HEAD:]
        try:
            return aead.decrypt(nonce, sealed, place.encode())
        except self._invalid:
            raise StoreError("what is kept here has been changed, or moved from where it stood") from None


def generate_encryption_key() -> str:
    """Return a new key, as the setting takes it."""
    return base64.b64encode(os.urandom(_KEY_BYTES)).decode()


def parse_encryption_keys(text: str) -> tuple[bytes, ...]:
    """Return the keys of a setting; raises Misconfigured, without a key in its text."""
    keys = []
    for number, part in enumerate(text.replace(",", " ").split(), 1):
        try:
            key = base64.b64decode(
                part.replace("-", "+").replace("_", "/") + "=" * (-len(part) % 4), validate=True
            )
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != _KEY_BYTES:
            raise Misconfigured(
                f"key {number} of ROUTER_ENCRYPTION_KEY is not the base64 of {_KEY_BYTES} bytes; "
                "`openssl rand -base64 32` makes one"
            )
        keys.append(key)
    return tuple(keys)


def _aead() -> tuple[Any, type[Exception]]:
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError:
        raise Misconfigured(
            'ROUTER_ENCRYPTION_KEY needs the package cryptography: pip install "router-core[encryption]"'
        ) from None
    return AESGCM, cast("type[Exception]", InvalidTag)
