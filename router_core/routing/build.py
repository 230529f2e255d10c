"""From a decorated function to a Route; everything that can be wrong with it is said here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from typing_extensions import TypedDict

from router_core.binding.plan import compile_plan
from router_core.binding.signature import location, target_of
from router_core.errors import Misconfigured
from router_core.routing.route import JobOptions, Route

__all__ = ["JobKeywords", "Record", "RouteKeywords", "build_route", "normal_methods"]

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_JOB_FIELDS: Final = frozenset(f.name for f in fields(JobOptions))


class JobKeywords(TypedDict, total=False):
    """Options that make a route a job route; see ``JobOptions``."""

    queue_size: int
    concurrency: int
    timeout: float | None
    max_attempts: int | None
    priority: int
    isolation: str
    retry_on: tuple[type[BaseException], ...]
    backoff: float
    retention: float | None


class RouteKeywords(JobKeywords, total=False):
    """Options of every decorator."""

    job: bool | None
    """True: a job route. False: a plain call. None: by the decorator and the other options."""
    name: str
    summary: str
    description: str
    tags: Sequence[str]
    status: int
    scopes: Sequence[str]
    public: bool
    include_in_schema: bool
    deprecated: bool
    max_body_bytes: int | None
    meta: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """A decorated function and how it was decorated."""

    func: Callable[..., Any]
    path: str
    methods: tuple[str, ...]
    options: RouteKeywords
    job_by_default: bool
    tags: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()


def normal_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """Return the methods in upper case, each once; raises Misconfigured for unknown ones."""
    upper = tuple(
        dict.fromkeys(method.upper() for method in ((methods,) if isinstance(methods, str) else methods))
    )
    wrong = [method for method in upper if method not in METHODS]
    if wrong or not upper:
        raise Misconfigured(f"methods are some of {', '.join(METHODS)}, not {wrong[0] if wrong else 'none'}")
    return upper


def build_route(record: Record) -> Route:
    """Compile the function and check its options; raises Misconfigured."""
    func, options, where = record.func, record.options, location(record.func)
    unknown = set(options) - RouteKeywords.__annotations__.keys() - _JOB_FIELDS
    if unknown:
        raise Misconfigured(f"{where}: a route has no option {min(unknown)!r}")
    if not callable(func):
        raise Misconfigured(f"a route needs a function, not {func!r}")
    given: dict[str, Any] = {name: value for name, value in options.items() if name in _JOB_FIELDS}
    kind = _kind(record, bool(given), where)
    job = JobOptions(**given)
    _check_job(job, where)
    if kind == "job" and not set(record.methods) - {"GET", "HEAD", "OPTIONS"}:
        raise Misconfigured(f"{where}: a job is submitted by POST; GET reads jobs, so it cannot start one")
    plan = compile_plan(func, path=record.path, methods=record.methods, job=kind == "job")
    summary, description = _doc(func)
    return Route(
        key=record.path,
        methods=record.methods,
        path=record.path,
        func=func,
        plan=plan,
        kind=kind,
        job=job,
        name=options.get("name") or str(getattr(func, "__name__", type(func).__name__)),
        summary=options.get("summary") or summary,
        description=options.get("description") or description,
        tags=tuple(dict.fromkeys((*record.tags, *options.get("tags", ())))),
        status=_status(options.get("status", 200), where),
        scopes=tuple(dict.fromkeys((*record.scopes, *options.get("scopes", ())))),
        public=options.get("public", False),
        include_in_schema=options.get("include_in_schema", True),
        deprecated=options.get("deprecated", False),
        max_body_bytes=options.get("max_body_bytes"),
        meta=dict(options.get("meta", {})),
    )


def _kind(record: Record, has_job_option: bool, where: str) -> Literal["call", "stream", "job"]:
    target = target_of(record.func)
    generates = inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target)
    job = record.options.get("job")
    if job is False:
        if has_job_option:
            raise Misconfigured(f"{where}: job=False contradicts the job options beside it")
        return "stream" if generates else "call"
    if job is True or has_job_option or (record.job_by_default and not generates):
        return "job"
    return "stream" if generates else "call"


def _check_job(job: JobOptions, where: str) -> None:
    wrong = ""
    if job.queue_size < 1:
        wrong = f"queue_size is {job.queue_size}; at least one job has to fit"
    elif job.concurrency < 0:
        wrong = f"concurrency is {job.concurrency}; it must be 0 (choose for me) or more"
    elif job.timeout is not None and job.timeout <= 0:
        wrong = f"timeout is {job.timeout}; it must be more than 0, or None for no limit"
    elif job.max_attempts is not None and job.max_attempts < 1:
        wrong = f"max_attempts is {job.max_attempts}; it counts tries, so it must be at least 1"
    elif not -100 <= job.priority <= 100:
        wrong = f"priority is {job.priority}; it must be between -100 and 100"
    elif job.isolation not in ("thread", "process"):
        wrong = f"isolation is {job.isolation!r}; it must be 'thread' or 'process'"
    elif job.backoff < 0:
        wrong = f"backoff is {job.backoff}; it must be 0 or more"
    elif job.retention is not None and job.retention <= 0:
        wrong = f"retention is {job.retention}; it must be more than 0"
    if wrong:
        raise Misconfigured(f"{where}: {wrong}")


def _status(status: int, where: str) -> int:
    if not 200 <= status <= 399:
        raise Misconfigured(
            f"{where}: status is {status}; a successful answer has 200 to 399 (raise HTTPError for others)"
        )
    return status


def _doc(func: Callable[..., Any]) -> tuple[str, str]:
    """Return the first line of the docstring, and the rest."""
    text = inspect.getdoc(func) if inspect.isroutine(func) else None
    summary, _, description = (text or "").strip().partition("\n")
    return summary.strip(), description.strip()
