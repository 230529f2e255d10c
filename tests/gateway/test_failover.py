"""What callers notice when deployments die: of some nothing, of all of them a quick and plain answer."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import pytest

from router_core.gateway.health.probes import Prober
from router_core.testing.upstream import Upstream, closed_port
from router_core.testing.upstream_faults import Behaviour, hang, status
from router_core.testing.upstream_openai import openai_chat, openai_stream
from router_core.testing.upstream_wire import Exchange
from tests.gateway.serving import House, Reply, chat, house, models_yaml

QUICK = "timeouts: {connect: 5, first_byte: 5, idle: 5}"


async def at_once(made: House, count: int, **more: Any) -> list[Reply]:
    """Make that many calls at the same time."""
    return await asyncio.gather(*(made.ask("/v1/chat/completions", chat(**more)) for _ in range(count)))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_dead_from_the_start_under_full_load(stream: bool) -> None:
    """Half of ten are dead, and 200 calls come before anybody knows: none fails, for want of attempts or of
    a retry budget that nobody has earned yet. What was refused at the door costs no upstream anything."""
    async with AsyncExitStack() as stack:
        alive = [await stack.enter_async_context(Upstream()) for _ in range(5)]
        dead = [f"http://127.0.0.1:{stack.enter_context(closed_port())}" for _ in range(5)]
        text = models_yaml(
            *dead, *[each.url for each in alive], args=QUICK, model="routing_strategy: shuffle"
        )
        made = await stack.enter_async_context(house(text))
        answers = await at_once(made, 200, stream=stream)
        assert Counter(each.status for each in answers) == {200: 200}
        assert sum(len(each.requests) for each in alive) == 200, "nobody was asked twice"
        assert made.in_flight() == 0


async def test_killed_with_calls_in_flight() -> None:
    """What an upstream took with it is asked of another one, however many calls that are."""
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(Upstream()) for _ in range(4)]
        text = models_yaml(
            *[each.url for each in upstreams], args=QUICK, model="routing_strategy: least_busy"
        )
        made = await stack.enter_async_context(house(text))
        for _ in range(10):
            await at_once(made, 100)
        doomed = upstreams[:2]
        for each in doomed:
            each.script = hang()
        work = asyncio.ensure_future(at_once(made, 256))
        for each in doomed:
            await each.until(lambda each=each: each.in_flight == 64)  # type: ignore[misc]
        await asyncio.gather(*(each.stop() for each in doomed))
        assert Counter(each.status for each in await work) == {200: 256}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_hanging_before_retries_were_earned(stream: bool) -> None:
    """A hundred calls of a young process, half of them at an upstream that says nothing: the other one is
    well, so it is asked in its place, whatever the budget."""
    async with Upstream(hang()) as silent, Upstream() as good:
        model = "routing_strategy: round_robin\nretry: {budget_ratio: 0, budget_floor: 0}"
        # its streams go on for longer than the other one is waited for
        good.script = openai_stream(("piece ",) * 12, delay=0.1) if stream else openai_chat()
        args = "timeouts: {connect: 5, first_byte: 0.7, idle: 5}"
        async with house(models_yaml(silent.url, good.url, args=args, model=model)) as made:
            answers = await at_once(made, 100, stream=stream)
            assert Counter(each.status for each in answers) == {200: 100}
            assert len(silent.requests) == 50
            assert len(good.requests) == 100


async def test_a_call_is_risked_once_at_most() -> None:
    """Three of four are still dead when their circuits half-open, all at once: whoever meets one of them goes
    on to the one that is sure, and needs no third attempt."""
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(Upstream(status(500))) for _ in range(3)]
        upstreams.append(await stack.enter_async_context(Upstream()))
        model = "retry: {max_attempts: 2}\nbreaker: {open_for: 0.05, open_max: 0.05}"
        text = models_yaml(*[each.url for each in upstreams], args=QUICK, model=model)
        made = await stack.enter_async_context(house(text, log_level="error"))
        for _ in range(60):  # until all three have opened, which costs some calls their two attempts
            if {made.standing(f"d{number}").circuit for number in (1, 2, 3)} == {"open"}:
                break
            await at_once(made, 1)
        for _ in range(3):
            await asyncio.sleep(0.06)
            answers = [(await at_once(made, 1))[0] for _ in range(3)]
            assert [each.status for each in answers] == [200] * 3
            assert answers[0].headers["x-router-attempts"] == "2"
            assert "d2:probation" in answers[0].headers["x-router-decision"]


async def test_three_that_fall_ill_at_once_fail_no_call() -> None:
    """Nothing was known against any of them: by default a call has an attempt left for the fourth."""
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(Upstream(status(500))) for _ in range(3)]
        upstreams.append(await stack.enter_async_context(Upstream()))
        made = await stack.enter_async_context(
            house(models_yaml(*[each.url for each in upstreams], args=QUICK))
        )
        (answer,) = await at_once(made, 1)
        assert (answer.status, answer.headers["x-router-attempts"]) == (200, "4")
        assert [len(each.requests) for each in upstreams] == [1, 1, 1, 1]


async def test_nobody_left_and_back_again() -> None:
    """Every deployment is dead: a quick 503 that says when to come back; the first that answers is asked."""
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(Upstream()) for _ in range(3)]
        model = "breaker: {open_for: 60, open_max: 60}"
        text = models_yaml(*[each.url for each in upstreams], args=QUICK, model=model)
        made = await stack.enter_async_context(house(text))
        for each in upstreams:
            await each.stop()
        for _ in range(3):
            async with asyncio.timeout(30):
                answers = await at_once(made, 100)
            assert Counter(each.status for each in answers) == {503: 100}
            assert all(float(each.headers["retry-after"]) > 0 for each in answers)
        assert [made.standing(f"d{number}").circuit for number in (1, 2, 3)] == ["open"] * 3
        await upstreams[1].start()
        # the circuits are open for another minute, and who would be back first may be a dead one
        (found,) = await at_once(made, 1)
        assert (found.status, found.headers.get("x-router-deployment")) == (200, "d2")
        assert Counter(each.status for each in await at_once(made, 20)) == {200: 20}


async def test_streams_bring_a_deployment_back_with_their_first_content() -> None:
    """However long they go on: who probes it must not have to end before others may come."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Upstream())
        model = "breaker: {open_for: 60, open_max: 60}\nretry: {max_attempts: 1}"
        made = await stack.enter_async_context(house(models_yaml(upstream.url, args=QUICK, model=model)))
        upstream.script = status(500)
        while made.standing("d1").circuit != "open":
            await at_once(made, 1)
        upstream.script = openai_stream(("piece ",) * 500, delay=0.02)
        open_streams = []
        for _ in range(2):
            answer = await made.send("/v1/chat/completions", chat(stream=True))
            assert answer.status == 200
            assert not isinstance(answer.body, bytes)
            await anext(answer.body)
            open_streams.append(answer.body)
        assert made.standing("d1").circuit == "closed"
        for body in open_streams:
            await body.aclose()  # type: ignore[attr-defined]
        assert made.in_flight() == 0


def in_two_seconds() -> str:
    """Return the date of HTTP that is 2 s away, rounded up."""
    return formatdate(time.time() + 3, usegmt=True)


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"retry-after": "2"}, 2.0, 2.0),
        ({"retry-after": "1.5"}, 1.5, 1.5),
        ({"retry-after": "date"}, 1.5, 3.0),
        ({"retry-after-ms": "1500"}, 1.5, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5, 1.5),
        ({"x-ratelimit-reset-requests": "2s", "x-ratelimit-remaining-requests": "0"}, 2.0, 2.0),
        ({"retry-after": "86400"}, 60.0, 60.0),
    ],
    ids=["seconds", "decimals", "date", "ms", "ms first", "limit", "capped"],
)
@pytest.mark.parametrize("code", [429, 503])
async def test_retry_after_in_every_form(
    code: int, headers: dict[str, str], least: float, most: float
) -> None:
    """The deployment is left alone for so long, others serve; alone, the caller is told."""
    given = {name: in_two_seconds() if value == "date" else value for name, value in headers.items()}
    async with Upstream(status(code, headers=given)) as asked, Upstream() as other:
        async with house(models_yaml(asked.url, other.url, args=QUICK)) as made:
            assert [each.status for each in await at_once(made, 1)] == [200]
            now = time.monotonic()
            assert made.standing("d1").out(now) == "cooldown"
            assert least - 1.0 <= made.standing("d1").back_at(now) - now <= most
            await at_once(made, 5)
            assert len(asked.requests) == 1
        async with house(models_yaml(asked.url, args=QUICK)) as made:
            (answer,) = await at_once(made, 1)
            assert answer.status == code
            assert least - 1.0 <= float(answer.headers["retry-after"]) <= math.ceil(most)


async def test_a_storm_of_failures_is_no_storm_of_retries() -> None:
    """Two thousand calls, everything fails and no circuit helps: 1.2 times as many requests at most."""
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(Upstream(status(500))) for _ in range(2)]
        model = "routing_strategy: round_robin\nbreaker: {minimum: 100000, in_a_row: 100000}"
        text = models_yaml(*[each.url for each in upstreams], args=QUICK, model=model)
        made = await stack.enter_async_context(house(text, log_level="error"))
        for _ in range(20):
            assert {each.status for each in await at_once(made, 100)} == {502}
        assert 2000 < sum(len(each.requests) for each in upstreams) <= 2400 + 10


class Hands:
    """Those of a clock that stands still unless they are turned."""

    def __init__(self, now: float) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def turn(self, seconds: float) -> None:
        """Let seconds pass."""
        self._now += seconds


def taking(clock: Hands, seconds: float) -> Behaviour:
    """Answer a chat call after so many seconds of that clock."""

    async def run(exchange: Exchange) -> None:
        clock.turn(seconds)
        await openai_chat().run(exchange)

    return Behaviour("taking", run)


async def test_a_slow_one_is_ejected_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred times slower than its peers, through real calls: left out for a while, then judged anew. The
    upstreams turn the clock, so that no busy machine makes any of them slow."""
    clock = Hands(time.monotonic())
    monkeypatch.setattr("router_core.gateway.gateway.time", SimpleNamespace(monotonic=clock))
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(Upstream(taking(clock, 0.01))) for _ in range(3)]
        upstreams[0].script = taking(clock, 1.0)
        model = "routing_strategy: round_robin\nejection: {interval: 1, minimum: 5, eject_for: 25}"
        text = models_yaml(*[each.url for each in upstreams], args=QUICK, model=model)
        text = text.replace("type: openai,", "type: openai, health: {interval: 0},")
        made = await stack.enter_async_context(house(text))
        prober = Prober(made.gateway.registry, made.gateway.events, time=clock)

        async def serve(count: int) -> Reply:
            answers = [(await at_once(made, 1))[0] for _ in range(count)]
            assert {each.status for each in answers} == {200}
            clock.turn(2)
            await prober.tick()
            return answers[-1]

        await serve(12)
        assert not made.notes("d1"), "four calls each are too few to judge by"
        await serve(3)
        assert made.notes("d1") == ["deployment_ejected"]
        answer = await serve(12)
        assert "d1:ejected" in answer.headers["x-router-decision"]
        assert [len(each.requests) for each in upstreams] == [5, 11, 11]
        upstreams[0].script = taking(clock, 0.01)
        clock.turn(25)
        await serve(30)
        assert made.notes("d1") == ["deployment_ejected", "deployment_readmitted"]
        assert not made.notes("d2", "d3")
        assert [len(each.requests) for each in upstreams] == [15, 21, 21]


# -- with the loops running that tend deployments ------------------------------------------------------------


async def until(made: House, holds: Callable[[], bool], *, calls: int = 4) -> None:
    """Go on calling until something holds."""
    async with asyncio.timeout(60):
        while not holds():
            assert all(each.status == 200 for each in await at_once(made, calls))
            await asyncio.sleep(0.02)


async def test_a_backend_that_is_down_at_boot_is_known_and_comes_back() -> None:
    """It is registered and listed, found unhealthy without a call, and serves when it is there."""
    async with AsyncExitStack() as stack:
        good, late = await stack.enter_async_context(Upstream()), Upstream()
        await late.start()
        await late.stop()  # its port is known, and closed
        text = models_yaml(late.url, good.url, args=QUICK)
        for number in (1, 2):
            looked_after = f"priority: {number}, health: {{interval: 0.1, timeout: 1}},"
            text = text.replace(f"priority: {number},", looked_after)
        made = await stack.enter_async_context(house(text, background=True))
        await until(made, lambda: made.standing("d1").probe_ok is False, calls=0)
        assert made.standing("d1").started == 0
        models = (await made.ask("/v1/models")).json()["data"]
        assert [each["id"] for each in models] == ["m"]
        (answer,) = await at_once(made, 1)
        assert "d1:unhealthy" in answer.headers["x-router-decision"]
        await late.start()
        stack.push_async_callback(late.stop)
        await until(made, lambda: any(each.path.endswith("chat/completions") for each in late.requests))
        assert made.standing("d1").probe_ok is True
        assert made.standing("d1").failed == 0
