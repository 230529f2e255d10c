"""A gateway for tests: made of YAML, asked through the app, or served on a real socket."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from handlers.local.server import ServeOptions
from router_core import Router, Settings, build_app
from router_core.app import App
from router_core.gateway.config.load import parse_config
from router_core.gateway.environment import from_environment
from router_core.gateway.gateway import Gateway
from router_core.gateway.values import GatewayConfig
from router_core.http.message import Headers, Request, Response
from router_core.telemetry.events import Note
from tests.local.tiny_app import served

__all__ = ["House", "Reply", "chat", "house", "models_yaml", "on_socket", "text_of"]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """Return the data of a stream's events; ``[DONE]`` as it is."""
        lines = [line[6:] for line in self.body.decode().splitlines() if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


class House:
    """A gateway inside an app."""

    def __init__(
        self, text: str, environ: Mapping[str, str] | None = None, *, probing: bool = True, **settings: Any
    ) -> None:
        given = environ or {}
        config = parse_config(text, "gateway.yaml", given, beside=from_environment(given))
        if not probing:
            config = _unprobed(config)
        self.gateway = Gateway(config, environ=given, rng=random.Random(7))
        router = Router()
        router.include_router(self.gateway.router)
        self.app: App = build_app(router, Settings(jobs="memory://", blobs="memory://", **settings))
        self.seen: list[Any] = []
        self.app.events.subscribe(self.seen.append)

    async def send(
        self, path: str, body: Any = None, method: str = "", headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send a request; a stream is not read."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"content-type": "application/json", **(headers or {})}
        method = method or ("GET" if body is None else "POST")
        path, _, query = path.partition("?")
        return await self.app.handle(Request(method, path, query, Headers(list(fields.items())), data))

    async def ask(
        self, path: str, body: Any = None, method: str = "", headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send a request and read the answer."""
        answer = await self.send(path, body, method, headers)
        found = answer.body
        if not isinstance(found, bytes):
            found = b"".join([chunk async for chunk in found])
        return Reply(answer.status, {name.lower(): value for name, value in answer.headers}, found)

    def standing(self, deployment_id: str) -> Any:
        """Return how a deployment stands."""
        found = self.gateway.standings.find(deployment_id)
        assert found is not None
        return found

    def notes(self, *deployment_ids: str) -> list[str]:
        """Return what was told of these deployments, by name and in order."""
        notes = [each for each in self.seen if isinstance(each, Note)]
        return [each.name for each in notes if each.fields.get("deployment") in deployment_ids]

    def in_flight(self) -> int:
        """Return the calls that are counted as under way."""
        return sum(standing.inflight for standing in self.gateway.standings)


@asynccontextmanager
async def house(
    text: str, environ: Mapping[str, str] | None = None, *, background: bool = False, **settings: Any
) -> AsyncIterator[House]:
    """Yield a gateway that has started, without its loops unless they are asked for."""
    made = House(text, environ, **settings)
    await made.app.start(background=background)
    try:
        yield made
    finally:
        await made.app.stop(0)
        await asyncio.sleep(0)


@contextmanager
def on_socket(
    text: str,
    environ: Mapping[str, str] | None = None,
    *,
    options: ServeOptions | None = None,
    probing: bool = False,
    **settings: Any,
) -> Iterator[tuple[House, str]]:
    """Serve a gateway in a thread, as ``router-core serve`` does; yields it and its address. Nobody but its
    callers asks the upstreams, unless they are to be probed."""
    made = House(text, environ, probing=probing, port=0, log_level="error", **settings)
    with served(made.app, options=options) as port:
        yield made, f"http://127.0.0.1:{port}"


def _unprobed(config: GatewayConfig) -> GatewayConfig:
    """Leave it to calls to find out how deployments are: probes come at any time."""
    models = tuple(
        replace(model, deployments=tuple(
            replace(each, health=replace(each.health, interval=0.0)) for each in model.deployments
        ))
        for model in config.models
    )  # fmt: skip
    return replace(config, models=models)


def chat(model: str = "m", **more: Any) -> dict[str, Any]:
    """Return a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": "Hello!"}], **more}


def models_yaml(*urls: str, more: str = "", args: str = "", kind: str = "openai", model: str = "") -> str:
    """Return a configuration with one model ``m`` whose deployments ``d1``, ``d2``, ... are at these
    addresses and asked in this order."""
    lines = ["models:", "  - id: m", "    type: text-generation"]
    if "routing_strategy" not in model:
        lines.append("    routing_strategy: priority")
    lines += [f"    {line}" for line in model.splitlines()] + ["    clients:"]
    for number, url in enumerate(urls, 1):
        given = f"base_url: '{url}/v1', api_key: key" + (f", {args}" if args else "")
        lines.append(
            f"      - {{id: d{number}, priority: {number}, model: up, type: {kind}, args: {{{given}}}}}"
        )
    return "\n".join([*lines, more, ""])


def text_of(reply: Reply) -> str:
    """Return what the model said."""
    content = reply.json()["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content
