"""Direct calls: ``aws lambda invoke``, boto3, Step Functions; no front door, IAM says who may.

    {"path": "/predict", "input": {"prompt": "a cat"}}

``method`` decides where several serve the path, a service of one route needs no path, and RunPod's form
``{"input": {"path": "/predict", "prompt": "a cat"}}`` means the same. The answer is one of

    {"output": value}                          a file is {"file_name", "content_type", "content": base64}
    {"output_url": url, "content_type": ...}   larger than a reply may be: readable there for five minutes
    {"error": problem}                         as over HTTP: title, status, detail, code, errors ...
    {"job": job}                               it goes on: read it with {"path": "/jobs/<id>"}

A job route is run within the invocation (``"mode": "run"``), and answered with its result. It has a record
like every job: with attempts left it is tried again while there is time; what the deadline cuts off goes back
to the queue uncounted, and the answer is the job. ``"mode": "submit"`` records any route's call as a job for
the queue, and answers with the job.

Both are idempotent: the key is ``idempotency_key``, or the id of the invocation, which Lambda keeps when it
repeats an asynchronous one (``InvocationType: Event``). For those use ``submit``, as nobody reads the answer:
when a job could not be recorded for now the invocation fails, so that Lambda repeats it. All other errors are
answers.

The service's own routes are reached as well (``/jobs``, ``/jobs/<id>/cancel`` with ``"method": "POST"`` ...);
``input`` is their query. With ROUTER_API_KEYS set, direct callers own the jobs that they submit, and see no
others.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

import pydantic_core

from handlers.aws.direct_values import collected, intake_of, plain_value
from handlers.aws.limits import LAMBDA_REPLY_BYTES, remaining_seconds
from handlers.aws.offload import offload
from handlers.aws.upkeep import hear_of_cancel
from router_core.binding.depends import DependencyScope
from router_core.binding.result import encode_result, file_of, is_stream
from router_core.binding.streamed import values_of
from router_core.errors import (
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RouterError,
    Unavailable,
    UpstreamTimeout,
    ValidationFailed,
)
from router_core.http.message import Headers, Request, Response
from router_core.jobs.blobs import SignsUrls
from router_core.jobs.context import JobContext
from router_core.jobs.dispatch import tell
from router_core.jobs.execution import contained
from router_core.jobs.job import WAITING, Job, State
from router_core.jobs.outcome import job_error
from router_core.jobs.submission import SubmitOptions
from router_core.jobs.wire import encode_job
from router_core.routing.named import Named, NamedRoutes
from router_core.telemetry.events import RequestDone
from router_core.types import ANONYMOUS, Principal, new_id

if TYPE_CHECKING:
    from router_core.app import App
    from router_core.routing.route import Route
    from router_core.routing.table import Match

__all__ = ["CALLER", "invoke"]

CALLER: Final = Principal("lambda-invoke", frozenset({"*"}), "iam")
"""Who calls directly where callers over HTTP have keys: IAM has let them in."""
LEASE_MARGIN: Final = 5.0
_RESERVE: Final = 2.0
_LONGEST: Final = 900.0
_ROOM: Final = 64 * 1024
"""Bytes of a reply that are kept free for what stands around the value."""
_METHODS: Final = ("POST", "GET", "PUT", "PATCH", "DELETE")
_MODES: Final = ("run", "submit")
_JSON: Final = (("content-type", "application/json"),)


async def invoke(app: App, event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """Answer a direct call. Raises QueueFull or Unavailable when a job was to be submitted, and was not."""
    started = perf_counter()
    call = _Direct(app, event, context)
    status = 200
    try:
        answer = await call.answer()
    except Exception as error:
        if call.mode == "submit" and isinstance(error, RouterError) and error.retryable:
            raise
        response = await app.parts.stack.explain(error, call.request)
        status, answer = response.status, {"error": plain_value(response)}
    app.events.emit(
        RequestDone(
            method="INVOKE", path=call.request.path, route=call.route, status=status,
            seconds=perf_counter() - started, request_id=call.request.id, principal=call.principal.id,
            job_id=call.job_id,
        )
    )  # fmt: skip
    return answer


@dataclass(frozen=True, slots=True)
class _Asked:
    """What an event asks for, taken apart."""

    values: dict[str, Any]
    """The named input: path, method and arguments."""
    mode: str
    key: str


class _Direct:
    """One call."""

    def __init__(self, app: App, event: Mapping[str, Any], context: Any) -> None:
        self._app = app
        self._event = event
        request_id = getattr(context, "aws_request_id", None)
        self._invocation = request_id if isinstance(request_id, str) and request_id else new_id()
        clock = app.parts.clock
        left = min(_LONGEST, remaining_seconds(context))
        self._ends = clock.monotonic() + left
        self._grace = min(app.settings.lambda_grace, left / 4)
        self.principal = CALLER if app.settings.authenticates else ANONYMOUS
        path = event.get("path")
        self.request = Request(
            "POST", path if isinstance(path, str) else "", headers=Headers(_JSON), id=self._invocation,
            principal=self.principal,
        )  # fmt: skip
        self.mode = event.get("mode", "run")
        self.route = ""
        self.job_id = ""

    async def answer(self) -> dict[str, Any]:
        """Return the answer; whatever goes wrong is raised."""
        asked = self._asked()
        own = self._own_route(asked)
        if own is not None:
            return await self._product(*own)
        named = NamedRoutes(self._app.routes).find(asked.values)
        self.route = named.route.key
        self._check_size(named)
        if named.route.kind == "job" or asked.mode == "submit":
            return await self._job(named, asked)
        limit = asyncio.timeout(max(0.0, self._left() - min(_RESERVE, self._left() / 5)))
        try:
            async with limit:
                return await self._call(named)
        except TimeoutError as error:
            if not limit.expired():
                raise  # the function's own
            raise UpstreamTimeout("the function did not end in the time that the invocation has") from error

    def _left(self) -> float:
        return max(0.0, self._ends - self._app.parts.clock.monotonic())

    # --- what is asked ----------------------------------------------------------------------------

    def _asked(self) -> _Asked:
        event = self._event
        given = event.get("input")
        if given is not None and not isinstance(given, dict):
            raise _wrong("input", "must be an object of arguments", "object_type")
        values = dict(given or {})
        for name in ("path", "method"):
            if event.get(name) is not None:
                values[name] = event[name]
        if self.mode not in _MODES:
            raise _wrong("mode", f"must be one of {', '.join(_MODES)}", "enum")
        key = event.get("idempotency_key")
        if key is not None and (not isinstance(key, str) or not key):
            raise _wrong("idempotency_key", "must be a text that is not empty", "string_type")
        return _Asked(values, self.mode, key or "")

    def _own_route(self, asked: _Asked) -> tuple[Request, Route] | None:
        """Return the request for a route of the product's, or None where the author's are meant."""
        path, method = asked.values.get("path"), asked.values.get("method", "GET")
        if not isinstance(path, str) or not isinstance(method, str) or not path.startswith("/"):
            return None
        found = [one for verb in _METHODS if (one := self._match(verb, path)) is not None]
        match = self._match(method.upper(), path)
        if match is None or match.route.realm or not all(one.route.internal for one in found):
            return None  # what needs a key of its own kind is not reached without it
        query = [(name, str(value)) for name, value in asked.values.items() if name not in ("path", "method")]
        request = Request(
            method.upper(), path, urlencode(query, quote_via=quote), Headers(_JSON), id=self._invocation,
            principal=self.principal, path_params=match.path_params, max_reply_bytes=LAMBDA_REPLY_BYTES // 2,
            answer_by=self._ends - min(_RESERVE, self._left() / 5),
        )  # fmt: skip
        return request, match.route

    def _match(self, method: str, path: str) -> Match | None:
        try:
            return self._app.table.match(method, path)
        except (NotFound, MethodNotAllowed):
            return None

    def _check_size(self, named: Named) -> None:
        limit = named.route.max_body_bytes
        if limit is not None and len(json.dumps(named.arguments)) > limit:
            raise PayloadTooLarge(f"the input may have {limit} bytes")

    # --- calls ------------------------------------------------------------------------------------

    async def _product(self, request: Request, route: Route) -> dict[str, Any]:
        self.route = route.key
        response = await self._app.dispatch(request, route)
        place = response.header("location")
        if response.status == 303 and place:
            return {"output_url": place}
        if isinstance(response.body, bytes):
            return {"output": plain_value(response)}
        parts = [chunk async for chunk in response.body]
        return {"output": b"".join(parts).decode("utf-8", "replace")}

    async def _call(self, named: Named) -> dict[str, Any]:
        route, plan, app = named.route, named.route.plan, self._app
        intake = intake_of(app.settings)
        inputs = plan.collect_input(named.arguments, intake)
        await plan.fetch(inputs, intake)
        values = plan.validate(inputs)
        scope = app.parts.scope
        try:
            async with DependencyScope(app=scope, run_sync=scope.run_sync) as own:
                value = await plan.call(values, self._injected(route, named) if plan.slots else {}, own)
                items = values_of(value) if isinstance(value, Response) and value.status < 400 else None
                if items is not None or is_stream(value):
                    return await self._shown(await collected(route, items or value, own))
                return await self._value(route, value)
        except (SystemExit, KeyboardInterrupt) as error:  # it would end the loop, and the process with it
            raise contained(error) from error

    def _injected(self, route: Route, named: Named) -> dict[str, Any]:
        context = JobContext() if {"job", "job_progress"} & set(route.plan.slots) else None
        body = pydantic_core.to_json(named.arguments, inf_nan_mode="constants")
        request = Request(
            route.methods[0], route.path, headers=Headers(_JSON), body=body, id=self._invocation,
            principal=self.principal,
        )  # fmt: skip
        return {
            "request": request, "principal": self.principal, "job": context,
            "job_progress": None if context is None else context.progress,
        }  # fmt: skip

    async def _value(self, route: Route, value: Any) -> dict[str, Any]:
        if isinstance(value, Response) and value.status >= 400:
            return {"error": plain_value(value)}
        file = file_of(value)
        if file is not None and file.size * 4 // 3 + _ROOM > LAMBDA_REPLY_BYTES:
            kind = file.content_type or "application/octet-stream"
            return await self._elsewhere(await asyncio.to_thread(file.read), kind)
        return await self._shown(encode_result(route, value))

    async def _shown(self, data: bytes) -> dict[str, Any]:
        """Return a JSON value as the output, or where to read it."""
        # the runtime may escape what is not ASCII: six bytes for two
        if len(data) * 3 + _ROOM > LAMBDA_REPLY_BYTES:
            escaped = len(json.dumps(pydantic_core.from_json(data)))
            if escaped + _ROOM > LAMBDA_REPLY_BYTES:
                return await self._elsewhere(data, "application/json")
        return {"output": pydantic_core.from_json(data)}

    async def _elsewhere(self, data: bytes, content_type: str) -> dict[str, Any]:
        answer = await offload(self._app, Response(200, (("content-type", content_type),), data))
        return {"output_url": answer.header("location"), "content_type": content_type, "size": len(data)}

    # --- jobs -------------------------------------------------------------------------------------

    async def _job(self, named: Named, asked: _Asked) -> dict[str, Any]:
        job = await self._submitted(named, asked)
        self.job_id = job.id
        if asked.mode == "run":
            job = await self._run(job)
        if asked.mode == "submit" or not job.terminal:
            return {"job": self._job_body(job)}
        if job.state is not State.SUCCEEDED:
            raise job_error(job, f"/jobs/{job.id}")
        return await self._result(job)

    async def _submitted(self, named: Named, asked: _Asked) -> Job:
        plan, intake, service = named.route.plan, intake_of(self._app.settings), self._app.service
        options = SubmitOptions(
            key=asked.key or self._invocation, method="INVOKE", request_id=self._invocation,
            tell=asked.mode == "submit",
        )  # fmt: skip
        try:
            added = await service.submit(
                named.route, plan.collect_input(named.arguments, intake), principal=self.principal,
                options=options, content_type="application/json",
                fetch=lambda links: plan.fetch(links, intake),
            )  # fmt: skip
        except Unavailable as error:
            job_id = error.extra.get("job_id")
            if job_id is None:
                raise
            return await service.get(job_id, self.principal)  # recorded: the sweeper tells the queue
        return added.job

    async def _run(self, job: Job) -> Job:
        """Run the job here, or wait for who runs it, as long as there is time; returns how it stands."""
        while not job.terminal:
            left, wait = self._left() - self._grace, job.not_before - self._app.parts.clock.now()
            if left <= 0 or (job.state in WAITING and wait >= left):
                return await self._handed_over(job)
            if job.state not in WAITING:
                job = await self._app.service.wait(job.id, self.principal, left, version=job.version)
            elif wait > 0:
                await self._app.parts.clock.sleep(wait)
                job = await self._app.service.get(job.id, self.principal)
            else:
                job = await self._attempt(job, left)
                if job.state is State.QUEUED:
                    return await self._handed_over(job)
        return job

    async def _attempt(self, job: Job, left: float) -> Job:
        beside = asyncio.create_task(hear_of_cancel(self._app, job.id, self._invocation))
        try:
            after = await self._app.run(
                job.id, self._invocation, lease=self._left() + LEASE_MARGIN, within=left
            )
        finally:
            beside.cancel()
            await asyncio.wait({beside})
        return after or await self._app.service.get(job.id, self.principal)

    async def _handed_over(self, job: Job) -> Job:
        """Leave a waiting job to the queue; what the queue cannot hold or take is left to the sweeper."""
        parts = self._app.parts
        takes = parts.dispatcher.abilities.takes(job, parts.clock.now())
        if job.state in (State.QUEUED, State.RETRYING) and job.dispatch_pending and takes:
            try:
                return await tell(parts.dispatcher, parts.store, job)
            except Unavailable:
                return job
        return job

    async def _result(self, job: Job) -> dict[str, Any]:
        ref = pydantic_core.from_json(job.result_ref) if job.result_ref else {}
        blobs = self._app.parts.blobs
        if ref.get("size", 0) * 4 // 3 + _ROOM > LAMBDA_REPLY_BYTES and isinstance(blobs, SignsUrls):
            kind, name = ref.get("content_type"), ref.get("filename")
            url = await asyncio.to_thread(blobs.presign, ref["key"], content_type=kind, filename=name)
            return {"output_url": url, "content_type": kind, "size": ref["size"]}
        result = await self._app.service.result(job)
        return await self._shown(result.as_json())

    def _job_body(self, job: Job) -> Any:
        prefix = self._app.service.prefix()
        return pydantic_core.from_json(encode_job(job, prefix=prefix, stream=self._app.service.streams(job)))


def _wrong(field: str, text: str, kind: str) -> ValidationFailed:
    return ValidationFailed(f"{field} {text}", errors=[{"loc": [field], "msg": text, "type": kind}])
