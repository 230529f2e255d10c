"""Sign requests for AWS (Signature Version 4): four HMACs a day and one for each request."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

__all__ = ["Credentials", "Signer"]

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who signs. The secrets do not show themselves."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str = field(default="", repr=False)
    """Of a session; empty: none."""


class Signer:
    """Signs for one service in one region."""

    def __init__(self, region: str, service: str) -> None:
        self._region = region
        self._service = service
        self._key = b""
        self._key_of: tuple[str, str, str] = ("", "", "")

    def sign(
        self, credentials: Credentials, method: str, path: str, headers: Mapping[str, str], body: bytes,
        now: float,
    ) -> dict[str, str]:  # fmt: skip
        """Return the headers to add. ``path`` is as it stands in the request line and has no query.

        ``headers`` have names in lower case, and ``host`` among them; all of them are signed.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        added = {"x-amz-date": stamp}
        if credentials.token:
            added["x-amz-security-token"] = credentials.token
        signed = dict(sorted({**headers, **added}.items()))
        names = ";".join(signed)
        canonical = "\n".join([
            method, quote(path, safe="/~"), "",
            *(f"{name}:{' '.join(value.split())}" for name, value in signed.items()), "",
            names, hashlib.sha256(body).hexdigest(),
        ])  # fmt: skip
        scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = "\n".join([_ALGORITHM, stamp, scope, digest])
        signature = hmac.new(self._signing_key(credentials, stamp[:8]), text.encode(), hashlib.sha256)
        added["authorization"] = (
            f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={names}, "
            f"Signature={signature.hexdigest()}"
        )
        return added

    def _signing_key(self, credentials: Credentials, date: str) -> bytes:
        made_of = (credentials.access_key, credentials.secret_key, date)
        if self._key_of != made_of:
            key = f"AWS4{credentials.secret_key}".encode()
            for part in (date, self._region, self._service, "aws4_request"):
                key = hmac.new(key, part.encode(), hashlib.sha256).digest()
            self._key, self._key_of = key, made_of
        return self._key
