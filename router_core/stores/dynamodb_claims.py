"""C1 in the DynamoDB job store: hand ready jobs to a worker."""

from __future__ import annotations

import heapq
import random
import secrets
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from router_core.errors import StoreError
from router_core.jobs.job import Job, State
from router_core.jobs.store import Claim
from router_core.stores.dynamodb_calls import Item, Refused
from router_core.stores.dynamodb_change import Change
from router_core.stores.dynamodb_items import RECORD, encode, id_of, job_pk, number
from router_core.stores.dynamodb_queues import Queues, leaves
from router_core.stores.dynamodb_records import Records, is_id
from router_core.stores.dynamodb_table import READY, key_part, shard_of

__all__ = ["Claims"]

_READY: Final = frozenset({State.QUEUED, State.RETRYING})
_RETRY_WINDOW: Final = 256
"""Among how many due retries, earliest first, the best rank is looked for: bounds the cost of a claim."""
_ROUNDS: Final = 10
"""Looks at the queue in one claim. Another is needed when others took all that the last one saw."""
_SPREAD: Final = 16
_PAGE: Final = 100
_LOOKED: Final = 2000
"""Entries of the index looked at in one round: those past their deadline wait for the sweeper there."""


class Claims:
    """Finds the best ready jobs and makes them a worker's."""

    def __init__(self, records: Records, queues: Queues) -> None:
        self._records = records
        self._table = records.table
        self._queues = queues

    def take(self, claim: Claim) -> list[Job]:
        """Take what the claim asks for and is ready, best rank first."""
        if claim.job_id:
            return self._by_id(claim)
        taken: list[Job] = []
        for route, free in claim.slots.items():
            try:
                self._of_route(claim, route, free, taken)
            except StoreError:
                if not taken:
                    raise
                return taken  # what was taken must reach its worker
        return taken

    def _by_id(self, claim: Claim) -> list[Job]:
        taken: list[Job] = []
        if is_id(claim.job_id):
            waited = self._take(claim, claim.job_id, self._records.now(), taken)
            if taken:
                self._gone(taken[0].route, 1, waited)
        return taken

    def _of_route(self, claim: Claim, route: str, free: int, taken: list[Job]) -> None:
        start = len(taken)
        waited = 0
        try:
            for number_of_round in range(_ROUNDS if free > 0 else 0):
                now = self._records.now()
                seen = self._seen(route, free, now, number_of_round)
                for job_id in seen:
                    waited += self._take(claim, job_id, now, taken)
                # with nothing in the index, or something in hand, the worker begins
                if not seen or len(taken) > start:
                    break
        finally:
            if len(taken) > start:
                self._gone(route, len(taken) - start, waited)

    def _seen(self, route: str, free: int, now: float, number_of_round: int) -> list[str]:
        """Return which jobs to try: the best ones, and when others were faster than that, any of a growing
        number of the best, so that many workers do not all go for the same ones."""
        if not number_of_round:
            return self._best(route, free, now)
        among = self._best(route, free + _SPREAD * 2**number_of_round, now)
        return random.sample(among, min(free, len(among)))

    def _gone(self, route: str, count: int, waited: int) -> None:
        self._queues.taken(route, count)
        self._queues.left(route, waited)

    def _best(self, route: str, count: int, now: float) -> list[str]:
        """Return the ids of the best ready jobs in the index.

        The index may lag: it may still show a job that is taken, which the write that takes it finds out,
        and may not yet show a new one, which the next claim will.
        """
        part = key_part(route)
        page = min(_PAGE, count + 4)
        queued = self._entries(f"q#{part}", "", now, page)
        retries = islice(self._entries(f"r#{part}", " AND ready_at <= :now", now, _PAGE), _RETRY_WINDOW)
        ranked = heapq.merge(queued, sorted(retries))
        return [job_id for _, job_id in islice(ranked, count)]

    def _entries(self, lane: str, due: str, now: float, page: int) -> Iterator[tuple[float, str]]:
        rows = self._table.query(
            f"ready = :lane{due}",
            {":lane": {"S": lane}, ":now": number(now), ":zero": {"N": "0"}},
            IndexName=READY,
            Limit=page,
            FilterExpression="not_before <= :now AND (deadline_at = :zero OR deadline_at > :now)",
        )
        for row in islice(rows, _LOOKED):
            yield float(row["rank"]["N"]), id_of(row)

    def _take(self, claim: Claim, job_id: str, now: float, taken: list[Job]) -> int:
        """Claim one job if it is still ready; returns 1 if it stood in its queue."""
        token = secrets.token_hex(16)
        change = _claimed(claim, job_id, token, now)
        try:
            item: Item | None = self._table.update(job_pk(job_id), RECORD, **change.parameters())
        except Refused as refused:
            item = refused.item
            # our own token: an earlier try of this write was taken, and its answer lost
            if item is None or item.get("token", {}).get("S") != token:
                return 0
        if item is None:
            return 0
        job = self._records.settled(item)
        if job is None or job.token != token:
            return 0
        taken.append(job)
        return int(leaves(str(item["was"]["S"]), State.RUNNING))


def _claimed(claim: Claim, job_id: str, token: str, now: float) -> Change:
    """Return the change; like every store of ours it counts the attempt with the claim."""
    until = now + claim.lease
    change = Change()
    change.require_state(_READY)
    change.require("not_before", "<=", number(now))
    deadline, zero, time = change.name("deadline_at"), change.value({"N": "0"}), change.value(number(now))
    change.require_text(f"({deadline} = {zero} OR {deadline} > {time})")
    for counter in ("version", "epoch", "attempt"):
        change.add(counter, 1)
    change.copy("was", "state")
    change.sign(token)
    change.set("state", {"S": State.RUNNING.value})
    for name, value in _claim_values(claim, token, now, until):
        change.set(name, encode(name, value))
    change.set("agenda", {"S": f"lease#{shard_of(job_id)}"})
    change.set("agenda_at", number(until))
    change.remove("ready", "ready_at")
    return change


def _claim_values(claim: Claim, token: str, now: float, until: float) -> Sequence[tuple[str, str | float]]:
    return (
        ("token", token), ("started_at", now), ("progress", 0.0), ("message", ""),
        ("worker_id", claim.worker_id), ("lease_until", until),
    )  # fmt: skip
