"""Roles: names for the scopes that belong together. What a route asks for is a scope, never a role.

    viewer      reads: configuration, analytics, metrics, what a GET of the service gives
    developer   and calls functions and models, submits jobs, tries routing out
    operator    and manages endpoints, models, trials, and the jobs of all owners
    admin       may do everything

``ROUTER_ROLES`` names more of them: ``auditor=read|audit:read,runner=jobs``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from router_core.errors import Misconfigured

__all__ = ["ROLES", "expand", "parse_roles", "unknown_roles"]

_VIEWER: Final = frozenset({"read"})
_DEVELOPER: Final = _VIEWER | {"call", "jobs", "models:call", "routing:test"}
_OPERATOR: Final = _DEVELOPER | {"endpoints:manage", "models:manage", "trials:manage", "jobs:manage"}
ROLES: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {"viewer": _VIEWER, "developer": _DEVELOPER, "operator": _OPERATOR, "admin": frozenset({"*"})}
)
"""Those that every service has, each holding what the one before it holds."""
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")
_SCOPE: Final = re.compile(r"(?:\*|[A-Za-z0-9/][A-Za-z0-9_.:/{}-]{0,127})\Z")


def expand(roles: Iterable[str], known: Mapping[str, frozenset[str]] = ROLES) -> frozenset[str]:
    """Return the scopes of some roles; one that is not ``known`` gives nothing."""
    return frozenset().union(*(known.get(role, frozenset()) for role in roles))


def unknown_roles(roles: Iterable[str], known: Mapping[str, frozenset[str]] = ROLES) -> list[str]:
    """Return the names that mean nothing here, for whoever has to refuse them."""
    return sorted(role for role in set(roles) if role not in known)


def parse_roles(text: str) -> Mapping[str, frozenset[str]]:
    """Read ``ROUTER_ROLES`` and return all roles by name, the fixed ones too. Raises Misconfigured."""
    known = dict(ROLES)
    for entry in (part.strip() for part in text.split(",")):
        if not entry:
            continue
        name, scopes = _role(entry)
        if name in known:
            said = "which means the same in every service" if name in ROLES else "twice"
            raise Misconfigured(f"ROUTER_ROLES names {name!r}, {said}")
        known[name] = scopes
    return MappingProxyType(known)


def _role(entry: str) -> tuple[str, frozenset[str]]:
    name, equals, listed = (part.strip() for part in entry.partition("="))
    scopes = frozenset(scope.strip() for scope in listed.split("|") if scope.strip())
    if not equals or not _NAME.match(name) or not scopes:
        raise Misconfigured(f"ROUTER_ROLES has {entry[:80]!r}; a role is written name=scope|scope")
    wrong = next((scope for scope in sorted(scopes) if not _SCOPE.match(scope)), None)
    if wrong is not None:
        raise Misconfigured(f"ROUTER_ROLES gives {name!r} the scope {wrong[:80]!r}, which cannot be one")
    return name, scopes
