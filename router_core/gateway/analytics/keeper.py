"""Writes sums and last calls to the shared state, and reads what all processes have written.

Calls never wait for it. What a process has counted since its last flush is lost if it is killed: up to
``INTERVAL`` seconds of minutes, up to a minute of hours and days. While the store is away the latest of what
this process has counted is kept here, written when the store is back, and what is asked is answered from it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from router_core.clock import Clock
from router_core.errors import BadRequest, StoreError
from router_core.gateway.analytics.collect import Collector
from router_core.gateway.analytics.deployments import Deployments
from router_core.gateway.analytics.records import CallRecord
from router_core.gateway.analytics.shelf import DAY, HOUR, MINUTE, ROOM, Level, pack
from router_core.gateway.analytics.sums import Table
from router_core.gateway.call import Attempt, Call
from router_core.gateway.outcome import Outcome
from router_core.jobs.upkeep import Loop, Pulse
from router_core.state import Entry, StateStore
from router_core.telemetry.events import Events, Note

__all__ = ["INTERVAL", "Analytics", "Found"]

INTERVAL: Final = 10.0
"""Seconds between two flushes."""
_PATIENCE: Final = 3.0
"""Seconds that one operation of the store may take."""
_SHARED: Final = 100
"""Of the calls between two flushes, those that other processes can show."""
_SLOTS: Final = 10
"""Flushes whose calls are kept for others."""
_RECENT_TTL: Final = 86_400.0
_PRESENCE_TTL: Final = 90.0
_KEPT_BYTES: Final = 8 * 1024 * 1024
_PAGE: Final = 200
_READ_BYTES: Final = 64 * 1024 * 1024
"""Of what others have written, as much as one answer is made of."""
_AT_ONCE: Final = 4


class Found(msgspec.Struct):
    """What a listing came to."""

    values: dict[str, bytes] = {}
    size: int = 0
    partial: bool = False
    """Whether the store did not answer, so that this is what this process alone knows; or whether there was
    more than one answer can be made of."""


class Analytics:
    """The upkeep of sums; ``called`` and ``settled`` are told of calls and their streams' attempts."""

    name = "analytics"

    def __init__(
        self, collector: Collector, deployments: Deployments, state: StateStore, clock: Clock,
        events: Events, presence: Callable[[], Mapping[str, Any]] = dict, *, interval: float = INTERVAL,
    ) -> None:  # fmt: skip
        """``presence`` tells what others are to know of this process: the version of its configuration."""
        self.collector = collector
        self.process = secrets.token_hex(6)
        """Of this process and start: one that comes after it writes beside it."""
        self.lost = 0
        """Stretches of time that could not be written before there were too many of them."""
        self.down = False
        """Whether the store did not answer when it was last asked."""
        self.turns = asyncio.Semaphore(_AT_ONCE)
        """For whoever adds up much: a few at a time."""
        self._deployments = deployments
        self._state = state
        self._clock = clock
        self._events = events
        self._presence = presence
        self._interval = interval
        self._pulse = Pulse(clock, 6 * interval)
        self._open: dict[str, tuple[str, int, Table]] = {}
        """The hour and the day under way by letter: who writes them, when they began, what was counted."""
        self._kept: dict[str, bytes] = {}
        """What this process has of each stretch of time, the oldest first."""
        self._size = 0
        self._ttl: dict[str, float] = {}
        """What the store has not got yet, with how long it is to keep it."""
        self._shown = self._slot = 0
        self._told: tuple[float, Mapping[str, Any]] = (0.0, {})
        self._background = True
        self._flushing: asyncio.Task[None] | None = None
        self._flushed_at = 0.0

    def share(self, state: StateStore) -> None:
        """Take another store, which was not there yet when this was made."""
        self._state = state

    def restored(self) -> None:
        """Be another process than the one that a snapshot was taken of."""
        self.process, self._told = secrets.token_hex(6), (0.0, {})

    # -- on the way of a call ------------------------------------------------------------------------

    def called(self, call: Call, model_id: str, outcome: Outcome | None) -> None:
        """Take a call that has ended or begun to stream."""
        self.collector.called(call, model_id, outcome)
        if not self._background:
            self._flush_beside()

    def settled(self, call: Call, attempt: Attempt) -> None:
        """Take an attempt of a stream that has ended."""
        self.collector.settled(call, attempt)

    def flush_with_calls(self) -> None:
        """Flush when calls come, until ``run`` does it beside them: a process that is frozen between calls
        has no other time."""
        self._background = False

    def _flush_beside(self) -> None:
        now = self._clock.monotonic()
        if self._flushing is None and now - self._flushed_at >= self._interval:
            self._flushed_at = now
            self._flushing = asyncio.create_task(self._flush_quietly(), name="analytics-flush")
            self._flushing.add_done_callback(self._flushed)

    def _flushed(self, task: asyncio.Task[None]) -> None:
        self._flushing = None

    async def _flush_quietly(self) -> None:
        try:
            await self.tick()
        except Exception as error:
            text = "analytics: what was counted could not be written; the next flush tries again"
            self._events.emit(Note("analytics_flush_failed", "error", text, error=error))

    # -- beside the calls ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled."""
        self._background = True
        loop = Loop(self.name, self.tick, clock=self._clock, events=self._events, interval=self._interval)
        await loop.run()

    async def tick(self) -> None:
        """Write what is new."""
        self.gather()
        self._show_calls()
        self._show_presence()
        await self._write()
        self._pulse.beat()

    async def idle(self) -> None:
        """Wait until what calls have begun is written."""
        if self._flushing is not None:
            await asyncio.shield(self._flushing)

    def ready(self, now: float) -> bool:
        """Always: a gateway whose sums cannot be written goes on serving, and says so elsewhere."""
        return True

    async def aclose(self, within: float = 2.0) -> None:
        """Write everything, the minute under way included, for so long at most."""
        self.gather(ended=True)
        self._show_calls()
        key = f"{ROOM}/p/{self.process}"
        self._ttl.pop(key, None)
        with suppress(TimeoutError, StoreError):
            async with asyncio.timeout(within):
                await self.idle()
                await self._write()
                await self._state.delete(key)

    # -- what this process has counted ---------------------------------------------------------------

    def gather(self, *, ended: bool = False) -> None:
        """Pack what was counted since the last time, for the store and for whoever asks here."""
        collector = self.collector
        collector.synchronise()
        self._deployments.take(collector.minute)
        closed, collector.closed = collector.closed, []
        if collector.minute:
            self._keep(MINUTE, self._writer(collector.rewound), collector.start, collector.minute)
            if ended:
                closed.append((collector.rewound, collector.start, collector.minute))
                collector.minute = Table()
        for rewound, start, table in closed:
            writer = self._writer(rewound)
            self._keep(MINUTE, writer, start, table)
            for level in (HOUR, DAY):
                self._sum_up(level, writer, start, table)

    def _writer(self, rewound: int) -> str:
        """Return under which name this process writes: another one when a minute, hour or day may come again,
        which must not take the place of the first."""
        return f"{self.process}-{rewound}" if rewound else self.process

    def _sum_up(self, level: Level, writer: str, at: int, table: Table) -> None:
        start = level.floor(at)
        held = self._open.get(level.letter)
        if held is None or held[1] != start:
            held = self._open[level.letter] = (writer, start, Table())
        held[2].add(table)
        self._keep(level, held[0], start, held[2])

    def _keep(self, level: Level, writer: str, start: int, table: Table) -> None:
        for part, data in enumerate(pack(table)):
            key = level.key(start, writer, part)
            if self._kept.get(key) != data:
                self._put(key, data, level.ttl)

    def _put(self, key: str, data: bytes, ttl: float) -> None:
        """Remember what is to be written; of too much the oldest is let go."""
        self._size += len(data) - len(self._kept.pop(key, b""))
        self._kept[key] = data
        self._ttl[key] = ttl
        while self._size > _KEPT_BYTES and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            self._size -= len(self._kept.pop(oldest))
            if self._ttl.pop(oldest, None) is not None:
                self.lost += 1

    def _show_calls(self) -> None:
        """Put the last calls where others find them, those of each flush under a key of their own."""
        new = min(self.collector.counted - self._shown, _SHARED)
        if new <= 0:
            return
        self._shown = self.collector.counted
        data = msgspec.msgpack.encode(self.collector.last(new))
        self._put(f"{ROOM}/r/{self.process}.{self._slot}", data, _RECENT_TTL)
        self._slot = (self._slot + 1) % _SLOTS

    def _show_presence(self) -> None:
        now, (at, before) = self._clock.monotonic(), self._told
        told = dict(self._presence())
        if told == before and at and now - at < _PRESENCE_TTL / 3:
            return
        self._told = (now, told)
        key = f"{ROOM}/p/{self.process}"
        self._put(key, msgspec.json.encode({"at": self._clock.now(), **told}), _PRESENCE_TTL)

    # -- the store -----------------------------------------------------------------------------------

    async def _write(self) -> None:
        while self._ttl:
            key, ttl = next(iter(self._ttl.items()))
            data = self._kept[key]
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._state.put(key, data, ttl=ttl)
            except (StoreError, TimeoutError, BadRequest) as error:
                self._tell(error)
                return
            self._tell(None)
            if self._kept.get(key) is data:
                self._ttl.pop(key, None)

    def _tell(self, error: BaseException | None) -> None:
        down = error is not None
        if down is self.down:
            return
        self.down = down
        if down:
            text = "analytics: the state store does not answer; this process keeps what it counts"
            self._events.emit(Note("analytics_store_down", "warning", text, {"error": str(error)}))
        else:
            self._events.emit(Note("analytics_store_up", "info", "analytics: the state store is back"))

    async def read(self, prefixes: Sequence[str]) -> Found:
        """Return what all processes have written under these prefixes, and what this one has."""
        found = Found()
        places = asyncio.Semaphore(_AT_ONCE)

        async def fetch(prefix: str) -> None:
            async with places:
                async for entry in self._pages(prefix):
                    found.values[entry.key] = entry.value
                    found.size += len(entry.value)
                    if found.size > _READ_BYTES:
                        found.partial = True
                        return

        done = await asyncio.gather(*map(fetch, prefixes), return_exceptions=True)
        failed = [each for each in done if isinstance(each, BaseException)]
        for each in failed:
            if not isinstance(each, (StoreError, TimeoutError)):
                raise each
        self._tell(failed[0] if failed else None)
        if failed:
            found.partial = True
            found.values.clear()
        own = {key: data for key, data in self._kept.items() if key.startswith(tuple(prefixes))}
        found.values.update(own)
        return found

    async def _pages(self, prefix: str) -> AsyncIterator[Entry]:
        cursor = ""
        while True:
            async with asyncio.timeout(_PATIENCE):
                page = await self._state.entries(prefix, cursor=cursor, limit=_PAGE)
            for entry in page.entries:
                yield entry
            cursor = page.cursor
            if not cursor:
                return

    async def calls(self) -> tuple[list[CallRecord], bool]:
        """Return the last calls of all processes, the latest first, and whether that is only this one's."""
        self.gather()
        found = await self.read([f"{ROOM}/r/"])
        records = self.collector.last()
        for key, value in found.values.items():
            if not key.startswith(f"{ROOM}/r/{self.process}."):
                with suppress(msgspec.MsgspecError):
                    records += msgspec.msgpack.decode(value, type=list[CallRecord])
        records.sort(key=lambda each: (each.at, each.request_id), reverse=True)
        return records, found.partial

    async def processes(self) -> tuple[list[dict[str, Any]], bool]:
        """Return what the processes of this gateway tell of themselves, and whether this is only one."""
        own = {"replica": self.process, "at": self._clock.now(), **self._presence()}
        found = await self.read([f"{ROOM}/p/"])
        others = []
        for key, value in sorted(found.values.items()):
            name = key.rpartition("/")[2]
            if name != self.process:
                with suppress(msgspec.MsgspecError):
                    others.append({"replica": name, **msgspec.json.decode(value, type=dict[str, Any])})
        return [own, *others], found.partial
