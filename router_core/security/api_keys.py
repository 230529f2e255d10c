"""API keys: who is asking, by a secret that the server keeps only as a hash.

A setting is a comma-separated list, or ``@path`` of a file with one entry a line (``#`` begins a comment):

    name:key                      may do everything
    name:key:developer            may do what the role may do (``security/roles.py``)
    name:key:role|scope|scope     may do what is listed; a word that is no role is a scope
    name:key:role@ws-a|ws-b       the same in these workspaces, in the first where a call names none
    name:sha256=<hex>[:...]       the same, without the key itself in the setting
    key                           named after the first digits of its hash

Keys of remote workers are written the same way in a setting of their own, with routes in the place of what
follows the key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from router_core.errors import Misconfigured
from router_core.http.message import Request
from router_core.security.credentials import granted, invalid, presented, unauthorized
from router_core.security.roles import ROLES
from router_core.types import ANONYMOUS, Principal

__all__ = ["CALLERS", "MIN_KEY_LENGTH", "WORKERS", "ApiKey", "ApiKeys", "NewKey", "generate_key", "id_of_key"]

MIN_KEY_LENGTH: Final = 16
_MAX_KEY_LENGTH: Final = 512
_KEY: Final = re.compile(r"r[kw]_([a-z0-9]{8,32})_[A-Za-z0-9_-]{32,}\Z")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")
_HASH: Final = re.compile(r"sha256=([0-9a-fA-F]{64})\Z")
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_NOBODY: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class _Words:
    """What messages call one kind of keys."""

    variable: str
    kind: str
    """``Principal.kind`` of their holders."""
    key: str
    needed: str
    command: str
    scopes: str
    unlimited: str


CALLERS: Final = _Words(
    "ROUTER_API_KEYS", "api_key", "API key", "an API key is needed", "new", "scopes",
    "a key that may do everything",
)  # fmt: skip
WORKERS: Final = _Words(
    "ROUTER_WORKER_KEYS", "worker", "worker key", "a worker key is needed", "worker", "routes",
    "a worker that may serve them all",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as the server knows it."""

    principal: Principal
    digest: bytes
    """SHA-256 of the whole key."""
    id: str = ""
    """The middle of a generated key; empty for keys of another form."""


@dataclass(frozen=True, slots=True, repr=False)
class NewKey:
    """A key that was just made; the only time that it can be seen."""

    key: str
    id: str

    def hashed(self) -> str:
        """Return what may stand in a setting instead of the key."""
        return f"sha256={hashlib.sha256(self.key.encode()).hexdigest()}"

    def __repr__(self) -> str:
        return f"NewKey(id={self.id!r})"


def generate_key(kind: str = "rk") -> NewKey:
    """Return a new key, ``rk_<id>_<secret>`` with 256 random bits; that of a worker begins with ``rw``."""
    key_id = "".join(secrets.choice(_ALPHABET) for _ in range(12))
    return NewKey(f"{kind}_{key_id}_{secrets.token_urlsafe(32)}", key_id)


class ApiKeys:
    """An Authenticator over a fixed set of keys."""

    __slots__ = ("_by_digest", "_by_id", "_words")

    lasting = True
    """A key that opens now opens for as long as this object lives."""

    def __init__(self, keys: Iterable[ApiKey], words: _Words | None = None) -> None:
        self._words = words or CALLERS
        self._by_digest: dict[bytes, ApiKey] = {}
        for key in keys:
            if key.digest in self._by_digest:
                raise Misconfigured(
                    f"the {self._words.key} of {key.principal.id!r} is also that of somebody else"
                )
            self._by_digest[key.digest] = key

    @classmethod
    def from_setting(
        cls, text: str, words: _Words | None = None, roles: Mapping[str, frozenset[str]] = ROLES
    ) -> ApiKeys:
        """Read the setting; raises Misconfigured, naming the entry by its position and never its key."""
        text, words = text.strip(), words or CALLERS
        if text.startswith("@"):
            entries = _file_entries(Path(text[1:]), words)
        else:
            entries = [entry.strip() for entry in text.split(",")]
        keys = [_parse(entry, number, words, roles) for number, entry in enumerate(entries, 1) if entry]
        if not keys:
            raise Misconfigured(f"{words.variable} is set and holds no key")
        return cls(keys, words)

    @property
    def principals(self) -> tuple[Principal, ...]:
        """Everybody who has a key."""
        return tuple(key.principal for key in self._by_digest.values())

    def shared_with(self, other: ApiKeys) -> str:
        """Return whose key also opens ``other``, or nothing."""
        both = self._by_digest.keys() & other._by_digest.keys()
        return min((self._by_digest[digest].principal.id for digest in both), default="")

    async def authenticate(self, request: Request) -> Principal:
        """Return whose key came with the request; raises Unauthorized."""
        return self.identify(request)

    def identify(self, request: Request) -> Principal:
        """Do the same without anything to wait for."""
        shown, _ = presented(request)
        if not shown:
            raise unauthorized(f"{self._words.needed}: Authorization: Bearer <key>, or X-API-Key")
        if len(shown) > _MAX_KEY_LENGTH or not shown.isascii():
            raise invalid(self._words.key)
        found = self.find(hashlib.sha256(shown.encode("ascii")).digest())
        if found is None:
            raise invalid(self._words.key)
        return found

    def find(self, digest: bytes) -> Principal | None:
        """Return whose key has this SHA-256."""
        # by its digest: how far two of those agree tells nothing about the key
        found = self._by_digest.get(digest)
        if not hmac.compare_digest(digest, found.digest if found is not None else _NOBODY) or found is None:
            return None
        return found.principal


def id_of_key(shown: str) -> str:
    """Return the id in the middle of a key of the generated form; empty for keys of another."""
    form = _KEY.match(shown) if len(shown) <= _MAX_KEY_LENGTH else None
    return form[1] if form is not None else ""


def _parse(entry: str, number: int, words: _Words, roles: Mapping[str, frozenset[str]]) -> ApiKey:
    where = f"entry {number} of {words.variable}"
    name, key, scopes = _parts(entry)
    hashed = _HASH.match(key)
    if hashed is not None:
        digest, key_id = bytes.fromhex(hashed[1]), ""
    else:
        if len(key) < MIN_KEY_LENGTH or len(key) > _MAX_KEY_LENGTH or not key.isascii():
            raise Misconfigured(
                f"{where}: a key has {MIN_KEY_LENGTH} to {_MAX_KEY_LENGTH} "
                f"ASCII characters; `router-core keys {words.command}` makes one"
            )
        form = _KEY.match(key)
        digest, key_id = hashlib.sha256(key.encode()).digest(), form[1] if form is not None else ""
    name = name or f"key-{digest.hex()[:8]}"
    if not _NAME.match(name):
        raise Misconfigured(f"{where}: a name has letters, digits and . _ @ - only")
    if name == ANONYMOUS.id:
        raise Misconfigured(f"{where}: the name {name!r} is that of callers without a key")
    return ApiKey(_holder(name, scopes, words, roles, where), digest, key_id)


def _holder(
    name: str, listed: str | None, words: _Words, roles: Mapping[str, frozenset[str]], where: str
) -> Principal:
    if listed is None:
        return Principal(name, frozenset({"*"}), words.kind)
    if words is WORKERS:
        return Principal(name, _routes(listed, where, words), words.kind)
    try:
        held = granted(listed, roles)
    except ValueError as error:
        raise Misconfigured(f"{where}: {error}, or leave out the last colon for {words.unlimited}") from None
    return Principal(name, held.scopes, words.kind, held.roles, held.workspaces, held.workspace)


def _routes(listed: str, where: str, words: _Words) -> frozenset[str]:
    held = frozenset(scope.strip() for scope in listed.split("|") if scope.strip())
    if not held:
        # a list that came out empty means neither everything nor, to whoever wrote it, nothing
        raise Misconfigured(
            f"{where}: the list of {words.scopes} is empty; name some, or leave out the last colon for "
            f"{words.unlimited}"
        )
    return held


def _parts(entry: str) -> tuple[str, str, str | None]:
    if ":" not in entry:
        return "", entry, None
    name, key, *rest = entry.split(":", 2)
    # a colon promises a name; an empty one would be replaced in silence
    return name.strip() or ":", key.strip(), rest[0] if rest else None


def _file_entries(path: Path, words: _Words) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(
            f"{words.variable} names the file {path}, which cannot be read: {error}"
        ) from None
    return [line.partition("#")[0].strip() for line in lines]
