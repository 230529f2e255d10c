"""Who is asking, by whatever he shows: the ways are tried in one fixed order, and what none knows is refused.

    client certificate       of the connection, never of a header
    Authorization: Bearer    a key, which is known by its form or its hash; else a token
    X-API-Key                a key

Whoever shows two things is refused: which of them is meant would be a guess.
"""

from __future__ import annotations

import hashlib
from math import inf
from typing import Final, Protocol

from router_core.http.message import Request
from router_core.security.api_keys import ApiKeys, id_of_key
from router_core.security.credentials import MAX_CREDENTIAL, invalid, presented, unauthorized
from router_core.types import Principal

__all__ = ["Believed", "Callers", "Certificates", "Keys", "Tokens"]

Believed = tuple[Principal, float]
"""Who it is, and until when that holds by the monotonic clock."""
_NEEDED: Final = "who is asking is not said: Authorization: Bearer <key or token>, or X-API-Key"
_WRONG: Final = "API key or token"


class Keys(Protocol):
    """Keys that have to be looked up: ``KnownKeys``."""

    def recall(self, key_id: str, digest: bytes) -> Believed | None:
        """Return whose key it is, None where it has to be looked up; raises Unauthorized."""

    async def identify(self, key_id: str, digest: bytes) -> Principal:
        """Look it up; raises Unauthorized or StoreError."""


class Tokens(Protocol):
    """Signed tokens: ``security/jwt.py``."""

    def recall(self, token: str, digest: bytes) -> Believed | None:
        """Return whose token it is, None where it has to be verified; raises Unauthorized."""

    async def identify(self, token: str, digest: bytes) -> Principal:
        """Verify it; raises Unauthorized or Unavailable."""


class Certificates(Protocol):
    """Client certificates: ``security/certificates.py``."""

    def holder(self, request: Request) -> Believed | None:
        """Return whose certificate the connection has, None where there is none or it is nobody's."""


class Callers:
    """An Authenticator over all of them; None stands for those that are not configured."""

    __slots__ = ("_certificates", "_keys", "_stored", "_tokens")

    def __init__(
        self, keys: ApiKeys | None = None, stored: Keys | None = None, tokens: Tokens | None = None,
        certificates: Certificates | None = None,
    ) -> None:  # fmt: skip
        self._keys = keys
        self._stored = stored
        self._tokens = tokens
        self._certificates = certificates

    def recall(self, request: Request) -> Believed | None:
        """Return who is asking, if that is known; None: something has to be waited for."""
        shown, bearer = presented(request)
        if self._certificates is not None:
            holder = self._certificates.holder(request)
            if holder is not None:
                if shown:
                    raise unauthorized(
                        "the request has a credential beside its client certificate", "invalid_request"
                    )
                return holder
        if not shown:
            raise unauthorized(_NEEDED)
        if len(shown) > MAX_CREDENTIAL or not shown.isascii():
            raise invalid(_WRONG)
        digest = hashlib.sha256(shown.encode("ascii")).digest()
        found = self._keys.find(digest) if self._keys is not None else None
        if found is not None:
            return found, inf
        key_id = id_of_key(shown)
        if key_id and self._stored is not None:
            return self._stored.recall(key_id, digest)
        if not key_id and bearer and self._tokens is not None:
            return self._tokens.recall(shown, digest)
        raise invalid(_WRONG)

    async def authenticate(self, request: Request) -> Principal:
        """Return who is asking; raises Unauthorized, or what keeps that from being found out."""
        known = self.recall(request)
        if known is not None:
            return known[0]
        shown, _ = presented(request)
        digest, key_id = hashlib.sha256(shown.encode("ascii")).digest(), id_of_key(shown)
        if key_id and self._stored is not None:
            return await self._stored.identify(key_id, digest)
        if self._tokens is None:
            raise invalid(_WRONG)
        return await self._tokens.identify(shown, digest)
