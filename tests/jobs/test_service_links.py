"""Submitting a URL in the place of a file: the key belongs to the URL, and a repetition fetches nothing."""

from __future__ import annotations

from typing import Any

import pydantic_core
import pytest

from router_core.binding.depends import DependencyScope
from router_core.binding.inputs import Intake
from router_core.errors import BadRequest, KeyReused, QueueFull, ValidationFailed
from router_core.http.media import File
from router_core.http.message import Headers, Request, Response
from router_core.jobs.inputs import load
from router_core.jobs.job import Job
from router_core.middleware.dispatch import Dispatch
from tests.jobs.serving import ANN, Bench, route_of

LINK = "https://example.com/a.png?signature=1"


def shrink(image: File, others: list[File] | None = None, size: int = 8) -> int:
    """Take a file; it never runs here."""
    return size


class Door(Bench):
    """A bench that is reached through the innermost step of an app, with a web of its own."""

    def __init__(self, queue_size: int = 100) -> None:
        super().__init__()
        self.route = self.routes["/shrink"] = route_of(shrink, queue_size=queue_size)
        self.fetched: list[str] = []
        self.content = b"\x89PNG" + bytes(20_000)
        self.dead = False
        self.dispatch = Dispatch(self.service, Intake(fetch=self._fetch), DependencyScope(), self.events)

    async def _fetch(self, url: str) -> File:
        self.fetched.append(url)
        if self.dead:
            raise BadRequest("the link has expired")
        return File.from_bytes(self.content, filename="a.png", content_type="image/png")

    async def send(self, key: str = "", **values: Any) -> Response:
        """Send one request."""
        pairs = [("content-type", "application/json"), *([("idempotency-key", key)] if key else [])]
        body = pydantic_core.to_json({"image": LINK, **values})
        request = Request("POST", "/shrink", "", Headers(pairs), body, id="r", principal=ANN)
        return await self.dispatch(request, self.route)


@pytest.mark.parametrize("changes", ["dead", "content", "full"])
async def test_a_repetition_with_a_link_is_the_same_job_and_fetches_nothing(changes: str) -> None:
    """Whatever the link has become, or the queue: same key and same body are the same job."""
    door = Door(queue_size=1)
    first = await door.send("k", others=[LINK])
    door.dead = changes == "dead"
    door.content = b"another" * 5_000 if changes == "content" else door.content
    again = await door.send("k", others=[LINK])
    assert (first.status, again.status) == (202, 202)
    assert dict(again.headers)["idempotency-replayed"] == "true"
    assert dict(again.headers)["location"] == dict(first.headers)["location"]
    assert (len(door.fetched), door.blobs.puts) == (2, len(door.blobs.kept))


async def test_another_link_is_another_request() -> None:
    """The same bytes behind another URL are not what the key stands for; that costs no fetch either."""
    door = Door()
    await door.send("k")
    for values in ({"image": f"{LINK}2"}, {"others": [LINK]}, {"size": 9}):
        with pytest.raises(KeyReused):
            await door.send("k", **values)
    assert door.fetched == [LINK]


async def test_a_full_queue_is_told_before_a_link_is_fetched() -> None:
    """Somebody else's server is not asked for what cannot be taken."""
    door = Door(queue_size=1)
    await door.send()
    with pytest.raises(QueueFull) as caught:
        await door.send()
    assert "RateLimit" in caught.value.headers
    assert len(door.fetched) == 1


async def test_a_dead_link_consumes_no_key() -> None:
    """The first request under a key fails with its link; the next one is a new job with the file itself."""
    door = Door()
    door.dead = True
    with pytest.raises(ValidationFailed):
        await door.send("k")
    door.dead = False
    answer = await door.send("k")
    assert "idempotency-replayed" not in dict(answer.headers)
    job = await door.inner.get(dict(answer.headers)["location"].rpartition("/")[2])
    assert isinstance(job, Job)
    image = (await load(job, door.blobs))["image"]
    assert image.read() == door.content
