"""A job over HTTP: how a request becomes one, and how it is answered at once or after a wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pydantic_core

from router_core.errors import BadRequest, Unavailable
from router_core.http.message import Request, Response
from router_core.jobs.blobs import SignsUrls
from router_core.jobs.job import Job, State
from router_core.jobs.leaving import seconds_left, unless_gone
from router_core.jobs.outcome import job_error, result_response
from router_core.jobs.prefer import Wish, parse_prefer, query_value, read_wish
from router_core.jobs.service import FetchLinks, JobService
from router_core.jobs.submission import read_options
from router_core.jobs.wire import apipod_body, encode_job
from router_core.routing.route import Route
from router_core.telemetry.events import Note

if TYPE_CHECKING:
    from router_core.binding.inputs import Inputs

__all__ = [
    "MAX_EMBEDDED",
    "accept",
    "job_response",
    "outcome_response",
    "poll_after",
    "shape_of",
    "wants_job",
]

MAX_EMBEDDED = 16 * 1024 * 1024
"""Largest offloaded result that is put into a body for clients that cannot follow a link."""
_LARGE = 1024 * 1024
_JSON = ("content-type", "application/json")

Pair = tuple[str, str]


def wants_job(route: Route, request: Request) -> bool:
    """Return whether the request is to become a job: by its route, or because the caller allows it to."""
    if route.kind == "job":
        return True
    if route.internal or route.plan.request_only or "prefer" not in request.headers:
        return False  # what takes the request itself has nothing that a record could keep
    return "respond-async" in parse_prefer(request.headers.getlist("prefer"))


async def accept(
    service: JobService, route: Route, request: Request, inputs: Inputs, fetch: FetchLinks | None = None
) -> Response:
    """Submit the request as a job and answer; ``fetch`` reads what ``inputs`` have noted by URL.

    202 with the job, ``Location`` and ``Retry-After``. With ``?sync=true`` or ``Prefer: wait=N``: 200 with
    the result if it is there in time, a problem if the job failed, else 202 while the job lives on. Headers:
    ``Idempotency-Key``, ``X-Job-Priority``, ``X-Job-Delay``, ``Cancel-After``, ``X-Webhook-Url``, ``Prefer``.
    Query: ``sync``, and ``cancel_on_disconnect=true`` to cancel when the caller of a sync wait goes away.
    """
    wish = read_wish(request)
    options = read_options(request.headers, method=request.method, request_id=request.id)
    content_type = request.headers.get("content-type", "")
    try:
        added = await service.submit(
            route, inputs, principal=request.principal, options=options, content_type=content_type,
            fetch=fetch,
        )  # fmt: skip
    except Unavailable as error:
        if "job_id" in error.extra:  # it exists, only its queue does not know yet
            error.headers["Location"] = location(service, request, error.extra["job_id"])
        raise
    job = added.job
    headers: list[Pair] = [("location", location(service, request, job.id))]
    if added.replayed:
        headers.append(("idempotency-replayed", "true"))
    if wish.wait is not None:
        limit = min(wish.wait, service.settings.sync_wait_max, seconds_left(request, service.clock))
        if wish.by_header:
            headers.append(("preference-applied", f"wait={limit:.0f}"))
        job = await _wait(service, request, job, limit, wish)
        if job.terminal:
            return await outcome_response(service, job, request, status=route.status, headers=headers)
    elif wish.background:
        headers.append(("preference-applied", "respond-async"))
    shape = "apipod" if "details_id=" in request.query else ""
    return await job_response(service, job, request, status=202, headers=headers, shape=shape)


def location(service: JobService, request: Request, job_id: str) -> str:
    """Return the address of a job."""
    return f"{service.prefix(request.root)}/jobs/{job_id}"


async def _wait(service: JobService, request: Request, job: Job, limit: float, wish: Wish) -> Job:
    try:
        waited = await unless_gone(request, service.wait(job.id, request.principal, limit))
    except asyncio.CancelledError:  # how an adapter, or a caller in this process, may end the request
        if wish.cancel_on_disconnect:
            await asyncio.shield(_cancel(service, request, job.id))
        raise
    if waited is not None:
        return waited
    if wish.cancel_on_disconnect:
        await _cancel(service, request, job.id)
    return job


async def _cancel(service: JobService, request: Request, job_id: str) -> None:
    try:
        await service.cancel(job_id, request.principal)
    except Exception as error:  # nobody is there to be told
        service.note(Note("cancel_on_disconnect_failed", "warning", f"job {job_id} goes on", error=error))


async def outcome_response(
    service: JobService, job: Job, request: Request, *, status: int = 200, headers: list[Pair] | None = None
) -> Response:
    """Return the result of a job as the plain call would; raises JobError when it ended without."""
    if job.state is not State.SUCCEEDED:
        error = job_error(job, location(service, request, job.id))
        error.headers.update(headers or [])
        raise error
    elsewhere = await _elsewhere(service, job, request, headers or [])
    if elsewhere is not None:
        return elsewhere
    result = await service.result(job)
    if result.file is None and len(result.data) > _LARGE:  # a text of that size takes its time to decode
        answer = await asyncio.to_thread(result_response, result, request, status=status)
    else:
        answer = result_response(result, request, status=status)
    return answer.with_headers(*(headers or []))


async def _elsewhere(service: JobService, job: Job, request: Request, headers: list[Pair]) -> Response | None:
    """Return a redirect to a result that is too large to be answered on the way that the request came."""
    if not request.max_reply_bytes or not job.result_ref or not isinstance(service.blobs, SignsUrls):
        return None
    ref = pydantic_core.from_json(job.result_ref)
    if ref.get("size", 0) <= request.max_reply_bytes:
        return None
    kind, name = ref.get("content_type"), ref.get("filename")
    url = await asyncio.to_thread(service.blobs.presign, ref["key"], content_type=kind, filename=name)
    status = f'<{location(service, request, job.id)}>; rel="status"'
    others = [(name, value) for name, value in headers if name != "location"]
    return Response(303, (("location", url), ("cache-control", "no-store"), ("link", status), *others))


async def job_response(
    service: JobService, job: Job, request: Request, *, status: int = 200,
    headers: list[Pair] | None = None, shape: str = "",
) -> Response:  # fmt: skip
    """Return the job itself. ``shape="apipod"`` writes it as fastsdk reads it."""
    pairs = [_JSON, ("etag", f'"{job.version}"'), *(headers or [])]
    if not job.terminal:
        pairs.append(("retry-after", poll_after(service, job)))
    body = await _encoded(service, job, shape, request)
    return Response(status, tuple(pairs), body)


def poll_after(service: JobService, job: Job) -> str:
    """Return when to ask again: after 1 s at first, up to 5 s for a job that takes longer."""
    age = service.clock.now() - job.created_at
    return str(int(min(5.0, max(1.0, age / 10))))


async def _encoded(service: JobService, job: Job, shape: str, request: Request) -> bytes:
    stream, prefix = service.streams(job), service.prefix(request.root)
    if not shape:
        return encode_job(job, prefix=prefix, stream=stream)
    result = await _embedded(service, job, request) if job.result_ref else None
    return pydantic_core.to_json(apipod_body(job, prefix=prefix, stream=stream, result=result))


async def _embedded(service: JobService, job: Job, request: Request) -> object:
    ref = pydantic_core.from_json(job.result_ref)
    # a file is a third larger in base64
    if ref.get("size", 0) > min(MAX_EMBEDDED, request.max_reply_bytes * 0.7 or MAX_EMBEDDED):
        return None
    result = await service.result(job)
    value: object = pydantic_core.from_json(result.data) if result.file is None else result.file.to_object()
    return value


def shape_of(request: Request) -> str:
    """Return which shape of the job the request asks for: ``apipod``, or nothing for ours."""
    shape = query_value(request, "shape")
    if shape not in (None, "apipod"):
        raise BadRequest("the query parameter shape must be apipod")
    return shape or ""
