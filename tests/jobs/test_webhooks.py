"""Webhooks against real receivers on this machine: refusing, hanging, redirecting, gone, and taking."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pydantic_core
import pytest

from router_core.http.message import Headers
from router_core.jobs.job import Job
from router_core.jobs.store import Delivery
from router_core.jobs.submission import SubmitOptions
from router_core.jobs.webhooks import MAX_BODY, PLAN, WebhookSender, retry_after_seconds
from router_core.security.fetch import GuardedHttp
from router_core.security.signing import generate_secret, sign, verify
from router_core.security.url_guard import UrlGuard
from router_core.settings import Settings
from router_core.telemetry.events import Note
from tests.docs_blocks import ROOT, blocks
from tests.jobs.serving import ANN, Bench

OLD, NEW = generate_secret(), generate_secret()


@dataclass
class Receiver:
    """An HTTP server that answers each message with what it is told to."""

    status: int = 200
    headers: tuple[str, ...] = ()
    hang: bool = False
    port: int = 0
    seen: list[tuple[Headers, bytes]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"http://127.0.0.1:{self.port}/hook"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = Headers([tuple(line.split(": ", 1)) for line in head[1:] if line])  # type: ignore[misc]
            body = await reader.readexactly(int(pairs["content-length"]))
            self.paths.append(head[0].split(" ")[1])
            self.seen.append((pairs, body))
            self.arrived.set()
            if self.hang:
                await reader.read()
                return
            extra = "".join(f"{line}\r\n" for line in self.headers)
            writer.write(f"HTTP/1.1 {self.status} X\r\ncontent-length: 0\r\n{extra}\r\n".encode())
            await writer.drain()
        finally:
            writer.close()


@asynccontextmanager
async def receiving(**options: Any) -> AsyncIterator[Receiver]:
    """Run a receiver."""
    receiver = Receiver(**options)
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in receiver.tasks:
            task.cancel()
        await asyncio.gather(*receiver.tasks, return_exceptions=True)


class World(Bench):
    """A bench with a sender; ``end`` runs a job to its end with a webhook."""

    def __init__(self, draw: Callable[[], float] = lambda: 0.5, **options: Any) -> None:
        async def any_url(url: str) -> object:
            return None

        super().__init__(
            settings=Settings(webhook_secret=f"{NEW} {OLD}", retention=3600.0), check_url=any_url
        )
        self.http_client = GuardedHttp(UrlGuard(allow_private=True))
        self.sender = WebhookSender(
            store=self.store, clock=self.clock, settings=self.settings, events=self.events,
            post=self.http_client.post, sign=sign, draw=draw, **options,
        )  # fmt: skip

    async def end(self, url: str, result: bytes = b'{"secret":"x"}') -> Job:
        """Let a job end that has a webhook."""
        job = (await self.submit(options=SubmitOptions(webhook=url))).job
        return await self.succeed(await self.claim(job.id), result)

    async def send(self) -> None:
        """Send what is due and wait for the answers."""
        await self.sender.tick()
        await self.sender.idle()

    async def next_in(self) -> float | None:
        """Return in how many seconds the one row of the outbox is due; None when there is none."""
        rows = list(self.inner._outbox.values())
        return rows[0].next_at - self.clock.now() if rows else None

    def noted(self, name: str) -> list[Note]:
        """Return what was reported under a name."""
        return [event for event in self.seen if isinstance(event, Note) and event.name == name]


async def test_a_message_is_signed_and_holds_no_result() -> None:
    """Both secrets sign during a rotation; the id is job and state; the result is a link."""
    world = World()
    async with receiving() as receiver:
        job = await world.end(receiver.url)
        await world.send()
    ((headers, body),) = receiver.seen
    for secret in (NEW, OLD):
        verified = verify(headers, body, secret, now=world.clock.now())
        assert verified.id == f"{job.id}.succeeded"
    message = pydantic_core.from_json(body)
    assert (message["type"], message["data"]["job_id"]) == ("job.succeeded", job.id)
    assert "result" not in message["data"]
    assert message["data"]["links"]["result"] == f"/jobs/{job.id}/result"
    assert headers["content-type"] == "application/json"
    assert await world.next_in() is None


async def test_the_page_about_webhooks_shows_the_true_body() -> None:
    """The sample has the members that a message has, down to the links, and texts of the same form."""
    world = World()
    async with receiving() as receiver:
        await world.end(receiver.url)
        await world.send()
    told = pydantic_core.from_json(receiver.seen[0][1])
    page = ROOT / "docs" / "jobs.md"
    (sample,) = (
        shown for block in blocks(page, "json") if "type" in (shown := pydantic_core.from_json(block.code))
    )
    assert list(sample) == list(told)
    assert list(sample["data"]) == list(told["data"])
    assert list(sample["data"]["links"]) == list(told["data"]["links"])
    assert sample["type"] == told["type"]
    for one, other in (
        (sample["timestamp"], told["timestamp"]), (sample["data"]["created_at"], told["data"]["created_at"]),
    ):  # fmt: skip
        assert re.sub(r"\d", "0", one) == re.sub(r"\d", "0", other)


@pytest.mark.parametrize("status", [500, 503, 400, 404, 302, 301, 100])
async def test_what_is_not_2xx_is_a_failure_and_no_redirect_is_followed(status: int) -> None:
    """The next try comes after 5 seconds, under the same id, freshly signed."""
    world = World()
    async with (
        receiving() as other,
        receiving(status=status, headers=(f"location: {other.url}",)) as receiver,
    ):
        await world.end(receiver.url)
        await world.send()
        assert await world.next_in() == 5.0
        await world.send()
        assert len(receiver.seen) == 1
        world.clock.advance(5)
        receiver.status = 204
        await world.send()
    assert other.seen == []
    first, second = receiver.seen
    assert first[0]["webhook-id"] == second[0]["webhook-id"]
    assert int(second[0]["webhook-timestamp"]) == int(first[0]["webhook-timestamp"]) + 5
    verify(second[0], second[1], NEW, now=world.clock.now())
    assert await world.next_in() is None


async def test_a_message_is_given_up_after_the_plan() -> None:
    """Ten tries over three days, each reported, then an error for the operator."""
    world = World()
    patient: Any = _Patient()
    world.sender._breakers.of = lambda url: patient  # type: ignore[method-assign]
    async with receiving(status=500) as receiver:
        await world.end(receiver.url)
        waits = []
        for _ in PLAN:
            await world.send()
            wait = await world.next_in()
            waits.append(wait)
            world.clock.advance(wait or 0)
    assert waits == [*PLAN[1:], None]
    assert len(receiver.seen) == len(PLAN)
    assert len(world.noted("webhook_given_up")) == 1


class _Patient:
    """A breaker that never opens."""

    in_flight = 0

    def closed_until(self) -> float:
        return 0.0

    def enter(self) -> bool:
        return True

    def leave(self, success: bool | None) -> None:
        pass


@pytest.mark.parametrize("draw", [0.0, 1.0])
async def test_the_plan_has_jitter(draw: float) -> None:
    """Ten per cent either way, so that what failed together does not come back together."""
    world = World(draw=lambda: draw)
    async with receiving(status=500) as receiver:
        await world.end(receiver.url)
        await world.send()
    assert await world.next_in() == pytest.approx(5.5 if draw else 4.5)


async def test_retry_after_is_honoured() -> None:
    """A receiver that asks for an hour gets it; one that asks for a second does not shorten the plan."""
    world = World()
    async with receiving(status=503, headers=("retry-after: 3600",)) as receiver:
        await world.end(receiver.url)
        await world.send()
        assert await world.next_in() == 3600
        receiver.headers = ("retry-after: 1",)
        world.clock.advance(3600)
        await world.send()
    assert await world.next_in() == 300.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0), ("", 0), ("120", 120), ("-5", 0), ("soon", 0), ("9" * 30, 86400), ("\u0661", 0),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60), ("Tue, 14 Nov 2000 22:14:20 GMT", 0),
        ("Tue, 14 Nov 2099 22:14:20 GMT", 86400), ("1.5", 0),
    ],
)  # fmt: skip
def test_retry_after_is_read_in_both_forms(value: str | None, seconds: float) -> None:
    """Seconds or a date, never negative, at most a day."""
    assert retry_after_seconds(value, 1_700_000_000.0) == seconds


async def test_410_disables_the_url() -> None:
    """The message is dropped, and so is the next one to that URL; another URL there is still served."""
    world = World()
    async with receiving(status=410) as receiver:
        await world.end(receiver.url)
        await world.send()
        assert await world.next_in() is None
        await world.end(receiver.url)
        await world.send()
        assert len(receiver.seen) == 1
        receiver.status = 200
        await world.end(receiver.url + "?subscriber=2")
        await world.send()
        assert receiver.paths == ["/hook", "/hook?subscriber=2"]


@pytest.mark.parametrize("waiting", [6, 350])
async def test_a_receiver_that_hangs_delays_no_other(waiting: int) -> None:
    """The healthy one has its message while the other is still silent; the loop goes on meanwhile."""
    world = World()
    async with receiving(hang=True) as silent, receiving() as healthy:
        for _ in range(waiting):
            await world.end(silent.url)
        await world.sender.tick()
        await asyncio.wait_for(silent.arrived.wait(), 60)
        await world.end(healthy.url)
        await world.sender.tick()
        await asyncio.wait_for(healthy.arrived.wait(), 60)
        assert len(healthy.seen) == 1
        rows = list(world.inner._outbox.values())
        assert sum(row.url == silent.url for row in rows) == waiting
        assert not any(row.attempt for row in rows)
        assert len(world.sender._sending) <= 5
        for task in list(world.sender._sending.values()):
            task.cancel()
        await world.sender.idle()
    assert len(silent.seen) == 4


async def test_a_message_is_put_aside_while_it_is_sent() -> None:
    """A second process that shares the store does not send it as well, and a crash only delays it."""
    world, other = World(), World()
    other.sender._store = world.store
    async with receiving(hang=True) as receiver:
        await world.end(receiver.url)
        await world.sender.tick()
        await asyncio.wait_for(receiver.arrived.wait(), 60)
        await other.sender.tick()
        assert not other.sender._sending
        assert await world.next_in() == 60.0
        for task in list(world.sender._sending.values()):
            task.cancel()
        await world.sender.idle()
    assert await world.next_in() == 60.0


async def test_an_endpoint_that_keeps_failing_is_left_alone() -> None:
    """After five failures the rest wait uncounted; then one asks for all, and its success opens the door."""
    world = World()
    async with receiving(status=500) as receiver:
        for _ in range(12):
            await world.end(receiver.url)
        for _ in range(4):
            await world.send()
        assert len(receiver.seen) == 8
        rows = world.inner._outbox.values()
        assert sorted({row.attempt for row in rows}) == [0, 1]
        receiver.status = 200
        world.clock.advance(400)
        await world.sender.tick()
        await world.sender.idle()
        assert len(receiver.seen) == 9
        for _ in range(4):
            await world.send()
    assert len(receiver.seen) == 20
    assert not world.inner._outbox


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://nowhere.invalid/", "http://127.0.0.1:0/x"])
async def test_an_endpoint_that_cannot_be_reached_is_a_failure(url: str) -> None:
    """Connection refused and unknown names: the plan goes on."""
    world = World()
    await world.end(url)
    await world.send()
    assert await world.next_in() == 5.0
    assert len(world.noted("webhook_failed")) == 1


async def test_a_url_that_became_private_is_not_posted_to() -> None:
    """The guard checks at each send, not only when the URL was registered."""
    world = World()
    world.sender._post = GuardedHttp(UrlGuard()).post
    async with receiving() as receiver:
        await world.end(receiver.url)
        await world.send()
    assert receiver.seen == []
    assert await world.next_in() == 5.0


async def test_a_store_that_is_down_does_not_count_against_the_endpoint() -> None:
    """The loop lives, the row stays, and the breaker knows nothing."""
    world = World()
    async with receiving() as receiver:
        await world.end(receiver.url)
        await world.sender.tick()
        await world.inner.close()
        await world.sender.idle()
    assert world.sender._breakers.of(receiver.url).in_flight == 0
    with pytest.raises(Exception, match="closed"):
        await world.sender.tick()
    assert world.sender.ready(world.clock.now())
    world.clock.advance(30)
    assert not world.sender.ready(world.clock.now())


async def test_a_body_stays_below_20_kb() -> None:
    """Whatever message and error a job has."""
    world = World()
    job = await world.end("http://127.0.0.1:1/", b"1")
    huge = replace(job, message="m" * 50_000, error=b'{"message":"' + b"e" * 50_000 + b'"}')
    row = Delivery(f"{job.id}.failed", job.id, "http://x", 0.0)
    body = world.sender._body(row, huge)
    assert len(body) < MAX_BODY
    assert pydantic_core.from_json(body)["data"]["job_id"] == job.id
    gone = pydantic_core.from_json(world.sender._body(row, None))
    assert gone["data"] == {"job_id": job.id, "status": "failed"}


async def test_cancelling_the_sender_leaves_the_row() -> None:
    """A message that was under way at shutdown is sent by the next process."""
    world = World()
    async with receiving(hang=True) as receiver:
        await world.end(receiver.url)
        loop = asyncio.create_task(world.sender.run())
        await asyncio.wait_for(receiver.arrived.wait(), 60)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
    assert not world.sender._sending
    assert await world.next_in() is not None


async def test_a_cancelled_job_tells_its_webhook_too() -> None:
    """Every end has one message: state in its id and type."""
    world = World()
    async with receiving() as receiver:
        job = (await world.submit(options=SubmitOptions(webhook=receiver.url))).job
        await world.service.cancel(job.id, ANN)
        await world.send()
    ((headers, body),) = receiver.seen
    assert headers["webhook-id"] == f"{job.id}.cancelled"
    assert pydantic_core.from_json(body)["type"] == "job.cancelled"
