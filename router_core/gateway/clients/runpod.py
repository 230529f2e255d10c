"""RunPod's serverless endpoints: through their OpenAI-compatible route, or as jobs of their queue.

    clients:
      - {type: runpod, model: my-model, args: {endpoint_id: abc123, api_key: "${RUNPOD_API_KEY}"}}
      - {type: runpod, model: my-model, args: {
          endpoint_id: abc123, api_key: "${RUNPOD_API_KEY}", mode: queue, input: openai}}

``mode: openai`` (the default) speaks to ``/openai/v1`` of the endpoint, which workers for vLLM and others
serve. ``mode: queue`` works with any worker: each call is a job, looked at until it has ended, cancelled when
nobody waits any more; a stream is read as the job puts it out. Its arguments:

- ``input``: what the job gets. ``request`` (the default): the request of OpenAI as it is. ``openai``:
  ``{"openai_route": "/v1/chat/completions", "openai_input": request}``, as workers for vLLM take it.
  ``path``: the request with ``path`` and ``method`` beside it, as services of router-core take it.
- ``poll`` and ``poll_max``: seconds before the first look, and between two at most (0.25 and 2).
- ``sync``: true: /runsync waits for the end (up to 30 s) and saves looks; a job that is not done by then is
  looked at. A caller that goes away while it waits cannot cancel the job: its id is not known yet.
- ``execution_timeout`` and ``ttl``: seconds, for the policy of the job.

The time to the first byte counts from the moment a worker has the job: waiting in the queue, cold starts
included, is bounded by the total time of the call. What outputs are understood: ``runpod_output``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final
from urllib.parse import quote

import msgspec

from router_core.errors import HTTPError, Misconfigured
from router_core.gateway.call import Call
from router_core.gateway.clients.errors import error_body, masked
from router_core.gateway.clients.http import HttpClient, argument
from router_core.gateway.clients.probe import HEALTH, Probe
from router_core.gateway.clients.runpod_jobs import Job, JobRefused, Jobs, Pace
from router_core.gateway.clients.runpod_output import OutputError, UnknownOutput, answer_of, error_of
from router_core.gateway.clients.runpod_stream import JobStream, PieceWriter, events_of
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.transport.protocol import Transport
from router_core.gateway.values import Deployment

__all__ = ["RunPodClient"]

_JOBS_URL: Final = "https://api.runpod.ai/v2"
_INPUTS: Final = ("request", "openai", "path")
_SYNC_SECONDS: Final = 30.0
_JSON: Final = "application/json"

_encode: Final = msgspec.json.Encoder().encode


class RunPodClient(HttpClient):
    """One serverless endpoint."""

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {
        "chat/completions": "/openai/v1/chat/completions",
        "completions": "/openai/v1/completions",
        "embeddings": "/openai/v1/embeddings",
        "images/generations": "/openai/v1/images/generations",
        "models": "/openai/v1/models",
        "rerank": "/openai/v1/rerank",
        "responses": "/openai/v1/responses",
    }
    NEEDS_KEY: ClassVar[bool] = True

    def __init__(self, deployment: Deployment, transport: Transport) -> None:
        """Raises Misconfigured."""
        where = f"deployment {deployment.id}"
        endpoint_id = argument(deployment, "endpoint_id", str, "")
        placed = deployment
        if endpoint_id and not deployment.base_url:
            placed = replace(deployment, base_url=f"{_JOBS_URL}/{quote(endpoint_id, safe='')}")
        super().__init__(placed, transport)
        self.deployment = deployment
        mode = argument(deployment, "mode", str, "openai")
        if mode not in ("openai", "queue"):
            raise Misconfigured(f"{where}: mode is openai or queue")
        self._input = argument(deployment, "input", str, "request")
        if self._input not in _INPUTS:
            raise Misconfigured(f"{where}: input is one of {', '.join(_INPUTS)}")
        self._queue = mode == "queue"
        self._sync = argument(deployment, "sync", bool, False)
        self._policy = _policy(deployment)
        pace = Pace(_seconds(deployment, "poll", 0.25), _seconds(deployment, "poll_max", 2.0))
        self._jobs = Jobs(self._ask, pace)

    async def send(self, call: Call, deadline: float) -> Reply:
        """Make one attempt. Raises UpstreamFailure without a usable answer."""
        if not self._queue:
            return await super().send(call, deadline)
        path = self.ENDPOINT_TABLE.get(call.endpoint)
        if path is None:
            raise HTTPError(422, "Wrong model type", code="wrong_model_type")
        if call.fields is None:
            raise HTTPError(415, "send JSON", code="unsupported_media_type")
        if not self._located or self.locate is not None:
            self._follow()
        body = self._job_body(call, path.removeprefix("/openai"))
        try:
            return await self._run(call, body, deadline)
        except JobRefused as exc:
            return self._refusal(exc.reply)

    async def aclose(self) -> None:
        """Let jobs be cancelled that are about to be."""
        await self._jobs.aclose()

    # -- what is different from other OpenAI-compatible upstreams ------------------------------------

    def _settle(self, url: str) -> None:
        root = url.rstrip("/")
        for end in ("/openai/v1", "/openai"):
            root = root.removesuffix(end)
        super()._settle(root)

    def _probes(self) -> tuple[Probe | None, Probe | None]:
        # the platform answers for the endpoint, and starts no worker for it
        return HEALTH, None

    # -- jobs ----------------------------------------------------------------------------------------

    def _job_body(self, call: Call, path: str) -> bytes:
        request = msgspec.Raw(self._body(call, call.fields or {}))
        given: Any = request
        if self._input == "openai":
            given = {"openai_route": path, "openai_input": request}
        elif self._input == "path":
            fields = msgspec.json.decode(request, type=dict[str, msgspec.Raw])
            given = {**fields, "path": path, "method": "POST"}
        return _encode({"input": given, **({"policy": self._policy} if self._policy else {})})

    async def _ask(self, method: str, path: str, body: bytes, deadline: float) -> Reply:
        """Ask RunPod something about a job."""
        content = b"content-type: application/json\r\n" if body else b""
        head = b"%b %b%b HTTP/1.1\r\nhost: %b\r\n%b%bcontent-length: %d\r\n\r\n" % (
            method.encode(), self._address.path.encode(), path.encode(), self._address.host_header.encode(),
            self._common, content, len(body),
        )  # fmt: skip
        return await self._transport.send(
            self._address.origin, head, body, timeouts=self.deployment.timeouts, deadline=deadline
        )

    async def _run(self, call: Call, body: bytes, deadline: float) -> Reply:
        loop = asyncio.get_running_loop()
        wait = min(_SYNC_SECONDS, self.deployment.timeouts.first_byte * 0.8, deadline - loop.time())
        sync = self._sync and not call.stream and wait >= 1
        job = await self._jobs.submit(body, deadline, wait=wait if sync else 0.0)
        patience = _Patience(self.deployment.timeouts.first_byte)
        try:
            if call.stream:
                return await self._streamed(call, job, patience, deadline)
            job = await self._jobs.ended(job, patience.until, deadline)
        except BaseException:
            self._jobs.cancel(job)
            raise
        return self._whole(call, job)

    def _whole(self, call: Call, job: Job) -> Reply:
        try:
            if job.status != "COMPLETED":
                raise self._failed(job)
            model = self.deployment.model or call.model_name
            answer = answer_of(job.output, call.endpoint, model, _answer_id(job), int(time.time()))
        except OutputError as exc:
            return self._error(exc)
        except UnknownOutput:
            text = "the output of the job has no shape that is known"
            raise UpstreamFailure("malformed", "body", text, sent=True, started=True) from None
        return Reply(200, {"content-type": _JSON}, _encode(answer))

    def _failed(self, job: Job) -> OutputError:
        """Return why a job has not completed."""
        if job.status == "TIMED_OUT":
            return OutputError(504, "the job has timed out at RunPod", code=job.status)
        if job.status == "CANCELLED":
            return OutputError(503, "the job was cancelled at RunPod", code=job.status)
        told = job.error if job.error is not None else job.output
        found = error_of(told if isinstance(told, Mapping) and told.get("error") else {"error": told})
        return found or OutputError(500, "the job failed", code=job.status)

    def _error(self, error: OutputError) -> Reply:
        return Reply(error.status, {"content-type": _JSON}, self._told(error))

    def _told(self, error: OutputError) -> bytes:
        message = masked(error.message, self._secrets)
        kind, code = masked(error.kind, self._secrets), masked(error.code, self._secrets)
        return error_body(error.status, message, kind=kind, code=code)

    async def _streamed(self, call: Call, job: Job, patience: _Patience, deadline: float) -> Reply:
        """Wait for the first output, so that what fails before it can be tried elsewhere."""
        loop = asyncio.get_running_loop()
        writer = PieceWriter(
            call.endpoint, _answer_id(job), self.deployment.model or call.model_name, int(time.time())
        )
        pause, first = self._jobs.pace.first, b""
        while not first and not job.drained:
            left = min(patience.until(job), deadline) - loop.time()
            if left <= 0:
                raise UpstreamFailure("timeout", "first_byte", f"the job is {job.status}", sent=True)
            await asyncio.sleep(min(pause, left))
            pause = self._jobs.pace.after(pause)
            job = await self._jobs.read(job, deadline)
            try:
                first = b"".join([writer.write(each) for each in job.stream])
            except OutputError as exc:
                self._jobs.cancel(job)
                return self._error(exc)
            except UnknownOutput:
                text = "an output of the job has no shape that is known"
                raise UpstreamFailure("malformed", "body", text, sent=True, started=True) from None
        if not first:
            return await self._silent(call, job, deadline)
        stream = JobStream(
            self._jobs, job, first, writer, deadline=deadline,
            idle=self.deployment.timeouts.idle, failed=self._failed, told=self._told,
        )  # fmt: skip
        return Reply(200, {"content-type": "text/event-stream"}, chunks=stream)

    async def _silent(self, call: Call, job: Job, deadline: float) -> Reply:
        """Answer for a job that ended without a stream, as workers do that know none."""
        reply = self._whole(call, await self._jobs.look(job, deadline))
        if reply.status != 200 or call.endpoint not in ("chat/completions", "completions"):
            return reply
        events = events_of(msgspec.json.decode(reply.body or b"{}"))
        return Reply(200, {"content-type": "text/event-stream"}, chunks=_once(events))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


class _Patience:
    """How long a job is waited for: a worker that has it gets the time to the first byte."""

    def __init__(self, first_byte: float) -> None:
        self._first_byte = first_byte
        self._begun: float | None = None

    def until(self, job: Job) -> float:
        """Return when a job that stands so is given up."""
        if not job.begun:
            return float("inf")
        if self._begun is None:
            self._begun = asyncio.get_running_loop().time()
        return self._begun + self._first_byte


def _answer_id(job: Job) -> str:
    return f"chatcmpl-{job.id}"


def _seconds(deployment: Deployment, name: str, default: float) -> float:
    value = deployment.args.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 86_400 * 7:
        raise Misconfigured(f"deployment {deployment.id}: {name} has to be a number of seconds")
    return float(value)


def _policy(deployment: Deployment) -> dict[str, int]:
    """Return the policy of every job, in milliseconds."""
    names = {"execution_timeout": "executionTimeout", "ttl": "ttl"}
    return {
        wire: int(_seconds(deployment, name, 0) * 1000)
        for name, wire in names.items()
        if deployment.args.get(name) is not None
    }
