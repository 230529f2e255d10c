"""Canaries: no credential comes out of the gateway, whatever an upstream, a caller or a file does."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping
from typing import Any

import pytest

from router_core.errors import Misconfigured
from router_core.gateway.clients.factory import make_client
from router_core.gateway.config.load import parse_config
from router_core.gateway.transport.pool import ConnectionPool
from router_core.testing.upstream import Upstream
from router_core.testing.upstream_faults import SSE, Behaviour, error_in_stream, ok, status
from router_core.testing.upstream_wire import Exchange
from tests.gateway.serving import chat, house

PATH = "/v1/chat/completions"
KEY = "canary-key-5e1f0a77/b2"
HEADER = "canary-header-90ab"
TOKEN = "canary-token-77c0de"
CANARIES = (KEY, HEADER, TOKEN)
TEXT = """
models:
  - id: m
    type: text-generation
    retry: {max_attempts: 1}
    clients:
      - id: d1
        model: up
        type: openai
        headers: {x-extra: "${EXTRA}"}
        args: {base_url: 'URL/v1', api_key: "${KEY}"}
endpoints:
  - {name: e1, driver: huggingface, url: 'https://abc.endpoints.huggingface.cloud', namespace: n, remote: e1,
     token: "${TOKEN}", api_url: 'APIS'}
"""
ENVIRON = {"KEY": KEY, "EXTRA": HEADER, "TOKEN": TOKEN}
SPELT = "".join(f"\\u{ord(each):04x}" for each in KEY)
ESCAPED = KEY.replace("/", "\\/")


def _events(*texts: str) -> Behaviour:
    async def run(exchange: Exchange) -> None:
        await exchange.head(200, SSE)
        for text in texts:
            await exchange.chunk(b"data: " + text.encode() + b"\n\n")
        await exchange.chunk(b"")

    return Behaviour("events", run)


def _error(key: str) -> str:
    return f'{{"error": {{"message": "no {key} here", "type": "{key}", "code": "{key}", "param": "{key}"}}}}'


PIECE = '{"choices":[{"index":0,"delta":{"content":"x"}}]}'
ECHOES: Mapping[str, Behaviour] = {
    "401": status(401, message=f"bad {KEY}", kind=KEY, name=KEY),
    "400": status(400, message=f"bad {KEY} {HEADER}", kind=KEY, name=KEY),
    "400-half": status(400, message=f"bad {KEY[:15]}..."),
    "400-headers": status(400, headers={"x-echo": KEY, "location": KEY, "set-cookie": KEY}),
    "302": status(302, headers={"location": f"http://127.0.0.1/{KEY}"}),
    "429": status(429, message=KEY, retry_after=KEY),
    "500": status(500, message=f"bad {KEY} {HEADER}", kind=KEY, name=KEY),
    "200": ok(_error(KEY).encode()),
    "200-escaped": ok(_error(ESCAPED).encode()),
    "200-spelt": ok(_error(SPELT).encode()),
    "200-400": ok({"error": {"message": f"no {KEY}", "type": "invalid_request_error", "code": 400}}),
    "reason": Behaviour("reason", lambda exchange: exchange.whole(400, f"<p>{KEY}</p>".encode(), {})),
}
STREAMED: Mapping[str, Behaviour] = {
    "first": _events(_error(KEY)),
    "first-400": _events(_error(KEY).replace('"error": {', '"error": {"status": 400, ')),
    "later": _events(PIECE, _error(KEY)),
    "later-escaped": _events(PIECE, _error(ESCAPED)),
    "later-spelt": _events(PIECE, _error(SPELT)),
    "plain": error_in_stream(1, message=f"{HEADER} is not known"),
}


def _text(url: str, apis: str = "http://127.0.0.1:1") -> str:
    return TEXT.replace("URL", url).replace("APIS", apis)


def _hidden(text: str) -> None:
    for canary in CANARIES:
        assert canary not in text, f"{canary} came out: {text[:1000]}"
        assert canary[:14] not in text, f"some of {canary} came out: {text[:1000]}"
    assert ESCAPED not in text
    assert SPELT not in text


async def _shown(stream: bool, behaviour: Behaviour, caplog: pytest.LogCaptureFixture) -> str:
    """Return all that anybody gets to see of one call that fails."""
    caplog.set_level(logging.DEBUG)
    async with Upstream(behaviour) as upstream, house(_text(upstream.url), ENVIRON) as made:
        seen: list[Any] = []
        for _ in range(6):  # often enough for the circuit to open, which is told
            answer = await made.ask(PATH, chat(stream=stream))
            seen += [
                answer.body.decode("utf-8", "replace"),
                repr(answer.headers),
                json.dumps(answer.body.decode()),
            ]
        for path in ("/v1/models", "/metrics", "/openapi.json", "/docs"):
            seen.append((await made.ask(path)).body.decode())
        seen.append((await made.ask("/api/routing/test", {"modelId": "m"})).body.decode())
        ledger = made.gateway.ledger.recent(100)
        assert ledger
        snapshot = made.gateway.registry.snapshot
        seen += [repr(ledger), repr(made.seen), repr(snapshot), repr(snapshot.config), caplog.text]
        seen += [repr(each.client) for each in snapshot.candidates.values()]
        errors = [each.error for each in made.seen if getattr(each, "error", None) is not None]
        seen += ["".join(traceback.format_exception(each)) for each in errors]
        assert upstream.requests[0].headers["authorization"] == f"Bearer {KEY}"
        return "\n".join(str(each) for each in seen)


@pytest.mark.parametrize("behaviour", ECHOES.values(), ids=ECHOES)
async def test_an_upstream_that_repeats_our_key(
    behaviour: Behaviour, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the caller nor anybody who reads logs, records or metrics sees it."""
    _hidden(await _shown(False, behaviour, caplog))


@pytest.mark.parametrize("behaviour", STREAMED.values(), ids=STREAMED)
async def test_a_stream_that_repeats_our_key(behaviour: Behaviour, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does it come out of an error inside a stream, before or after its first content."""
    _hidden(await _shown(True, behaviour, caplog))


@pytest.mark.parametrize("code", [200, 401, 404])
async def test_a_provider_that_repeats_our_token(code: int, caplog: pytest.LogCaptureFixture) -> None:
    """What the management API of an endpoint says to a token is not passed on with it."""
    caplog.set_level(logging.DEBUG)
    body = {"error": f"no {TOKEN}", "status": {"state": TOKEN, "message": TOKEN, "url": f"http://{TOKEN}/"}}
    async with Upstream(ok(body, code=code)) as provider:
        async with house(_text("http://127.0.0.1:1", provider.url), ENVIRON) as made:
            seen = []
            for path, method in (
                ("/api/endpoints/status", "GET"), ("/api/endpoints/status/e1", "GET"),
                ("/api/endpoints/wake/e1", "POST"), ("/api/endpoints/sleep", "POST"),
            ):  # fmt: skip
                seen.append((await made.ask(path, method=method)).body.decode())
            assert provider.requests[0].headers["authorization"] == f"Bearer {TOKEN}"
            _hidden("\n".join([*seen, repr(made.seen), caplog.text]))


WRONG = (
    TEXT.replace("api_key:", "api_kee:"),
    TEXT.replace("type: openai", "type: opanai"),
    TEXT.replace('"${KEY}"', f'"{KEY}\n'),
    TEXT.replace('"${KEY}"', f'"{KEY} {KEY}"'),
    TEXT.replace('"${KEY}"', f"[{KEY}]"),
    TEXT.replace('"${EXTRA}"', f'"{HEADER}\\r\\nx: y"'),
    TEXT.replace("URL", f"https://user:{HEADER}@host"),
    TEXT.replace("URL", f"https://host/?key={KEY}"),
    TEXT.replace("token:", "tokken:"),
    TEXT.replace('"${KEY}"', f"{KEY}: : :"),
    TEXT.replace('"${TOKEN}"', f'{{a: "{TOKEN}"}}'),
)


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
async def test_errors_of_the_configuration_quote_no_key(text: str) -> None:
    """Where a key stands at the wrong place, the error names the place."""
    with pytest.raises(Misconfigured) as caught:
        _make(text.replace("URL", "http://127.0.0.1:1").replace("APIS", "http://127.0.0.1:1"))
    told = str(caught.value) + repr(caught.value) + "".join(traceback.format_exception(caught.value))
    _hidden(told)


def _make(text: str) -> None:
    config = parse_config(text, "gateway.yaml", ENVIRON)
    for model in config.models:
        for deployment in model.deployments:
            make_client(deployment, ConnectionPool())
