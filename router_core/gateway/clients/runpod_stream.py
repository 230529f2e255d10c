"""The chunks of a job at RunPod that puts out a stream, as events of OpenAI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec

from router_core.gateway.clients.chat_answer import DONE, Chunks, TokenCounts
from router_core.gateway.clients.runpod_jobs import Job, JobRefused, Jobs
from router_core.gateway.clients.runpod_output import OutputError, UnknownOutput, piece_of
from router_core.gateway.reply import UpstreamFailure

__all__ = ["JobStream", "PieceWriter", "events_of"]


class PieceWriter:
    """Writes outputs of a stream as events, and its end."""

    def __init__(self, endpoint: str, answer_id: str, model: str, created: int) -> None:
        self._chat = endpoint == "chat/completions"
        self._chunks = Chunks(answer_id, model, created)
        self._head = {"id": answer_id, "object": "text_completion", "created": created, "model": model}
        self._begun = False
        self._passed = False
        """Whether events passed as they were: then they bring their own end."""
        self._done = False
        self._usage: TokenCounts | None = None

    def write(self, output: object) -> bytes:
        """Return the events of one output. Raises OutputError, UnknownOutput."""
        events, text, usage = piece_of(output)
        self._usage = usage or self._usage
        if events:
            self._passed = True
            self._done = self._done or b"data: [DONE]" in events or b"data:[DONE]" in events
            return events
        begin = b"" if self._begun or not self._chat else self._chunks.begin()
        self._begun = True
        return begin + (self._text(text) if text else b"")

    def end(self) -> bytes:
        """Return what has to be said at the end."""
        if self._done:
            return b""
        if self._passed:
            return DONE
        finish = self._chunks.finish("stop") if self._chat else self._event(self._choice("", "stop"))
        usage = b""
        if self._usage is not None:
            usage = self._chunks.usage(self._usage) if self._chat else self._event([], self._usage)
        return finish + usage + DONE

    def _text(self, text: str) -> bytes:
        return self._chunks.text(text) if self._chat else self._event(self._choice(text, None))

    def _choice(self, text: str, finish: str | None) -> list[dict[str, object]]:
        return [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}]

    def _event(self, choices: list[dict[str, object]], usage: TokenCounts | None = None) -> bytes:
        body: dict[str, object] = {**self._head, "choices": choices}
        if usage is not None:
            body["usage"] = usage.wire()
        return b"data: %b\n\n" % msgspec.json.encode(body)


class JobStream:
    """Reads what a job puts out, until it ends. Closing it before cancels the job."""

    def __init__(
        self, jobs: Jobs, job: Job, first: bytes, writer: PieceWriter, *, deadline: float, idle: float,
        failed: Callable[[Job], OutputError], told: Callable[[OutputError], bytes],
    ) -> None:  # fmt: skip
        """``first``: what was written already; ``idle``: seconds without an output that are waited;
        ``told``: writes the body of an error."""
        self._jobs, self._job, self._writer = jobs, job, writer
        self._deadline, self._idle, self._failed, self._told = deadline, idle, failed, told
        self._ready = first
        self._over = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._ready:
            ready, self._ready = self._ready, b""
            return ready
        if self._over:
            raise StopAsyncIteration
        try:
            return await self._next()
        except StopAsyncIteration:
            raise
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Let go of the job."""
        if not self._over:
            self._over = True
            self._jobs.cancel(self._job)

    async def _next(self) -> bytes:
        loop = asyncio.get_running_loop()
        until, pause = min(loop.time() + self._idle, self._deadline), self._jobs.pace.first
        while True:
            if self._job.drained:
                self._over = True
                return self._end()
            left = until - loop.time()
            if left <= 0:
                raise UpstreamFailure("timeout", "body", "the job says nothing", sent=True, started=True)
            await asyncio.sleep(min(pause, left))
            pause = self._jobs.pace.after(pause)
            out = self._written(await self._read())
            if out:
                return out

    async def _read(self) -> Job:
        try:
            return await self._jobs.read(self._job, self._deadline)
        except JobRefused as exc:
            text = f"RunPod answered {exc.reply.status} in the middle of a stream"
            raise UpstreamFailure("reset", "body", text, sent=True, started=True) from None
        except UpstreamFailure as exc:
            # what was on its way is lost for good: RunPod tells each output once
            raise UpstreamFailure(exc.kind, exc.phase, str(exc), sent=True, started=True) from exc

    def _written(self, job: Job) -> bytes:
        self._job = job
        out: list[bytes] = []
        try:
            for output in job.stream:
                out.append(self._writer.write(output))
        except OutputError as exc:
            self._over = True
            self._jobs.cancel(job)
            out.append(self._error(exc))
        except UnknownOutput:
            text = "an output of the job has no shape that is known"
            raise UpstreamFailure("malformed", "body", text, sent=True, started=True) from None
        return b"".join(out)

    def _end(self) -> bytes:
        if self._job.status == "COMPLETED":
            out = self._writer.end()
            if out:
                return out
            raise StopAsyncIteration
        return self._error(self._failed(self._job))

    def _error(self, error: OutputError) -> bytes:
        return b"data: %b\n\n" % self._told(error)


def events_of(answer: Mapping[str, Any]) -> bytes:
    """Return a whole completion as the events of a stream."""
    chat = answer.get("object") != "text_completion"
    head = {name: value for name, value in answer.items() if name not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk" if chat else "text_completion"
    events = []
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, Mapping):
            continue
        index, finish = choice.get("index", 0), choice.get("finish_reason") or "stop"
        message = choice.get("message")
        if chat and isinstance(message, Mapping):
            events.append({"index": index, "delta": _delta(message), "finish_reason": None})
            events.append({"index": index, "delta": {}, "finish_reason": finish})
        else:
            events.append({"index": index, "text": choice.get("text", ""), "finish_reason": finish})
    written = [msgspec.json.encode({**head, "choices": [each]}) for each in events]
    if answer.get("usage"):
        written.append(msgspec.json.encode({**head, "choices": [], "usage": answer["usage"]}))
    return b"".join([b"data: %b\n\n" % each for each in written]) + DONE


def _delta(message: Mapping[str, Any]) -> dict[str, Any]:
    delta = {name: value for name, value in message.items() if value is not None}
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        delta["tool_calls"] = [
            {"index": at, **each} for at, each in enumerate(calls) if isinstance(each, dict)
        ]
    return delta
