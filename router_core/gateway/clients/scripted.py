"""A model that plays a script: for demonstrations, tests and benchmarks, without a network and without cost.

    clients:
      - {type: scripted, model: demo, args: {reply: "Hello!", latency: 0.2, tokens_per_second: 50}}
      - {type: scripted, model: demo, args: {fail_every: 3, fail_status: 503, retry_after: 2}}

What it says, how fast, and what goes wrong is in ``Deployment.args``: the fields of ``scripted_args.Step``,
and ``script``, ``seed`` and ``at_end``. Without any it answers at once. Replies depend on the script, the
request and the number of the call alone. It counts usage, honours ``stop``, ``max_tokens``, ``n``, JSON
schemas and ``max_context_length``, and calls a tool with valid arguments where the last message names one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final, cast

import msgspec

from router_core.gateway.call import Call
from router_core.gateway.clients.probe import MODELS, Probe
from router_core.gateway.clients.scripted_answer import Answer, Ask, Piece, RefusedError, encode
from router_core.gateway.clients.scripted_args import Step, parse_script
from router_core.gateway.clients.scripted_chat import chat, completion
from router_core.gateway.clients.scripted_media import audio_fields, embed, paint, rank, transcribe
from router_core.gateway.clients.scripted_responses import respond
from router_core.gateway.clients.scripted_stream import ScriptedStream, error_body, wait
from router_core.gateway.reply import FailureKind, Phase, Reply, UpstreamFailure
from router_core.gateway.transport.protocol import Transport
from router_core.gateway.values import Deployment

__all__ = ["ScriptedClient"]

_ANSWERS: Final[Mapping[str, Callable[[Ask], Answer]]] = {
    "chat/completions": chat, "completions": completion, "embeddings": embed, "rerank": rank,
    "audio/transcriptions": transcribe, "images/generations": paint, "responses": respond,
}  # fmt: skip
_PHASES: Final[Mapping[FailureKind, tuple[Phase, bool]]] = {
    "refused": ("connect", False), "unreachable": ("connect", False), "dns": ("dns", False),
    "tls": ("tls", False), "timeout": ("first_byte", True), "reset": ("first_byte", True),
    "malformed": ("first_byte", True), "too_large": ("body", True),
}  # fmt: skip
"""Kind of a failure -> its phase, and whether the request had been sent."""
_FEW_BYTES: Final = 100_000


class ScriptedClient:
    """One deployment of the type ``scripted``."""

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {
        **{endpoint: f"/v1/{endpoint}" for endpoint in _ANSWERS}, "models": "/v1/models",
    }  # fmt: skip

    def __init__(self, deployment: Deployment, transport: Transport | None = None) -> None:
        """Raises Misconfigured for a script that cannot be played. The transport is not used."""
        self.deployment = deployment
        self._script = parse_script(deployment)
        asleep = any(step.asleep_for for step in self._script.steps)
        self.probe: Probe | None = None if asleep else MODELS
        """None for one that sleeps: it would be found ill, and nobody would ever wake it."""
        self.calls = 0
        """Calls taken so far."""
        self.running = 0
        """Calls that are being answered now, streams to their end."""
        self._random = random.Random(self._script.seed)  # noqa: S311  # the same seed plays the same
        self._woken: float | None = None

    async def send(self, call: Call, deadline: float) -> Reply:
        """Answer as the script says. Raises UpstreamFailure where it says so."""
        self.calls += 1
        step = self._script.step(self.calls)
        self.running += 1
        try:
            reply = await self._play(call, step, self.calls, deadline)
        except BaseException:
            self.running -= 1
            raise
        if reply.chunks is None:
            self.running -= 1
        return reply

    async def probe_once(self, timeout: float, probe: Probe | None = None) -> Reply:
        """Answer what a probe asks: the list of models, or the failure that every call would meet."""
        step = self._script.step(self.calls + 1)
        self._no_answer(step, step.fails)
        if step.hang:
            await self._never("first_byte", asyncio.get_running_loop().time() + timeout)
        if step.fails or self._asleep(step, wake=False):
            return _error(step.fail_status or 503, step.fail_message or "this deployment does not serve")
        owned = {"object": "model", "created": 0, "owned_by": "scripted"}
        return _whole(encode({"object": "list", "data": [{"id": self.deployment.model, **owned}]}))

    async def aclose(self) -> None:
        """Let go of nothing: there is nothing."""

    # -- what goes wrong -----------------------------------------------------------------------------

    async def _play(self, call: Call, step: Step, number: int, deadline: float) -> Reply:
        fails = self._fails(step, number)
        self._no_answer(step, fails)
        if step.hang:
            await self._never("first_byte", deadline)
        least, most = step.latency
        if most:
            await self._wait(self._random.uniform(least, most), "first_byte", deadline)
        if self._asleep(step, wake=True):
            return _error(503, "the deployment is waking up", code="starting", retry_after=step.retry_after)
        if fails:
            status = step.fail_status or 500
            text = step.fail_message or f"call {number} fails as scripted"
            return _error(status, text, code=step.fail_code, retry_after=step.retry_after)
        try:
            ask = self._ask(call, step, number)
            answer = _ANSWERS[call.endpoint](ask)
        except RefusedError as exc:
            return _error(exc.status, exc.message, exc.param, code=exc.code)
        if answer.pieces is not None:
            return self._streamed(answer.pieces, step, deadline)
        return await self._at_once(answer, step, deadline)

    def _fails(self, step: Step, number: int) -> bool:
        drawn = step.fail_rate > 0 and self._random.random() < step.fail_rate
        nth = step.fail_every > 0 and number % step.fail_every == 0
        return step.fails or drawn or nth or number <= step.fail_first

    def _no_answer(self, step: Step, fails: bool) -> None:
        if fails and step.fail_kind:
            kind = cast(FailureKind, step.fail_kind)
            phase, sent = _PHASES[kind]
            raise UpstreamFailure(kind, phase, step.fail_message or f"{kind} as scripted", sent=sent)

    def _asleep(self, step: Step, *, wake: bool) -> bool:
        if not step.asleep_for:
            return False
        now = asyncio.get_running_loop().time()
        if self._woken is None and wake:
            self._woken = now + step.asleep_for
        return self._woken is None or now < self._woken

    # -- what is said --------------------------------------------------------------------------------

    def _ask(self, call: Call, step: Step, number: int) -> Ask:
        if call.endpoint not in _ANSWERS:
            raise RefusedError(f"there is no endpoint {call.endpoint!r}", status=404)
        fields = _fields(call)
        ask = Ask(fields, step, number, self.deployment.model, self.deployment.id, call.stream)
        text = call.body[:_FEW_BYTES].decode("utf-8", "replace") if step.refuse else ""
        if any(word in text for word in step.refuse):
            raise RefusedError("the content filter refuses this prompt", code="content_filter")
        limit, size = self.deployment.max_context_length, len(call.body) // 4
        if limit is not None and call.fields is not None and size > limit:
            text = f"This model's maximum context length is {limit} tokens, and the request has about {size}."
            raise RefusedError(text, "messages", code="context_length_exceeded")
        return ask

    async def _at_once(self, answer: Answer, step: Step, deadline: float) -> Reply:
        pause = answer.tokens / step.tokens_per_second if step.tokens_per_second else 0.0
        if pause:
            await self._wait(pause, "first_byte", deadline)
        if step.cut_after is not None:
            raise UpstreamFailure("reset", "body", "the answer was cut as scripted", sent=True, started=True)
        if step.hang_after is not None:
            await self._never("body", deadline)
        return _whole(answer.body, answer.content_type)

    def _streamed(self, pieces: Iterator[Piece], step: Step, deadline: float) -> Reply:
        stream = ScriptedStream(pieces, step, self.deployment.timeouts, deadline, self._ended)
        return Reply(200, {"content-type": "text/event-stream; charset=utf-8"}, chunks=stream)

    def _ended(self) -> None:
        self.running -= 1

    async def _wait(self, seconds: float, phase: Phase, deadline: float) -> None:
        await wait(self.deployment.timeouts, seconds, phase, deadline)

    async def _never(self, phase: Phase, deadline: float) -> None:
        await self._wait(float("inf"), phase, deadline)


def _fields(call: Call) -> Mapping[str, Any]:
    if call.fields is None:
        return audio_fields(call.body, call.content_type)
    try:
        return {name: msgspec.json.decode(value) for name, value in call.fields.items()}
    except (msgspec.DecodeError, RecursionError, TypeError) as exc:
        raise RefusedError(f"the body cannot be read: {exc}") from None


def _whole(body: bytes, content_type: str = "application/json") -> Reply:
    return Reply(200, {"content-type": content_type}, body)


def _error(
    status: int, message: str, param: str | None = None, *, code: str = "", retry_after: str = ""
) -> Reply:
    headers = {"content-type": "application/json"}
    if retry_after:
        headers["retry-after"] = retry_after
    return Reply(status, headers, error_body(message, param, code, status))
