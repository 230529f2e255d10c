"""Small types that every room may use."""

from __future__ import annotations

import itertools
import os
import re
import time
from dataclasses import field
from typing import Any, Final

from router_core.records import dataclass

__all__ = [
    "ANONYMOUS",
    "ID_PATTERN",
    "JSON",
    "Allowance",
    "Counted",
    "Principal",
    "first_id",
    "limits_of",
    "new_id",
]

JSON = Any  # a value that json.dumps takes; spelled out for readers, not enforced by the type checker

ID_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{7,63}\Z")
"""What a job id looks like; anything else is answered with 404 before a store or a path sees it."""


_EVERY: Final = frozenset({"*"})


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much of something a caller may use; the gateway holds it to that."""

    kind: str
    """daily, weekly or monthly (money), requests or tokens (of a minute), concurrency."""
    amount: int
    """Micro-dollars for money, else a count."""
    on_store_failure: str = "closed"
    """``open`` or ``closed``: whether calls pass while the shared state cannot be asked."""
    alerts: tuple[int, ...] = ()
    """Percent of the amount at which the owner is told."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking.

    ``id`` owns what the caller creates. ``scopes`` holds what the caller may do; ``*`` is everything.
    """

    id: str
    scopes: frozenset[str] = field(default_factory=frozenset)
    kind: str = "anonymous"
    roles: frozenset[str] = field(default_factory=frozenset)
    """The roles that its scopes came from; what may be done is said by ``scopes`` alone."""
    workspaces: frozenset[str] = field(default=_EVERY)
    """Workspaces that it may act in; ``*`` is every one."""
    workspace: str = ""
    """The one that its calls belong to where they name none."""
    tier: str = ""
    """Tier of the user, for routing rules."""
    limits: tuple[Allowance, ...] = ()
    """What it may use; ``limits_of(principal)`` for those who look at callers of any kind."""

    def may(self, scope: str) -> bool:
        """Return whether the caller holds ``scope``."""
        return "*" in self.scopes or scope in self.scopes

    @property
    def manages_jobs(self) -> bool:
        """Whether the jobs of all owners are open to the caller.

        ``*`` alone does not say so: keys that list nothing may do everything, each to its own jobs. Jobs bear
        no workspace, so that whoever is bound to some is not shown those of others.
        """
        return ("jobs:manage" in self.scopes or "admin" in self.roles) and "*" in self.workspaces

    def may_enter(self, workspace: str) -> bool:
        """Return whether the caller may act in a workspace."""
        return "*" in self.workspaces or workspace in self.workspaces


def limits_of(principal: Principal) -> tuple[Allowance, ...]:
    """Return what a caller may use: no more of a kind than its allowance; of kinds without one, anything."""
    return principal.limits


ANONYMOUS: Final = Principal("anonymous", frozenset({"*"}))
"""The caller when no authentication is configured (a local runner on loopback)."""


def new_id() -> str:
    """Return a new identifier: 32 hex digits, time-ordered, with 80 random bits.

    The time comes first so that rows written together stand together in an index, which keeps inserts
    cheap in a store of millions; 80 random bits keep an id unguessable.
    """
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def first_id(at: float) -> str:
    """Return what stands before every identifier that is made from that moment on, and behind all others."""
    return f"{max(0, int(at * 1000)):012x}{'0' * 20}"


class Counted:
    """Identifiers that have to be unique and need not be secret: one random beginning, then a count.

    Asking the kernel for random bytes costs more than everything else that a request's id needs.
    """

    __slots__ = ("_next", "_start")

    def __init__(self) -> None:
        self._start = new_id()[:24]
        self._next = itertools.count().__next__

    def new(self) -> str:
        """Return the next one: 32 hex digits."""
        return f"{self._start}{self._next():08x}"
