"""Roles: names for the scopes that belong together, fixed here and nowhere else.

A role is what is given to people and services, a scope is what a route asks for: nothing but this table
leads from the one to the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["ROLES", "expand"]

_VIEWER: Final = frozenset({"read"})
_DEVELOPER: Final = _VIEWER | {"call", "jobs", "models:call", "routing:test"}
_OPERATOR: Final = _DEVELOPER | {"endpoints:manage", "models:manage", "trials:manage", "jobs:manage"}

ROLES: Final[Mapping[str, frozenset[str]]] = {
    "viewer": _VIEWER,
    "developer": _DEVELOPER,
    "operator": _OPERATOR,
    "admin": frozenset({"*"}),
}
"""Scopes by role, each role holding what the one before it holds."""


def expand(roles: Iterable[str]) -> frozenset[str]:
    """Return the scopes of some roles; one that is not known gives nothing."""
    return frozenset().union(*(ROLES.get(role, frozenset()) for role in roles))
