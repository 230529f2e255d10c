"""Whose jobs a caller may see: his own, or those of all owners if he manages them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from router_core.errors import Forbidden
from router_core.jobs.store import JobQuery
from router_core.security.audit import audited
from router_core.types import Principal

__all__ = ["EVERYBODY", "may_see", "seen_by"]

EVERYBODY: Final = "*"
"""In a query: all owners."""


def may_see(owner: str, principal: Principal) -> bool:
    """Return whether a job of this owner exists for the caller. What is done to another's is written down."""
    if owner == principal.id:
        return True
    if not principal.manages_jobs:
        return False
    audited(owner=owner)
    return True


def seen_by(query: JobQuery, principal: Principal) -> JobQuery:
    """Return the query for the store: without an owner it is for the caller's own jobs.

    Raises Forbidden where it is for those of others, and they are not the caller's to manage.
    """
    owner = query.owner or principal.id
    if not may_see(owner, principal):
        extra = {"scope": "jobs:manage"}
        raise Forbidden("this needs the scope 'jobs:manage'", code="scope_missing", extra=extra)
    return replace(query, owner=None if owner == EVERYBODY else owner)
