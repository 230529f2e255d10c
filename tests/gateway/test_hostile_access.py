"""Who may do what: routes are closed without a key, and keys open no more than they say."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from typing import Any

import pytest

from router_core.security.api_keys import generate_key
from router_core.testing.upstream import Upstream, closed_port
from router_core.testing.upstream_faults import status
from tests.gateway.serving import chat, house, models_yaml

PLAIN, MANAGER, OTHER = generate_key().key, generate_key().key, generate_key().key
KEYS = f"plain:{PLAIN}:models:call,manager:{MANAGER}:endpoints:manage"
ENDPOINT = """
endpoints:
  - {name: e1, driver: none, url: 'http://127.0.0.1:1'}
"""


def bearer(key: str) -> dict[str, str]:
    """Return the header that carries a key."""
    return {"authorization": f"Bearer {key}"}


BAD: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "another": bearer(OTHER),
    "a part": bearer(PLAIN[:-1]),
    "more": bearer(PLAIN + "x"),
    "empty": bearer(""),
    "not ASCII": bearer("\xe9" * 40),
    "wrong scheme": {"authorization": f"Basic {PLAIN}"},
    "in other places": {"x-forwarded-user": "plain", "cookie": f"key={PLAIN}", "host": "localhost"},
}


@pytest.mark.parametrize("headers", BAD.values(), ids=BAD)
async def test_every_route_is_closed_without_a_key(headers: Mapping[str, str]) -> None:
    """The table of routes is gone through, so that no new one is forgotten."""
    async with Upstream() as upstream:
        text = models_yaml(upstream.url, more=ENDPOINT)
        async with house(text, api_keys=KEYS) as made:
            routes = [each for each in made.app.routes if not each.public]
            assert len(routes) > 14
            for route in routes:
                path = route.path.replace("{model:path}", "m").replace("{model}", "m").replace("{name}", "e1")
                if "{" in path:
                    continue
                for method in route.methods:
                    body = chat() if method == "POST" else None
                    found = await made.ask(path, body, method, headers)
                    assert found.status == 401, (method, path)
            assert not upstream.requests


async def test_endpoints_are_managed_with_their_scope_only() -> None:
    """A key that calls models does not wake anything or put it to sleep."""
    async with Upstream() as upstream:
        async with house(models_yaml(upstream.url, more=ENDPOINT), api_keys=KEYS) as made:
            for path in ("wake", "sleep", "wake/e1", "sleep/e1", "wake/unknown", "sleep/unknown"):
                refused = await made.ask(f"/api/endpoints/{path}", method="POST", headers=bearer(PLAIN))
                assert refused.status == 403, path
                taken = await made.ask(f"/api/endpoints/{path}", method="POST", headers=bearer(MANAGER))
                assert taken.status not in (401, 403), path
            assert (await made.ask("/v1/chat/completions", chat(), headers=bearer(PLAIN))).status == 200


async def test_the_key_of_a_caller_goes_to_nobody() -> None:
    """Nor do its cookies or addresses: an upstream sees our key for it, and nothing else."""
    secret = {
        **bearer(PLAIN), "cookie": "a=b", "x-forwarded-for": "10.0.0.1", "x-api-key": PLAIN, "api-key": PLAIN,
        "openai-organization": "org", "forwarded": "for=10.0.0.1", "x-custom": PLAIN,
    }  # fmt: skip
    async with Upstream() as upstream, house(models_yaml(upstream.url), api_keys=KEYS) as made:
        body = chat(api_key=None, base_url="http://evil.example/v1")
        assert (await made.ask("/v1/chat/completions", body, headers=secret)).status == 200
        sent = upstream.requests[-1].headers
        assert sent["authorization"] == "Bearer key"
        assert PLAIN not in repr(sent)
        assert not {"cookie", "x-forwarded-for", "forwarded", "x-custom", "openai-organization"} & set(sent)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(code: int) -> None:
    """Neither our key nor the caller's prompt goes to where an upstream points."""
    async with Upstream() as other:
        points = {"location": f"{other.url}/v1/chat/completions"}
        async with (
            Upstream(status(code, headers=points)) as upstream,
            house(models_yaml(upstream.url)) as made,
        ):
            assert (await made.ask("/v1/chat/completions", chat())).status == 502
            assert not other.requests


NAMES = (
    "../m",
    "m/../m",
    "m?x=y",
    "m#x",
    "%2e%2e/m",
    "http://169.254.169.254/",
    "m ",
    "M",
    "d1",
    "up",
    "m%00",
    "",
)


@pytest.mark.parametrize("name", NAMES)
async def test_names_of_models_lead_nowhere_else(name: str) -> None:
    """A name is looked up as it is; nothing of it becomes a part of an address."""
    async with Upstream() as upstream, house(models_yaml(upstream.url)) as made:
        found = await made.ask("/v1/chat/completions", chat(name))
        assert found.status in (400, 404)
        assert not [each for each in upstream.requests if each.method == "POST"]


async def test_a_caller_that_makes_mistakes_opens_no_circuit() -> None:
    """Requests that the upstream refuses, and calls that are given up, are the caller's own failures."""
    async with Upstream(status(400)) as upstream, house(models_yaml(upstream.url)) as made:
        for _ in range(20):
            assert (await made.ask("/v1/chat/completions", chat())).status == 400
        upstream.script = status(422)
        for _ in range(20):
            given_up = asyncio.create_task(made.ask("/v1/chat/completions", chat()))
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.gather(given_up, return_exceptions=True)
        standing = made.standing("d1")
        assert (standing.circuit, standing.failed, standing.inflight) == ("closed", 0, 0)


async def test_a_storm_of_calls_is_not_made_a_larger_one() -> None:
    """When everything fails, retries stay a fraction of the calls."""
    calls = 80
    model = "retry: {max_attempts: 3, budget_floor: 1}\nbreaker: {minimum: 100000, in_a_row: 100000}"
    async with Upstream(status(500)) as upstream, house(models_yaml(upstream.url, model=model)) as made:
        await asyncio.gather(*[made.ask("/v1/chat/completions", chat()) for _ in range(calls)])
        assert len(upstream.requests) <= calls * 1.2 + 30


async def test_a_large_prompt_does_not_stop_the_others() -> None:
    """What is done with a body of megabytes takes little of the one thread that serves everybody."""
    content = "".join(random.Random(3).choices('abc {}[]"\\é\n', k=1_500_000))
    body = json.dumps(chat(messages=[{"role": "user", "content": content}]), ensure_ascii=False).encode()
    longest = 0.0
    async with (
        Upstream() as upstream,
        house(models_yaml(upstream.url), max_body_bytes=2**25) as made,
    ):

        async def beat() -> None:
            nonlocal longest
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0)
                longest = max(longest, time.perf_counter() - before)

        beating = asyncio.create_task(beat())
        found: Any = await made.ask("/v1/chat/completions", body)
        beating.cancel()
        assert found.status == 200
    print(f"{len(body)} bytes, {longest * 1000:.0f} ms")
    assert longest < 2.0  # 0.1 s where nobody else works


async def test_nobody_listens() -> None:
    """A port on which nobody listens is the upstream's matter; the caller learns no address."""
    with closed_port() as port:
        async with house(models_yaml(f"http://127.0.0.1:{port}")) as made:
            found = await made.ask("/v1/chat/completions", chat())
            assert found.status == 503
            assert str(port).encode() not in found.body
