"""The OpenAPI document of the gateway: what its routes take and give, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from examples import gateway
from router_core.binding.openapi import openapi_document
from router_core.gateway.values import ENDPOINTS
from router_core.routing.router import Router
from router_core.settings import Settings
from router_core.testing.client import TestClient
from router_core.wiring import build_app


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """The example gateway."""
    router = Router()
    router.include_router(gateway.router)
    with TestClient(build_app(router, Settings(jobs="memory://", blobs="memory://"))) as made:
        yield made


@pytest.fixture(scope="module")
def paths(client: TestClient) -> Mapping[str, Any]:
    """What the document says about paths."""
    found: Mapping[str, Any] = openapi_document(client.app.routes)["paths"]
    return found


def test_the_official_validator_agrees(client: TestClient) -> None:
    """With every route of the gateway in it."""
    validator = pytest.importorskip("openapi_spec_validator", reason="not among the development tools")
    validator.validate(json.loads(json.dumps(openapi_document(client.app.routes))))


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_endpoint_names_its_main_members(paths: Mapping[str, Any], endpoint: str) -> None:
    """The model among them, which is needed; other members are welcome."""
    operation = paths[f"/v1/{endpoint}"]["post"]
    (content,) = operation["requestBody"]["content"].values()
    schema = content["schema"]
    assert "model" in schema["required"]
    assert set(schema["required"]) <= set(schema["properties"])
    assert schema["additionalProperties"] is True
    assert set(operation["x-parameter-order"]) == set(schema["properties"])
    assert "x-router-decision" in operation["responses"]["200"]["headers"]


@pytest.mark.parametrize("endpoint", [each for each in ENDPOINTS if each != "audio/transcriptions"])
def test_the_examples_are_answered_by_the_example(
    client: TestClient, paths: Mapping[str, Any], endpoint: str
) -> None:
    """As they stand there, and with the members that the document promises."""
    operation = paths[f"/v1/{endpoint}"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    answer = client.post(f"/v1/{endpoint}", json=example)
    assert answer.status == 200, answer.content
    promised = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(promised["required"]) <= set(answer.value)


def test_the_client_library_calls_by_name(client: TestClient) -> None:
    """What it knows of a route is what the document says: names, and that others may come."""
    chat = client.connect().endpoint("/v1/chat/completions")
    answer = chat("large", [{"role": "user", "content": "hi"}], x_new=1)
    assert answer["choices"][0]["message"]["content"]
