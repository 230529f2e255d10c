"""The dialect of RunPod-shaped endpoints: /run, /status, /stream, /cancel; the route stands in the input.

Named for the shape, not for the vendor's package, which is not used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

import pydantic_core

from router_core.client.arguments import jsonable
from router_core.client.dialect import Event, Invocation, JobPage, Options
from router_core.client.errors import BadAnswer
from router_core.client.exchange import Answer, Exchange
from router_core.client.schema import Schema
from router_core.client.values import value_of
from router_core.errors import BadRequest
from router_core.jobs.wire import JobView, parse_job

__all__ = ["RunpodDialect"]

_FIRST_POLL: Final = 0.25
_SLOWEST_POLL: Final = 3.0


class RunpodDialect:
    """Speaks to an endpoint on RunPod, or to the routes of that shape on a local server.

    The platform knows no idempotency keys, so a call whose connection broke after it was sent is not
    repeated: ConnectionCut says that it may have been accepted.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._schema: Schema | None = None
        self._asking = asyncio.Lock()

    @property
    def address(self) -> str:
        """Where the service is, without credentials."""
        return self._exchange.address

    async def schema(self) -> Schema:
        """Ask a worker for its OpenAPI document, once; a worker that has none is called by name."""
        async with self._asking:
            if self._schema is None:
                self._schema = await self._fetch_schema()
        return self._schema

    async def invoke(self, invocation: Invocation) -> Any:
        """Submit a job; positional arguments cost one more job, which asks for their names."""
        options = invocation.options
        _refuse_unknown(options)
        values: Mapping[str, Any] = invocation.kwargs
        path = invocation.path
        if invocation.args:
            schema = await self.schema()
            path = schema.actual(path)
            values = schema.find(path, options.method).named(invocation.args, invocation.kwargs)
        body: dict[str, Any] = {"input": _input(path, options.method, values)}
        policy: dict[str, Any] = {}
        if options.expires_in is not None:
            policy["ttl"] = int(options.expires_in * 1000)
        if options.priority is not None and options.priority < 0:
            policy["lowPriority"] = True
        if policy:
            body["policy"] = policy
        if options.webhook:
            body["webhook"] = options.webhook
        answer = await self._post("/run", body, headers=options.headers)
        return replace(_job(answer), route=path)

    async def job(self, job_id: str, *, wait: float = 0.0) -> JobView:
        """Read the status; there is no long poll, so ``wait`` polls, slower and slower."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + wait
        pause = _FIRST_POLL
        while True:
            call = self._exchange.call("GET", f"/status/{quote(job_id, safe='')}")
            view = _job(await self._exchange.fetch(call, repeatable=True))
            left = ends - loop.time()
            if view.done or left <= 0:
                return view
            await self._exchange.retry.sleep(min(pause, left))
            pause = min(pause * 1.5, _SLOWEST_POLL)

    async def result(self, view: JobView) -> Any:
        """The output stands in the status."""
        return value_of(view.result)

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[Event]:
        """Poll ``/stream``, which hands each chunk out once, until the job has ended."""
        pause = _FIRST_POLL
        number = after
        while True:
            call = self._exchange.call("GET", f"/stream/{quote(job_id, safe='')}", silence=90.0)
            body = (await self._exchange.fetch(call, repeatable=True)).json("the stream")
            chunks = body.get("stream") if isinstance(body, dict) else None
            for chunk in chunks or ():
                number += 1
                output = chunk.get("output") if isinstance(chunk, dict) else chunk
                yield Event("output", value_of(output), number)
            if not chunks:
                view = await self.job(job_id)
                yield Event("job", view)
                if view.done:
                    return
                await self._exchange.retry.sleep(pause)
                pause = min(pause * 1.5, _SLOWEST_POLL)

    async def change(self, job_id: str, action: str) -> JobView:
        """Cancel or retry; the platform retries under the same id, our own server under a new one."""
        path = f"/{action}/{quote(job_id, safe='')}"
        answer = await self._post(path, None, repeatable=action == "cancel")
        return await self.job(_job(answer).job_id)

    async def find(self, filters: Mapping[str, str]) -> JobPage:
        """RunPod lists no jobs."""
        raise BadRequest("a RunPod endpoint does not list its jobs: keep their ids")

    async def aclose(self) -> None:
        """Close connections."""
        await self._exchange.aclose()

    async def _fetch_schema(self) -> Schema:
        body = {"input": _input("/openapi.json", "", {})}
        view = _job(await self._post("/runsync", body, silence=120.0))
        while not view.done:
            view = await self.job(view.job_id, wait=20.0)
        document = view.result
        return Schema(document if isinstance(document, dict) and "paths" in document else None)

    async def _post(
        self, path: str, body: Any, *, headers: Mapping[str, str] | None = None, repeatable: bool = False,
        silence: float = 60.0,
    ) -> Answer:  # fmt: skip
        pairs = [("content-type", "application/json"), *(headers or {}).items()]
        data = b"" if body is None else _encoded(body)
        call = self._exchange.call("POST", path, headers=pairs, body=data, silence=silence)
        return await self._exchange.fetch(call, repeatable=repeatable)


def _input(path: str, method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    taken = {"path", "method"} & set(values)
    if taken:
        # these two members of the input name the route, so a parameter of that name cannot be sent
        raise TypeError(f"a parameter named {sorted(taken)[0]!r} cannot be sent to a RunPod endpoint")
    return {"path": path, **({"method": method.upper()} if method else {}), **jsonable(values)}


def _encoded(body: Any) -> bytes:
    try:
        return pydantic_core.to_json(body)
    except (ValueError, TypeError) as error:
        raise TypeError(f"an argument cannot be sent as JSON: {error}") from None


def _job(answer: Answer) -> JobView:
    """Read a status; ours adds progress and reason, the platform puts progress into ``output``."""
    raw = answer.json("the status of a job")
    if not isinstance(raw, dict):
        raise BadAnswer("the status of a job should be a JSON object")
    view = parse_job(raw)
    if view.done:
        return replace(view, error=_error(raw.get("error"), view.error))
    output = raw.get("output")
    if isinstance(output, dict) and isinstance(output.get("progress"), (int, float)):
        fraction = min(1.0, max(0.0, float(output["progress"])))
        return replace(view, progress=fraction, message=str(output.get("message") or ""), result=None)
    return replace(view, message=view.message or (output if isinstance(output, str) else ""), result=None)


def _error(raw: Any, parsed: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Workers send the error as JSON text: ours a problem, the vendor's own a shape of theirs."""
    if not isinstance(raw, str):
        return parsed
    try:
        told = pydantic_core.from_json(raw)
    except ValueError:
        return parsed
    if not isinstance(told, dict):
        return parsed
    if isinstance(told.get("error"), dict) and {"type", "message"} <= set(told["error"]):
        return dict(told["error"])
    if "error_message" in told:
        kind = str(told.get("error_type") or "Error").removeprefix("<class '").removesuffix("'>")
        return _failure(kind, str(told["error_message"]))
    if isinstance(told.get("code"), str) and isinstance(told.get("detail"), str):
        return _failure(told["code"], _sentence(told), retryable=told.get("status") in (429, 503))
    return parsed


def _failure(kind: str, message: str, *, retryable: bool = False) -> Mapping[str, Any]:
    return {"type": kind, "message": message, "attempt": 1, "retryable": retryable}


def _sentence(problem: Mapping[str, Any]) -> str:
    """Return what is wrong, value by value."""
    errors = problem.get("errors")
    lines = [
        f"{'.'.join(str(part) for part in each.get('loc') or ())}: {each.get('msg', '')}"
        for each in (errors if isinstance(errors, list) else ())
        if isinstance(each, dict)
    ]
    return "; ".join([str(problem["detail"]), *lines])


def _refuse_unknown(options: Options) -> None:
    for name, value in (("idempotency_key", options.idempotency_key), ("delay", options.delay)):
        if value is not None:
            raise RunpodCannot(f"a RunPod endpoint has no {name}: it would be ignored silently")


class RunpodCannot(BadRequest):
    """The call asks for something that this kind of endpoint does not have."""

    code = "not_on_runpod"
