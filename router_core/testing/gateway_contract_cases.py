"""The gateway that ``gateway_contract`` serves, and what it asks it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from router_core.app import App
from router_core.gateway.config.load import parse_config
from router_core.gateway.environment import from_environment
from router_core.gateway.gateway import Gateway
from router_core.routing.router import Router
from router_core.settings import Settings
from router_core.testing.adapter_contract import Call
from router_core.testing.huggingface_api import HuggingFaceApi
from router_core.testing.upstream import Upstream, in_thread
from router_core.testing.upstream_faults import ok
from router_core.wiring import build_app

__all__ = ["CALLER", "CASES", "HELLO", "OPERATOR", "Case", "Site", "contract_site"]

OPERATOR: Final = "operator-key-0123456789"
"""A key that may do everything."""
CALLER: Final = "caller-key-0123456789abc"
"""A key that may not manage endpoints."""
_MAX_BODY: Final = 256 * 1024

_CONFIG: Final = """
models:
  - id: chatty
    type: text-generation
    aliases: [gpt-4o]
    clients:
      - {id: one, model: one, type: scripted, args: {reply: "Bonjour tout le monde, again and again."},
         price: {input: 1, output: 2}}
  - id: regional
    type: text-generation
    routing_strategy: priority
    clients:
      - {id: us-1, model: a, type: scripted, region: us, priority: 1, args: {reply: "from us"}}
      - {id: eu-1, model: b, type: scripted, region: eu, priority: 2, tags: [fast], args: {reply: "from eu"}}
  - {id: shaky, type: text-generation, fallbacks: [chatty], retry: {max_attempts: 1},
     clients: [{id: down, model: down, type: scripted, args: {fail_status: 503}}]}
  - {id: limited, type: text-generation, retry: {max_attempts: 1},
     clients: [{id: limited, model: limited, type: scripted, args: {fail_status: 429, retry_after: "7"}}]}
  - {id: broken, type: text-generation, retry: {max_attempts: 1},
     clients: [{id: broken, model: broken, type: scripted, args: {fail_status: 500}}]}
  - {id: locked, type: text-generation, retry: {max_attempts: 1},
     clients: [{id: locked, model: locked, type: scripted, args: {fail_status: 401}}]}
  - {id: fussy, type: text-generation, retry: {max_attempts: 1},
     clients: [{id: fussy, model: fussy, type: scripted,
                args: {fail_status: 400, fail_message: "the temperature is too high"}}]}
  - {id: silent, type: text-generation, retry: {max_attempts: 1}, total_timeout: 0.1,
     clients: [{id: silent, model: silent, type: scripted, args: {hang: true}}]}
  - {id: cut, type: text-generation, retry: {max_attempts: 1},
     clients: [{id: cut, model: cut, type: scripted, args: {reply: "one two three", cut_after: 2}}]}
  - {id: slow, type: text-generation,
     clients: [{id: slow, model: slow, type: scripted, args: {tokens: 400, chunk_delay: 0.01}}]}
  - {id: waits, type: text-generation,
     clients: [{id: waits, model: waits, type: scripted, args: {hang: true}}]}
  - {id: vectors, type: text-embeddings-inference,
     clients: [{id: v, model: v, type: scripted, args: {vector_size: 6}}]}
  - {id: ranks, type: text-classification, clients: [{id: r, model: r, type: scripted}]}
  - {id: ears, type: automatic-speech-recognition,
     clients: [{id: w, model: w, type: scripted, args: {reply: "what was said"}}]}
  - {id: painter, type: text-to-image, clients: [{id: p, model: p, type: scripted}]}
endpoints:
  - {name: big, driver: huggingface, url: "https://endpoints.huggingface.co/ann/endpoints/big",
     api_url: "${HUB_URL}", token: "${HUB_TOKEN}"}
  - {name: paused, driver: huggingface, url: "https://endpoints.huggingface.co/ann/endpoints/paused",
     api_url: "${HUB_URL}", token: "${HUB_TOKEN}"}
default_model: chatty
routing_rules:
  - name: creative work
    condition: {agentType: [creative]}
    targetModels: [{modelId: regional, weight: 1, fallbackOrder: 1}]
    priority: 100
    enabled: true
"""


class Site:
    """Makes gateways that are all alike, each with a state of its own, in front of the same stand-ins."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def gateway(self) -> Gateway:
        """Return a new one."""
        beside = from_environment(self._environ)
        # how they stand is what their calls have told: two gateways are not probed in the same moment
        text = _CONFIG.replace("type: scripted,", "type: scripted, health: {interval: 0},")
        config = parse_config(text, "gateway.yaml", self._environ, beside=beside)
        return Gateway(config, environ=self._environ, rng=random.Random(7))

    def app(self, **settings: Any) -> tuple[App, Gateway]:
        """Return a new one inside an app that knows ``OPERATOR`` and ``CALLER``."""
        gateway, router = self.gateway(), Router()
        router.include_router(gateway.router)
        given: dict[str, Any] = {
            "jobs": "memory://", "blobs": "memory://", "trusted_hosts": "*", "max_body_bytes": _MAX_BODY,
            "api_keys": f"operator:{OPERATOR},caller:{CALLER}:developer", **settings,
        }  # fmt: skip
        return build_app(router, Settings(**given)), gateway


@contextmanager
def contract_site() -> Iterator[Site]:
    """Serve what stands behind the gateways: an upstream, and the API that manages endpoints."""
    with HuggingFaceApi() as hub, in_thread(Upstream(ok(b'{"from":"the list"}'))) as upstream:
        hub.add("ann", "big", state="running", scale_to_zero_timeout=15)
        hub.add("ann", "paused", state="paused", scale_to_zero_timeout=15)
        listed = {"1": {"endpoint_url": f"{upstream.url}/ask", "endpoint_token": "a-token-of-the-list"}}
        yield Site({"HUB_URL": hub.api_url, "HUB_TOKEN": hub.token, "ENDPOINT_LIST": json.dumps(listed)})


@dataclass(frozen=True, slots=True)
class Case:
    """A request, and what is sure about its answer."""

    call: Call
    status: int
    has: tuple[str, ...] = field(default=())
    """Texts that stand in the body."""
    headers: tuple[str, ...] = field(default=())
    """Texts that stand in its head, where each header is a line ``name: value``."""


HELLO: Final[list[dict[str, Any]]] = [{"role": "user", "content": "Say hello."}]
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_FORM: Final = (
    b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nears\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n'
    b"content-type: audio/wav\r\n\r\nRIFF\x00\xff\r\n--b--\r\n"
)
_PROMPT: Final = {"agentType": "creative", "workspaceId": "w", "prompt": "Write something new"}


def _get(path: str, *, method: str = "GET", key: str = OPERATOR) -> Call:
    return Call(method, path, headers=_keyed(key))


def _post(
    path: str,
    body: Any = None,
    *headers: tuple[str, str],
    key: str = OPERATOR,
    media: str = "",
    query: str = "",
) -> Call:
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = () if body is None else (("content-type", media or "application/json"),)
    return Call("POST", path, query, (*_keyed(key), *kind, *headers), data)


def _keyed(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),) if key else ()


def _chat(model: Any = "chatty", *headers: tuple[str, str], key: str = OPERATOR, **more: Any) -> Call:
    body = {"model": model, "messages": HELLO, **more}
    return _post("/v1/chat/completions", body, *headers, key=key)


_ANSWERS: Final[Mapping[str, Case]] = {
    "chat": Case(
        _chat(), 200, ("Bonjour tout le monde",),
        ("x-router-model: chatty", "x-router-deployment: one", "x-router-attempts: 1"),
    ),
    "chat by alias": Case(_chat("gpt-4o"), 200, (), ("x-router-model: chatty",)),
    "chat with more fields": Case(
        _chat(temperature=0.2, user="ann", seed=1, max_tokens=4, x_new={"a": [1]}), 200, ("Bonjour",)
    ),
    "stream": Case(_chat(stream=True), 200, ("Bonjour",), ("content-type: text/event-stream",)),
    "stream with usage": Case(
        _chat(stream=True, stream_options={"include_usage": True}), 200, ('"total_tokens":',)
    ),
    "tools": Case(_chat(tools=[_TOOL], messages=[{"role": "user", "content": "the weather in Paris?"}]), 200,
                  ("get_weather", '"tool_calls"')),
    "tools as a stream": Case(
        _chat(tools=[_TOOL], messages=[{"role": "user", "content": "the weather?"}], stream=True), 200,
        ("get_weather",),
    ),
    "completion": Case(_post("/v1/completions", {"model": "chatty", "prompt": "Once"}), 200, ("Bonjour",)),
    "completion as a stream": Case(
        _post("/v1/completions", {"model": "chatty", "prompt": "Once", "stream": True}), 200, ("Bonjour",)
    ),
    "response": Case(_post("/v1/responses", {"model": "chatty", "input": "Hello"}), 200, ("Bonjour",)),
    "response as a stream": Case(
        _post("/v1/responses", {"model": "chatty", "input": "Hello", "stream": True}), 200,
        ("response.completed",),
    ),
    "embeddings": Case(
        _post("/v1/embeddings", {"model": "vectors", "input": ["a", "b"]}), 200, ('"embedding"',)
    ),
    "rerank": Case(
        _post("/v1/rerank", {"model": "ranks", "query": "a", "documents": ["a", "b"]}), 200, ('"results"',)
    ),
    "transcription": Case(
        _post("/v1/audio/transcriptions", _FORM, media="multipart/form-data; boundary=b"), 200,
        ("what was said",),
    ),
    "image": Case(_post("/v1/images/generations", {"model": "painter", "prompt": "a cat"}), 200, ('"data"',)),
    "models": Case(_get("/v1/models"), 200, ('"object":"list"', '"id":"chatty"')),
    "model": Case(_get("/v1/models/chatty"), 200, ('"aliases":["gpt-4o"]',)),
    "model by alias": Case(_get("/v1/models/gpt-4o"), 200, ('"id":"chatty"',)),
    "another model stands in": Case(_chat("shaky"), 200, ("Bonjour",), ("x-router-fallback-from: shaky",)),
    "narrowed by headers": Case(
        _chat("regional", ("x-router-region", "eu"), ("x-router-tags", "fast")), 200,
        ("from eu",), ("x-router-deployment: eu-1",),
    ),
    "left to the rules": Case(
        _chat("auto", ("x-router-agent-type", "creative")), 200,
        ("from us",), ("x-router-rule: creative work",),
    ),
    "left to the default": Case(_chat("auto"), 200, (), ("x-router-model: chatty",)),
    "route": Case(_post("/api/route", _PROMPT), 200, ('"response":"from us"', '"status":"success"')),
    "routing test": Case(_post("/api/routing/test", _PROMPT), 200, ('"rule":"creative work"',)),
    "select endpoint": Case(
        _post("/select_endpoint", {"message": "hi"}), 200, ('{"from":"the list"}',), ("x-router-attempts: 1",)
    ),
    "endpoints": Case(_get("/api/endpoints/status"), 200, ('"status":"running"', '"status":"sleeping"')),
    "endpoint": Case(_get("/api/endpoints/status/big"), 200, ('"status":"running"',)),
    "endpoint woken": Case(_post("/api/endpoints/wake/big"), 200, ('"success":true',)),
    "endpoint put to sleep": Case(_post("/api/endpoints/sleep/paused", query="pause=true"), 200,
                                  ('"status":"sleeping"',)),
}  # fmt: skip

_REFUSALS: Final[Mapping[str, Case]] = {
    "unknown model": Case(_chat("nobody"), 404, ("Model not found", "model_not_found")),
    "unknown model described": Case(_get("/v1/models/a/b"), 404, ("Model not found",)),
    "wrong type of model": Case(_post("/v1/embeddings", {"model": "chatty", "input": "x"}), 422,
                                ("Wrong model type",)),
    "model that is no text": Case(_chat(5), 400, ('"param":"model"',)),
    "no model": Case(_post("/v1/chat/completions", {"messages": HELLO}), 400, ('"param":"model"',)),
    "no json": Case(_post("/v1/chat/completions", b"{"), 400, ('"error":',)),
    "a list": Case(_post("/v1/chat/completions", b"[]"), 400, ('"error":',)),
    "not utf-8": Case(_post("/v1/chat/completions", b'{"model": "\xff"}'), 400, ('"error":',)),
    "empty body": Case(_post("/v1/chat/completions", b""), 400, ('"error":',)),
    "not called json": Case(_post("/v1/chat/completions", b"{}", media="text/plain"), 415, ('"error":',)),
    "huge body": Case(_post("/v1/chat/completions", b'{"a":"%s"}' % (b"x" * _MAX_BODY)), 413),
    "stream of what has none": Case(
        _post("/v1/embeddings", {"model": "vectors", "input": "x", "stream": True}), 400,
        ('"param":"stream"',),
    ),
    "header without sense": Case(_chat("chatty", ("x-router-max-cost", "much")), 400, ("x-router-max-cost",)),
    "nobody fits": Case(_chat("regional", ("x-router-region", "mars")), 422, ("no_deployment_fits",)),
    "refused by the upstream": Case(_chat("fussy"), 400, ("the temperature is too high",)),
    "upstream refuses our key": Case(_chat("locked"), 502, ("upstream_auth",)),
    "upstream is limited": Case(_chat("limited"), 429, ("rate_limit_error",), ("retry-after:",)),
    "upstream fails": Case(_chat("broken"), 502, ("upstream_error",)),
    "upstream is silent": Case(_chat("silent"), 504, ("timeout_error",)),
    "stream that breaks off": Case(_chat("cut", stream=True), 200, ("stream_interrupted",)),
    "route without a prompt": Case(_post("/api/route", {"agentType": "x"}), 422, ("prompt",)),
    "routing test with an unknown field": Case(_post("/api/routing/test", {"promt": "x"}), 422, ("promt",)),
    "unknown endpoint": Case(_get("/api/endpoints/status/nobody"), 404),
    "unknown endpoint woken": Case(_post("/api/endpoints/wake/nobody"), 404),
    "unknown path": Case(_get("/v1/nothing"), 404),
    "wrong method": Case(_get("/v1/chat/completions"), 405, (), ("allow:",)),
    "wrong method for models": Case(_get("/v1/models", method="DELETE"), 405, (), ("allow:",)),
    "head": Case(_get("/v1/models", method="HEAD"), 200),
    "options": Case(_get("/v1/chat/completions", method="OPTIONS"), 204, (), ("allow:",)),
    "no key": Case(_chat(key=""), 401, ("authentication_error",), ("www-authenticate: Bearer",)),
    "wrong key": Case(_chat(key="wrong-key-0123456789"), 401, ("authentication_error",)),
    "no key for the list": Case(_get("/v1/models", key=""), 401),
    "chat of a caller": Case(_chat(key=CALLER), 200, ("Bonjour",)),
    "status for a caller": Case(_get("/api/endpoints/status", key=CALLER), 200),
    "wake without the scope": Case(_post("/api/endpoints/wake/big", key=CALLER), 403, ("endpoints:manage",)),
    "wake of all without the scope": Case(_post("/api/endpoints/wake", key=CALLER), 403),
    "sleep without the scope": Case(_post("/api/endpoints/sleep/paused", key=CALLER), 403),
}  # fmt: skip

CASES: Final[Mapping[str, Case]] = {**_ANSWERS, **_REFUSALS}
