"""Who may make, change and see which key: nobody gives, or gets at, more than he holds himself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router_core.errors import Forbidden
from router_core.security.key_records import KeyRecord
from router_core.security.key_wishes import wrong
from router_core.security.roles import unknown_roles
from router_core.types import Principal, limits_of

__all__ = ["Grants"]


@dataclass(frozen=True, slots=True)
class Grants:
    """What one caller may do with keys."""

    caller: Principal
    known: Mapping[str, frozenset[str]]
    """All roles."""
    expires_at: float | None = None
    """When the caller's own key expires."""

    def sees(self, record: KeyRecord) -> bool:
        """Return whether the caller may know that there is such a key."""
        return self._inside(record.workspaces)

    def check_holds(self, record: KeyRecord) -> None:
        """Raise Forbidden for a key that may do more than the caller: its secret would be his."""
        if not self._covers(record):
            raise Forbidden("the key may do more than you may", code="grant_exceeded")
        self._check_bounds(record)

    def check_grant(self, record: KeyRecord) -> None:
        """Raise BadRequest for a key that makes no sense, Forbidden for one that exceeds the caller."""
        unknown = unknown_roles(record.roles, self.known)
        if unknown:
            raise wrong("body", "roles", f"has {unknown[0]!r}; there are {', '.join(sorted(self.known))}")
        if record.workspace and not {record.workspace, "*"} & set(record.workspaces):
            raise wrong("body", "workspace", "must be one of workspaces")
        if not self._covers(record):
            over = sorted(record.granted(self.known).scopes - self.caller.scopes) or ["*"]
            raise _exceeded("roles" if record.roles else "scopes", f"you do not hold {over[0]!r}")
        if not self._inside(record.workspaces):
            raise _exceeded("workspaces", "there is one among them that you may not enter")
        self._check_bounds(record)

    def _check_bounds(self, record: KeyRecord) -> None:
        if record.tier not in ("", self.caller.tier) and not self.caller.may("*"):
            raise _exceeded("tier", "it is not yours")
        held = {each.kind: each for each in record.limits}
        for limit in limits_of(self.caller):
            given = held.get(limit.kind)
            if given is None or given.amount > limit.amount:
                raise _exceeded("limits", f"{limit.kind} has to be at most yours, {limit.amount}")
            if given.on_store_failure == "open" and limit.on_store_failure != "open":
                raise _exceeded("limits", f"{limit.kind} has to be closed without the store, as yours is")
        if self.expires_at is not None and (record.expires_at or self.expires_at + 1) > self.expires_at:
            raise _exceeded("expiresAt", "it has to be no later than that of your own key")

    def _covers(self, record: KeyRecord) -> bool:
        return self.caller.may("*") or record.granted(self.known).scopes <= self.caller.scopes

    def _inside(self, workspaces: tuple[str, ...]) -> bool:
        return "*" in self.caller.workspaces or self.caller.workspaces.issuperset(workspaces)


def _exceeded(field: str, text: str) -> Forbidden:
    errors = [{"loc": ["body", field], "msg": text, "type": "grant_exceeded"}]
    return Forbidden(f"{field}: {text}", code="grant_exceeded", extra={"errors": errors})
