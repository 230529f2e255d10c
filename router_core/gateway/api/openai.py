"""The routes that OpenAI's clients call: only their ``base_url`` has to be changed."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from router_core.errors import BadRequest, HTTPError, UnsupportedMedia
from router_core.gateway.accounting.tokens import estimate_input
from router_core.gateway.api.content import JSON, answer_type
from router_core.gateway.api.errors import OPENAI_ERRORS
from router_core.gateway.api.openapi import MODEL, MODELS, describe
from router_core.gateway.api.wishes import PASSED_ON, no_wishes, read_wishes, says_more
from router_core.gateway.budgets.tenants import HEADER, Tenants
from router_core.gateway.call import Call
from router_core.gateway.clients.multipart import read_form
from router_core.gateway.json import (
    count_of,
    invalid,
    max_tokens_of,
    model_of,
    needs_of,
    prompts_of,
    read_fields,
    stream_of,
    text_of,
    wants_usage_of,
)
from router_core.gateway.pipeline import Pipeline, Served
from router_core.gateway.pipeline.resolve import AUTO
from router_core.gateway.registry import Registry
from router_core.gateway.values import ENDPOINTS
from router_core.http.disconnect import interrupt_when_gone
from router_core.http.message import Request, Response
from router_core.http.taskless import TASKLESS, own_task
from router_core.routing.router import Router

__all__ = ["CLIENT_GONE", "OpenAIRoutes"]

CLIENT_GONE: Final = 499
"""Status in the log of a call whose caller did not wait for its answer."""
_STREAMS: Final = frozenset({"chat/completions", "completions", "responses", "audio/transcriptions"})
_UPLOADS: Final = frozenset({"audio/transcriptions"})
_SUMMARIES: Final = {
    "chat/completions": "Answer a conversation",
    "completions": "Continue a text",
    "embeddings": "Turn texts into vectors",
    "rerank": "Order texts by how well they answer a query",
    "audio/transcriptions": "Turn speech into text",
    "images/generations": "Make images of a description",
    "responses": "Answer, with OpenAI's newer interface",
}
_LOOKS: Final = ("models:call|read",)
Fields = tuple[tuple[str, str], ...]
Joined = dict[tuple[int, int], tuple[Fields, Fields, Fields]]
_JOINED: Final = 1024
_STREAM_HEADERS: Final = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache"),
    ("x-accel-buffering", "no"),
)


class OpenAIRoutes:
    """Serves the endpoints of models."""

    def __init__(
        self, pipeline: Pipeline, registry: Registry, time: Callable[[], float] | None = None
    ) -> None:
        self._pipeline = pipeline
        self._registry = registry
        self._tenants = Tenants(lambda: registry.snapshot.config)
        self._joined: Joined = {}
        self._time = time

    def router(self) -> Router:
        """Return the routes."""
        router = Router(tags=("models",))
        for endpoint in ENDPOINTS:
            name = endpoint.replace("/", "_")
            handler = functools.partial(self.serve, endpoint)
            meta = {**OPENAI_ERRORS, TASKLESS: True, "openapi": describe(endpoint)}
            router.post(
                f"/v1/{endpoint}", meta=meta, name=name, summary=_SUMMARIES[endpoint], scopes=("models:call",)
            )(handler)

        @router.get(
            "/v1/models", meta={**OPENAI_ERRORS, "openapi": MODELS}, summary="List the models", scopes=_LOOKS
        )
        async def list_models(request: Request) -> dict[str, Any]:
            tenant = self._tenants.of(request.principal, request.headers.get(HEADER, ""))
            routers = self._registry.snapshot.models.values()
            mine = [router for router in routers if tenant is None or tenant.may_use(router.id)]
            return {"object": "list", "data": [router.info() for router in mine]}

        @router.get(
            "/v1/models/{model:path}", meta={**OPENAI_ERRORS, "openapi": MODEL}, summary="Describe one model",
            scopes=_LOOKS,
        )  # fmt: skip
        async def get_model(model: str, request: Request) -> dict[str, Any]:
            tenant = self._tenants.of(request.principal, request.headers.get(HEADER, ""))
            found = self._registry.snapshot.models[model]
            if tenant is not None and not tenant.may_use(found.id):
                raise HTTPError(404, "Model not found", code="model_not_found")
            return found.info()

        return router

    async def serve(self, endpoint: str, request: Request) -> Response:
        """Answer one call of a model."""
        call = self.read(endpoint, request)
        if call.stream:
            await own_task()
        interruption = interrupt_when_gone(request)
        try:
            served = await self._pipeline.serve(call)
        except asyncio.CancelledError:
            if not interruption.happened:
                raise
            interruption.acquit()
            return Response(CLIENT_GONE, (("content-type", "text/plain"),), b"")
        finally:
            interruption.forget()
        if call.allowance is not None:
            return answer(served, call.allowance.headers(), self._joined)
        return answer(served)

    def read(self, endpoint: str, request: Request) -> Call:
        """Return the call that a request asks for. Raises BadRequest for what cannot be one."""
        body, headers = request.body, request.headers
        content_type = headers.get("content-type") or "application/json"
        started = monotonic()
        if endpoint in _UPLOADS:
            call = _upload(endpoint, body, content_type, started)
        else:
            call = _json_call(endpoint, body, content_type, started)
        call.request_id = request.id
        call.principal = request.principal
        call.header = headers.get
        estimate_input(call)
        if says_more(headers):
            call.headers = {name: value for name in PASSED_ON if (value := headers.get(name)) is not None}
            read_wishes(headers, call)
        elif call.model_name == AUTO:
            no_wishes(call)
        if request.answer_by < call.deadline:
            call.deadline = request.answer_by
        self._tenants.settle(call)
        return call


def answer(served: Served, more: Fields = (), joined: Joined | None = None) -> Response:
    """Return what goes to the caller; ``joined`` keeps headers that were put together, for the next time."""
    reply = served.reply
    if reply.chunks is not None:
        return Response(200, (*_STREAM_HEADERS, *served.headers, *more), served.body)
    status = 200 if reply.status < 300 else reply.status  # 205, say, must not have a body
    content_type = answer_type(reply.headers.get("content-type", JSON))
    headers = served.explained.typed(content_type)
    if more:
        headers = _join(headers, more, {} if joined is None else joined)
    return Response(status, headers, served.body)


def _join(headers: Fields, more: Fields, joined: Joined) -> Fields:
    """Return both: of the same two the same object each time, by which a server knows that it has them."""
    key = (id(headers), id(more))
    known = joined.get(key)
    if known is not None and known[0] is headers and known[1] is more:
        return known[2]
    if len(joined) >= _JOINED:
        joined.clear()
    both = (*headers, *more)
    joined[key] = (headers, more, both)
    return both


def _json_call(endpoint: str, body: bytes, content_type: str, started: float) -> Call:
    if content_type != JSON and not content_type.partition(";")[0].rstrip().lower().endswith("json"):
        raise UnsupportedMedia("the body has to be JSON", code="unsupported_media")
    fields = read_fields(body)
    call = Call(endpoint, model_of(fields), body=body, fields=fields, started=started)
    if "stream" in fields:
        call.stream = stream_of(fields)
        if call.stream and endpoint not in _STREAMS:
            raise BadRequest("this endpoint has no streams", extra={"param": "stream"})
        call.wants_usage = not call.stream or wants_usage_of(fields)
    call.max_tokens = max_tokens_of(fields)
    if "n" in fields or "best_of" in fields:
        call.choices = count_of(fields)
    if endpoint == "completions":
        call.choices *= prompts_of(fields)
    call.needs = needs_of(fields)
    if "user" in fields:
        call.sticky = text_of(fields, "user")
    return call


def _upload(endpoint: str, body: bytes, content_type: str, started: float) -> Call:
    form = read_form(body, content_type)
    name = form.get("model", "")
    if not name:
        raise invalid("you must provide a model parameter", "model", "missing_model")
    call = Call(endpoint, name, body=body, content_type=content_type, started=started)
    call.stream = form.get("stream") == "true"
    call.sticky = form.get("user", "")
    return call
