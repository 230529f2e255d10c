"""The way of a call: retries, fallbacks, budgets, circuits, hedges, and callers that leave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from router_core.http.message import Headers, Request
from router_core.testing.upstream import Upstream
from router_core.testing.upstream_faults import after, hang, reset_before, status
from router_core.testing.upstream_openai import openai_chat, openai_stream
from tests.gateway.serving import House, chat, house, models_yaml, text_of

QUICK = "timeouts: {connect: 10, first_byte: 10, idle: 10}"


@asynccontextmanager
async def serving(
    count: int, model: str = "", more: str = "", args: str = QUICK
) -> AsyncIterator[tuple[House, list[Upstream]]]:
    """Yield a gateway in front of that many good upstreams."""
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(Upstream()) for _ in range(count)]
        text = models_yaml(*[each.url for each in upstreams], args=args, model=model, more=more)
        yield await stack.enter_async_context(house(text)), upstreams


async def calls(made: House, count: int, **more: Any) -> list[int]:
    """Make that many calls at once and return their statuses."""
    replies = await asyncio.gather(*[made.ask("/v1/chat/completions", chat(**more)) for _ in range(count)])
    return [reply.status for reply in replies]


async def test_retries_are_a_share_of_the_calls() -> None:
    """With everything failing, 400 calls cost no more than 1.2 times as many requests, and the floor."""
    async with serving(2, model="breaker: {minimum: 100000, in_a_row: 100000}") as (made, upstreams):
        for upstream in upstreams:
            upstream.script = status(500)
        began = time.monotonic()
        for _ in range(8):
            assert set(await calls(made, 50)) == {502}
        floor = 10 * (time.monotonic() - began + 1)
        asked = sum(len(upstream.requests) for upstream in upstreams)
        assert 400 < asked <= 400 * 1.2 + floor


async def test_a_failing_deployment_is_left_out_at_the_threshold() -> None:
    """Five failures in a row, and nobody asks it again until its circuit lets a probe through."""
    async with serving(2, model="breaker: {open_for: 60, open_max: 60}") as (made, (bad, good)):
        bad.script = status(503)
        for _ in range(20):
            assert await calls(made, 1) == [200]
        assert len(bad.requests) == 5
        assert len(good.requests) == 20
        assert made.standing("d1").circuit == "open"
        assert (
            "d1:open_circuit" in (await made.ask("/v1/chat/completions", chat())).headers["x-router-decision"]
        )


@pytest.mark.parametrize("probes", [1, 3])
async def test_a_half_open_circuit_gets_its_probes_and_no_more(probes: int) -> None:
    """A thousand callers wait; exactly so many reach the upstream while it is on probation."""
    breaker = f"breaker: {{open_for: 0.05, open_max: 0.05, probes: {probes}, successes: {probes}}}"
    async with serving(2, model=breaker) as (made, (bad, _)):
        bad.script = status(503)
        for _ in range(6):
            await calls(made, 1)
        seen = len(bad.requests)
        bad.script = after(0.6, openai_chat("back"))
        await asyncio.sleep(0.1)
        assert set(await calls(made, 1000)) == {200}
        assert len(bad.requests) - seen == probes
        assert made.standing("d1").circuit == "closed"
        assert made.in_flight() == 0


async def test_a_lone_deployment_is_probed_rather_than_refused() -> None:
    """Its circuit is open, and there is nobody else: one call at a time still tries."""
    async with serving(1, model="breaker: {open_for: 60, open_max: 60}\nretry: {max_attempts: 1}") as (
        made,
        (only,),
    ):
        only.script = status(500)
        for _ in range(6):
            await calls(made, 1)
        assert made.standing("d1").circuit == "open"
        only.script = openai_chat("back")
        for _ in range(3):
            assert await calls(made, 1) == [200]
        assert made.standing("d1").circuit == "closed"


async def test_half_of_the_upstreams_die_under_load_and_nobody_notices() -> None:
    """No call fails that another upstream could have served; traffic settles within seconds."""
    model = "routing_strategy: least_busy\nbreaker: {open_for: 30, open_max: 30}"
    async with serving(4, model=model) as (made, upstreams):
        for upstream in upstreams:
            upstream.script = after(0.01, openai_chat())
        answers: list[int] = []
        stop = asyncio.Event()

        async def caller() -> None:
            while not stop.is_set():
                answers.append((await made.ask("/v1/chat/completions", chat())).status)

        async def serve(count: int) -> None:
            wanted = len(answers) + count
            async with asyncio.timeout(30):
                while len(answers) < wanted:  # noqa: ASYNC110 - of many callers, any may be the one
                    await asyncio.sleep(0.005)

        callers = [asyncio.create_task(caller()) for _ in range(32)]
        await serve(200)
        for upstream in upstreams[:2]:
            await upstream.stop()
        await serve(200)
        for name in ("d1", "d2"):
            assert made.standing(name).circuit == "open"
            assert made.standing(name).failed < 32, "what every caller has met is left out too late"
        await serve(200)
        stop.set()
        await asyncio.gather(*callers)
        assert set(answers) == {200}
        assert made.in_flight() == 0


async def test_a_revived_deployment_serves_again() -> None:
    """Its circuit closes by probes of real calls, without anybody doing anything."""
    async with serving(2, model="breaker: {open_for: 0.1, open_max: 0.2}") as (made, (first, _)):
        port = first.port
        await first.stop()
        for _ in range(8):
            assert await calls(made, 1) == [200]
        assert made.standing("d1").circuit == "open"
        async with Upstream(port=port) as again:
            until = time.monotonic() + 60
            while made.standing("d1").circuit != "closed":
                assert time.monotonic() < until
                assert await calls(made, 1) == [200]
                await asyncio.sleep(0.02)
            assert again.requests


async def test_a_caller_that_left_is_cancelled_at_the_upstream() -> None:
    """Before the first byte, in a whole answer and in a stream; whatever was used is booked."""
    async with serving(1) as (made, (upstream,)):
        for stream in (False, True):
            for script in (hang(), openai_stream(("piece ",) * 500, delay=0.02)):
                if not stream and script.name != "hang":
                    continue
                upstream.script = script
                before, records = upstream.cancelled, len(made.gateway.ledger.recent(100))
                gone = asyncio.Event()

                async def left(gone: asyncio.Event = gone) -> None:
                    await gone.wait()

                body = b'{"model":"m","stream":%s,"messages":[{"role":"user","content":"x"}]}' % (
                    b"true" if stream else b"false"
                )
                request = Request(
                    "POST", "/v1/chat/completions", headers=Headers([("content-type", "application/json")]),
                    body=body, disconnected=left,
                )  # fmt: skip
                task = asyncio.create_task(made.app.handle(request))
                if script.name == "hang":
                    await upstream.until(lambda: upstream.in_flight == 1)
                    gone.set()
                    assert (await task).status == 499
                else:
                    answer = await task
                    assert not isinstance(answer.body, bytes)
                    await anext(answer.body)
                    await answer.body.aclose()  # type: ignore[attr-defined]
                await upstream.until(lambda before=before: upstream.cancelled == before + 1)  # type: ignore[misc]
                assert made.in_flight() == 0
                record = made.gateway.ledger.recent(1)[0]
                assert record.outcome == "cancelled"
                assert record.input_tokens > 0
                assert len(made.gateway.ledger.recent(100)) == records + 1
                assert made.standing("d1").circuit == "closed"


async def test_a_slow_call_is_hedged_and_the_loser_is_cancelled() -> None:
    """The second copy answers; the first is ended at its upstream, and both are booked."""
    model = "hedge: {after: 0.05, max_share: 1}"
    async with serving(2, model=model) as (made, (slow, quick)):
        slow.script = hang()
        quick.script = openai_chat("quick")
        await calls(made, 1, model="m")
        reply = await made.ask("/v1/chat/completions", chat())
        assert text_of(reply) == "quick"
        await slow.until(lambda: slow.cancelled == len(slow.requests))
        outcomes = {
            (record.deployment, record.outcome, record.hedge) for record in made.gateway.ledger.recent(10)
        }
        assert ("d2", "ok", True) in outcomes
        assert ("d1", "cancelled", False) in outcomes
        assert made.in_flight() == 0


FALLBACKS = """
  - id: long
    type: text-generation
    clients: [{model: long, type: scripted, args: {reply: long}}]
  - id: liberal
    type: text-generation
    clients: [{model: liberal, type: scripted, args: {reply: liberal}}]
  - id: spare
    type: text-generation
    clients: [{model: spare, type: scripted, args: {reply: spare}}]
"""
CHAINS = "fallbacks: [spare]\ncontext_fallbacks: [long]\npolicy_fallbacks: [liberal]"


@pytest.mark.parametrize(
    ("code", "name", "expected"),
    [
        (500, None, "spare"),
        (400, "context_length_exceeded", "long"),
        (400, "content_filter", "liberal"),
        (429, None, "spare"),
    ],
)
async def test_each_failure_has_its_own_chain(code: int, name: str | None, expected: str) -> None:
    """General, too long, refused by a content filter."""
    async with serving(1, model=CHAINS, more=FALLBACKS) as (made, (upstream,)):
        upstream.script = status(code, name=name)
        reply = await made.ask("/v1/chat/completions", chat())
        assert text_of(reply) == expected
        assert reply.headers["x-router-fallback-from"] == "m"


async def test_a_mistake_of_the_caller_is_answered_as_the_upstream_answered_it() -> None:
    """No retry, no fallback, no failure."""
    async with serving(2, model=CHAINS, more=FALLBACKS) as (made, (first, second)):
        first.script = status(400, message="temperature is too high", name="invalid_value")
        reply = await made.ask("/v1/chat/completions", chat())
        assert reply.status == 400
        assert reply.json()["error"]["message"] == "temperature is too high"
        assert len(second.requests) == 0
        assert made.standing("d1").failed == 0


async def test_the_deadline_of_a_call_ends_all_of_it() -> None:
    """However many attempts would be left."""
    async with serving(3) as (made, upstreams):
        for upstream in upstreams:
            upstream.script = hang()
        began = time.monotonic()
        reply = await made.ask("/v1/chat/completions", chat(), headers={"x-router-timeout": "0.3"})
        assert reply.status == 504
        assert time.monotonic() - began < 9
        assert made.in_flight() == 0


async def test_what_may_have_been_done_is_not_done_twice_where_that_is_asked_for() -> None:
    """``retry: {unclear: false}``: a reset after the request was sent is final, a refusal is not."""
    async with serving(2, model="retry: {unclear: false}") as (made, (first, second)):
        first.script = reset_before()
        assert await calls(made, 1) == [502]
        assert len(second.requests) == 0
        first.script = status(503)
        assert await calls(made, 1) == [200]


async def test_retry_after_is_kept() -> None:
    """A deployment that asked to be left alone is, for so long, while others serve."""
    async with serving(2) as (made, (first, _)):
        first.script = status(429, retry_after="30")
        assert await calls(made, 5) == [200] * 5
        asked = len(first.requests)
        assert await calls(made, 20) == [200] * 20
        assert len(first.requests) == asked
        assert made.standing("d1").out(time.monotonic()) == "cooldown"


async def test_a_deployment_takes_as_many_calls_as_it_may() -> None:
    """The next ones go elsewhere, or are refused with a time to come back."""
    model = "retry: {max_attempts: 1}"
    async with serving(1, model=model) as (_, (upstream,)):
        config = models_yaml(upstream.url, args=QUICK, model=model).replace(
            "priority: 1,", "max_concurrency: 2,"
        )
        upstream.script = after(0.2, openai_chat())
        async with house(config) as limited:
            found = await calls(limited, 6)
            assert sorted(found) == [200, 200, 503, 503, 503, 503]
            assert upstream.max_in_flight == 2
            assert limited.in_flight() == 0


@pytest.mark.parametrize(
    ("by", "more", "headers"),
    [
        ("user", {"user": "u-{}"}, {}),
        ("header:x-chat", {}, {"x-chat": "c-{}"}),
        ("user", {}, {"x-router-session": "s-{}"}),
    ],
    ids=["user", "header", "session"],
)
async def test_calls_of_one_kind_stay_together(
    by: str, more: dict[str, str], headers: dict[str, str]
) -> None:
    """Whatever the model goes by: the same key, the same deployment; many keys, all of them."""
    async with serving(3, model=f"routing_strategy: sticky\nsticky_by: {by}") as (made, _):
        found: dict[int, set[str]] = {}
        for key in [*range(12), *range(12)]:
            body = chat(**{name: value.format(key) for name, value in more.items()})
            fields = {name: value.format(key) for name, value in headers.items()}
            reply = await made.ask("/v1/chat/completions", body, headers=fields)
            found.setdefault(key, set()).add(reply.headers["x-router-deployment"])
        assert all(len(deployments) == 1 for deployments in found.values())
        assert set.union(*found.values()) == {"d1", "d2", "d3"}


async def test_what_an_upstream_does_not_have_is_not_asked_for_again() -> None:
    """A lone deployment is asked once; where there are others, each is."""
    for count in (1, 2):
        async with serving(count) as (made, upstreams):
            for upstream in upstreams:
                upstream.script = status(404, message="Not Found")
            assert await calls(made, 1) == [502]
            assert [len(upstream.requests) for upstream in upstreams] == [1] * count


async def test_whoever_asks_for_a_model_that_is_to_go_is_told() -> None:
    """It serves all the same, under its aliases too."""
    text = (
        "models:\n  - {id: old, type: text-generation, status: deprecated, aliases: [older],"
        " clients: [{type: scripted, model: m}]}\n"
        "  - {id: new, type: text-generation, clients: [{type: scripted, model: m}]}\n"
    )
    async with house(text) as made:
        for name, told in (("old", "old"), ("older", "old"), ("new", None)):
            answer = await made.ask("/v1/chat/completions", chat(name))
            assert (answer.status, answer.headers.get("x-router-deprecated")) == (200, told)
