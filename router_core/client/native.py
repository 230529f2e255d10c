"""The dialect of our own services: job routes answer 202, jobs live under ``/jobs``."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from router_core.client.arguments import encode
from router_core.client.dialect import Event, Invocation, JobPage
from router_core.client.errors import BadAnswer, ConnectionCut
from router_core.client.exchange import Answer, Exchange
from router_core.client.schema import Operation, Schema
from router_core.client.transport import Reply, parse_json
from router_core.client.values import follow, server_events, stream_values, value_of
from router_core.errors import Conflict, Forbidden, NotFound, RouterError, UpstreamTimeout
from router_core.http.sse import ServerEvent
from router_core.jobs.wire import JobView, parse_job

__all__ = ["NativeDialect"]

_SAFE: Final = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_LONGEST_WAIT: Final = 20.0
"""Seconds of one long poll: shorter than what proxies in between commonly cut."""
_SILENCE: Final = 45.0
"""Seconds without a byte after which an event stream counts as dead; the server sends one every 15."""
_ACCEPT: Final = "application/json, application/x-ndjson, text/event-stream;q=0.5, */*;q=0.1"


class NativeDialect:
    """Speaks to a service made with this library."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._schema: Schema | None = None
        self._asking = asyncio.Lock()

    @property
    def address(self) -> str:
        """Where the service is, without credentials."""
        return self._exchange.address

    @property
    def exchange(self) -> Exchange:
        """What sends requests, for routes that are not the author's."""
        return self._exchange

    async def schema(self) -> Schema:
        """Fetch ``/openapi.json`` once; a service that hides it is called by name all the same."""
        async with self._asking:
            if self._schema is None:
                self._schema = await self._fetch_schema()
        return self._schema

    async def invoke(self, invocation: Invocation) -> Any:
        """Call a route; every job is submitted under an idempotency key, which makes its retries harmless."""
        options = invocation.options
        schema = await self.schema()
        path = schema.actual(invocation.path)
        operation = schema.find(path, options.method)
        unknown = schema.known and schema.template(path) not in schema.paths()
        if unknown and invocation.args:
            raise NotFound(f"there is no route {path}{schema.near(path)}")
        encoded = encode(operation, operation.named(invocation.args, invocation.kwargs))
        job = operation.job or options.as_job
        headers = [("accept", _ACCEPT), *encoded.headers, *options.headers.items()]
        if job or not schema.known:
            headers += _job_headers(invocation)
        call = self._exchange.call(
            operation.method, encoded.path, query=encoded.query, headers=headers, body=encoded.body,
            silence=options.timeout,
        )  # fmt: skip
        try:
            answer = await self._exchange.request(call, repeatable=job or operation.method in _SAFE)
        except NotFound as error:
            if unknown:
                raise NotFound(f"there is no route {path}{schema.near(path)}") from error
            raise
        return self._outcome(answer, operation)

    async def job(self, job_id: str, *, wait: float = 0.0) -> JobView:
        """Read a job; ``wait`` becomes a long poll."""
        seconds = min(wait, _LONGEST_WAIT)
        query = [("wait", f"{seconds:g}")] if seconds > 0 else []
        call = self._exchange.call("GET", _job_path(job_id), query=query, silence=seconds + 15.0)
        return parse_job((await self._exchange.fetch(call, repeatable=True)).body)

    async def result(self, view: JobView) -> Any:
        """Take the result out of the job's body, or fetch it when it is too large for that."""
        if view.result_ref is None:
            return value_of(view.result)
        call = self._exchange.call("GET", f"{_job_path(view.job_id)}/result", silence=60.0)
        return follow(await self._exchange.fetch(call, repeatable=True))

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[Event]:
        """Follow ``/jobs/{id}/events``; after a cut, go on behind the last event that arrived."""
        tries = 0
        started = self._exchange.retry.now()
        while True:
            cut: RouterError = ConnectionCut("the event stream ended before the job did")
            try:
                async for event in self._connection(job_id, after):
                    tries, started = 0, self._exchange.retry.now()
                    after = event.id or after
                    yield event
                    if event.type == "job" and event.data.done:
                        return
            except (ConnectionCut, UpstreamTimeout) as error:
                cut = error
            tries += 1
            wait = self._exchange.retry.wait(cut, tries, started)
            if wait is None:
                raise cut
            await self._exchange.retry.sleep(wait)

    async def change(self, job_id: str, action: str) -> JobView:
        """Ask for a cancel or a new run; a job that has ended already is returned as it ended."""
        headers = [("idempotency-key", uuid.uuid4().hex)]
        call = self._exchange.call("POST", f"{_job_path(job_id)}/{action}", headers=headers)
        try:
            answer = await self._exchange.fetch(call, repeatable=True)
        except Conflict:
            if action != "cancel":
                raise
            return await self.job(job_id)
        return parse_job(answer.body)

    async def find(self, filters: Mapping[str, str]) -> JobPage:
        """Read one page of ``/jobs``."""
        query = [(name, text) for name, text in filters.items() if text]
        call = self._exchange.call("GET", "/jobs", query=query)
        page = (await self._exchange.fetch(call, repeatable=True)).json("the list of jobs")
        if not isinstance(page, dict) or not isinstance(page.get("jobs"), list):
            raise BadAnswer("the list of jobs has no member 'jobs'")
        return JobPage([parse_job(job) for job in page["jobs"]], str(page.get("cursor") or ""))

    async def aclose(self) -> None:
        """Close connections."""
        await self._exchange.aclose()

    async def _fetch_schema(self) -> Schema:
        call = self._exchange.call("GET", "/openapi.json")
        try:
            document = (await self._exchange.fetch(call, repeatable=True)).json("the OpenAPI document")
        except (NotFound, Forbidden):
            return Schema()
        return Schema(document if isinstance(document, dict) else None)

    def _outcome(self, answer: Answer | Reply, operation: Operation) -> Any:
        if not isinstance(answer, Answer):
            return _stream(answer)
        if answer.status == 202:
            return parse_job(answer.body)
        return follow(answer)

    async def _connection(self, job_id: str, after: int) -> AsyncIterator[Event]:
        headers = [("accept", "text/event-stream")]
        if after:
            headers.append(("last-event-id", str(after)))
        call = self._exchange.call("GET", f"{_job_path(job_id)}/events", headers=headers, silence=_SILENCE)
        reply = await self._exchange.request(call, repeatable=True)
        if isinstance(reply, Answer):
            if reply.status == 204:
                # everything up to the end of the job has been read before
                yield Event("job", await self.job(job_id))
                return
            raise BadAnswer(f"the events of a job should be text/event-stream, not {reply.content_type!r}")
        try:
            async for frame in server_events(reply):
                yield _event(frame)
        finally:
            await reply.aclose()


async def _stream(reply: Reply) -> AsyncIterator[Any]:
    try:
        async for value in stream_values(reply):
            yield value
    finally:
        await reply.aclose()


def _event(frame: ServerEvent) -> Event:
    data = parse_json(frame.data.encode(), "the data of an event")
    number = int(frame.id) if frame.id.isdecimal() and len(frame.id) < 19 else 0
    if frame.event == "job":
        return Event("job", parse_job(data), number)
    return Event(frame.event or "output", value_of(data), number)


def _job_path(job_id: str) -> str:
    return f"/jobs/{quote(job_id, safe='')}"


def _job_headers(invocation: Invocation) -> list[tuple[str, str]]:
    options = invocation.options
    pairs = [("idempotency-key", options.idempotency_key or uuid.uuid4().hex)]
    if options.as_job:
        pairs.append(("prefer", "respond-async"))
    for name, value in (
        ("x-job-priority", options.priority),
        ("x-job-delay", options.delay),
        ("cancel-after", options.expires_in),
        ("x-webhook-url", options.webhook),
    ):
        if value is not None:
            pairs.append((name, f"{value:g}" if isinstance(value, float) else str(value)))
    return pairs
