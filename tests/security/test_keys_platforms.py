"""Keys, tokens and roles are the same on every platform; what needs none of it loads none of it."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient as FastApiClient

from handlers.aws.function import LambdaApp, build
from handlers.local.asgi import AsgiApp
from router_core import Router, Settings, build_app
from router_core.calls import CallService
from router_core.clock import SystemClock
from router_core.security.stored_keys import KeyRoom
from router_core.stores.state_sqlite import SqliteStateStore
from router_core.testing.adapter_contract import Call
from tests.aws.lambda_events import Context, http_api
from tests.security.jwt_parts import AUDIENCE, ISSUER, public_jwk, token

ROOT = Path(__file__).parent.parent.parent
SETTING = "ann:0123456789abcdef-ann:viewer, root:0123456789abcdef-root"


def service() -> Router:
    """Return a service of calls."""
    router = Router()

    @router.get("/look", scopes=["read"])
    def look() -> str:
        return "seen"

    @router.get("/manage", scopes=["config:manage"])
    def manage() -> str:
        return "done"

    return router


async def made(path: Path, **wishes: Any) -> tuple[str, str]:
    """Make a key in a state on disk, as the command line does."""
    state = SqliteStateStore(str(path), SystemClock())
    await state.open()
    try:
        _, key = await KeyRoom(state, SystemClock()).create({"roles": ("viewer",), **wishes}, "tests")
        return key.id, key.key
    finally:
        await state.close()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Settings of a service that takes keys of all kinds, and tokens."""
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [public_jwk("ed")]}))
    return {
        "ROUTER_API_KEYS": SETTING, "ROUTER_KEYS": "state", "ROUTER_STATE": f"sqlite:///{tmp_path}/state.db",
        "ROUTER_JWT_ISSUER": ISSUER, "ROUTER_JWT_AUDIENCE": AUDIENCE,
        "ROUTER_JWT_JWKS": f"@{tmp_path}/jwks.json",
    }  # fmt: skip


@pytest.fixture
def function(environ: dict[str, str]) -> Iterator[LambdaApp]:
    """A function with these settings."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    handler = build(environ, service())
    yield handler
    handler.stop()
    root.handlers[:], root.level = before[0], before[1]


def callers(tmp_path: Path) -> list[tuple[str, int, int]]:
    """Return credentials, and the statuses that ``/look`` and ``/manage`` have for them."""
    _, viewer = asyncio.run(made(tmp_path / "state.db"))
    _, admin = asyncio.run(made(tmp_path / "state.db", roles=("admin",)))
    return [
        (viewer, 200, 403), (admin, 200, 200), (viewer[:-2] + "xy", 401, 401),
        ("0123456789abcdef-ann", 200, 403), ("0123456789abcdef-root", 200, 200), ("", 401, 401),
        (token("ed", roles=["viewer"]), 200, 403), (token("ed", roles=["admin"]), 200, 200),
        (token("other"), 401, 401),
    ]  # fmt: skip


def test_on_lambda(function: LambdaApp, environ: dict[str, str], tmp_path: Path) -> None:
    """The calls, which begin without the rest of the app; and the rest, which knows the same keys."""
    assert isinstance(function._service, CallService)

    def ask(method: str, path: str, key: str, body: bytes = b"") -> Any:
        headers = (("authorization", f"Bearer {key}"), ("content-type", "application/json")) if key else ()
        return function(http_api(Call(method, path, "", headers, body)), Context())

    everybody = callers(tmp_path)
    for key, look, manage in everybody:
        assert ask("GET", "/look", key)["statusCode"] == look
        assert ask("GET", "/manage", key)["statusCode"] == manage
    (_, admin) = everybody[0][0], everybody[1][0]
    answer = ask("POST", "/api/keys", admin, b'{"roles": ["viewer"]}')
    assert answer["statusCode"] == 201
    new = json.loads(answer["body"])
    assert ask("GET", "/look", new["key"])["statusCode"] == 200
    assert ask("DELETE", f"/api/keys/{new['id']}", admin)["statusCode"] == 204
    assert ask("GET", "/look", new["key"])["statusCode"] == 401


def test_mounted_in_fastapi(environ: dict[str, str], tmp_path: Path) -> None:
    """Whatever serves it."""
    settings = Settings.from_env({**environ, "ROUTER_JOBS": "memory://", "ROUTER_BLOBS": "memory://"})
    ai = AsgiApp(build_app(service(), settings))
    api = FastAPI(lifespan=ai.lifespan)
    api.mount("/ai", ai)
    with FastApiClient(api, base_url="http://localhost") as client:
        for key, look, manage in callers(tmp_path):
            headers = {"authorization": f"Bearer {key}"} if key else {}
            assert client.get("/ai/look", headers=headers).status_code == look
            assert client.get("/ai/manage", headers=headers).status_code == manage
        root = {"authorization": "Bearer 0123456789abcdef-root"}
        answer = client.post("/ai/api/keys", headers=root, json={"roles": ["viewer"]})
        assert answer.headers["location"] == f"/ai/api/keys/{answer.json()['id']}"


_SCRIPT = """
import sys
from router_core.calls import CallService
from router_core import Router, Settings

router = Router()
CallService(router, Settings(api_keys="ann:0123456789abcdef:developer@ws-1"))
names = ("router_core.identity", "router_core.backends", "router_core.security.known_keys", "jwt",
         "router_core.security.jwt", "cryptography", "sqlite3", "router_core.security.authenticators")
print([name for name in names if name in sys.modules])
"""


def test_a_cold_start_with_keys_of_a_setting_loads_nothing_else() -> None:
    """In a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=60, check=False,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
