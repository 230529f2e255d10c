"""``POST /api/route`` and ``POST /api/routing/test``: the rules choose, the caller says what it is about."""

from __future__ import annotations

import time
from typing import Any, cast

import msgspec
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from router_core.clock import rfc3339
from router_core.errors import HTTPError, RouterError, UpstreamError
from router_core.gateway.accounting.tokens import estimate_input
from router_core.gateway.budgets.tenants import Tenants
from router_core.gateway.call import Attributes, Call
from router_core.gateway.pipeline import Pipeline, Served
from router_core.gateway.pipeline.resolve import AUTO
from router_core.gateway.registry import Registry
from router_core.http.message import Request, Response
from router_core.routing.router import Router
from router_core.types import Principal, new_id

__all__ = [
    "Metadata",
    "Parameters",
    "RouteAnswer",
    "RouteRequest",
    "RouteUsage",
    "TestRequest",
    "routing_router",
]

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class _Wire(BaseModel):
    """camelCase on the wire; unknown names are refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class Parameters(_Wire):
    """How the model is to answer."""

    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1)
    top_p: float | None = Field(None, ge=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    stop: str | list[str] | None = None
    seed: int | None = None


class Metadata(BaseModel):
    """What else is known about the request; unknown names are what ``custom`` conditions of rules look at."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")

    request_type: str = "completion"
    priority: str = "normal"
    user_tier: str = ""
    tags: list[str] = Field(default_factory=list, max_length=50)


class RouteRequest(_Wire):
    """A prompt, and who asks it."""

    id: str = Field("", max_length=128)
    """Comes back as ``requestId``."""
    agent_type: str = Field("", max_length=128)
    workspace_id: str = Field("", max_length=128)
    user_id: str = Field("", max_length=128)
    prompt: str = Field(min_length=1)
    model_id: str = Field("", max_length=256)
    """A model by name; empty: the rules choose."""
    parameters: Parameters = Field(default_factory=Parameters)
    metadata: Metadata = Field(default_factory=Metadata)


class TestRequest(_Wire):
    """A request as it would be, without being made."""

    __test__ = False

    agent_type: str = Field("", max_length=128)
    workspace_id: str = Field("", max_length=128)
    user_id: str = Field("", max_length=128)
    request_type: str = "completion"
    user_tier: str = ""
    tags: list[str] = Field(default_factory=list, max_length=50)
    prompt: str = ""
    model_id: str = Field("", max_length=256)
    custom: dict[str, str] = Field(default_factory=dict)


class RouteUsage(_Wire):
    """What the request used."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost: float | None
    """Dollars; null where nobody knows the price."""


class RouteAnswer(_Wire):
    """What the model said."""

    id: str
    request_id: str
    model_id: str
    response: str
    usage: RouteUsage
    latency: int
    """Milliseconds."""
    status: str
    timestamp: str


def routing_router(pipeline: Pipeline, registry: Registry) -> Router:
    """Return the two routes."""
    router = Router(prefix="/api", tags=("routing",))
    tenants = Tenants(lambda: registry.snapshot.config)

    @router.post(
        "/route", summary="Send a prompt to the model that the rules choose", scopes=("models:call",)
    )
    async def route(body: RouteRequest, request: Request) -> RouteAnswer:
        began = time.monotonic()
        call = _call(body, request.principal, request.id)
        call.deadline = request.answer_by
        tenants.settle(call)
        served = await pipeline.serve(call)
        if served.reply.status >= 400 or not isinstance(served.body, bytes):
            raise _refusal(served)
        attempt = next((each for each in reversed(call.attempts) if each.outcome == "ok"), call.attempts[-1])
        usage = attempt.usage
        prompt, completion = (usage.input_tokens, usage.output_tokens) if usage else (call.input_tokens, 0)
        answer = RouteAnswer(
            id=f"response-{new_id()}",
            request_id=body.id or request.id,
            model_id=attempt.model_id,
            response=_text(served.body),
            usage=RouteUsage(
                prompt_tokens=prompt,
                completion_tokens=completion,
                total_tokens=prompt + completion,
                cost=None if attempt.cost is None else attempt.cost / 1_000_000,
            ),
            latency=round((time.monotonic() - began) * 1000),
            status="success",
            timestamp=rfc3339(time.time(), "milliseconds"),
        )
        limits = () if call.allowance is None else call.allowance.headers()
        headers = (("content-type", "application/json"), *served.headers, *limits)
        # the annotation describes the body; beside it go the headers that explain the decision
        return cast(RouteAnswer, Response(200, headers, answer.model_dump_json(by_alias=True).encode()))

    @router.post(
        "/routing/test", summary="Say where a request would go, and why, without making it",
        scopes=("routing:test",),
    )  # fmt: skip
    async def test(body: TestRequest, request: Request) -> dict[str, Any]:
        metadata = Metadata(
            request_type=body.request_type, user_tier=body.user_tier, tags=body.tags, **body.custom
        )
        asked = RouteRequest(
            agent_type=body.agent_type, workspace_id=body.workspace_id, user_id=body.user_id,
            prompt=body.prompt or "-", model_id=body.model_id, metadata=metadata,
        )  # fmt: skip
        call = _call(asked, request.principal, request.id)
        if body.user_tier:  # who asks how others are served says who they are
            call.attributes = msgspec.structs.replace(call.attributes, user_tier=body.user_tier)
        tenants.settle(call)
        return pipeline.explain(call)

    return router


def _call(body: RouteRequest, principal: Principal, request_id: str) -> Call:
    sampling = body.parameters.model_dump(exclude_none=True)
    message = {
        "model": body.model_id or AUTO,
        "messages": [{"role": "user", "content": body.prompt}],
        **sampling,
    }
    encoded = _encode(message)
    call = Call(
        "chat/completions", body.model_id or AUTO, body=encoded,
        fields=msgspec.json.decode(encoded, type=dict[str, msgspec.Raw]), request_id=request_id,
        principal=principal, started=time.monotonic(),
    )  # fmt: skip
    metadata = body.metadata
    call.max_tokens = body.parameters.max_tokens
    call.sticky = body.user_id
    call.attributes = Attributes(
        agent_type=body.agent_type, request_type=metadata.request_type, workspace_id=body.workspace_id,
        user_id=body.user_id, user_tier=principal.tier or metadata.user_tier, content_length=len(body.prompt),
        tags=frozenset(metadata.tags),
        custom={name: str(value) for name, value in (metadata.model_extra or {}).items()},
    )  # fmt: skip
    estimate_input(call)
    return call


def _refusal(served: Served) -> RouterError:
    """Return the error for a prompt that the model did not take, with its own words and status."""
    text, status, headers = "the model refused the prompt", served.reply.status, dict(served.headers)
    try:
        told = _decode(served.body if isinstance(served.body, bytes) else b"")["error"]["message"]
        text += f": {told}" if isinstance(told, str) else ""
    except (msgspec.MsgspecError, LookupError, TypeError):
        pass  # it has no words of its own
    if 400 <= status < 500:
        return HTTPError(status, text, code="prompt_refused", headers=headers)
    return UpstreamError(text, extra={"upstream_status": status}, headers=headers)


def _text(body: bytes) -> str:
    """Return what the model wrote. Raises UpstreamError for an answer of another shape."""
    try:
        content = _decode(body)["choices"][0]["message"]["content"]
    except (msgspec.MsgspecError, LookupError, TypeError):
        raise UpstreamError("the model answered in a shape that is not a chat completion") from None
    return content if isinstance(content, str) else ""
