"""Keys and addresses that the API may speak of: names alone, to whom they belong, and public places."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from router_core.gateway.control.addresses import Addresses, FencedResolver
from router_core.gateway.control.secrets import Secrets, refuse_keys
from router_core.gateway.values import ControlPolicy
from router_core.testing.upstream import Upstream, in_thread
from router_core.testing.upstream_openai import openai_chat
from tests.gateway.control_parts import Plane, opened
from tests.gateway.serving import chat, house

CANARY = "canary-value-0123456789"
ENVIRON = {
    "OPENAI_API_KEY": CANARY, "ROUTER_SECRET_OURS": CANARY, "TEAM_KEY": CANARY, "HOST_KEY": CANARY,
    "AWS_SECRET_ACCESS_KEY": CANARY, "PATH": CANARY,
}  # fmt: skip
POLICY = ControlPolicy((("TEAM_KEY", frozenset()), ("HOST_KEY", frozenset({"a.example"}))))


@pytest.mark.parametrize(
    "name",
    ["PATH", "AWS_SECRET_ACCESS_KEY", "openai_api_key ", "sk-abcdefghijklmnopqrstu", "", "A-B", "${X}", 5,
     None, ["ROUTER_SECRET_OURS"], "X" * 200],
)  # fmt: skip
def test_names_that_may_not_be_used(name: Any) -> None:
    """Variables that nobody allowed, and what is no name; what was written is not repeated."""
    with pytest.raises(ValueError, match="apiKeyRef: ") as caught:
        Secrets(ENVIRON, POLICY).check(name, "apiKeyRef")
    assert not isinstance(name, str) or not name.strip() or name not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "provider", "url", "allowed"),
    [
        ("OPENAI_API_KEY", "openai", "https://api.openai.com/v1", True),
        ("OPENAI_API_KEY", "openai", "http://api.openai.com/v1", False),
        ("OPENAI_API_KEY", "openai", "https://api.openai.com:8443/v1", False),
        ("OPENAI_API_KEY", "openai", "https://api.openai.com.evil.example/v1", False),
        ("OPENAI_API_KEY", "openai", "https://evil.example/v1", False),
        ("OPENAI_API_KEY", "generic", "https://api.openai.com/v1", False),
        ("AZURE_OPENAI_API_KEY", "azure", "https://mine.openai.azure.com", True),
        ("AZURE_OPENAI_API_KEY", "azure", "https://mineopenai.azure.com", False),
        ("ROUTER_SECRET_OURS", "vllm", "https://any.example/v1", True),
        ("TEAM_KEY", "vllm", "https://any.example/v1", True),
        ("HOST_KEY", "vllm", "https://a.example/v1", True),
        ("HOST_KEY", "vllm", "https://A.EXAMPLE/v1", True),
        ("HOST_KEY", "vllm", "https://b.example/v1", False),
    ],
)
def test_where_a_key_may_be_sent(name: str, provider: str, url: str, allowed: bool) -> None:
    """The usual one of a provider to that provider, others where the operator says."""
    secrets = Secrets(ENVIRON, POLICY)
    assert secrets.check(name, "apiKeyRef") == name
    assert (secrets.misplaced(name, provider, url) == "") is allowed


def test_a_token_is_not_for_containers_of_others() -> None:
    """Anybody may run an endpoint at Hugging Face, so that its name says nothing; the file may allow one."""
    url = "https://evil.eu-west-1.aws.endpoints.huggingface.cloud/v1"
    secrets = Secrets({"HF_TOKEN": "hf"}, ControlPolicy())
    assert secrets.usual("huggingface", url) == ""
    assert secrets.misplaced("HF_TOKEN", "huggingface", url)
    assert secrets.usual("huggingface", "https://router.huggingface.co/v1") == "HF_TOKEN"
    allowed = ControlPolicy(secrets=(("HF_TOKEN", frozenset(("mine.endpoints.huggingface.cloud",))),))
    mine = Secrets({"HF_TOKEN": "hf"}, allowed)
    assert mine.misplaced("HF_TOKEN", "huggingface", "https://mine.endpoints.huggingface.cloud/v1") == ""
    assert mine.misplaced("HF_TOKEN", "huggingface", url)


def test_the_usual_key_goes_nowhere_else() -> None:
    """Also where nobody names it."""
    secrets = Secrets(ENVIRON, POLICY)
    assert secrets.usual("openai", "https://api.openai.com/v1") == "OPENAI_API_KEY"
    assert secrets.usual("openai", "https://evil.example/v1") == ""
    assert secrets.usual("vllm", "https://api.openai.com/v1") == ""


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"apiKeyRef": "sk-abcdefghijklmnopqrstuvwx"}, "apiKeyRef"),
        ({"description": "use hf_abcdefghijklmnopqrst"}, "description"),
        ({"endpoints": [{"headers": {"x": "Bearer abcdefghijkl"}}]}, "endpoints[0].headers.x"),
        ({"tags": ["a", "AKIAABCDEFGHIJKLMNOP"]}, "tags[1]"),
        ({"name": "sk-proj-abcdefghij_klm-A1b2C3d4E5f6G7h8"}, "name"),
        ({"name": "gsk_abcdefghij1234567890"}, "name"),
        ({"apiKey": "anything"}, "apiKey"),
        ({"endpoints": [{"api_key": "anything"}]}, "endpoints[0].api_key"),
        ({"a": {"password": "x"}}, "a.password"),
        ({"sk-abcdefghijklmnopqrstuvwx": 1}, ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_looks_like_a_key_is_refused_and_not_shown(body: dict[str, Any], field: str) -> None:
    """Wherever it stands."""
    if not field:
        refuse_keys(body)  # the name of a field that there is not; that is refused elsewhere
        return
    with pytest.raises(ValueError, match="apiKeyRef") as caught:
        refuse_keys(body)
    assert str(caught.value).startswith(f"{field}: ")
    assert "abcdefghij" not in str(caught.value)
    assert "ABCDEFGHIJ" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["hf-endpoint-frankfurt", "sk-learn-pipeline-v2-production", "rpa-worker-production-2", "task-sk-1",
     "gpt-4-1106-preview", "meta-llama/Llama-3.1-8B-Instruct", "bearer of news", "the-risk-model-20241021"],
)  # fmt: skip
def test_names_are_no_keys(name: str) -> None:
    """Although some begin as keys do."""
    refuse_keys({"id": name, "tags": [name]})


async def test_keys_are_in_no_answer_and_no_export() -> None:
    """Nor in errors and notes."""
    async with house("control: {secrets: [TEAM_KEY]}", ENVIRON) as made:
        place = [{"url": "https://a.example/v1", "apiKeyRef": "TEAM_KEY"}]
        told = [
            await made.ask("/api/models", {"name": "A", "provider": "vllm", "endpoints": place}),
            await made.ask("/api/models", {"name": "B", "provider": "openai"}),
            await made.ask("/api/models", {"name": "C", "provider": "vllm", "apiKeyRef": "PATH"}),
            await made.ask("/api/models"),
            await made.ask("/api/config/export?all=true"),
            await made.ask("/api/config/versions"),
        ]
        assert [each.status for each in told] == [201, 201, 400, 200, 200, 200]
        candidates = made.gateway.registry.snapshot.models["a"].candidates
        assert candidates[0].deployment.key.reveal() == CANARY
        assert not [each for each in told if CANARY.encode() in each.body]
        assert CANARY not in repr(made.seen) + repr(made.gateway.control.config)
        stored = await made.gateway._state.entries("gwc/")
        assert len(stored.entries) > 3
        assert not [entry for entry in stored.entries if CANARY.encode() in entry.value]


REFUSED = [
    "http://127.0.0.1/v1", "http://localhost/v1", "http://[::1]/v1", "http://10.0.0.1/v1", "http://0.0.0.0/v1",
    "http://169.254.169.254/latest", "http://metadata.internal/v1", "http://[::ffff:127.0.0.1]/v1",
    "http://2130706433/v1", "http://0x7f.1/v1", "http://100.64.0.1/v1", "ftp://a.example/v1", "//a.example",
    "https://user:secret@a.example/v1", "https://a.example/v1?x=1", "https://a.example/v1#x", "https://",
    "https://a.example/../x", "https://a.example:0/v1", "https://a b.example", "", "file:///etc/passwd", 5,
    None,
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED, ids=str)
def test_addresses_that_are_refused(url: Any) -> None:
    """Before anybody resolves them; passwords are not shown."""
    with pytest.raises(ValueError, match="url: ") as caught:
        Addresses(private=False).clean(url, "url")
    assert "secret" not in str(caught.value)


def test_private_addresses_where_the_operator_allows_them() -> None:
    """And where clouds keep their credentials not even then."""
    allowed = Addresses(private=True)
    assert allowed.clean("http://127.0.0.1:8000/v1", "url") == "http://127.0.0.1:8000/v1"
    assert allowed.clean("http://vllm.internal:8000/v1/", "url") == "http://vllm.internal:8000/v1"
    with pytest.raises(ValueError, match="url: "):
        allowed.clean("http://169.254.169.254/v1", "url")


async def test_a_name_is_looked_up_when_it_is_written() -> None:
    """One that stands for a private place is refused, one for nothing may be there later."""
    answers = {
        "private.example": ["10.0.0.1"],
        "both.example": ["8.8.8.8", "127.0.0.1"],
        "ok.example": ["8.8.8.8"],
    }

    async def resolve(host: str, port: int) -> Sequence[str]:
        if host not in answers:
            raise OSError("no such name")
        return answers[host]

    addresses = Addresses(private=False, resolve=resolve)
    for host in ("ok.example", "later.example"):
        await addresses.check(f"https://{host}/v1", "url")
    for host in ("private.example", "both.example"):
        with pytest.raises(ValueError, match=r"url: .*no public address"):
            await addresses.check(f"https://{host}/v1", "url")


async def test_a_name_that_stands_for_something_else_by_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is connected to at its public addresses alone, and only where the API alone has named it."""

    async def fake(host: str, port: int, **options: Any) -> list[Any]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        both = [(*kind, ("169.254.169.254", port)), (*kind, ("8.8.8.8", port))]
        return both if host.startswith("both") else both[:1]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fake)
    resolver = FencedResolver(lambda: {"both.example", "evil.example"})
    assert [each.target[0] for each in await resolver.addresses("both.example", 443)] == ["8.8.8.8"]
    with pytest.raises(OSError, match="no public address"):
        await resolver.addresses("evil.example", 443)
    assert len(await resolver.addresses("file.example", 443)) == 1
    await resolver.aclose()


async def test_hosts_of_the_file_are_not_fenced(tmp_path: Path) -> None:
    """An operator may have private ones; a host that both name is the operator's."""
    text = """models: [{id: m, type: text-generation, clients: [{type: vllm, url: "http://ours.internal/v1"}]}]"""
    async with opened("memory", tmp_path) as state:
        plane = Plane(state, text)
        for number, url in enumerate(("https://theirs.example/v1", "https://ours.internal.example")):
            endpoint = {"id": "e", "url": url, "type": "primary", "weight": 1.0}
            body = {"name": "x", "provider": "vllm", "modelType": "chat", "capabilities": [],
                    "parameters": {}, "status": "active", "tags": [], "endpoints": [endpoint]}  # fmt: skip
            await plane.put("models", f"a{number}", body)
        assert plane.control.fenced() == {"theirs.example", "ours.internal.example"}
        plane.control.allow_private()
        assert plane.control.fenced() == frozenset()


async def test_a_private_endpoint_serves_where_that_is_allowed() -> None:
    """A real one, with the key that was named."""
    with in_thread(Upstream(openai_chat())) as upstream:
        body = {"id": "near", "name": "Near", "version": "up", "provider": "vllm",
                "endpoints": [{"url": f"{upstream.url}/v1", "apiKeyRef": "ROUTER_SECRET_OURS"}],
                "parameters": {"temperature": 0.25, "maxTokens": 7}}  # fmt: skip
        async with house("", ENVIRON) as made:
            reply = await made.ask("/api/models", body)
            assert (reply.status, reply.json()["errors"][0]["field"]) == (400, "endpoints[0].url")
        async with house("control: {private_urls: true}", ENVIRON) as made:
            assert (await made.ask("/api/models", body)).status == 201
            assert (await made.ask("/v1/chat/completions", chat("near"))).status == 200
        seen = upstream.requests[-1]
        assert seen.headers["authorization"] == f"Bearer {CANARY}"
        assert (seen.json()["temperature"], seen.json()["max_tokens"]) == (0.25, 7)
