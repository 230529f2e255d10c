"""The gateway by itself in execution environments of Lambda, which share one table of DynamoDB."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from handlers.aws.function import LambdaApp, build
from router_core.clock import SystemClock
from router_core.stores.state_dynamodb import create_state_table
from router_core.testing.adapter_contract import Answer, Call
from tests.aws.lambda_events import Context, http_api, received, round_trip

__all__ = ["APP", "SCHEDULE", "AheadClock", "Environment", "Site", "request", "site_of"]

APP: Final = "router_core.gateway.app:create_app"
SCHEDULE: Final = {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}


class AheadClock(SystemClock):
    """The machine's clocks, which a test puts forward."""

    def __init__(self) -> None:
        self.ahead = 0.0
        """Seconds."""

    def now(self) -> float:
        """Return the time of day."""
        return super().now() + self.ahead

    def monotonic(self) -> float:
        """Return the time since the machine was started."""
        return super().monotonic() + self.ahead


def request(
    method: str, path: str, body: Any = None, key: str = "", headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the event of a request that came through an HTTP API."""
    pairs = [("content-type", "application/json"), *(headers or {}).items()]
    if key:
        pairs.append(("authorization", f"Bearer {key}"))
    data = b"" if body is None else json.dumps(body).encode()
    path, _, query = path.partition("?")
    return http_api(Call(method, path, query, tuple(pairs), data))


class Environment:
    """One execution environment: a handler as Lambda starts it, whose loop turns during calls alone."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.app: LambdaApp = build(environ)

    def invoke(self, event: Any, seconds: float = 60.0) -> Any:
        """Thaw, answer, freeze."""
        return round_trip(self.app(round_trip(event), Context(seconds, secrets.token_hex(8))))

    def ask(self, method: str, path: str, body: Any = None, key: str = "", **headers: str) -> Answer:
        """Send a request through an HTTP API."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return received(self.invoke(request(method, path, body, key, named)))

    def freeze(self) -> threading.Event:
        """Stop the process where it is, in the middle of a call that another thread has made; the event
        lets it go on."""
        loop, thawed, frozen = self.app.loop._loop, threading.Event(), threading.Event()
        assert loop is not None

        def stand_still() -> None:
            frozen.set()
            thawed.wait(60)

        loop.call_soon_threadsafe(stand_still)
        assert frozen.wait(60)
        return thawed


class Site:
    """A gateway, its table and its environments."""

    def __init__(self, folder: Path, config: str) -> None:
        self.table = f"state-{secrets.token_hex(6)}"
        create_state_table(self.table, expire=False)
        file = folder / "gateway.yaml"
        file.write_text(config)
        self.environ = {
            "ROUTER_APP": APP, "ROUTER_GATEWAY": str(file), "ROUTER_STATE": f"dynamodb://{self.table}",
            "ROUTER_KEYS": "state", "ROUTER_TRUSTED_HOSTS": "*", "ROUTER_LOG_FORMAT": "json",
        }  # fmt: skip
        self._started: list[Environment] = []

    def environment(self, **more: str) -> Environment:
        """Start another one."""
        made = Environment({**os.environ, **self.environ, **more})
        self._started.append(made)
        return made

    def stop(self) -> None:
        """End those that were started here."""
        for each in self._started:
            each.app.stop()


@contextmanager
def site_of(folder: Path, config: str) -> Iterator[Site]:
    """Yield a gateway whose environments end with the test."""
    site = Site(folder, config)
    try:
        yield site
    finally:
        site.stop()
