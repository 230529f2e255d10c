"""Submission in the DynamoDB job store: the queue's limit, the idempotency key, the record."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from router_core.errors import Conflict, Gone, KeyReused, QueueFull, RouterError
from router_core.jobs.job import Job
from router_core.jobs.store import Added, IdempotencyKey
from router_core.stores.blob_refs import blob_keys, input_keys
from router_core.stores.dynamodb_blobs import BlobRefs
from router_core.stores.dynamodb_calls import AV, Item, Refused
from router_core.stores.dynamodb_change import has_write
from router_core.stores.dynamodb_items import BODIES, COUNTED, base_item, body_mark, number
from router_core.stores.dynamodb_queues import Queues
from router_core.stores.dynamodb_records import Body, Records

__all__ = ["Submissions"]

_NEW: Any = "attribute_not_exists(pk)"
_FREE: Any = "attribute_not_exists(pk) OR expires_at <= :now"


class Submissions:
    """``add`` and ``foresee``."""

    def __init__(self, records: Records, queues: Queues, blobs: BlobRefs) -> None:
        self._records = records
        self._table = records.table
        self._queues = queues
        self._blobs = blobs

    def foresee(self, route: str, limit: int | None, key: IdempotencyKey | None) -> Job | None:
        """Answer as ``add`` would, and write nothing."""
        earlier = None if key is None else self._earlier(key)
        if earlier is None and limit is not None:
            self._queues.look(route, limit)
        return earlier

    def add(self, job: Job, limit: int | None, key: IdempotencyKey | None) -> Added:
        """Write a new record and its key."""
        earlier = None if key is None else self._earlier(key)
        if earlier is not None:
            return Added(earlier, replayed=True)
        earlier = self._place(job, limit, key)
        if earlier is not None:
            return Added(earlier, replayed=True)
        try:
            earlier = self._write(job, key)
        except RouterError as error:
            # refused for certain; of an unclear one the record may yet be there, and the count is healed
            if not error.retryable:
                self._leave(job)
            raise
        if earlier is None:
            return Added(job)
        self._leave(job)
        return Added(earlier, replayed=True)

    def _place(self, job: Job, limit: int | None, key: IdempotencyKey | None) -> Job | None:
        """Take a place in the queue; returns the job of the key when that has taken the last one."""
        if job.state not in COUNTED:
            if limit is not None:
                self._queues.look(job.route, limit)
            return None
        try:
            self._queues.admit(job.route, limit)
        except QueueFull:
            earlier = None if key is None else self._earlier(key)
            if earlier is None:
                raise
            return earlier
        return None

    def _leave(self, job: Job) -> None:
        """Give back what a job that was not written has taken."""
        self._forget_blobs(job)
        if job.state in COUNTED:
            self._queues.left(job.route)

    # --- the record -----------------------------------------------------------------------------

    def _write(self, job: Job, key: IdempotencyKey | None) -> Job | None:
        """Write record, key and large values at once; returns the job that the key belongs to already."""
        write_id = secrets.token_hex(8)
        item, bodies = self._item(job, write_id)
        self._blobs.add(job.id, input_keys(job))
        parts = [_put(item, _NEW)]
        parts += [_put(piece, _NEW) for body in bodies.values() for piece in body.items]
        for number_of_try in range(5):
            token = f"{write_id}.{number_of_try}"
            try:
                if key is None and len(parts) == 1:
                    self._table.put(item, condition=_NEW)
                elif key is None:
                    self._table.transact(token, parts)
                else:
                    self._table.transact(token, [*parts, self._key_put(key, job.id)])
            except Refused as refused:
                found = self._judged(refused, job, key, write_id)
                if found is None:
                    continue
                if found is not job:
                    return found
            self._records.learn(item)
            return None
        raise Conflict("this idempotency key changes all the time")

    def _judged(self, refused: Refused, job: Job, key: IdempotencyKey | None, write_id: str) -> Job | None:
        """Return the job itself when it was written after all, the one that has its key, or None to try
        again."""
        there = refused.item if refused.item is not None else self._records.item(job.id)
        if has_write(there, write_id):
            return job
        if there is not None:
            raise Conflict(f"a job with the id {job.id} exists")
        return None if key is None else self._earlier(key)

    def _forget_blobs(self, job: Job) -> None:
        """Take back that a job which was not written names blobs; another record may have its id."""
        keys = input_keys(job)
        if keys:
            there = self._records.job(job.id)
            self._blobs.remove(job.id, keys if there is None else keys - blob_keys(there))

    def _item(self, job: Job, write_id: str) -> tuple[dict[str, AV], Mapping[str, Body]]:
        item = base_item(job, write_id)
        bodies = {}
        for name in BODIES:
            at = max(self._records.now(), job.not_before)
            body = self._records.body(job.id, name, getattr(job, name), at)
            if body is not None:
                bodies[name] = body
                del item[name]
                item[body_mark(name)] = {"S": body.mark}
        return item, bodies

    # --- keys -----------------------------------------------------------------------------------

    def _key_put(self, key: IdempotencyKey, job_id: str) -> Mapping[str, Any]:
        item = {
            "pk": {"S": _pk(key)}, "sk": {"S": "K"}, "fingerprint": {"S": key.fingerprint},
            "job": {"S": job_id}, "expires_at": number(key.expires_at),
            "ttl": {"N": str(int(key.expires_at) + 1)},
        }  # fmt: skip
        return _put(item, _FREE, {":now": number(self._records.now())})

    def _earlier(self, key: IdempotencyKey) -> Job | None:
        found = self._table.get(_pk(key), "K")
        if found is None or float(found["expires_at"]["N"]) <= self._records.now():
            return None
        if found["fingerprint"]["S"] != key.fingerprint:
            raise KeyReused("this idempotency key was used with another request")
        job = self._records.get(str(found["job"]["S"]))
        if not isinstance(job, Job):
            raise Gone("the job of this idempotency key has expired")
        return job


def _pk(key: IdempotencyKey) -> str:
    return f"K#{key.scope_hash}"


def _put(item: Item, condition: str, values: Mapping[str, AV] | None = None) -> Mapping[str, Any]:
    part: dict[str, Any] = {
        "Item": item,
        "ConditionExpression": condition,
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    if values:
        part["ExpressionAttributeValues"] = values
    return {"Put": part}
