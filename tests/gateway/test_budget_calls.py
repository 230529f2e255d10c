"""Limits on real calls: never exceeded, nothing left reserved, and told to those whom they concern."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import openai
import pytest

from router_core.errors import StoreError
from router_core.gateway.budgets.admission import Budgets
from router_core.gateway.budgets.plan import Plan, Rates
from router_core.gateway.call import Call, Usage
from router_core.gateway.config.load import parse_config
from router_core.gateway.values import Limit, Price
from router_core.quota.quota import Quota
from router_core.security.signing import verify
from router_core.stores.state_memory import MemoryStateStore
from router_core.telemetry.events import Note
from router_core.testing.clock import FakeClock
from router_core.types import Allowance, Principal
from tests.gateway.serving import House, Reply, chat, house, on_socket

PATH = "/v1/chat/completions"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def yaml(limits: str, *, args: str = "", more: str = "") -> str:
    """Return a gateway with one model and one workspace; a call costs ten micro-dollars for a request."""
    return f"""
default_model: m
models:
  - {{id: m, type: text-generation, {more} clients: [
       {{type: scripted, model: x, price: {{request: 0.00001}}, args: {{reply: hello, {args}}}}}]}}
workspaces:
  acme: {{{limits}}}
"""


async def ask(made: House, model: str = "m", **more: Any) -> Reply:
    """Make one call in the workspace."""
    return await made.ask(PATH, chat(model, **more), headers={"x-router-workspace": "acme"})


async def limits_of(made: House) -> dict[str, Any]:
    """Return how the limits stand, by kind."""
    answer = await made.ask("/api/workspaces/acme/budget")
    assert answer.status == 200
    return {each["kind"]: each for each in answer.json()["limits"]}


@pytest.mark.parametrize(
    "limits",
    ["budgetLimits: {daily: 0.0001}", "rateLimits: {requestsPerMinute: 10}"],
    ids=["money", "requests"],
)
async def test_two_hundred_at_once_get_what_there_is_for_ten(limits: str) -> None:
    """Exactly ten, and the others are told when to come back."""
    async with house(yaml(limits, args="latency: 0.001")) as made:
        answers = await asyncio.gather(*(ask(made) for _ in range(200)))
        assert sorted(each.status for each in answers) == [200] * 10 + [429] * 190
        refused = next(each for each in answers if each.status == 429)
        assert int(refused.headers["retry-after"]) >= 1
        error = refused.json()["error"]
        assert error["type"] == "rate_limit_error"
        assert error["code"] == ("budget_exceeded" if "daily" in limits else "rate_limited")
        (standing,) = (await limits_of(made)).values()
        assert (standing["remaining"], standing["reserved"]) == (0, 0)


async def test_so_many_calls_at_once_and_then_others() -> None:
    """A limit of concurrency is free again when calls end."""
    async with house(yaml("rateLimits: {concurrency: 3}", args="latency: 0.02")) as made:
        for _ in range(2):
            answers = await asyncio.gather(*(ask(made) for _ in range(10)))
            assert sorted(each.status for each in answers) == [200] * 3 + [429] * 7
            codes = {each.json()["code"] for each in answers if each.status == 429}
            assert codes == {"concurrency_exceeded"}


async def test_a_thousand_who_leave_leave_nothing_reserved() -> None:
    """Before the answer, or in the middle of a stream; what was used until then is booked."""
    text = yaml("budgetLimits: {daily: 100}, rateLimits: {concurrency: 1000}", args="latency: 5")
    async with house(text) as made:
        tasks = [asyncio.create_task(ask(made, stream=bool(at % 2))) for at in range(1000)]
        for _ in range(100_000):
            await asyncio.sleep(0)
            if made.in_flight() == 1000:
                break
        assert (await limits_of(made))["concurrency"]["reserved"] == 1000
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        standing = await limits_of(made)
        assert {each["reserved"] for each in standing.values()} == {0}
        assert standing["daily"]["spent"] == pytest.approx(0.01)


async def test_a_stream_is_booked_when_it_has_ended() -> None:
    """Until then its part is reserved, not spent."""
    text = yaml("budgetLimits: {daily: 1}", args="chunk_delay: 0.001").replace(
        "request:", "input: 1, request:"
    )
    async with house(text) as made:
        headers = {"x-router-workspace": "acme"}
        answer = await made.send(PATH, chat(stream=True), headers=headers)
        before = (await limits_of(made))["daily"]
        assert (before["spent"], before["reserved"] > 0) == (0, True)
        assert not isinstance(answer.body, bytes)
        async for _ in answer.body:
            pass
        after = (await limits_of(made))["daily"]
        assert (after["spent"] > 0, after["reserved"]) == (True, 0)


async def test_headers_tell_what_is_left() -> None:
    """By the names that clients of OpenAI know; calls without limits have none."""
    async with house(yaml("rateLimits: {requestsPerMinute: 5, tokensPerMinute: 1000}")) as made:
        left = [(await ask(made)).headers["x-ratelimit-remaining-requests"] for _ in range(2)]
        assert left == ["4", "3"]
        answer = await ask(made)
        usage = answer.json()["usage"]["total_tokens"]
        assert answer.headers["x-ratelimit-remaining-tokens"] == str((1000 - 3 * usage) // 15 * 15)
        assert answer.headers["x-ratelimit-limit-tokens"] == "1000"
        assert answer.headers["x-ratelimit-reset-requests"] == "62s"
        assert not [name for name in (await made.ask(PATH, chat())).headers if name.startswith("x-ratelimit")]


def test_the_sdk_raises_what_it_raises_at_openai() -> None:
    """RateLimitError, with our code in it."""
    with on_socket(yaml("budgetLimits: {daily: 0}")) as (_, url):
        client = openai.OpenAI(
            base_url=f"{url}/v1", api_key="x", max_retries=0, default_headers={"x-router-workspace": "acme"}
        )
        with client, pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "budget_exceeded"
    assert caught.value.response.headers["retry-after"]


async def test_a_budget_can_begin_anew() -> None:
    """By whoever may change the configuration; a workspace that there is not is 404."""
    async with house(yaml("budgetLimits: {daily: 0.00001}")) as made:
        assert [(await ask(made)).status for _ in range(2)] == [200, 429]
        answer = await made.ask("/api/workspaces/acme/budget/reset", method="POST")
        assert (answer.status, answer.json()["limits"][0]["spent"]) == (200, 0)
        assert (await ask(made)).status == 200
        assert (await made.ask("/api/workspaces/nobody/budget")).status == 404
        assert (await made.ask("/api/workspaces/nobody/budget/reset", method="POST")).status == 404


async def test_a_model_has_limits_for_all_together() -> None:
    """Whether it is named, by any of its names, or chosen by the rules."""
    more = "aliases: [alias], limits: {rateLimits: {requestsPerMinute: 3}},"
    async with house(yaml("", more=more)) as made:
        names = ("m", "alias", "auto", "m", "auto")
        assert [(await ask(made, name)).status for name in names] == [200, 200, 200, 429, 429]


async def test_another_configuration_keeps_what_was_spent() -> None:
    """Only the amounts are new."""
    async with house(yaml("budgetLimits: {daily: 0.00002}")) as made:
        assert [(await ask(made)).status for _ in range(3)] == [200, 200, 429]
        for dollars, status in ((0.00003, 200), (0.00003, 429), (0.00001, 429)):
            text = yaml(f"budgetLimits: {{daily: {dollars:.5f}}}")
            made.gateway.apply(parse_config(text, "x", {}))
            assert (await ask(made)).status == status


async def test_a_key_is_held_to_its_workspace() -> None:
    """Without a word about it in its calls; it sees its own budget and nobody else's, and resets none."""
    keys = {"ann": "a" * 20, "root": "r" * 20}
    setting = f"ann:{keys['ann']}:developer@acme,root:{keys['root']}"
    text = yaml("budgetLimits: {daily: 0.00002}") + "  other: {budgetLimits: {daily: 1}}\n"
    async with house(text, api_keys=setting) as made:

        async def send(name: str, path: str, body: Any = None, method: str = "", **more: str) -> Reply:
            headers = {"authorization": f"Bearer {keys[name]}", **more}
            return await made.ask(path, body, method, headers)

        other = {"x-router-workspace": "other"}
        assert [(await send("ann", PATH, chat())).status for _ in range(3)] == [200, 200, 429]
        assert (await send("ann", PATH, chat(), **other)).status == 403
        route = {"prompt": "hi", "modelId": "m", "workspaceId": "other"}
        assert (await send("ann", "/api/route", route)).status == 403
        assert (await send("ann", "/api/route", {"prompt": "hi", "modelId": "m"})).status == 429
        assert (await send("root", "/api/route", route)).status == 200
        assert (await send("ann", "/api/workspaces/acme/budget")).json()["limits"][0]["remaining"] == 0
        assert (await send("ann", "/api/workspaces/other/budget")).status == 404
        reset = "/api/workspaces/acme/budget/reset"
        assert (await send("ann", reset, method="POST")).status == 403
        assert (await send("root", reset, method="POST")).status == 200
        assert (await send("ann", PATH, chat())).status == 200


# --- estimates ----------------------------------------------------------------------------------------


def wants(kind: str, amount: int, *, max_tokens: int | None, input_tokens: int = 100) -> int:
    """Return what a call takes of a limit at a dollar for a million tokens."""
    call = Call("chat/completions", "m", input_tokens=input_tokens, max_tokens=max_tokens)
    return Plan("s", [Limit(kind, amount)]).wants(call, (1_000_000, 1_000_000, 0))[0]


@pytest.mark.parametrize(
    ("kind", "amount", "max_tokens", "expected"),
    [
        *((kind, 10_000, 50, 150) for kind in ("tokens", "daily")),
        *((kind, 10_000, None, 1124) for kind in ("tokens", "daily")),
        *((kind, 1000, None, 350) for kind in ("tokens", "daily")),
        ("tokens", 1000, 100_000, 1000), ("daily", 1000, 100_000, 100_100),
        ("tokens", 0, 10, 1), ("daily", 0, 10, 110),
    ],
)  # fmt: skip
def test_what_is_reserved_is_bounded(kind: str, amount: int, max_tokens: int | None, expected: int) -> None:
    """By what the caller allows, else by a guess that leaves room; money he allows is taken at his word."""
    assert wants(kind, amount, max_tokens=max_tokens) == expected


async def test_no_call_may_spend_more_than_there_is_where_it_says_how_much() -> None:
    """One that allows itself more than the whole budget is refused, and nothing is spent or held."""
    text = yaml("budgetLimits: {daily: 0.2}").replace("request: 0.00001", "output: 10")
    async with house(text) as made:
        reply = await ask(made, max_tokens=100_000)
        assert (reply.status, reply.json()["code"]) == (429, "budget_exceeded")
        assert (await ask(made, max_tokens=10)).status == 200


def test_the_estimate_is_that_of_the_dearest_who_may_serve() -> None:
    """Fallbacks included; what has no price counts nothing."""
    config = parse_config(
        """
models:
  - {id: m, type: text-generation, fallbacks: [n], clients: [{type: scripted, model: a}]}
  - {id: n, type: text-generation, clients: [{type: scripted, model: b}, {type: scripted, model: c}]}
  - {id: o, type: text-generation, clients: [{type: scripted, model: d}]}
""", "x", {},
    )  # fmt: skip
    prices = {"b": Price(5, 1), "c": Price(1, 7, request=2), "d": Price(9, 9)}
    rates = Rates(lambda deployment: prices.get(deployment.model))
    rates.follow(config)
    assert rates.of("m", 0) == (5, 7, 2)
    assert rates.of("nobody", 0) == (9, 9, 2)
    prices["b"] = Price(6)
    assert (rates.of("m", 59), rates.of("m", 61)) == ((5, 7, 2), (6, 7, 2))


async def test_a_caller_is_held_to_what_its_key_allows() -> None:
    """Its limits come with it; what a call has cost beyond its reservation is booked all the same."""
    config = parse_config(yaml(""), "x", {})
    rates = Rates(lambda deployment: Price(request=10))
    budgets = Budgets(Quota(clock=FakeClock()), lambda: config, rates)
    principal = Principal("ann", limits=(Allowance("daily", 100), Allowance("concurrency", 2)))
    call = Call("chat/completions", "m", principal=principal)
    permit = budgets.admit(call, 0.0)
    assert permit is not None
    assert not hasattr(permit, "__await__")
    permit.settle(95, Usage(1, 1), 1.0)
    with pytest.raises(Exception, match="this caller has reached its budget of the day") as caught:
        budgets.admit(call, 2.0)
    assert getattr(caught.value, "code", "") == "budget_exceeded"
    other = replace(principal, id="bob")
    assert budgets.admit(Call("chat/completions", "m", principal=other), 3.0) is not None


# --- shared state -------------------------------------------------------------------------------------


class Away(MemoryStateStore):
    """A shared store that can be away."""

    multi_process = True
    away = False

    async def get(self, key: str) -> Any:
        """Answer, or not."""
        if self.away:
            raise StoreError("away", retry_after=3)
        return await super().get(key)

    async def put(self, key: str, value: bytes, **conditions: Any) -> str:
        """Answer, or not."""
        if self.away:
            raise StoreError("away", retry_after=3)
        return await super().put(key, value, **conditions)


@pytest.mark.parametrize(("word", "status"), [("closed", 503), ("open", 200)])
async def test_a_store_that_is_away_closes_what_is_closed(word: str, status: int) -> None:
    """503 with Retry-After, or the call passes and is counted here: no further than the limit goes alone."""
    async with house(yaml(f"budgetLimits: {{daily: 0.00003}}, onStoreFailure: {word}")) as made:
        store = Away()
        made.gateway.limits.share(store)
        assert (await ask(made)).status == 200
        store.away = True
        answers = [await ask(made) for _ in range(3)]
        assert [each.status for each in answers] == [status, status, 503 if status == 503 else 429]
        if status == 503:
            assert answers[0].headers["retry-after"] == "3"
        store.away = False
        spent = 0.00001 if status == 503 else 0.00003
        assert (await limits_of(made))["daily"]["spent"] == pytest.approx(spent)
        assert (await ask(made)).status == (200 if status == 503 else 429)


# --- alerts -------------------------------------------------------------------------------------------


class Receiver(http.server.BaseHTTPRequestHandler):
    """Takes webhooks; the first one is refused."""

    got: list[tuple[dict[str, str], bytes]]

    def do_POST(self) -> None:
        """Note the message."""
        body = self.rfile.read(int(self.headers["content-length"]))
        self.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(503 if len(self.got) == 1 else 204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def receiver() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """Yield the URL of a receiver and what it gets."""
    got: list[tuple[dict[str, str], bytes]] = []
    handler = type("Handler", (Receiver,), {"got": got})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", got
        finally:
            server.shutdown()
            thread.join()


async def test_an_alert_is_told_once_in_a_window() -> None:
    """To the log and to the webhook of the workspace, signed; a receiver that fails is asked again."""
    clock = FakeClock()
    with receiver() as (url, got):
        text = yaml(f"budgetLimits: {{daily: 0.0001}}, alerts: [50, 80], webhook: '{url}'")
        settings: dict[str, Any] = {"allow_private_urls": True, "webhook_secret": SECRET}
        async with house(text, **settings) as made, house(text, **settings) as other:
            store = Away()
            for each in (made, other):
                each.gateway.limits.share(store)
                each.gateway._state = store
                each.gateway.limits.alerts._clock = clock
            for _ in range(3):
                await ask(made)
            assert not made.gateway.limits.alerts._seen
            for _ in range(3):
                await ask(other)
            await ask(made)
            for seconds in (0, 5, 5):
                clock.advance(seconds)
                for each in (made, other):
                    await each.gateway.limits.alerts.tick()
                    await each.gateway.limits.alerts.idle()
            notes = [note for each in (made, other) for note in each.seen
                     if isinstance(note, Note) and note.name == "budget_alert"]  # fmt: skip
    assert [(note.fields["percent"], note.fields["workspace"]) for note in notes] == [(50, "acme")]
    assert len(got) == 2
    assert got[0][1] == got[1][1]
    told = json.loads(got[1][1])
    assert told["type"] == "budget.threshold"
    assert told["data"]["limit"] == "daily"
    assert verify(got[1][0], got[1][1], [SECRET], now=clock.now()).id == got[0][0]["webhook-id"]
