"""Which records name which blobs, in the DynamoDB job store.

A row for each pair is written before the record that names the blob, and deleted after it has gone. One that
a dying process left behind is recognised by its age and by its record, which does not name the blob.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from router_core.jobs.job import Job
from router_core.stores.blob_refs import blob_keys
from router_core.stores.dynamodb_calls import AV
from router_core.stores.dynamodb_items import number
from router_core.stores.dynamodb_records import Records
from router_core.stores.dynamodb_table import key_part

__all__ = ["BlobRefs"]

_YOUNG: Final = 3600.0
"""Seconds in which the record of a row may still be on its way."""


class BlobRefs:
    """The rows ``F#{blob}``, ``{job id}``."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._table = records.table

    def add(self, job_id: str, keys: Iterable[str]) -> None:
        """Note that a record names blobs."""
        at = number(self._records.now())
        self._table.write_many([{**_row(key, job_id), "at": at} for key in keys])

    def remove(self, job_id: str, keys: Iterable[str]) -> None:
        """Note that it does not any more."""
        self._table.write_many(deletes=[(_pk(key), job_id) for key in keys])

    def freed(self, job: Job) -> list[str]:
        """Return the blobs that nobody names once a record has gone, and forget that it did."""
        keys = sorted(blob_keys(job))
        self.remove(job.id, keys)
        return self.unnamed(keys)

    def unnamed(self, keys: Sequence[str]) -> list[str]:
        """Return those of the keys that no record names."""
        return [key for key in keys if not self._named(key)]

    def _named(self, key: str) -> bool:
        for row in self._table.query("pk = :pk", {":pk": {"S": _pk(key)}}):
            job_id = str(row["sk"]["S"])
            if float(row["at"]["N"]) > self._records.now() - _YOUNG:
                return True
            job = self._records.job(job_id)
            if job is not None and key in blob_keys(job):
                return True
            self.remove(job_id, [key])
        return False


def _pk(key: str) -> str:
    return f"F#{key_part(key)}"


def _row(key: str, job_id: str) -> dict[str, AV]:
    return {"pk": {"S": _pk(key)}, "sk": {"S": job_id}}
