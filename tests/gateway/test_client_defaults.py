"""Parameters that a deployment sets where the caller says nothing."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from router_core.gateway.reply import UpstreamFailure
from router_core.testing.upstream import Upstream
from tests.gateway.client_parts import Recorder, called, client_of
from tests.gateway.serving import chat, house

DEFAULTS = {"temperature": 0.5, "max_tokens": 100, "top_p": 0.9, "stop": ["x"]}


async def sent(endpoint: str, body: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return what goes to the upstream, without the model and the text."""
    recorder = Recorder()
    client = client_of(recorder, defaults=DEFAULTS, **more)
    call = called(endpoint, {"model": "turbo", **body})
    await client.send(call, 1e9)
    assert set(call.fields or ()) == {"model", *body}, "the call itself stays as it is"
    told: dict[str, Any] = recorder.last.json()
    return {name: told[name] for name in told if name not in ("model", "messages", "prompt", "input")}


async def test_what_is_not_said_is_filled_in() -> None:
    """And what is said, stays."""
    assert await sent("chat/completions", {"messages": []}) == DEFAULTS
    assert await sent("completions", {"prompt": "x", "temperature": 0}) == {**DEFAULTS, "temperature": 0}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_limit_in_any_words_is_a_limit(name: str) -> None:
    """No second one is sent beside it."""
    told = await sent("chat/completions", {"messages": [], name: 5})
    assert {key: told[key] for key in told if key.startswith("max")} == {name: 5}


async def test_other_endpoints_get_what_they_know() -> None:
    """``responses`` in its own words, and embeddings nothing at all."""
    assert await sent("responses", {"input": "x"}) == {
        "temperature": 0.5, "top_p": 0.9, "max_output_tokens": 100,
    }  # fmt: skip
    assert await sent("embeddings", {"input": "x"}) == {}


async def test_every_type_can_have_them() -> None:
    """Also those that translate."""
    for kind in ("anthropic", "vllm", "generic", "azure"):
        recorder = Recorder()
        client = client_of(recorder, kind, defaults={"temperature": 0.5})
        with suppress(UpstreamFailure):  # what it gets back is no answer of its own
            await client.send(called(), 1e9)
        assert recorder.last.json()["temperature"] == 0.5, kind


def test_a_client_without_defaults_is_left_alone() -> None:
    """It costs nothing then."""
    assert "send" not in vars(client_of(Recorder()))


async def test_every_call_is_filled_on_a_connection_that_is_kept_as_well(upstream: Upstream) -> None:
    """The first one opens it; the others are written to it at once, and the caller's own values stand."""
    text = (
        "models:\n  - {id: m, type: text-generation, clients: [{type: scripted, model: m}]}\n"
        "control: {private_urls: true}\n"
    )
    model = {
        "id": "own", "name": "Own", "version": "gpt-own", "provider": "openai", "modelType": "chat",
        "parameters": {"temperature": 0.5}, "endpoints": [{"url": f"{upstream.url}/v1", "type": "primary"}],
    }  # fmt: skip
    async with house(text) as made:
        assert (await made.ask("/api/models", model)).status == 201
        for more in ({}, {}, {"temperature": 1}):
            assert (await made.ask("/v1/chat/completions", chat("own", **more))).status == 200
    assert [each.json()["temperature"] for each in upstream.requests] == [0.5, 0.5, 1]
