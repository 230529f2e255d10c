"""What a route asks of its callers, and whether one of them may come in.

Every route has a permission: it is public, or belongs to a realm of keys, or names scopes, or says that it
judges its callers itself (``any_caller``). One that says nothing is open to nobody but holders of ``*``.

All scopes of a route are needed. ``call|read`` is one of them that either of two will do for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from router_core.errors import Forbidden
from router_core.types import Principal

if TYPE_CHECKING:
    from router_core.routing.route import Route

__all__ = [
    "CALL",
    "EVERYTHING",
    "READ",
    "SUBMIT",
    "alternatives",
    "check_every_workspace",
    "check_permission",
    "default_scopes",
    "manages",
]

CALL: Final = "call"
"""Call the functions of a service."""
READ: Final = "call|read"
"""Ask them for what a GET gives."""
SUBMIT: Final = "call|jobs"
"""Have them run as jobs."""
EVERYTHING: Final = "*"
_MANAGING: Final = ":manage"
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def default_scopes(methods: Iterable[str], job: bool) -> tuple[str, ...]:
    """Return what a route of an author asks for that names no scopes.

    A GET is what viewers are for. A function that is too dear for them says ``scopes=("call",)``.
    """
    if job:
        return (SUBMIT,)
    return (READ,) if _READS.issuperset(methods) else (CALL,)


def alternatives(scope: str) -> Sequence[str]:
    """Return the scopes any one of which will do for one that a route names."""
    return scope.split("|")


def check_permission(route: Route, principal: Principal) -> None:
    """Raise Forbidden unless the caller holds what the route asks for."""
    held = principal.scopes
    if EVERYTHING in held:
        return
    for scope in route.scopes:
        if scope not in held and held.isdisjoint(alternatives(scope)):
            words = " or ".join(repr(each) for each in alternatives(scope))
            raise Forbidden(f"this needs the scope {words}", code="scope_missing", extra={"scope": scope})
    if not (route.scopes or route.public or route.any_caller or route.realm):
        raise Forbidden("this is for administrators", code="scope_missing", extra={"scope": EVERYTHING})


def check_every_workspace(principal: Principal) -> None:
    """Raise Forbidden for callers who may not enter every workspace, where it is about all at once."""
    if "*" not in principal.workspaces:
        raise Forbidden("this is for callers who may enter every workspace", code="every_workspace")


def manages(route: Route) -> bool:
    """Return whether callers of the route change how the service stands: it asks for a ``...:manage``."""
    return any(each.endswith(_MANAGING) for scope in route.scopes for each in alternatives(scope))
