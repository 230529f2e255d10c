"""The routes under which jobs are read, followed, cancelled, retried and deleted."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import pydantic_core

from router_core.errors import BadRequest, Conflict, MethodNotAllowed
from router_core.http.message import Request, Response
from router_core.http.ndjson import NDJSON_TYPES
from router_core.http.negotiate import best_match
from router_core.http.sse import SSE_TYPE
from router_core.jobs.events import ApipodFrames, Frames, JobStream, NdjsonFrames, SseFrames
from router_core.jobs.http import job_response, location, outcome_response, poll_after, shape_of
from router_core.jobs.job import Job, State
from router_core.jobs.leaving import seconds_left, unless_gone
from router_core.jobs.openapi import describe
from router_core.jobs.owners import EVERYBODY
from router_core.jobs.prefer import query_value
from router_core.jobs.service import JobService
from router_core.jobs.store import JobQuery
from router_core.jobs.submission import read_options
from router_core.jobs.wire import apipod_body, encode_job
from router_core.routing.product import product_route
from router_core.routing.route import Route
from router_core.types import ID_PATTERN

__all__ = ["JobRoutes", "job_routes"]

MAX_PAGE: Final = 200
_SECONDS: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,30})?(?:[eE]-?[0-9]{1,3})?\Z")
_MAX_SECONDS: Final = 999_999
_NUMBER: Final = re.compile(r"[0-9]{1,12}\Z")
_STREAM_HEADERS: Final = (("cache-control", "no-store"), ("x-accel-buffering", "no"))

Handler = Callable[[Request], Awaitable[Response]]


class JobRoutes:
    """Handlers, each from a request to an answer; the job's id is the path parameter ``job_id``."""

    def __init__(self, service: JobService) -> None:
        self._service = service

    def table(self) -> list[tuple[str, str, Handler, str]]:
        """Return method, path, handler and summary of each route."""
        return [
            ("GET", "/jobs", self.list, "List your jobs, newest first"),
            ("GET", "/jobs/{job_id}", self.get, "Read a job, or wait for it to change"),
            ("DELETE", "/jobs/{job_id}", self.delete, "Delete a job that has ended"),
            ("GET", "/jobs/{job_id}/result", self.result, "Read the result of a job"),
            ("GET", "/jobs/{job_id}/events", self.events, "Follow a job"),
            ("POST", "/jobs/{job_id}/cancel", self.cancel, "Cancel a job"),
            ("POST", "/jobs/{job_id}/retry", self.retry, "Run a failed, cancelled or expired job again"),
            ("GET", "/status/{job_id}", self.get, "Read a job"),
            ("POST", "/status/{job_id}", self.get, "Read a job"),
            ("GET", "/stream/{job_id}", self.stream, "Follow the output of a job"),
            ("POST", "/cancel/{job_id}", self.cancel, "Cancel a job"),
        ]

    def at_routes(self, routes: Iterable[Route]) -> list[tuple[str, str, Handler, str]]:
        """Return ``GET <path>?job_id=`` for each job route whose path does not serve GET already."""
        routes = tuple(routes)
        taken = {route.path for route in routes if "GET" in route.methods}
        paths = [route.path for route in routes if route.kind == "job" and route.path not in taken]
        return [("GET", path, self.by_query, "Read a job of this route") for path in dict.fromkeys(paths)]

    async def list(self, request: Request) -> Response:
        """List the caller's jobs, newest first.

        Query: ``status`` (repeated, or separated by commas), ``route``, ``limit`` (1 to 200, default 50),
        ``cursor`` (from the page before); ``owner`` (``*``: all, each with its owner) for ``jobs:manage``.
        """
        query = _list_query(request)
        page = await self._service.find(query, request.principal)
        prefix = self._service.prefix(request.root)
        jobs = b",".join(
            _listed(job, encode_job(job, prefix=prefix, stream=self._service.streams(job)), query)
            for job in page.jobs
        )
        tail = b',"cursor":' + pydantic_core.to_json(page.cursor) if page.cursor else b""
        return Response(200, (("content-type", "application/json"),), b'{"jobs":[%s]%s}' % (jobs, tail))

    async def get(self, request: Request) -> Response:
        """Read a job.

        ``If-None-Match`` is answered with 304 while the job is unchanged. ``?wait=N`` holds the answer for up
        to N seconds: until the job has ended, or with ``If-None-Match`` until it changes at all.
        """
        return await self.read(request, request.path_params["job_id"])

    async def read(self, request: Request, job_id: str) -> Response:
        """Answer with the job of this id; also serves ``GET <job route>?job_id=``."""
        seconds = min(_wait_seconds(request), seconds_left(request, self._service.clock))
        shape = shape_of(request)
        tag = request.headers.get("if-none-match")
        version = _version(tag) if tag else None
        job = await self._read(request, job_id, seconds, version)
        if tag is not None and _matches(tag, job.version):
            headers = [("etag", f'"{job.version}"')]
            if not job.terminal:
                headers.append(("retry-after", poll_after(self._service, job)))
            return Response(304, tuple(headers))
        return await job_response(self._service, job, request, shape=shape)

    async def _read(self, request: Request, job_id: str, seconds: float, version: int | None) -> Job:
        if seconds <= 0:
            return await self._service.get(job_id, request.principal)
        waiting = self._service.wait(job_id, request.principal, seconds, version=version)
        job = await unless_gone(request, waiting)
        return job or await self._service.get(job_id, request.principal)

    async def by_query(self, request: Request) -> Response:
        """Read a job at the address it was submitted to: ``GET <job route>?job_id=``."""
        job_id = query_value(request, "job_id")
        if job_id is None:
            raise MethodNotAllowed(
                "use POST to submit a job, or give job_id to read one", headers={"Allow": "POST"}
            )
        return await self.read(request, job_id)

    async def result(self, request: Request) -> Response:
        """Read the result as the plain call would have given it.

        409 with ``Retry-After`` while there is none; a job that failed is answered with its error.
        """
        job = await self._service.get(request.path_params["job_id"], request.principal)
        if not job.terminal:
            raise _unfinished(job, poll_after(self._service, job))
        return await outcome_response(self._service, job, request)

    async def cancel(self, request: Request) -> Response:
        """Cancel a job: 200 when it is cancelled (also repeated), 202 while it is stopping, else 409."""
        job = await self._service.cancel(request.path_params["job_id"], request.principal)
        status = 200 if job.terminal else 202
        return await job_response(self._service, job, request, status=status)

    async def retry(self, request: Request) -> Response:
        """Run a failed, cancelled or expired job again, as a new job with the same input."""
        options = read_options(request.headers, request_id=request.id)
        added = await self._service.retry(request.path_params["job_id"], request.principal, options)
        headers = [("location", location(self._service, request, added.job.id))]
        if added.replayed:
            headers.append(("idempotency-replayed", "true"))
        return await job_response(self._service, added.job, request, status=202, headers=headers)

    async def delete(self, request: Request) -> Response:
        """Delete a job that has ended, with its input, its result and its events."""
        await self._service.delete(request.path_params["job_id"], request.principal)
        return Response(204)

    async def events(self, request: Request) -> Response:
        """Follow a job: its state first, then its progress and events as they happen, its end last.

        SSE, or NDJSON where ``Accept`` prefers it. Resume with ``Last-Event-ID`` or ``?starting_after=``: 204
        when there is nothing left. ``event: truncated`` says how many events were dropped in between.
        """
        kind = best_match(request.headers.get("accept", ""), (SSE_TYPE, *NDJSON_TYPES)) or SSE_TYPE
        prefix = self._service.prefix(request.root)

        def encode(job: Job) -> bytes:
            return encode_job(job, prefix=prefix, stream=self._service.streams(job))

        frames = SseFrames(encode) if kind == SSE_TYPE else NdjsonFrames(encode)
        return await self._follow(request, frames, kind)

    async def stream(self, request: Request) -> Response:
        """Follow the output of a job: unnamed events hold output, ``event: job`` the job, ``[DONE]`` ends."""

        def encode(job: Job) -> bytes:
            prefix, stream = self._service.prefix(request.root), self._service.streams(job)
            if shape == "apipod":
                return pydantic_core.to_json(apipod_body(job, prefix=prefix, stream=stream))
            return encode_job(job, prefix=prefix, stream=stream)

        shape = shape_of(request)
        return await self._follow(request, ApipodFrames(encode), SSE_TYPE)

    async def _follow(self, request: Request, frames: Frames, kind: str) -> Response:
        after = _position(request)
        job = await self._service.get(request.path_params["job_id"], request.principal)
        if job.terminal and after > job.event_seq:
            return Response(204)
        headers = (("content-type", kind), *_STREAM_HEADERS)
        if request.method == "HEAD":
            return Response(200, headers)
        return Response(200, headers, JobStream(self._service, job, request, after, frames))


def job_routes(service: JobService, own: Iterable[Route]) -> list[Route]:
    """Return the routes of jobs, those at the paths of the author's job routes too."""
    handlers = JobRoutes(service)
    routes = [
        product_route(
            method,
            path,
            handler,
            summary,
            tags=("jobs",),
            any_caller=True,
            meta={"openapi": describe(method, path)},
        )
        for method, path, handler, summary in handlers.table()
    ]
    return routes + [
        product_route(method, path, handler, summary, in_schema=False, any_caller=True)
        for method, path, handler, summary in handlers.at_routes(own)
    ]


def _list_query(request: Request) -> JobQuery:
    states: set[State] = set()
    try:
        given = [value for key, value in request.query_items() if key == "status"]
        for word in ",".join(given).split(",") if given else ():
            states.add(State(word.strip().lower()))
    except UnicodeDecodeError:
        raise BadRequest("the query is not UTF-8") from None
    except ValueError:
        raise BadRequest(f"status must be one of {', '.join(State)}") from None
    limit = query_value(request, "limit")
    if limit is not None and not (_NUMBER.match(limit) and 1 <= int(limit) <= MAX_PAGE):
        raise BadRequest(f"limit must be between 1 and {MAX_PAGE}")
    cursor = query_value(request, "cursor") or ""
    if cursor and not ID_PATTERN.match(cursor):
        raise BadRequest("cursor must come from the page before")
    route = query_value(request, "route") or ""
    owner = query_value(request, "owner") or None
    return JobQuery(states=frozenset(states), route=route, owner=owner, cursor=cursor, limit=int(limit or 50))


def _listed(job: Job, encoded: bytes, query: JobQuery) -> bytes:
    """Name the owner where the list is not of one."""
    if query.owner != EVERYBODY:
        return encoded
    return b'{"owner":%s,%s' % (pydantic_core.to_json(job.owner), encoded[1:])


def _wait_seconds(request: Request) -> float:
    text = query_value(request, "wait")
    if text is None:
        return 0.0
    if not _SECONDS.match(text) or float(text) > _MAX_SECONDS:
        raise BadRequest("wait must be a number of seconds")
    return float(text)


def _position(request: Request) -> int:
    """Return the later of the two: a browser reconnects to the same address and adds how far it has come."""
    by_header = request.headers.get("last-event-id", "").strip() or None
    position = 0
    for name, text in (
        ("starting_after", query_value(request, "starting_after")),
        ("Last-Event-ID", by_header),
    ):
        if text is None:
            continue
        if not _NUMBER.match(text):
            raise BadRequest(f"{name} must be the number of an event")
        position = max(position, int(text))
    return position


def _tags(header: str) -> list[str]:
    return [tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")[:20]]


def _version(header: str) -> int | None:
    """Return the one version that the caller has; with several, or ``*``, a wait is for the end."""
    tags = _tags(header)
    return int(tags[0]) if len(tags) == 1 and _NUMBER.match(tags[0]) else None


def _matches(header: str, version: int) -> bool:
    return header.strip() == "*" or str(version) in _tags(header)


def _unfinished(job: Job, retry_after: str) -> Conflict:
    return Conflict(
        f"the job is {job.state.value} and has no result yet",
        code="job_unfinished",
        headers={"Retry-After": retry_after},
        extra={"job_id": job.id, "job_status": job.state.value},
    )
