"""An API key as the shared state keeps it: whose it is, what it may do, and of the key its hash alone."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Final

from router_core.clock import rfc3339
from router_core.errors import StoreError
from router_core.security.credentials import Granted
from router_core.security.roles import ROLES
from router_core.types import Allowance, Principal

__all__ = ["KeyRecord", "moment", "record_of"]

_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key."""

    id: str
    name: str
    digest: bytes = field(repr=False)
    """SHA-256 of the whole key."""
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    """Beside those of the roles."""
    workspaces: tuple[str, ...] = ("*",)
    workspace: str = ""
    tier: str = ""
    limits: tuple[Allowance, ...] = ()
    created_at: float = 0.0
    created_by: str = ""
    expires_at: float | None = None
    """None: never."""
    revoked_at: float | None = None
    rotated_at: float | None = None
    previous: bytes = field(default=b"", repr=False)
    """SHA-256 of the key that it was before it was rotated."""
    previous_until: float = 0.0

    @property
    def principal_id(self) -> str:
        """Who its holder is: a name may be given twice, and again later; an id is somebody for good."""
        return f"key:{self.id}"

    def opens(self, digest: bytes, now: float) -> float:
        """Return until when a key with this hash opens, in seconds since the epoch; 0: it does not."""
        # both are compared whatever the first comes to, so that the time tells nothing
        current = hmac.compare_digest(digest, self.digest)
        former = hmac.compare_digest(digest, self.previous or bytes(32)) and bool(self.previous)
        if self.revoked_at is not None or not (current or former):
            return 0.0
        until = inf if self.expires_at is None else self.expires_at
        if not current:
            until = min(until, self.previous_until)
        return until if now < until else 0.0

    def status(self, now: float) -> str:
        """Return active, expired or revoked."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"

    def granted(self, known: Mapping[str, frozenset[str]] = ROLES) -> Granted:
        """Return what it gives now: roles mean what they mean today."""
        return Granted((*self.roles, *self.scopes), self.workspaces, known)

    def principal(self, known: Mapping[str, frozenset[str]] = ROLES) -> Principal:
        """Return its holder."""
        held = self.granted(known)
        return Principal(
            self.principal_id, held.scopes, "api_key", held.roles, held.workspaces,
            self.workspace or held.only, self.tier, self.limits,
        )  # fmt: skip

    def rotated(self, digest: bytes, now: float, overlap: float) -> KeyRecord:
        """Return it with another secret; the one that it had goes on for ``overlap`` seconds."""
        return replace(
            self, digest=digest, rotated_at=now, previous=self.digest if overlap > 0 else b"",
            previous_until=now + overlap if overlap > 0 else 0.0,
        )  # fmt: skip

    def revoked(self, now: float) -> KeyRecord:
        """Return it without any secret."""
        return replace(self, digest=bytes(32), previous=b"", previous_until=0.0, revoked_at=now)

    def stored(self) -> bytes:
        """Return what is kept."""
        kept = {
            "v": _VERSION, "id": self.id, "name": self.name, "digest": self.digest.hex(),
            "roles": self.roles, "scopes": self.scopes, "workspaces": self.workspaces,
            "workspace": self.workspace, "tier": self.tier, "limits": [_limit(each) for each in self.limits],
            "created_at": self.created_at, "created_by": self.created_by, "expires_at": self.expires_at,
            "revoked_at": self.revoked_at, "rotated_at": self.rotated_at, "previous": self.previous.hex(),
            "previous_until": self.previous_until,
        }  # fmt: skip
        return json.dumps(kept).encode()

    def shown(self, now: float, last_used: float | None = None) -> dict[str, Any]:
        """Return it as the API shows it: never a secret, nor its hash."""
        shown = {
            "id": self.id, "name": self.name, "status": self.status(now), "roles": list(self.roles),
            "scopes": list(self.scopes), "workspaces": list(self.workspaces), "workspace": self.workspace,
            "tier": self.tier, "limits": [_limit(each) for each in self.limits],
            "createdAt": moment(self.created_at), "createdBy": self.created_by,
            "expiresAt": moment(self.expires_at), "lastUsedAt": moment(last_used),
            "rotatedAt": moment(self.rotated_at), "revokedAt": moment(self.revoked_at),
            "previousValidUntil": moment(self.previous_until if self.previous_until > now else None),
        }  # fmt: skip
        return shown


def record_of(value: bytes) -> KeyRecord:
    """Read what is kept; raises StoreError for what this version does not understand."""
    try:
        kept = json.loads(value)
        if kept["v"] != _VERSION:
            raise ValueError("another version")
        return KeyRecord(
            kept["id"], kept["name"], bytes.fromhex(kept["digest"]), tuple(kept["roles"]),
            tuple(kept["scopes"]), tuple(kept["workspaces"]), kept["workspace"], kept["tier"],
            tuple(_allowance(each) for each in kept["limits"]), kept["created_at"], kept["created_by"],
            kept["expires_at"], kept["revoked_at"], kept["rotated_at"], bytes.fromhex(kept["previous"]),
            kept["previous_until"],
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError("a key in the shared state is not one that this version can read") from error


def moment(at: float | None) -> str | None:
    """Return a time as JSON has it."""
    if at is None:
        return None
    # one key whose time stands in no calendar would keep the whole list from being shown
    return rfc3339(max(at, 0.0))


def _limit(limit: Allowance) -> dict[str, Any]:
    return {
        "kind": limit.kind, "amount": limit.amount, "onStoreFailure": limit.on_store_failure,
        "alerts": list(limit.alerts),
    }  # fmt: skip


def _allowance(data: Mapping[str, Any]) -> Allowance:
    return Allowance(data["kind"], data["amount"], data["onStoreFailure"], tuple(data["alerts"]))
