"""Webhook signatures after Standard Webhooks 1.0: who sent a message, and that it is fresh and unaltered.

The signature covers ``{id}.{timestamp}.{body}``. A message carries one signature for each secret in use, so
that a secret can be replaced without losing a message: add the new one, let receivers take it up, then
remove the old one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from router_core.errors import Misconfigured, Unauthorized

__all__ = [
    "ID_HEADER",
    "SIGNATURE_HEADER",
    "TIMESTAMP_HEADER",
    "InvalidSignature",
    "Verified",
    "generate_secret",
    "parse_secret",
    "parse_secrets",
    "sign",
    "signed_headers",
    "verify",
]

ID_HEADER: Final = "webhook-id"
TIMESTAMP_HEADER: Final = "webhook-timestamp"
SIGNATURE_HEADER: Final = "webhook-signature"

_PREFIX: Final = "whsec_"
_MIN_KEY: Final = 24
_MAX_KEY: Final = 64
_MAX_SIGNATURES: Final = 16
"""More than any rotation needs; a receiver must not be made to compare for ever."""

Secret = str | bytes
"""``whsec_`` + base64 (the prefix may be missing), or the raw key."""


class InvalidSignature(Unauthorized):
    """A webhook is not from whom it claims, or not from now.

    ``code`` says which: webhook_header_missing, webhook_header_malformed, webhook_too_old,
    webhook_too_new, webhook_signature_mismatch.
    """

    code = "webhook_signature_mismatch"


@dataclass(frozen=True, slots=True)
class Verified:
    """What a genuine message says about itself; ``id`` repeats when a delivery is repeated."""

    id: str
    timestamp: int


def generate_secret() -> str:
    """Return a new secret: ``whsec_`` and 32 random bytes in base64."""
    return _PREFIX + base64.b64encode(os.urandom(32)).decode()


def parse_secret(secret: Secret) -> bytes:
    """Return the key of one secret; raises Misconfigured, without the secret in its text."""
    key = secret if isinstance(secret, bytes) else _decode(secret.strip())
    if not _MIN_KEY <= len(key) <= _MAX_KEY:
        raise Misconfigured(
            f"a webhook secret must hold {_MIN_KEY} to {_MAX_KEY} bytes, this one holds {len(key)}; "
            "make one with generate_secret()"
        )
    return key


def parse_secrets(text: str) -> tuple[bytes, ...]:
    """Return the keys of a setting with one or several secrets, apart by commas or spaces; newest first."""
    return tuple(parse_secret(part) for part in text.replace(",", " ").split())


def sign(secret: Secret, msg_id: str, timestamp: int, body: bytes) -> str:
    """Return ``v1,`` and the base64 of the HMAC-SHA256."""
    return "v1," + base64.b64encode(_digest(parse_secret(secret), msg_id, timestamp, body)).decode()


def signed_headers(secrets: Sequence[Secret], msg_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the three headers of a message, with one signature for each secret."""
    if not secrets:
        raise Misconfigured("there is no secret to sign webhooks with: set ROUTER_WEBHOOK_SECRET")
    if not msg_id.isascii() or not msg_id.isprintable() or " " in msg_id:
        raise ValueError("a webhook id must be printable ASCII without spaces")
    return {
        ID_HEADER: msg_id,
        TIMESTAMP_HEADER: str(timestamp),
        SIGNATURE_HEADER: " ".join(sign(secret, msg_id, timestamp, body) for secret in secrets),
    }


def verify(
    headers: Mapping[str, str],
    body: bytes,
    secrets: Secret | Sequence[Secret],
    tolerance: float = 300.0,
    now: float | None = None,
) -> Verified:
    """Return the id and time of a genuine message; raises InvalidSignature.

    Pass the body as it was received: parsed and encoded again it is another body. Keep the ids of the last
    ``tolerance`` seconds and drop repetitions, or a recorded message can be replayed within that time.
    """
    keys = [parse_secret(s) for s in ([secrets] if isinstance(secrets, (str, bytes)) else secrets)]
    if not keys:
        raise Misconfigured("there is no secret to verify webhooks with")
    values = {str(name).lower(): value for name, value in headers.items()}
    msg_id, stamp, given = (_header(values, name) for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER))
    timestamp = _timestamp(stamp, tolerance, time.time() if now is None else now)
    if not _matches((_digest(key, msg_id, timestamp, body) for key in keys), _signatures(given)):
        raise InvalidSignature("no signature of the webhook matches a known secret")
    return Verified(msg_id, timestamp)


def _decode(text: str) -> bytes:
    if text.startswith(("whsk_", "whpk_")):
        raise Misconfigured("this is an asymmetric webhook key; a symmetric secret (whsec_...) is needed")
    try:
        return base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise Misconfigured("a webhook secret must be 'whsec_' followed by base64") from None


def _digest(key: bytes, msg_id: str, timestamp: int, body: bytes) -> bytes:
    return hmac.digest(key, f"{msg_id}.{timestamp}.".encode() + body, hashlib.sha256)


def _header(values: Mapping[str, str], name: str) -> str:
    value = values.get(name, "")
    if not value:
        raise InvalidSignature(f"the header {name} is missing", code="webhook_header_missing")
    return value


def _timestamp(text: str, tolerance: float, now: float) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise InvalidSignature("the webhook timestamp is not a number", code="webhook_header_malformed")
    timestamp = int(text)
    if timestamp < now - tolerance:
        raise InvalidSignature("the webhook is too old", code="webhook_too_old")
    if timestamp > now + tolerance:
        raise InvalidSignature("the webhook comes from the future", code="webhook_too_new")
    return timestamp


def _signatures(header: str) -> list[bytes]:
    """Return the v1 signatures of the header; other versions and malformed entries are passed over."""
    found: list[bytes] = []
    for entry in header.split(" ")[:_MAX_SIGNATURES]:
        version, _, encoded = entry.partition(",")
        if version != "v1":
            continue
        try:
            found.append(base64.b64decode(encoded, validate=True))
        except (binascii.Error, ValueError):
            continue
    return found


def _matches(expected: Iterable[bytes], given: Sequence[bytes]) -> bool:
    """Compare every pair, also after a match: the time taken says nothing about which secret matched."""
    matched = False
    for digest in expected:
        for signature in given:
            matched |= hmac.compare_digest(digest, signature)
    return matched
