"""From a decorated function to a Route; everything that can be wrong with it is said here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Final, Literal

from typing_extensions import TypedDict

from router_core.binding.plan import Plan, compile_plan
from router_core.binding.signature import location, target_of
from router_core.errors import Misconfigured
from router_core.records import dataclass
from router_core.routing.options import check_options
from router_core.routing.permission import default_scopes
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
    plan: Plan | None = None
    """Made already, for this path and these methods."""


def normal_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """Return the methods in upper case, each once; raises Misconfigured for unknown ones."""
    given: Any = (methods,) if isinstance(methods, str) else methods
    if not isinstance(given, (list, tuple, set, frozenset)):
        raise Misconfigured(f"methods are a list of some of {', '.join(METHODS)}, not {given!r}")
    upper = tuple(dict.fromkeys(str(method).upper() for method in given))
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
    check_options(options, where)
    given: dict[str, Any] = {name: value for name, value in options.items() if name in _JOB_FIELDS}
    kind = _kind(record, bool(given), where)
    job = JobOptions(**given)
    if kind == "job" and not set(record.methods) - {"GET", "HEAD", "OPTIONS"}:
        raise Misconfigured(f"{where}: a job is submitted by POST; GET reads jobs, so it cannot start one")
    plan = record.plan or compile_plan(func, path=record.path, methods=record.methods, job=kind == "job")
    summary, description = _doc(func)
    public = options.get("public", False)
    scopes = tuple(dict.fromkeys((*record.scopes, *options.get("scopes", ()))))
    if not scopes and not public:
        scopes = default_scopes(record.methods, kind == "job")
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
        status=options.get("status", 200),
        scopes=scopes,
        public=public,
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


def _doc(func: Callable[..., Any]) -> tuple[str, str]:
    """Return the first line of the docstring, and the rest."""
    text = inspect.getdoc(func) if inspect.isroutine(func) else None
    summary, _, description = (text or "").strip().partition("\n")
    return summary.strip(), description.strip()
