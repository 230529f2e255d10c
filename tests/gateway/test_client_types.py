"""What is special about each type of upstream."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from router_core.errors import Misconfigured
from router_core.gateway.clients.factory import make_client
from router_core.gateway.clients.probe import HEALTH, METRICS, MODELS, Probe
from router_core.gateway.values import HealthPolicy, Secret
from tests.gateway.client_parts import KEY, Recorder, answer, called, client_of, deployed

TABLES = {
    "openai": {
        "audio/transcriptions",
        "chat/completions",
        "completions",
        "embeddings",
        "images/generations",
        "models",
        "responses",
    },
    "vllm": {
        "audio/transcriptions",
        "chat/completions",
        "completions",
        "embeddings",
        "models",
        "rerank",
        "responses",
    },
    "tei": {"embeddings", "models", "rerank"},
    "albert": {"audio/transcriptions", "chat/completions", "completions", "embeddings", "models", "rerank"},
    "azure": {
        "audio/transcriptions",
        "chat/completions",
        "completions",
        "embeddings",
        "images/generations",
        "responses",
    },
    "huggingface": {
        "audio/transcriptions",
        "chat/completions",
        "completions",
        "embeddings",
        "models",
        "rerank",
        "responses",
    },
    "generic": {
        "audio/transcriptions",
        "chat/completions",
        "completions",
        "embeddings",
        "images/generations",
        "models",
        "rerank",
        "responses",
    },
    "craftai": {"chat/completions", "select_endpoint"},
}


@pytest.mark.parametrize("kind", list(TABLES))
async def test_each_type_has_its_table_and_every_endpoint_of_it_can_be_called(kind: str) -> None:
    """OpenAI and Azure have no rerank, TEI nothing but embeddings and rerank."""
    transport = Recorder(answer({"results": []}))
    client = client_of(transport, kind)
    assert set(client.ENDPOINT_TABLE) == TABLES[kind]
    body = {"model": "turbo", "query": "q", "documents": [], "messages": [{"role": "user", "content": "x"}]}
    for endpoint in TABLES[kind] - {"models"}:
        await client.send(called(endpoint, body), 1.0)
        assert transport.last.method == "POST"


@pytest.mark.parametrize(
    ("kind", "endpoint", "path"),
    [
        ("vllm", "chat/completions", "/v1/chat/completions"), ("vllm", "rerank", "/v1/rerank"),
        ("tei", "embeddings", "/v1/embeddings"), ("tei", "rerank", "/rerank"),
        ("albert", "rerank", "/v1/rerank"), ("huggingface", "rerank", "/rerank"),
        ("huggingface", "chat/completions", "/v1/chat/completions"), ("generic", "rerank", "/v1/rerank"),
        ("openai", "images/generations", "/v1/images/generations"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("base", ["http://h.test", "http://h.test/v1"])
async def test_paths_are_those_of_the_server_whatever_the_base(
    kind: str, endpoint: str, path: str, base: str
) -> None:
    """What stands beside /v1 stands there even where the base URL ends with it."""
    transport = Recorder(answer({"results": []}))
    await client_of(transport, kind, base).send(called(endpoint, {"query": "q", "documents": ["d"]}), 1.0)
    assert transport.last.path == path


@pytest.mark.parametrize(
    ("kind", "url", "more", "probe", "metrics"),
    [
        ("openai", "http://h", {}, MODELS, None), ("albert", "http://h", {}, MODELS, None),
        ("generic", "http://h", {}, MODELS, None), ("azure", "http://h", {}, None, None),
        ("craftai", "http://h", {}, None, None), ("vllm", "http://h", {}, HEALTH, METRICS),
        ("tei", "http://h", {}, HEALTH, METRICS), ("huggingface", "http://h", {}, HEALTH, METRICS),
        ("huggingface", "", {}, MODELS, None),
        ("huggingface", "https://a.eu.aws.endpoints.huggingface.cloud", {}, None, None),
        ("huggingface", "http://h", {"endpoint": "120b"}, None, None),
    ],
)  # fmt: skip
async def test_probes_are_free_of_charge(
    kind: str, url: str, more: dict[str, Any], probe: Any, metrics: Any
) -> None:
    """An endpoint that may sleep has none: asking it would wake it, or keep it awake, for money."""
    client = client_of(Recorder(), kind, url, **more)
    assert (client.probe, client.metrics) == (probe, metrics)
    if probe is None:
        with pytest.raises(LookupError):
            await client.probe_once(1.0)


def test_the_path_of_a_probe_can_be_configured() -> None:
    """Where it is, it is asked, whatever the type says."""
    client = client_of(Recorder(), "azure", health=HealthPolicy(path="/ready?x=1"))
    assert client.probe == Probe("GET", "/ready?x=1", "health")
    with pytest.raises(Misconfigured, match="health"):
        make_client(deployed("vllm", health=HealthPolicy(path="ready\r\n")), Recorder())


def test_some_types_know_where_they_are() -> None:
    """The rest has to be told, and says so."""
    hosts = {
        kind: client_of(Recorder(), kind, "")._address.host_header
        for kind in ("openai", "albert", "huggingface")
    }
    assert hosts == {
        "openai": "api.openai.com",
        "albert": "albert.api.etalab.gouv.fr",
        "huggingface": "router.huggingface.co",
    }
    for kind in ("vllm", "tei", "azure", "generic", "craftai"):
        with pytest.raises(Misconfigured, match="base_url"):
            make_client(deployed(kind, ""), Recorder())


def test_some_types_need_a_key() -> None:
    """OpenAI itself, Azure and Craft.AI; a server of one's own that speaks like OpenAI does not."""
    for kind, url in (("openai", ""), ("azure", "http://h"), ("craftai", "http://h")):
        with pytest.raises(Misconfigured, match="key"):
            make_client(deployed(kind, url, key=Secret()), Recorder())
    make_client(deployed("openai", "http://localhost:1/v1", key=Secret()), Recorder())
    make_client(deployed("openai", "", key=Secret(), headers=(("authorization", "Bearer x"),)), Recorder())


async def test_organization_and_project_are_sent_where_they_are_configured() -> None:
    """Never those of the caller."""
    transport = Recorder()
    args = {"organization": "org-1", "project": "proj-2"}
    await client_of(transport, args=args).send(called(headers={"openai-organization": "org-evil"}), 1.0)
    assert transport.last.headers["openai-organization"] == "org-1"
    assert transport.last.headers["openai-project"] == "proj-2"


# --- azure ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "args", "endpoint", "path"),
    [
        ("https://r.openai.azure.com", {"api_version": "2024-06-01"}, "chat/completions",
         "/openai/deployments/my%2Fmodel/chat/completions?api-version=2024-06-01"),
        ("https://r.openai.azure.com/", {}, "embeddings",
         "/openai/deployments/my%2Fmodel/embeddings?api-version=2024-10-21"),
        ("https://r.openai.azure.com/openai", {"api_version": datetime.date(2024, 6, 1)}, "completions",
         "/openai/deployments/my%2Fmodel/completions?api-version=2024-06-01"),
        ("https://r.openai.azure.com/openai/deployments/other/chat/completions", {}, "chat/completions",
         "/openai/deployments/my%2Fmodel/chat/completions?api-version=2024-10-21"),
        ("https://r.openai.azure.com/openai/v1/", {}, "chat/completions", "/openai/v1/chat/completions"),
        ("https://r.openai.azure.com", {"api_version": "v1"}, "responses", "/openai/v1/responses"),
        ("https://r.openai.azure.com", {"api_version": "preview"}, "images/generations",
         "/openai/v1/images/generations?api-version=preview"),
        ("https://r.openai.azure.com", {}, "responses", "/openai/v1/responses"),
        ("https://r.openai.azure.com", {"api_version": "2025-03-01-preview"}, "responses",
         "/openai/responses?api-version=2025-03-01-preview"),
        ("https://apim.test/team/openai/v1", {}, "chat/completions", "/team/openai/v1/chat/completions"),
        ("https://r.test", {"paths": {"completions": "/x"}}, "completions", "/x"),
    ],
)  # fmt: skip
async def test_azure_names_the_deployment_in_the_path(
    url: str, args: dict[str, Any], endpoint: str, path: str
) -> None:
    """Dated versions do; the address without dates has it in the body, as OpenAI has."""
    transport = Recorder()
    await client_of(transport, "azure", url, args=args, model="my/model").send(called(endpoint), 1.0)
    sent = transport.last
    assert sent.path == path
    assert sent.json()["model"] == "my/model"
    assert sent.headers["api-key"] == KEY
    assert "authorization" not in sent.headers


@pytest.mark.parametrize(
    ("args", "asked"),
    [({}, True), ({"api_version": "2024-06-01"}, False), ({"api_version": "2024-09-01-preview"}, True),
     ({"api_version": "2024-06-01", "stream_usage": True}, True), ({"api_version": "preview"}, True)],
)  # fmt: skip
async def test_azure_is_asked_for_usage_where_it_understands(args: dict[str, Any], asked: bool) -> None:
    """Early versions refuse the whole call for it."""
    transport = Recorder()
    await client_of(transport, "azure", args=args).send(called(stream=True), 1.0)
    assert ("stream_options" in transport.last.json()) is asked


async def test_azure_takes_a_token_too() -> None:
    """Of Entra ID, as a bearer."""
    transport = Recorder()
    await client_of(transport, "azure", args={"auth": "bearer"}).send(called(), 1.0)
    assert transport.last.headers["authorization"] == f"Bearer {KEY}"
    assert "api-key" not in transport.last.headers


@pytest.mark.parametrize(
    "more", [{"args": {"api_version": "1 2"}}, {"args": {"api_version": "x&y"}}, {"model": ""}]
)
def test_azure_refuses_what_would_break_its_path(more: dict[str, Any]) -> None:
    """When it is loaded."""
    with pytest.raises(Misconfigured, match="deployment d1"):
        make_client(deployed("azure", **more), Recorder())


# --- hugging face --------------------------------------------------------------------------------


async def test_hugging_face_is_asked_to_hold_a_call_while_it_starts() -> None:
    """Only where the configuration says so: it is a call that waits for minutes."""
    transport = Recorder()
    await client_of(transport, "huggingface", args={"scale_up_timeout": 300}).send(called(), 1.0)
    assert transport.last.headers["x-scale-up-timeout"] == "300"
    await client_of(transport, "huggingface").send(called(), 1.0)
    assert "x-scale-up-timeout" not in transport.last.headers
    for wrong in (-1, 99999, "5", True):
        with pytest.raises(Misconfigured, match="scale_up_timeout"):
            make_client(deployed("huggingface", args={"scale_up_timeout": wrong}), Recorder())
