"""How many jobs of a route wait, exactly: one counter for each route of the DynamoDB job store.

A job is counted before it is written, and uncounted after it has left. A process that dies in between leaves
the counter too high, never too low, so a limit holds at any rate; ``heal`` corrects it once the queue has
been quiet for longer than any call may take.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from router_core.clock import Clock
from router_core.errors import QueueFull, StoreError
from router_core.jobs.job import State
from router_core.stores.drain import DrainRate
from router_core.stores.dynamodb_calls import Item, Refused, Table
from router_core.stores.dynamodb_items import COUNTED
from router_core.stores.dynamodb_table import AGENDA, LISTING, SHARDS, key_part

__all__ = ["Queues", "leaves"]

SETTLED: Final = 30.0
"""Seconds without a change after which nobody can be between counting and writing: an operation ends within
13. Measured by the clock of whoever looks, as others' clocks may differ."""
_COUNTERS: Final = "counters"


@dataclass(frozen=True, slots=True)
class _Seen:
    """A counter as it was when it was first seen at that number of changes."""

    changes: str
    since: float
    right: bool = False


class Queues:
    """The counters of all routes."""

    def __init__(self, table: Table, clock: Clock) -> None:
        self._table = table
        self._monotonic: Callable[[], float] = clock.monotonic
        self._guard = threading.Lock()
        self._drain = DrainRate()
        self._seen: dict[str, _Seen] = {}

    # --- counting -------------------------------------------------------------------------------

    def admit(self, route: str, limit: int | None) -> None:
        """Count a job in; raises QueueFull when ``limit`` wait already."""
        if limit is None:
            self._count(route, 1)
            return
        if limit > 0:
            try:
                self._count(route, 1, below=limit)
                return
            except Refused:
                if self._heal(route):
                    self.admit(route, limit)
                    return
        raise self._full(route, limit, limit)

    def look(self, route: str, limit: int) -> None:
        """Raise QueueFull when ``limit`` jobs wait; counts nothing."""
        item = self._table.get(_pk(route), "Q")
        depth = int(item["waits"]["N"]) if item is not None else 0
        if depth >= limit and not (depth > 0 and self._heal(route)):
            raise self._full(route, depth, limit)

    def joined(self, route: str) -> None:
        """Count a job in that has its place already: one that a worker gives back."""
        self._count(route, 1)

    def left(self, route: str, count: int = 1) -> None:
        """Count jobs out, at most once: after an error the counter is too high until it is healed."""
        if count:
            with suppress(StoreError):
                self._count(route, -count, once=True)

    def taken(self, route: str, count: int) -> None:
        """Note that workers took jobs, for the advice when to come back."""
        with self._guard:
            self._drain.taken(route, count, self._monotonic())

    def _count(self, route: str, amount: int, *, below: int | None = None, once: bool = False) -> None:
        values = {
            ":n": {"N": str(amount)}, ":one": {"N": "1"}, ":r": {"S": route}, ":c": {"S": _COUNTERS},
            ":z": {"N": "0"},
        }  # fmt: skip
        more: dict[str, str] = {}
        if below is not None:
            values[":limit"] = {"N": str(below)}
            more["ConditionExpression"] = "attribute_not_exists(waits) OR waits < :limit"
        self._table.update(
            _pk(route), "Q", once=once,
            UpdateExpression="SET route = :r, agenda = :c, agenda_at = :z ADD waits :n, changes :one",
            ExpressionAttributeValues=values, **more,
        )  # fmt: skip

    def _full(self, route: str, depth: int, limit: int) -> QueueFull:
        with self._guard:
            wait = self._drain.retry_after(route, depth, self._monotonic())
        return QueueFull(
            f"{depth} jobs of {route} wait already; its queue holds {limit}",
            retry_after=wait,
            extra={"queue_size": limit},
        )

    # --- healing --------------------------------------------------------------------------------

    def heal(self) -> None:
        """Correct the counters that are wrong and have been quiet for a while."""
        counters = self._table.query("agenda = :c", {":c": {"S": _COUNTERS}}, IndexName=AGENDA)
        keys = [(str(item["pk"]["S"]), "Q") for item in counters]
        quiet = [item for item in self._table.get_many(keys) if self._quiet(item)]
        if quiet:
            waiting = self._waiting()
            for item in quiet:
                self._correct(item, waiting.get(str(item["route"]["S"]), 0))

    def _heal(self, route: str) -> bool:
        """Correct the counter of one route; returns whether it was too high."""
        item = self._table.get(_pk(route), "Q")
        if item is None or not self._quiet(item):
            return False
        waiting = self._waiting(route).get(route, 0)
        return self._correct(item, waiting) and waiting < int(item["waits"]["N"])

    def _quiet(self, item: Item) -> bool:
        """Whether the counter has not changed for long, and was not found right at this number of changes."""
        route, changes = str(item["route"]["S"]), str(item["changes"]["N"])
        now = self._monotonic()
        with self._guard:
            seen = self._seen.get(route)
            if seen is None or seen.changes != changes:
                self._seen[route] = _Seen(changes, now)
                return False
            return not seen.right and now - seen.since >= SETTLED

    def _correct(self, item: Item, waiting: int) -> bool:
        """Write a number if nobody has counted since; returns whether it had to be written."""
        route, changes = str(item["route"]["S"]), item["changes"]
        wrong = int(item["waits"]["N"]) != waiting
        if wrong:
            try:
                self._table.update(
                    str(item["pk"]["S"]), "Q", UpdateExpression="SET waits = :d",
                    ConditionExpression="changes = :c",
                    ExpressionAttributeValues={":d": {"N": str(waiting)}, ":c": changes},
                )  # fmt: skip
            except Refused:
                return False
        with self._guard:
            self._seen[route] = _Seen(str(changes["N"]), self._monotonic(), right=True)
        return wrong

    def _waiting(self, route: str = "") -> Mapping[str, int]:
        """Count the waiting jobs in the index. It lags by a moment, but a quiet queue has no news."""
        counts: dict[str, int] = {}
        names = {"#s": "state"}
        values = {f":{state.value}": {"S": state.value} for state in COUNTED}
        condition = f"#s IN ({', '.join(sorted(values))})"
        if route:
            names["#r"], values[":r"] = "route", {"S": route}
            condition += " AND #r = :r"
        for shard in range(SHARDS):
            rows = self._table.query(
                "listed = :l", {":l": {"S": f"open#{shard}"}, **values}, IndexName=LISTING,
                FilterExpression=condition, ExpressionAttributeNames=names,
            )  # fmt: skip
            for row in rows:
                counts[str(row["route"]["S"])] = counts.get(str(row["route"]["S"]), 0) + 1
        return counts


def leaves(was: str, now: State) -> bool:
    """Return whether a change of state takes a job out of its queue."""
    return was in COUNTED and now not in COUNTED


def _pk(route: str) -> str:
    return f"Q#{key_part(route)}"
