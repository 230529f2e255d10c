"""What callers notice when deployments die: of some nothing, of all of them a quick and plain answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from router_core.testing.upstream import Upstream, closed_port
from router_core.testing.upstream_faults import after
from router_core.testing.upstream_openai import openai_chat
from tests.gateway.serving import House, Reply, chat, house, models_yaml

QUICK = "timeouts: {connect: 2, first_byte: 2, idle: 2}"


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
        for each in upstreams:
            each.script = after(0.3, openai_chat())
        work = asyncio.ensure_future(at_once(made, 256))
        await upstreams[3].until(lambda: sum(each.in_flight for each in upstreams) == 256)
        await asyncio.gather(upstreams[0].stop(), upstreams[1].stop())
        assert Counter(each.status for each in await work) == {200: 256}
