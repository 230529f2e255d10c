"""Whose jobs a caller may see: his own, or those of all owners if he manages them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from router_core.errors import Forbidden
from router_core.jobs.job import Job
from router_core.jobs.store import JobQuery
from router_core.security.audit import audited
from router_core.types import Principal

__all__ = ["EVERYBODY", "may_see", "seen_by", "to_change"]

EVERYBODY: Final = "*"
"""In a query: all owners."""


def may_see(owner: str, principal: Principal) -> bool:
    """Return whether a job of this owner exists for the caller."""
    return owner == principal.id or principal.manages_jobs


def to_change(job: Job, principal: Principal) -> Job:
    """Return a job that the caller is about to change; if it is another's, that is written down."""
    if job.owner != principal.id:
        audited(owner=job.owner)
    return job


def seen_by(query: JobQuery, principal: Principal) -> JobQuery:
    """Return the query for the store: without an owner it is for the caller's own jobs.

    Raises Forbidden where it is for those of others, and they are not the caller's to manage.
    """
    owner = query.owner or principal.id
    if not may_see(owner, principal):
        extra = {"scope": "jobs:manage"}
        raise Forbidden("this needs the scope 'jobs:manage'", code="scope_missing", extra=extra)
    return replace(query, owner=None if owner == EVERYBODY else owner)
