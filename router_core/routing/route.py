"""One registered function: where it is served, how its arguments are found, and how it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

from router_core.records import dataclass

if TYPE_CHECKING:
    from router_core.binding.plan import Plan

__all__ = ["DEFAULT_TIMEOUT", "JobOptions", "Route"]

DEFAULT_TIMEOUT = 3600.0
"""Seconds that one attempt of a job may run unless its route says otherwise."""


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How jobs of a route are queued and run."""

    queue_size: int = 100
    """How many may wait; the next one is refused with 429."""
    concurrency: int = 0
    """How many run at once in one process. 0 chooses: 10 for async functions, one per CPU for
    ``isolation="process"``, 1 for sync functions (most models are not thread-safe)."""
    timeout: float | None = DEFAULT_TIMEOUT
    """Seconds that one attempt may run; None means no limit."""
    max_attempts: int | None = None
    """Tries, not retries. None: an error ends the job at once, and a crashed worker is replaced up to
    3 times. A number: errors are retried as well, up to that many tries in all."""
    priority: int = 0
    """Default priority of submitted jobs, -100..100; higher runs earlier."""
    isolation: Literal["thread", "process"] = "thread"
    """``process`` runs the function in a child process that can be killed (cancel, timeout, crash)."""
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    """Which exceptions are retried when ``max_attempts`` is set."""
    backoff: float = 2.0
    """Seconds before the second attempt; doubles each time, with jitter, up to 5 minutes."""
    retention: float | None = None
    """Seconds that a finished job stays readable; None takes the setting."""


@dataclass(frozen=True, slots=True)
class Route:
    """A function bound to a path and its methods. Built once, at registration."""

    key: str
    """Names the route in job records and metrics: the path where one method serves it, else
    ``METHOD /path``."""
    methods: tuple[str, ...]
    path: str
    """Pattern such as ``/items/{item_id}``."""
    func: Callable[..., Any]
    plan: Plan
    kind: Literal["call", "stream", "job"]
    """call: answer with the result. stream: answer with the values it yields. job: answer 202."""
    job: JobOptions
    """Also set for calls and streams, which become jobs under ``Prefer: respond-async``."""
    name: str = ""
    summary: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    status: int = 200
    scopes: tuple[str, ...] = ()
    """What a caller must hold, all of them; of ``a|b`` either. See ``routing/permission.py``."""
    public: bool = False
    """Served without authentication (health, docs)."""
    any_caller: bool = False
    """Open to every known caller, who finds his own there, or is judged by what he asks for."""
    realm: str = ""
    """Whose keys open it: ``worker`` those of remote workers and no others, empty those of callers."""
    internal: bool = False
    """Belongs to the product rather than to the author's service: it cannot become a job."""
    include_in_schema: bool = True
    deprecated: bool = False
    max_body_bytes: int | None = None
    """Overrides the limits from the settings."""
    meta: dict[str, Any] = field(default_factory=dict)
