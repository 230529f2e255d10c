"""From the JSON of a model to the model that calls go by, and back."""

from __future__ import annotations

from typing import Any

import pytest

from router_core.gateway.clients.factory import make_client
from router_core.gateway.control.addresses import Addresses
from router_core.gateway.control.model_body import Bodies, model_id_of
from router_core.gateway.control.model_value import made_of, told_of
from router_core.gateway.control.providers import MODEL_KINDS, PROVIDERS
from router_core.gateway.control.resource import Resource
from router_core.gateway.control.secrets import Secrets
from router_core.gateway.values import (
    MODEL_TYPES,
    ControlPolicy,
    Deployment,
    Limit,
    Model,
    Price,
    Secret,
    Timeouts,
)
from tests.gateway.client_parts import Recorder
from tests.gateway.config_parts import parsed

ENVIRON = {name: "value-of-a-key-0123" for each in PROVIDERS.values() for name in each.variables}
SECRETS = Secrets({**ENVIRON, "ROUTER_SECRET_X": "value-of-a-key-0123"}, ControlPolicy())
BODIES = Bodies(SECRETS, Addresses(private=False))


def made(**body: Any) -> Model:
    """Return the model of a body."""
    kept = BODIES.model({"name": "A model", "provider": "openai", **body})
    assert BODIES.model(kept) == kept, "what is kept can be read again"
    return made_of(Resource("models", "m", kept, 1_700_000_000.0, 1_700_000_000.0), SECRETS).model


def only(**body: Any) -> Deployment:
    """Return the one deployment of a body."""
    (deployment,) = made(**body).deployments
    return deployment


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"id": "mine", "version": "gpt-4", "name": "N"}, "mine"),
        ({"version": "gpt-4-1106-preview", "name": "N"}, "gpt-4-1106-preview"),
        ({"version": "1.0.0", "name": "GPT-4 Turbo"}, "gpt-4-turbo"),
        ({"version": "v2", "name": "GPT-4 Turbo"}, "gpt-4-turbo"),
        ({"version": "meta-llama/Llama-3", "name": "Llama 3"}, "llama-3"),
        ({"name": "Größe & Co. (2)"}, "gr-e-co.-2"),
        ({"name": "x" * 250}, "x" * 100),
    ],
)
def test_ids(body: dict[str, Any], key: str) -> None:
    """The one that is given, else the version where it is a name, else the name."""
    assert model_id_of(body) == key


def test_names_without_a_letter_have_ids_too() -> None:
    """Each its own."""
    one, other = model_id_of({"name": "模型"}), model_id_of({"name": "模式"})
    assert one != other
    assert one.isascii()


def test_where_providers_are_is_where_their_clients_go() -> None:
    """A model without endpoints is served there, with the key that belongs there."""
    for name, provider in PROVIDERS.items():
        if not provider.url:
            continue
        deployment = only(provider=name)
        assert deployment.base_url == provider.url
        assert deployment.key.reveal() == "value-of-a-key-0123", name
        base = getattr(make_client(deployment, Recorder()), "BASE_URL", "")
        assert not base or base.rstrip("/") == provider.url, name
        assert provider.takes(provider.url), name


def test_every_provider_and_type() -> None:
    """Either serves, or is refused in words: nothing in between."""
    served, refused = 0, []
    for provider in PROVIDERS:
        for kind in MODEL_KINDS:
            body = {"provider": provider, "modelType": kind, "version": "x", "apiKeyRef": "ROUTER_SECRET_X",
                    "endpoints": [{"url": "https://a.example/v1"}]}  # fmt: skip
            try:
                model = made(**body)
            except ValueError as error:
                refused.append(str(error))
            else:
                assert model.type in MODEL_TYPES
                served += 1
    assert served > 60
    assert all(each.startswith("endpoints[0]: deployment") for each in refused), refused


def test_all_that_a_model_may_say() -> None:
    """And where it goes."""
    model = made(
        version="up", modelType="chat", status="deprecated", tags=["a"], aliases=["other"],
        strategy="cheapest",
        capabilities=[{"type": "text-generation", "maxTokens": 4096}, "function-calling", "vision"],
        parameters={"temperature": 0, "maxTokens": 5, "topP": 1, "stop": ["x"], "seed": 7}, fallbacks=["f"],
        contextFallbacks=["c"], policyFallbacks=["p"], region="eu", compliance=["GDPR"], contextLength=8192,
        price={"input": 2.5, "output": 10, "cachedInput": 1.25, "request": 0.01}, ownedBy="us",
        limits={"rateLimits": {"concurrency": 3}}, description="text",
    )  # fmt: skip
    (deployment,) = model.deployments
    assert (model.id, model.type, model.status, model.strategy) == (
        "m", "text-generation", "deprecated", "cheapest",
    )  # fmt: skip
    assert (model.aliases, model.fallbacks, model.context_fallbacks, model.policy_fallbacks) == (
        ("other",), ("f",), ("c",), ("p",),
    )  # fmt: skip
    assert (model.owned_by, model.created, model.limits) == ("us", 1_700_000_000, (Limit("concurrency", 3),))
    assert (deployment.model, deployment.region, sorted(deployment.compliance)) == ("up", "eu", ["gdpr"])
    assert sorted(deployment.capabilities) == ["tools", "vision"]
    assert deployment.price == Price(2_500_000, 10_000_000, 1_250_000, 10_000)
    assert deployment.max_context_length == 8192
    assert deployment.defaults == {"temperature": 0, "max_tokens": 5, "top_p": 1, "stop": ["x"], "seed": 7}


def test_a_model_that_only_writes_may_be_asked_for_anything() -> None:
    """Nothing is held against it of which it says nothing."""
    assert only(capabilities=[{"type": "text-generation"}]).capabilities == frozenset()


def test_endpoints() -> None:
    """Their types are levels, their times seconds, their health checks paths."""
    place = {"url": "https://a.example/gpt/v1", "apiKeyRef": "ROUTER_SECRET_X"}
    model = made(
        provider="vllm", tags=["m"], region="eu",
        endpoints=[
            {**place, "id": "a", "healthCheckUrl": "https://a.example/gpt/health", "tags": ["e"]},
            {**place, "id": "b", "type": "secondary", "timeout": 2000, "region": "us", "weight": 0.5},
            {**place, "id": "c", "type": "fallback", "maxConcurrency": 4, "model": "other",
             "healthCheckUrl": "https://a.example/gpt/v1/models"},
        ],
    )  # fmt: skip
    a, b, c = model.deployments
    assert [each.id for each in (a, b, c)] == ["m/a", "m/b", "m/c"]
    assert [each.priority for each in (a, b, c)] == [0, 10, 20]
    assert (a.health.path, b.health.path, c.health.path) == ("/health", "", "/v1/models")
    assert b.timeouts == Timeouts(connect=2.0, first_byte=2.0, idle=2.0, total=600.0)
    assert (a.region, b.region, sorted(a.tags)) == ("eu", "us", ["e", "m"])
    assert (a.model, c.model, c.max_concurrency, b.weight) == ("m", "other", 4, 0.5)
    assert a.key == Secret("value-of-a-key-0123")


def test_models_of_the_file_are_told_without_their_keys() -> None:
    """And so that they could be written through the API, as far as it goes."""
    model = parsed(
        """
models:
- id: turbo
  type: text-generation
  aliases: [fast]
  tags: [t]
  clients:
  - {model: gpt-4, type: openai, api_key: canary-key-0123456789, headers: {x-team: canary-2}, region: eu}
"""
    ).models[0]
    told = told_of(model)
    assert "canary" not in repr(told)
    assert (told["version"], told["provider"], told["modelType"], told["aliases"]) == (
        "gpt-4", "openai", "chat", ["fast"],
    )  # fmt: skip
    assert told["endpoints"][0]["region"] == "eu"
