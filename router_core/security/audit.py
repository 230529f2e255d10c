"""The audit log: who changed what, when, and how it ended; never what was sent.

An entry is a small JSON object in the room ``audit/`` of the shared state, newest first by its key. Entries
of one process are a chain: each holds the hash of the one before it, so one that was changed or taken out
shows (``breaks_of``). Writing them never holds up a request, unless each has to be written first
(``required``).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

from router_core.clock import Clock
from router_core.errors import Conflict, StoreError, Unavailable
from router_core.state import StateStore
from router_core.telemetry.events import Events, Note
from router_core.telemetry.masking import mask_text

__all__ = ["GENESIS", "ROOM", "AuditTrail", "Draft", "audited", "breaks_of", "drafted"]

ROOM: Final = "audit/"
GENESIS: Final = "0" * 64
"""What stands before the first entry of a process."""
_WAITING: Final = 1000
"""Entries that may wait to be written."""
_REFUSED: Final = 20
"""Entries of refused requests that are kept in a second; of more of them only the number is."""
_PAUSE: Final = 1.0
_TEXT: Final = 200
_MOMENT: Final = (1 << 48) - 1
_COUNT: Final = (1 << 32) - 1


class Draft:
    """What is known of a change while it is made."""

    __slots__ = ("after", "before", "fields", "needs_word", "targets", "told")

    def __init__(
        self, fields: Mapping[str, Any], targets: Mapping[str, str], needs_word: bool = False
    ) -> None:
        """``needs_word``: it becomes an entry only if the handler says something of it, or it is refused."""
        self.fields = dict(fields)
        self.targets = dict(targets)
        self.before = ""
        self.after = ""
        self.needs_word = needs_word
        self.told = False


_current: ContextVar[Draft | None] = ContextVar("router_core_audit", default=None)


def audited(*, before: object = "", after: object = "", **targets: object) -> None:
    """Say of the change that is being made which version it replaces and makes, and what it is about.

    Does nothing where no entry is made. Values are ids and versions, never contents.
    """
    draft = _current.get()
    if draft is not None:
        draft.told = True
        draft.before = str(before) or draft.before
        draft.after = str(after) or draft.after
        draft.targets.update((name, str(value)) for name, value in targets.items())


def drafted(draft: Draft | None) -> None:
    """Let ``audited`` know what it speaks of, in this task."""
    _current.set(draft)


class AuditTrail:
    """Makes entries and writes them; also a loop of the app, which does the writing."""

    name = "audit"

    def __init__(
        self, state: Callable[[], StateStore], clock: Clock, events: Events, *, ttl: float,
        required: bool = False, waiting: int = _WAITING,
    ) -> None:  # fmt: skip
        self.required = required
        """Whether a change is refused whose entry cannot be written first."""
        self.state = state
        self.clock = clock
        self._events = events
        self._ttl = ttl
        self._most = waiting
        self._process = os.urandom(4).hex()
        self._seq = 0
        self._hash = GENESIS
        self._queue: deque[tuple[str, bytes]] = deque()
        self._work: asyncio.Event | None = None
        self._writing: asyncio.Lock | None = None
        self._lost = 0
        self._second = 0
        self._refused = self._left_out = 0

    def restored(self) -> None:
        """Begin a chain of its own in each process that a snapshot is thawed into."""
        self._process, self._seq, self._hash = os.urandom(4).hex(), 0, GENESIS

    # --- entries ----------------------------------------------------------------------------------

    def record(self, draft: Draft, outcome: str, status: int = 0) -> None:
        """Make an entry, and leave it to be written: done, failed, refused, interrupted."""
        if outcome == "refused":
            if not self._may_note_refusal():
                return
            if self._left_out:
                draft.fields["left_out"], self._left_out = self._left_out, 0
        entry = self._entry(draft, outcome, status)
        # those who are refused must not be able to crowd out what is done
        most = self._most // 2 if outcome == "refused" else self._most
        if len(self._queue) >= most:
            self._lose()
            return
        self._queue.append(entry)
        if self._work is not None:
            self._work.set()

    async def begin(self, draft: Draft) -> None:
        """Write down that a change is about to be made; raises Unavailable where that is not possible."""
        key, value = self._entry(draft, "begun", 0)
        try:
            await self._put(key, value)
        except StoreError as error:
            raise Unavailable(
                "this cannot be written to the audit log at the moment, so it is not done",
                code="audit_unavailable", retry_after=error.retry_after,
            ) from error  # fmt: skip

    def _may_note_refusal(self) -> bool:
        second = int(self.clock.monotonic())
        if second != self._second:
            self._second, self._refused = second, 0
        self._refused += 1
        if self._refused <= _REFUSED:
            return True
        self._left_out += 1
        return False

    def _entry(self, draft: Draft, outcome: str, status: int) -> tuple[str, bytes]:
        now = self.clock.now()
        self._seq += 1
        moment = max(0, min(_MOMENT, int(now * 1000)))
        entry_id = f"{_MOMENT - moment:012x}{self._process}{_COUNT - self._seq:08x}"
        value: dict[str, Any] = {
            "id": entry_id, "time": round(now, 3), **draft.fields,
            "targets": {name: _short(value) for name, value in draft.targets.items()},
            "outcome": outcome, "status": status,
            "before": _short(draft.before), "after": _short(draft.after),
            "process": self._process, "seq": self._seq, "previous": self._hash,
        }  # fmt: skip
        value = {name: one for name, one in value.items() if one not in ("", 0, {})}
        self._hash = value["hash"] = _hash(value)
        who, route = value.get("principal", "somebody"), value.get("route", "")
        text = f"{who}: {route} {outcome}"
        self._events.emit(Note("audit", "info" if outcome != "refused" else "warning", text, dict(value)))
        return f"{ROOM}{entry_id}", _encoded(value)

    def _lose(self) -> None:
        self._lost += 1
        if self._lost == 1:
            text = "audit entries are in the log alone: the shared state does not take them fast enough"
            self._events.emit(Note("audit_lost", "error", text))

    # --- writing ----------------------------------------------------------------------------------

    @property
    def runs(self) -> bool:
        """Whether a loop writes beside the requests; else ``flush`` has to be called by them."""
        return self._work is not None

    async def run(self) -> None:
        """Write what comes until cancelled."""
        self._work = asyncio.Event()
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                if not await self.flush():
                    await asyncio.sleep(_PAUSE)
                    self._work.set()
        finally:
            self._work = None

    async def flush(self) -> bool:
        """Write what waits; False when the state does not take it now, and it goes on waiting."""
        self._writing = self._writing or asyncio.Lock()
        async with self._writing:
            while self._queue:
                try:
                    await self._put(*self._queue[0])
                except StoreError:
                    return False
                except Exception as error:  # it would stand in the way of all others
                    text = "an audit entry cannot be kept, and stands in the log alone"
                    self._events.emit(Note("audit_lost", "error", text, error=error))
                self._queue.popleft()
            self._lost = 0
        return True

    async def _put(self, key: str, value: bytes) -> None:
        with suppress(Conflict):  # it was written although that was not known
            await self.state().put(key, value, if_absent=True, ttl=self._ttl)

    async def tick(self) -> None:
        """Write what waits."""
        if not await self.flush():
            raise StoreError("audit entries wait for the shared state")

    async def idle(self) -> None:
        """Wait for nothing: a tick has ended."""

    def ready(self, now: float) -> bool:
        """Keep the service ready: entries wait, and stand in the log."""
        return True

    async def close(self) -> None:
        """Write the last ones, if the state takes them."""
        await self.flush()


def breaks_of(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each place where entries were changed or are missing, of each process.

    The oldest may have expired: a chain is judged from the first entry that is there.
    """
    chains: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        chains.setdefault(str(entry.get("process")), []).append(entry)
    found = []
    for process, chain in sorted(chains.items()):
        chain.sort(key=lambda entry: int(entry.get("seq", 0)))
        before: Mapping[str, Any] | None = None
        for entry in chain:
            where = f"entry {entry.get('seq')} of process {process}"
            if entry.get("hash") != _hash(entry):
                found.append(f"{where} is not as it was written")
            if before is not None and int(entry.get("seq", 0)) != int(before.get("seq", 0)) + 1:
                found.append(f"before {where} entries are missing")
            elif before is not None and entry.get("previous") != before.get("hash"):
                found.append(f"{where} does not follow the one before it")
            before = entry
    return found


def _hash(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(_encoded({k: v for k, v in entry.items() if k != "hash"})).hexdigest()


def _encoded(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()


def _short(text: str) -> str:
    masked = mask_text(text[: 4 * _TEXT])
    return masked if len(masked) <= _TEXT else f"{masked[: _TEXT - 1]}…"
