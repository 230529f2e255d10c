"""A gateway where the process is frozen after each answer, as on Lambda: nothing works beside the calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from handlers.aws.function import LambdaApp
from router_core.gateway.gateway import RECORDS, Gateway
from router_core.routing.router import Router
from router_core.settings import Settings
from router_core.testing.adapter_contract import Answer, Call
from router_core.testing.upstream import Upstream, in_thread
from router_core.testing.upstream_openai import openai_chat
from router_core.wiring import build_app
from tests.aws.lambda_events import Context, http_api, received, round_trip
from tests.gateway.serving import chat, models_yaml

SCHEDULE = {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}


SCRIPTED = """
  - {id: hangs, type: text-generation, clients: [{model: h, type: scripted, args: {hang: true}}]}
  - {id: short, type: text-generation, clients: [{model: o, type: scripted, args: {reply: "one two"}}]}
  - {id: slow, type: text-generation,
     clients: [{model: s, type: scripted, args: {tokens: 1000, chunk_delay: 0.02}}]}
"""


class Function:
    """A gateway in a Lambda function."""

    def __init__(self, folder: Path, upstream: Upstream, **environ: str) -> None:
        self.config = folder / "gateway.yaml"
        self.config.write_text(models_yaml(upstream.url, more=SCRIPTED))
        self.gateway = Gateway(path=str(self.config), environ=environ)
        router = Router()
        router.include_router(self.gateway.router)
        settings = Settings(jobs="memory://", blobs="memory://", trusted_hosts="*", provider="lambda")
        self.app = LambdaApp(build_app(router, settings))

    def invoke(self, event: Any, seconds: float = 60.0) -> Any:
        """Thaw, answer, freeze."""
        return round_trip(self.app(round_trip(event), Context(seconds)))

    def chat(self, model: str = "m", seconds: float = 60.0, **more: Any) -> Answer:
        """Call a model, with so many seconds until the function is ended."""
        return self.post("/v1/chat/completions", chat(model, **more), seconds)

    def post(self, path: str, body: Any, seconds: float) -> Answer:
        """Send a request through an HTTP API."""
        call = Call("POST", path, "", (("content-type", "application/json"),), json.dumps(body).encode())
        return received(self.invoke(http_api(call), seconds))

    @property
    def loop(self) -> Any:
        """The event loop, which turns only during calls."""
        return self.app.loop._loop


@contextmanager
def frozen(folder: Path, **environ: str) -> Iterator[tuple[Function, Upstream]]:
    """Yield a function, and the upstream of its only deployment."""
    with in_thread(Upstream(openai_chat())) as upstream:
        function = Function(folder, upstream, **environ)
        function.app.start()
        try:
            yield function, upstream
        finally:
            function.app.stop()


async def _end_connections(upstream: Upstream, how: str) -> None:
    getattr(upstream, how)()
    await upstream.until(lambda: not upstream.open)


def _in_its_thread(upstream: Upstream, how: str) -> None:
    loop = upstream.loop
    assert loop is not None
    asyncio.run_coroutine_threadsafe(_end_connections(upstream, how), loop).result(60)


@pytest.mark.parametrize("how", ["close_connections", "hang_up"])
def test_connections_that_died_while_frozen_cost_no_call(tmp_path: Path, how: str) -> None:
    """Closed or reset by the other side: the next call is answered at its first attempt."""
    with frozen(tmp_path) as (function, upstream):
        for number in range(1, 4):
            answer = function.chat()
            assert answer.status == 200
            assert answer.all("x-router-attempts") == ["1"]
            assert len({seen.connection for seen in upstream.requests}) == number
            _in_its_thread(upstream, how)
        standing = function.gateway.standings.find("d1")
        assert standing is not None
        assert (standing.started, standing.failed) == (3, 0)
        assert len(upstream.requests) == 3


def test_connections_are_kept_for_a_short_sleep_only(tmp_path: Path) -> None:
    """One that the network has forgotten would say nothing, so after a long sleep it is not tried."""
    with frozen(tmp_path) as (function, upstream):
        function.chat()
        function.chat()
        assert len({seen.connection for seen in upstream.requests}) == 1
        real = function.loop.time
        function.loop.time = lambda: real() + 20.0
        assert function.chat().status == 200
        assert upstream.requests[2].connection != upstream.requests[1].connection


def test_nothing_works_between_the_calls(tmp_path: Path) -> None:
    """No loop of the gateway's is begun, and no call leaves a task behind."""
    with frozen(tmp_path) as (function, _):
        assert function.chat().status == 200
        assert asyncio.all_tasks(function.loop) == set()


def test_records_are_written_before_the_process_freezes(tmp_path: Path) -> None:
    """Each with its call: nobody would write them later."""
    records = tmp_path / "records.jsonl"
    with frozen(tmp_path, **{RECORDS: str(records)}) as (function, _):
        for number in range(1, 4):
            function.chat()
            lines = [json.loads(line) for line in records.read_text().splitlines()]
            assert [line["outcome"] for line in lines] == ["ok"] * number
        assert function.gateway.ledger.waiting == 0


def test_a_schedule_does_what_the_loops_would(tmp_path: Path) -> None:
    """Every part has its turn; a new configuration is taken, and an upstream that is down is found out."""
    with frozen(tmp_path) as (function, upstream):
        done = function.invoke(SCHEDULE)["done"]
        well = {name for name, went_well in done.items() if went_well}
        assert {"probes", "endpoints", "ledger", "gateway_config"} <= well
        function.config.write_text(function.config.read_text().replace("id: m\n", "id: renamed\n"))
        for _ in range(2):  # a file that changes is taken when it has stopped changing
            function.invoke(SCHEDULE)
        assert function.chat().status == 404
        assert function.chat("renamed").status == 200
        assert upstream.requests[-1].target == "/v1/chat/completions"


def test_a_call_ends_before_the_function_does(tmp_path: Path) -> None:
    """With an error of ours, or with what there is of a stream; and it is booked."""
    with frozen(tmp_path) as (function, _):
        late = function.chat("hangs", 1.2)
        assert (late.status, json.loads(late.body)["error"]["type"]) == (504, "timeout_error")
        late = function.post("/api/route", {"prompt": "x", "modelId": "hangs"}, 1.2)
        assert late.status == 504
        cut = function.chat("slow", 1.3, stream=True)
        assert cut.status == 200
        assert b'"content":' in cut.body
        assert b'"code":"stream_interrupted"' in cut.body.replace(b": ", b":")
        assert b"[DONE]" not in cut.body
        latest = function.gateway.ledger.recent(3)
        assert [record.outcome for record in latest[1:]] == ["timeout", "timeout"]
        assert latest[0].output_tokens > 0
        assert sum(standing.inflight for standing in function.gateway.standings) == 0


def test_the_function_is_called_directly(tmp_path: Path) -> None:
    """Without a front door: the body as the input; a stream is a list of what its events hold."""
    with frozen(tmp_path) as (function, _):
        whole = function.invoke({"path": "/v1/chat/completions", "input": chat()})
        assert whole["output"]["choices"][0]["message"]["content"] == "Hello!"
        pieces = function.invoke({"path": "/v1/chat/completions", "input": chat("short", stream=True)})[
            "output"
        ]
        said = "".join(piece["choices"][0]["delta"].get("content") or "" for piece in pieces)
        assert said == "one two"
        refused = function.invoke({"path": "/v1/chat/completions", "input": chat("nobody")})
        assert (refused["error"]["status"], refused["error"]["detail"]) == (404, "Model not found")
