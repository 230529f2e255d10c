"""Listings of the DynamoDB job store: pages of records, newest first, at a bounded cost."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Any, Final

from router_core.jobs.job import OPEN, TERMINAL, Job, State
from router_core.jobs.store import JobQuery, Page, StoreStats
from router_core.stores.dynamodb_calls import AV, Item
from router_core.stores.dynamodb_items import job_of, number
from router_core.stores.dynamodb_records import Records
from router_core.stores.dynamodb_table import LISTING, OWNER, SHARDS, key_part

__all__ = ["Listings"]

_LOOK: Final = 1_000
"""How many records one page may read, at most this and a chunk: then it is short, and has a cursor. Each is a
read that is paid for, whatever the filter leaves of it."""
_CHUNK: Final = 100
_LONGEST_CURSOR: Final = 512


class Listings:
    """``find`` and ``stats``.

    The indexes lag by a moment: a new job may be missing from a page, and one that changes its state just
    now. What is shown is read from the records themselves.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._table = records.table

    def find(self, query: JobQuery) -> Page:
        """Return one page."""
        limit = max(1, query.limit)
        found: list[Job] = []
        looked = 0
        ids = self._ids(query)
        while True:
            # one more than the page holds says whether there is another page
            chunk = [job_id for job_id, _ in zip(ids, range(_chunk(limit, len(found))), strict=False)]
            for item in self._records.many(chunk):
                job = _listed(item)
                if _matches(job, query, self._records.now()):
                    found.append(job)
            if len(found) > limit:
                return Page(tuple(found[:limit]), found[limit - 1].id)
            looked += len(chunk)
            if not chunk:
                return Page(tuple(found))
            if looked >= _LOOK:
                return Page(tuple(found), chunk[-1])

    def _ids(self, query: JobQuery) -> Iterator[str]:
        """Yield the ids of candidates, newest first, each once."""
        if query.owner is not None and not (query.states and query.states <= OPEN):
            yield from (
                str(row["id"]["S"])
                for row in self._rows(OWNER, "owned", f"o#{key_part(query.owner)}", query.cursor, {})
            )
            return
        parts = []
        if not query.states or query.states & OPEN:
            parts.append("open")
        if not query.states or query.states & TERMINAL:
            parts.append("done")
        filters = _filters(query)
        sources = [
            (
                str(row["id"]["S"])
                for row in self._rows(LISTING, "listed", f"{part}#{shard}", query.cursor, filters)
            )
            for part in parts
            for shard in range(SHARDS)
        ]
        last = ""
        for job_id in heapq.merge(*sources, reverse=True):
            if job_id != last:
                yield job_id
            last = job_id

    def _rows(
        self, index: str, key: str, value: str, cursor: str, filters: Mapping[str, Any]
    ) -> Iterator[Item]:
        condition, values = f"{key} = :key", {":key": {"S": value}}
        more = dict(filters)
        values.update(more.pop("values", {}))
        if cursor:
            condition += " AND id < :cursor"
            values[":cursor"] = {
                "S": cursor.encode("utf-8", "replace")[:_LONGEST_CURSOR].decode("utf-8", "ignore")
            }
        return self._table.query(
            condition, values, IndexName=index, ScanIndexForward=False, Limit=_CHUNK, **more
        )

    def stats(self) -> StoreStats:
        """Count the open jobs, from the index."""
        counts: dict[tuple[str, State], int] = {}
        oldest = 0.0
        for row in self._open():
            state = State(row["state"]["S"])
            route = str(row["route"]["S"])
            counts[route, state] = counts.get((route, state), 0) + 1
            if state is State.QUEUED:
                since = max(float(row["created_at"]["N"]), float(row["not_before"]["N"]))
                oldest = min(oldest or since, since)
        return StoreStats(counts, oldest)

    def _open(self, condition: str = "", values: Mapping[str, AV] | None = None) -> Iterator[Item]:
        more = {"FilterExpression": condition} if condition else {}
        for shard in range(SHARDS):
            wanted = {":l": {"S": f"open#{shard}"}, **(values or {})}
            yield from self._table.query("listed = :l", wanted, IndexName=LISTING, **more)

    def undispatched(self, before: float, limit: int) -> list[Job]:
        """Return jobs that have been waiting since before a time, and that the queue was not told of."""
        rows = self._open(
            "dispatch_pending = :true AND created_at <= :before AND not_before <= :before",
            {":true": {"BOOL": True}, ":before": number(before)},
        )
        waiting = (State.QUEUED, State.RETRYING)
        ids = sorted(str(row["id"]["S"]) for row in rows if row["state"]["S"] in waiting)
        jobs = self._records.jobs(ids[:limit])
        return [job for job in jobs if job.dispatch_pending and job.state in waiting]


def _chunk(limit: int, found: int) -> int:
    return min(_CHUNK, max(limit + 1 - found, 10))


def _filters(query: JobQuery) -> Mapping[str, Any]:
    """Return the filter that DynamoDB applies to the index before it answers."""
    conditions, names, values = [], {}, {}
    if query.states:
        names["#s"] = "state"
        values = {f":{state.value}": {"S": state.value} for state in query.states}
        conditions.append(f"#s IN ({', '.join(sorted(values))})")
    for name, wanted in (("owner", query.owner), ("route", query.route)):
        if wanted:
            names[f"#{name}"], values[f":{name}"] = name, {"S": wanted}
            conditions.append(f"#{name} = :{name}")
    if not conditions:
        return {}
    return {
        "FilterExpression": " AND ".join(conditions), "ExpressionAttributeNames": names, "values": values,
    }  # fmt: skip


def _listed(item: Item) -> Job:
    """Return a record without its input and result."""
    return job_of({name: value for name, value in item.items() if name != "result"}, {"input": b""})


def _matches(job: Job, query: JobQuery, now: float) -> bool:
    if query.states and job.state not in query.states:
        return False
    if query.owner is not None and job.owner != query.owner:
        return False
    if query.route and job.route != query.route:
        return False
    return not 0 < job.expires_at <= now
