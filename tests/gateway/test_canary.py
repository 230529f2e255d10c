"""Nothing secret comes out anywhere: canaries in secrets and prompts, and then everything is read."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router_core import Router, Settings, build_app
from router_core.gateway.config.load import load_config
from router_core.gateway.gateway import Gateway
from router_core.http.message import Headers, Request
from router_core.telemetry.logging import Log

KEY = "sk-canary-key-4f1d9a7c3b"
TOKEN = "hf_canary_token_7c3b4f1d"
CALLER = "rk_canarycaller_" + "C" * 40
CALLER_SECRET = "C" * 40
PROMPT = "canary-prompt-9e21"
HEADER = "canary-header-55aa"
SECRETS = (KEY, TOKEN, CALLER_SECRET, HEADER)
YAML = """
models:
  - id: small
    type: text-generation
    clients:
      - {id: small-a, type: openai, model: gpt, key: %(key)s, base_url: "http://127.0.0.1:9/v1", \
headers: {x-secret: %(header)s}}
      - {id: small-b, type: scripted, model: small}
  - id: asleep
    type: text-generation
    clients: [{type: huggingface, model: m, endpoint: big}]
endpoints:
  - {name: big, driver: huggingface, url: "http://127.0.0.1:9", token: %(token)s, namespace: n, remote: big}
default_model: small
control: {secrets: [CANARY_SECRET]}
"""
READS = (
    "/v1/models", "/v1/models/small", "/api/models", "/api/models/small", "/api/models/small/health",
    "/api/models/small/endpoints", "/api/routing/rules", "/api/config/export", "/api/config/export?all=true",
    "/api/config/versions", "/api/config/versions/1", "/api/health/overview", "/health/detailed", "/health",
    "/health/ready", "/metrics", "/api/metrics/requests?limit=100", "/api/analytics/models?timeRange=1h",
    "/api/audit", "/api/keys", "/api/endpoints/status", "/openapi.json", "/api/workspaces/ws/config",
    "/api/workspaces/ws/budget",
)  # fmt: skip


@pytest.fixture
def log() -> Iterator[tuple[Log, io.StringIO]]:
    """Yield a log at its most talkative, and what it has written."""
    stream = io.StringIO()
    made = Log(Settings(log_level="debug", log_format="json"), stream)
    yield made, stream
    made.close()


class Reader:
    """Asks an app with the caller's key, and keeps all that came back."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.seen: list[tuple[str, int, str]] = []

    async def ask(self, method: str, path: str, body: Any = None, key: str = CALLER) -> int:
        """Send one request."""
        path, _, query = path.partition("?")
        headers = [("content-type", "application/json"), ("authorization", f"Bearer {key}")]
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self.app.handle(Request(method, path, query, Headers(headers), data))
        found = answer.body
        if not isinstance(found, bytes):
            found = b"".join([piece async for piece in found])
        text = found.decode(errors="replace") + json.dumps([list(each) for each in answer.headers])
        self.seen.append((f"{method} {path}?{query}", answer.status, text))
        return int(answer.status)


async def _use(reader: Reader) -> None:
    """Call models, change things, make mistakes with secrets in them."""
    chat = {"model": "small", "messages": [{"role": "user", "content": PROMPT}], "user": "u"}
    for body in (chat, chat | {"stream": True}, chat | {"model": "none"}, chat | {"model": 7}):
        await reader.ask("POST", "/v1/chat/completions", body)
    await reader.ask("POST", "/v1/chat/completions", f'{{"model": "{PROMPT}'.encode())
    await reader.ask("POST", "/api/route", {"prompt": PROMPT, "workspaceId": "ws"})
    await reader.ask("POST", "/api/route", {"prompt": PROMPT, "parameters": {"temperature": PROMPT}})
    await reader.ask("POST", "/api/routing/test", {"prompt": PROMPT, "agentType": "a"})
    await reader.ask("POST", "/api/workspaces/ws/config", {"budgetLimits": {"daily": 5}})
    model = {
        "id": "own", "name": "Own", "version": "gpt-own", "provider": "openai", "modelType": "chat",
        "endpoints": [{"url": "https://api.openai.com/v1", "type": "primary", "apiKeyRef": "CANARY_SECRET"}],
    }  # fmt: skip
    assert await reader.ask("POST", "/api/models", model) == 201
    for wrong in (
        {"apiKey": KEY},
        {"parameters": {"apiKey": KEY}},
        {"endpoints": [{"url": f"https://x/?key={KEY}"}]},
    ):
        assert await reader.ask("POST", "/api/models", {**model, "id": "own2", **wrong}) == 400
    await reader.ask("POST", "/api/endpoints/wake/big")
    await reader.ask("GET", "/v1/models", key=f"{CALLER}x")


@pytest.mark.parametrize("state", ["memory", "sqlite"])
async def test_no_answer_no_line_and_no_file_shows_a_canary(
    state: str, tmp_path: Path, log: tuple[Log, io.StringIO]
) -> None:
    """Keys of upstreams, tokens of providers, keys of callers, prompts: only the model sees any."""
    file, records = tmp_path / "gateway.yaml", tmp_path / "records.jsonl"
    file.write_text(YAML % {"key": KEY, "token": TOKEN, "header": HEADER})
    environ = {"CANARY_SECRET": KEY, "ROUTER_GATEWAY_RECORDS": str(records)}
    gateway = Gateway(load_config(file, environ), path=str(file), environ=environ)
    router = Router()
    router.include_router(gateway.router)
    url = "memory://" if state == "memory" else f"sqlite:///{tmp_path}/state.db"
    settings = Settings(
        jobs="memory://",
        blobs="memory://",
        state=url,
        api_keys=f"ann:{CALLER}",
        log_level="debug",
        keys="state",
    )
    app = build_app(router, settings)
    app.events.subscribe(log[0])
    reader = Reader(app)
    await app.start(background=False)
    try:
        await _use(reader)
        await app.tend()
        for path in READS:
            await reader.ask("GET", path)
    finally:
        await app.stop(0)
    log[0].close()
    missing = [name for name, status, _ in reader.seen if status == 404 and not name.startswith("POST /v1")]
    assert missing == []  # else something was not looked at
    statuses = {name: status for name, status, _ in reader.seen}
    assert statuses["GET /api/config/export?all=true"] == 200
    for name, _, text in reader.seen:
        _check(name, text, prompts=name.startswith(("POST /v1", "POST /api/rout")))
    _check("the log", log[1].getvalue())
    for kept in _files(tmp_path, file):
        _check(kept.name, kept.read_bytes().decode("latin-1"))
    assert records.exists()
    assert "model_call" in log[1].getvalue()


def _files(folder: Path, but: Path) -> list[Path]:
    return [each for each in folder.iterdir() if each != but]


def _check(name: str, text: str, *, prompts: bool = False) -> None:
    for secret in SECRETS:
        assert secret not in text, f"{name} shows {secret[:12]}"
    if not prompts:  # an answer may say what it was asked, and an error which value was wrong
        assert PROMPT not in text, f"{name} shows a prompt"
