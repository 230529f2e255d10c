"""Limits meet every call once: where it begins, and when all of it has ended, however that was."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import Any

import pytest

from router_core.errors import RateLimited
from router_core.gateway.admission import Permit
from router_core.gateway.call import Call, Usage
from router_core.testing.upstream import Upstream
from router_core.testing.upstream_faults import hang, reset_before, status
from router_core.testing.upstream_openai import openai_chat, openai_stream
from tests.gateway.serving import House, chat, house, models_yaml, on_socket

PATH = "/v1/chat/completions"
PRICE = "price: {input: 1, output: 1}"


class Held:
    """What one call holds; notes how it was given back."""

    def __init__(self, notes: list[Any]) -> None:
        self._notes = notes

    def settle(self, cost_micros: int | None, usage: Usage | None, now: float) -> None:
        """Note what was spent."""
        assert now > 0
        assert usage is not None
        self._notes.append((cost_micros, usage.input_tokens, usage.output_tokens))

    def release(self, now: float) -> None:
        """Note that nothing was."""
        assert now > 0
        self._notes.append("released")


class Limits:
    """Admits as it is told, and keeps notes."""

    def __init__(self, answer: Callable[[Held], Any] = lambda held: held) -> None:
        self.asked: list[str] = []
        self.notes: list[Any] = []
        self._answer = answer

    def admit(self, call: Call, now: float) -> Permit | Awaitable[Permit | None] | None:
        """Note the call, and answer."""
        assert now > 0
        assert not call.attempts
        self.asked.append(call.model_name)
        answer: Permit | Awaitable[Permit | None] | None = self._answer(Held(self.notes))
        return answer


@asynccontextmanager
async def limited(
    limits: Limits, count: int = 1, model: str = "", price: str = PRICE
) -> AsyncIterator[tuple[House, list[Upstream]]]:
    """Yield a gateway with these limits in front of that many good upstreams."""
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(Upstream()) for _ in range(count)]
        text = models_yaml(*[each.url for each in upstreams], model=model)
        text = text.replace("type: openai,", f"type: openai, {price}" + ("," if price else ""))
        made = await stack.enter_async_context(house(text))
        made.gateway.admission = limits
        yield made, upstreams


async def later(held: Held) -> Permit:
    """Admit after having asked somebody."""
    async with asyncio.timeout(60):  # a task is needed for that
        await asyncio.sleep(0)
    return held


@pytest.mark.parametrize("answer", [lambda held: held, later], ids=["at-once", "later"])
async def test_a_call_is_settled_with_what_it_cost(answer: Callable[[Held], Any]) -> None:
    """Cost and tokens are those of the answer, booked once."""
    limits = Limits(answer)
    async with limited(limits) as (made, (upstream,)):
        upstream.script = openai_chat(prompt_tokens=3, completion_tokens=4)
        assert (await made.ask(PATH, chat())).status == 200
    assert limits.asked == ["m"]
    assert limits.notes == [(7, 3, 4)]


@pytest.mark.parametrize("late", [False, True], ids=["at-once", "later"])
async def test_who_is_not_limited_holds_nothing(late: bool) -> None:
    """None is an answer, too, at once or later; nothing is settled then."""

    async def nothing() -> None:
        await asyncio.sleep(0)

    limits = Limits(lambda held: nothing() if late else None)
    async with limited(limits) as (made, _):
        assert (await made.ask(PATH, chat())).status == 200
        assert made.gateway.ledger.recent(1)[0].outcome == "ok"
    assert limits.asked == ["m"]
    assert limits.notes == []


@pytest.mark.parametrize("late", [False, True], ids=["at-once", "later"])
async def test_a_refusal_is_the_answer_and_nobody_is_asked(late: bool) -> None:
    """429 with its Retry-After, counted as a call that ended so."""

    def refuse(held: Held) -> Any:
        raise RateLimited("too many", retry_after=7)

    async def refuse_later(held: Held) -> Any:
        refuse(held)

    async with limited(Limits(refuse_later if late else refuse)) as (made, (upstream,)):
        reply = await made.ask(PATH, chat())
        assert (reply.status, reply.headers["retry-after"]) == (429, "7")
        assert upstream.requests == []
        metrics = made.app.metrics.render()
    assert 'model_router_requests_total{model="m",outcome="rate_limited"} 1' in metrics


async def test_all_attempts_are_one_sum() -> None:
    """What a failed attempt has cost is settled together with the one that answered."""
    limits = Limits()
    async with limited(limits, 2) as (made, (bad, good)):
        bad.script = reset_before()
        good.script = openai_chat(prompt_tokens=3, completion_tokens=4)
        assert (await made.ask(PATH, chat())).status == 200
        failed, answered = sorted(made.gateway.ledger.recent(2), key=lambda each: each.attempt)[:2]
    assert (failed.outcome, answered.outcome) == ("unclear", "ok")
    assert failed.cost
    tokens = failed.input_tokens + 3
    assert limits.notes == [(failed.cost + 7, tokens, 4)]


async def test_without_prices_the_cost_is_not_known() -> None:
    """None, which is not nothing; tokens are told all the same."""
    limits = Limits()
    async with limited(limits, price="") as (made, (upstream,)):
        upstream.script = openai_chat(prompt_tokens=3, completion_tokens=4)
        assert (await made.ask(PATH, chat())).status == 200
    assert limits.notes == [(None, 3, 4)]


@pytest.mark.parametrize("model", ["m", "nobody"])
async def test_where_nothing_was_spent_it_is_released(model: str) -> None:
    """An upstream that refuses has done nothing, and a model that is not there neither."""
    limits = Limits()
    async with limited(limits, model="retry: {max_attempts: 1}") as (made, (upstream,)):
        upstream.script = status(503)
        assert (await made.ask(PATH, chat(model))).status in (404, 503)
    assert limits.notes == ["released"]


async def test_a_stream_is_settled_at_its_end() -> None:
    """Not when it begins: what it costs is known last."""
    limits = Limits()
    async with limited(limits) as (made, (upstream,)):
        upstream.script = openai_stream(prompt_tokens=3)
        answer = await made.send(PATH, chat(stream=True))
        assert limits.notes == []
        assert not isinstance(answer.body, bytes)
        async for _ in answer.body:
            assert limits.notes == []
        assert limits.notes == [(6, 3, 3)]


async def test_a_stream_that_nobody_reads_to_its_end_is_settled() -> None:
    """By estimate, when it is closed."""
    limits = Limits()
    async with limited(limits) as (made, (upstream,)):
        upstream.script = openai_stream(prompt_tokens=3)
        answer = await made.send(PATH, chat(stream=True))
        await answer.body.aclose()  # type: ignore[union-attr]
        assert len(limits.notes) == 1
        assert limits.notes[0] != "released"


async def test_a_caller_that_leaves_is_settled() -> None:
    """What was sent is booked by estimate, once."""
    limits = Limits()
    async with limited(limits) as (made, (upstream,)):
        upstream.script = hang()
        asking = asyncio.create_task(made.ask(PATH, chat()))
        while not upstream.requests:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.001)
        assert limits.notes == []
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        (cost, sent, _), *more = limits.notes
        assert cost == sent > 0
        assert not more


def test_waiting_for_a_store_moves_a_call_into_a_task() -> None:
    """The door below ASGI drives calls by hand, and what asks a store needs a task."""
    limits = Limits(later)
    model = (
        "models:\n  - id: m\n    type: text-generation\n    clients: [{id: d1, model: s, type: scripted}]\n"
    )
    with on_socket(model) as (made, url):
        made.gateway.admission = limits
        port = int(url.rpartition(":")[2])
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            for _ in range(3):
                body = json.dumps(chat())
                connection.request("POST", PATH, body, {"content-type": "application/json"})
                answer = connection.getresponse()
                assert (answer.status, bool(answer.read())) == (200, True)
    assert limits.asked == ["m"] * 3
    assert len(limits.notes) == 3
