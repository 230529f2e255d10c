"""Tell a URL that a job has ended: signed, repeated until it is taken, never in the way of anything else.

Messages follow Standard Webhooks 1.0. A row of the outbox was written in the same step as the end of its job,
so none is lost; the same message may arrive twice, under the same ``webhook-id``.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import pydantic_core

from router_core.clock import Clock
from router_core.errors import StoreError
from router_core.jobs.breaker import Breaker, Breakers
from router_core.jobs.failpoints import failpoint
from router_core.jobs.job import Job
from router_core.jobs.store import Delivery, Store
from router_core.jobs.upkeep import Loop, Pulse
from router_core.jobs.wire import job_body, timestamp
from router_core.settings import Settings
from router_core.telemetry.events import Events, Note

__all__ = ["MAX_BODY", "PLAN", "Post", "Posted", "Sign", "WebhookSender", "retry_after_seconds"]

PLAN: Final = (0.0, 5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Seconds before each try, counted from the one before; then the message is given up."""
MAX_BODY: Final = 20_000
TIMEOUT: Final = 15.0
TICK: Final = 1.0
MAX_AGE: Final = 5 * 24 * 3600.0
"""After that a message is dropped, also when its endpoint never got to all of its tries."""
_JITTER: Final = 0.1
_IN_FLIGHT: Final = 32
_PER_ENDPOINT: Final = 4
_PAGE: Final = 100
_PAGES: Final = 10
"""Pages of the outbox that are looked through at one go."""
_LONGEST_TURN: Final = 30.0
"""Seconds for which a message may be moved out of the way of others before it is looked at again."""
_HOLD: Final = 60.0
"""Seconds for which a row is put aside while it is being sent, for other processes that share the store."""
_MAX_RETRY_AFTER: Final = 24 * 3600.0

Sign = Callable[[str, str, int, bytes], str]
"""secret, message id, timestamp, body -> signature."""


class Posted(Protocol):
    """How a receiver answered."""

    @property
    def status(self) -> int:
        """Return the HTTP status; a redirect is one, it is not followed."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the headers, found without regard to case."""


Post = Callable[[str, Mapping[str, str], bytes, float], Awaitable[Posted]]
"""url, headers, body, timeout -> answer. Checks the address before it connects; raises for anything that is
not an answer."""


class WebhookSender:
    """Sends what stands in the outbox.

    Each message is a task of its own, few at a time for one endpoint, so that a receiver that hangs delays
    no other. An endpoint that keeps failing is left alone for a while; one that answers 410 for good.
    """

    name = "webhooks"

    def __init__(
        self, *, store: Store, clock: Clock, settings: Settings, events: Events, post: Post, sign: Sign,
        interval: float = TICK, draw: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self._store = store
        self._clock = clock
        self._events = events
        self._post = post
        self._sign = sign
        self._secrets = settings.webhook_secret.replace(",", " ").split()
        """The newest first; each signs, so that a secret can be replaced without losing a message."""
        self._prefix = settings.server_url.rstrip("/")
        self._draw = draw
        self._breakers = Breakers(clock, draw)
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._pulse = Pulse(clock, max(interval, 5.0))
        self._loop = Loop(self.name, self.tick, clock=clock, events=events, interval=interval)

    @property
    def last_success_at(self) -> float:
        """When the outbox was last looked through; 0 before the first time."""
        return self._pulse.last_success_at

    def ready(self, now: float) -> bool:
        """Whether the outbox was looked through within the last three ticks."""
        return self._pulse.alive

    async def run(self) -> None:
        """Work until cancelled; what is being sent then stays in the outbox."""
        try:
            await self._loop.run()
        finally:
            for task in self._sending.values():
                task.cancel()
            await asyncio.gather(*self._sending.values(), return_exceptions=True)

    async def tick(self) -> None:
        """Begin to send what is due and does not wait for another message to the same endpoint."""
        for _ in range(_PAGES):
            limit = _PAGE + len(self._sending)
            if len(self._sending) >= _IN_FLIGHT:
                break
            rows = await self._store.deliveries(limit)
            crowded = await self._begin_all(rows)
            if len(rows) < limit:
                break
            # the page was full: what cannot go now would hide what stands behind it
            await self._make_way(crowded)
        self._pulse.beat()

    async def _begin_all(self, rows: Sequence[Delivery]) -> list[Delivery]:
        """Begin what can; return the rows whose endpoint has enough to do."""
        crowded = []
        for row in rows:
            if len(self._sending) >= _IN_FLIGHT:
                break
            if await self._may_begin(row) and not self._begin(row):
                crowded.append(row)
        return crowded

    async def _make_way(self, crowded: Sequence[Delivery]) -> None:
        """Put rows back by about as long as it takes until it is their turn, at one round of an endpoint a
        tick; their tries do not count."""
        now, turns = self._clock.now(), Counter[Breaker]()
        moved = []
        for row in crowded:
            breaker = self._breakers.of(row.url)
            wait = min(_LONGEST_TURN, TICK * (1 + turns[breaker] // _PER_ENDPOINT))
            turns[breaker] += 1
            moved.append(self._store.postpone(row.id, attempt=row.attempt, next_at=now + wait))
        await asyncio.gather(*moved)  # all at once, so that they share a write to the disk

    async def idle(self) -> None:
        """Wait until nothing is being sent."""
        while self._sending:
            await asyncio.wait(self._sending.values())

    async def _may_begin(self, row: Delivery) -> bool:
        """Return whether the row is to be sent now, if its endpoint has room."""
        if row.id in self._sending:
            return False
        if not self._secrets:
            await self._drop(row, "there is no secret to sign it with")
            return False
        if self._clock.now() - row.created_at > MAX_AGE:
            await self._drop(row, "it is too old")
            return False
        breaker = self._breakers.of(row.url)
        if self._breakers.disabled(row.url):
            await self._drop(row, "its endpoint answered 410")
            return False
        until = breaker.closed_until()
        if until > 0:
            await self._store.postpone(row.id, attempt=row.attempt, next_at=self._clock.now() + until)
            return False
        return True

    def _begin(self, row: Delivery) -> bool:
        breaker = self._breakers.of(row.url)
        if breaker.in_flight >= _PER_ENDPOINT or not breaker.enter():
            return False
        task = asyncio.create_task(self._deliver(row))
        self._sending[row.id] = task
        task.add_done_callback(lambda _: self._sending.pop(row.id, None))
        return True

    async def _deliver(self, row: Delivery) -> None:
        breaker = self._breakers.of(row.url)
        answered: Posted | None = None
        trouble: BaseException | None = None
        try:
            await self._store.postpone(row.id, attempt=row.attempt, next_at=self._clock.now() + _HOLD)
            body = self._body(row, await self._store.get(row.job_id))
            failpoint("before_webhook")
            answered = await self._post(row.url, self._headers(row, body), body, TIMEOUT)
        except StoreError as error:  # not the endpoint's fault: the row comes again
            breaker.leave(None)
            self._events.emit(Note("webhook_store_failed", "warning", row.id, error=error))
            return
        except asyncio.CancelledError:
            breaker.leave(None)
            raise
        except Exception as error:
            trouble = error
        taken = answered is not None and 200 <= answered.status < 300
        breaker.leave(taken)
        try:
            await self._settle(row, answered, trouble)
        except StoreError as error:
            self._events.emit(Note("webhook_store_failed", "warning", row.id, error=error))

    async def _settle(self, row: Delivery, answered: Posted | None, trouble: BaseException | None) -> None:
        status = 0 if answered is None else answered.status
        fields: dict[str, Any] = {"delivery": row.id, "attempt": row.attempt + 1, "status": status}
        if 200 <= status < 300:
            await self._store.delivered(row.id)
            self._events.emit(Note("webhook_delivered", "debug", f"{row.id} was taken", fields))
            return
        if status == 410:
            self._breakers.disable(row.url)
            await self._drop(row, "its endpoint answered 410")
            return
        tried = row.attempt + 1
        if tried >= len(PLAN):
            await self._drop(row, f"it was refused {tried} times")
            return
        wait = PLAN[tried] * (1 + _JITTER * (2 * self._draw() - 1))
        if answered is not None:
            wait = max(wait, retry_after_seconds(answered.headers.get("retry-after"), self._clock.now()))
        await self._store.postpone(row.id, attempt=tried, next_at=self._clock.now() + wait)
        text = f"{row.id} was not taken; try {tried + 1} comes in {wait:.0f} s"
        self._events.emit(Note("webhook_failed", "warning", text, fields, trouble))

    async def _drop(self, row: Delivery, why: str) -> None:
        await self._store.delivered(row.id)
        text = f"{row.id} is given up: {why}"
        fields = {"delivery": row.id, "attempt": row.attempt}
        self._events.emit(Note("webhook_given_up", "error", text, fields))

    def _headers(self, row: Delivery, body: bytes) -> dict[str, str]:
        stamp = int(self._clock.now())
        return {
            "content-type": "application/json",
            "webhook-id": row.id,
            "webhook-timestamp": str(stamp),
            "webhook-signature": " ".join(self._sign(one, row.id, stamp, body) for one in self._secrets),
        }

    def _body(self, row: Delivery, job: object) -> bytes:
        """Return what happened, with links to the rest: a result may be large, and may be secret."""
        state = row.id.rpartition(".")[2]
        data: dict[str, Any] = {"job_id": row.job_id, "status": state}
        if isinstance(job, Job):
            data = job_body(job, prefix=self._prefix)
            data.pop("result", None)
        message = {"type": f"job.{state}", "timestamp": timestamp(row.created_at), "data": data}
        body = pydantic_core.to_json(message)
        if len(body) > MAX_BODY:
            for name in ("message", "error", "result_ref"):
                data.pop(name, None)
            body = pydantic_core.to_json(message)
        return body


def retry_after_seconds(value: str | None, now: float) -> float:
    """Return the seconds that a ``Retry-After`` asks for, in either form; 0 for none or nonsense.

    At most a day: a receiver cannot keep a message for ever.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(_MAX_RETRY_AFTER, float(text[:12]))
    try:
        moment = datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except ValueError:
        return 0.0
    return min(_MAX_RETRY_AFTER, max(0.0, moment.timestamp() - now))
