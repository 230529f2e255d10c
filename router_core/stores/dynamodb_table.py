"""The table of the DynamoDB job store: its keys, its indexes, and whether a table has them.

Items of one table, by ``pk`` and ``sk``:

    J#{job id}   R                the record, or its tombstone
                 B#{id}           a value that was too large to stand in the record (input, result, steps)
                 E#{number}#{n}   a pack of events, cut into pieces
    K#{scope}    K                an idempotency key
    Q#{route}    Q                how many jobs of a route wait
    F#{blob}     {job id}         a record names this blob
    P            P                what ``ping`` writes

An index holds only the items that have its attributes, so that each change of state moves a record from one
queue to the next, and what has ended costs a claim nothing:

    ready    ready, ready_at     q#{route} by rank, r#{route} (retries) by their time
    agenda   agenda, agenda_at   lease, sched, retry, late, end, hook: by when something has to be done
    owner    owned, id           jobs of one owner, newest first
    listing  listed, id          open and done jobs of everybody, newest first
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from router_core.errors import Misconfigured, StoreError
from router_core.stores.dynamodb_calls import Table
from router_core.vendors import boto3

__all__ = [
    "AGENDA",
    "LISTING",
    "OWNER",
    "READY",
    "SHARDS",
    "TTL_ATTRIBUTE",
    "check",
    "create",
    "fault_of",
    "key_part",
    "shard_of",
    "table_definition",
]

READY: Final = "ready"
AGENDA: Final = "agenda"
OWNER: Final = "owner"
LISTING: Final = "listing"
TTL_ATTRIBUTE: Final = "ttl"
SHARDS: Final = 4
"""Parts of an index that would otherwise be one partition, which takes 1,000 writes a second."""
_INDEXES: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
    READY: ("ready", "ready_at", ("rank", "not_before", "deadline_at")),
    AGENDA: ("agenda", "agenda_at", ("not_before", "deadline_at", "expires_at")),
    OWNER: ("owned", "id", ()),
    LISTING: ("listed", "id", ("state", "route", "owner", "created_at", "not_before", "dispatch_pending")),
}
"""Index -> partition key, sort key, further attributes."""
_NUMBERS: Final = frozenset({"ready_at", "agenda_at"})
_LONGEST_KEY: Final = 500


def table_definition(name: str) -> dict[str, Any]:
    """Return the parameters of CreateTable."""
    keys = ["pk", "sk", *dict.fromkeys(key for index in _INDEXES.values() for key in index[:2])]
    return {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [
            {"AttributeName": key, "AttributeType": "N" if key in _NUMBERS else "S"} for key in keys
        ],
        "KeySchema": _key_schema("pk", "sk"),
        "GlobalSecondaryIndexes": [
            {"IndexName": index, "KeySchema": _key_schema(*keys), "Projection": _projection(more)}
            for index, (*keys, more) in _INDEXES.items()
        ],
    }


def _key_schema(hash_key: str, range_key: str) -> list[dict[str, str]]:
    return [
        {"AttributeName": hash_key, "KeyType": "HASH"},
        {"AttributeName": range_key, "KeyType": "RANGE"},
    ]


def _projection(more: Sequence[str]) -> dict[str, Any]:
    if not more:
        return {"ProjectionType": "KEYS_ONLY"}
    return {"ProjectionType": "INCLUDE", "NonKeyAttributes": list(more)}


def fault_of(described: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return why a table, as DescribeTable shows it, cannot be used; "" when it can."""
    name = wanted["TableName"]
    if _schema(described) != _schema(wanted):
        return f"table {name} must have the partition key pk and the sort key sk, both of type S"
    types = {entry["AttributeName"]: entry["AttributeType"] for entry in described["AttributeDefinitions"]}
    found = {index["IndexName"]: index for index in described.get("GlobalSecondaryIndexes", ())}
    for index in wanted.get("GlobalSecondaryIndexes", ()):
        fault = _index_fault(found.get(index["IndexName"]), index, types)
        if fault:
            return f"index {index['IndexName']} of table {name} {fault}"
    return ""


def _index_fault(found: Mapping[str, Any] | None, wanted: Mapping[str, Any], types: Mapping[str, str]) -> str:
    if found is None:
        return "is missing"
    if _schema(found) != _schema(wanted):
        return "has other keys"
    for _, key in _schema(wanted):
        if types.get(key) != ("N" if key in _NUMBERS else "S"):
            return f"has a key {key} of another type"
    if found.get("IndexStatus", "ACTIVE") == "CREATING":
        return "is still being built"
    has, needs = found["Projection"], wanted["Projection"]
    if has["ProjectionType"] == "ALL":
        return ""
    lacking = set(needs.get("NonKeyAttributes", ())) - set(has.get("NonKeyAttributes", ()))
    return f"does not hold {', '.join(sorted(lacking))}" if lacking else ""


def _schema(described: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(entry["KeyType"], entry["AttributeName"]) for entry in described["KeySchema"]}


def check(table: Table, wanted: Mapping[str, Any], command: str) -> None:
    """Raise Misconfigured, with what to do, when a table is not as wanted; ``command`` is what creates it."""
    name = wanted["TableName"]
    try:
        fault = fault_of(table.describe(), wanted)
    except StoreError as error:
        cause = error.__cause__ or error
        if boto3.error_code(cause) == "ResourceNotFoundException":
            fault = f"table {name} does not exist in this region and account"
        elif boto3.is_misconfigured(cause):
            raise Misconfigured(f"table {name} cannot be looked at: {cause}") from error
        elif boto3.is_throttled(cause):
            return  # a thousand functions may start at once; the table was there when they were deployed
        else:
            raise
    if fault:
        raise Misconfigured(f"{fault}; create it from template.yaml, or with `python -m {command} {name}`")


def shard_of(job_id: str) -> int:
    """Return the part of the sharded indexes that a job belongs to."""
    return zlib.crc32(job_id.encode("utf-8", "replace")) % SHARDS


def key_part(text: str) -> str:
    """Return a text that may stand in a key, whatever its length: a long one is named by its hash."""
    raw = text.encode("utf-8", "surrogatepass")
    return text if len(raw) <= _LONGEST_KEY else f"sha256:{hashlib.sha256(raw).hexdigest()}"


def create(definition: Mapping[str, Any], *, expire: bool = True) -> None:
    """Create a table and wait until it can be used; does nothing where it exists. Blocks.

    ``expire`` lets DynamoDB delete what its ``ttl`` says.
    """
    client = boto3.client("dynamodb")
    name = definition["TableName"]
    try:
        client.create_table(**definition)
    except client.exceptions.ResourceInUseException:
        return
    client.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    if expire:
        client.update_time_to_live(
            TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": TTL_ATTRIBUTE}
        )
