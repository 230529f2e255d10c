"""Calls to one DynamoDB table that are repeated within a bound, and the words for what came of them.

Everything here blocks and runs in a thread (``vendors.boto3``). Reads are strongly consistent, except those
of an index, which DynamoDB keeps eventually: who reads one has to decide by a conditional write, or by
reading the record.

A write whose answer is unclear is simply sent again: all writes of these stores can be, as each is guarded
by what it changes itself, and carries an id by which it is recognised when the guard refuses it (C3).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from router_core.errors import PayloadTooLarge, StoreError
from router_core.vendors import boto3

__all__ = ["AV", "Item", "Refused", "Table"]

AV = Mapping[str, Any]
"""A value as DynamoDB writes it: ``{"S": "text"}``."""
Item = Mapping[str, AV]

PATIENCE: Final = 8.0
"""Seconds after which one operation of a store begins no further call: with the 5 s for which the last one
may be waited, a caller has its answer within 13 s, which every front door waits for."""
_ATTEMPTS: Final = 12
_BUSY: Final = "DynamoDB takes no more at the moment"
_SHORTEST, _LONGEST = 0.025, 1.0
_LATER_PAGES: Final = 200
_BATCH_GET: Final = 100
_BATCH_WRITE: Final = 25
_REASONS: Final = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})
"""Why a transaction may be cancelled though nothing is wrong with it."""


class Refused(Exception):
    """The condition of a write did not hold.

    ``items`` holds what stood there instead, one for each part of a transaction (None: nothing, or that part
    had no objection), and ``refused`` which parts objected.
    """

    def __init__(self, items: Sequence[Item | None], refused: Sequence[bool]) -> None:
        super().__init__("the condition of a write did not hold")
        self.items = tuple(items)
        self.refused = tuple(refused)

    @property
    def item(self) -> Item | None:
        """What stood in the way of a single write."""
        return self.items[0]


class Table:
    """One table; safe to use from many threads."""

    def __init__(self, name: str, *, pause: Callable[[float], None] = time.sleep) -> None:
        self.name = name
        self._pause = pause
        self._local = threading.local()

    @contextmanager
    def patience(self, until: float) -> Iterator[None]:
        """Begin no call after a moment (``time.monotonic``), within the block and this thread."""
        if time.monotonic() > until:
            raise StoreError("DynamoDB could not be asked in time: too many calls wait", retry_after=2)
        self._local.until = until
        try:
            yield
        finally:
            del self._local.until

    def left(self) -> float:
        """Return the seconds in which further calls may begin."""
        until: float | None = getattr(self._local, "until", None)
        return PATIENCE if until is None else until - time.monotonic()

    # --- reads ----------------------------------------------------------------------------------

    def get(self, pk: str, sk: str) -> Item | None:
        """Return an item as it is now."""
        answer = self._call("get_item", Key=_key(pk, sk), ConsistentRead=True)
        found: Item | None = answer.get("Item")
        return found

    def get_many(self, keys: Sequence[tuple[str, str]]) -> list[Item]:
        """Return the items of some keys, those that exist, in no order."""
        found: list[Item] = []
        for start in range(0, len(keys), _BATCH_GET):
            wanted: list[Any] = [_key(*key) for key in keys[start : start + _BATCH_GET]]
            while wanted:
                request = {self.name: {"Keys": wanted, "ConsistentRead": True}}
                answer = self._call("batch_get_item", table=False, RequestItems=request)
                found += answer["Responses"].get(self.name, ())
                wanted = answer.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", [])
                if wanted and not self._rest():
                    raise StoreError(_BUSY, retry_after=2)
        return found

    def query(self, condition: str, values: Mapping[str, AV], **more: Any) -> Iterator[Item]:
        """Yield what a query finds, page after page. Of the table unless ``IndexName`` is given.

        Raises StoreError when there are more pages than time: a filter may leave nothing of a million rows,
        and threads are few.
        """
        if "IndexName" not in more:
            more["ConsistentRead"] = True
        start: Any = None
        while True:
            if start is not None:
                if self.left() <= 0:
                    raise StoreError("DynamoDB could not be read to the end in time", retry_after=2)
                more["ExclusiveStartKey"] = start
                if "Limit" in more:  # the first page did not have it: look further ahead
                    more["Limit"] = max(more["Limit"], _LATER_PAGES)
            answer = self._call(
                "query", KeyConditionExpression=condition, ExpressionAttributeValues=values, **more
            )
            yield from answer["Items"]
            start = answer.get("LastEvaluatedKey")
            if start is None:
                return

    # --- writes ---------------------------------------------------------------------------------

    def put(self, item: Item, *, condition: str = "", values: Mapping[str, AV] | None = None) -> None:
        """Write an item. Raises Refused."""
        more: dict[str, Any] = {}
        if condition:
            more = {"ConditionExpression": condition, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
        if values:
            more["ExpressionAttributeValues"] = values
        self._call("put_item", Item=item, **more)

    def update(self, pk: str, sk: str, *, once: bool = False, **more: Any) -> Item:
        """Change an item and return it as it is then. Raises Refused.

        ``once`` forbids another try when the first one may have been taken.
        """
        if "ConditionExpression" in more:
            more["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        answer = self._call("update_item", once=once, Key=_key(pk, sk), ReturnValues="ALL_NEW", **more)
        changed: Item = answer["Attributes"]
        return changed

    def delete(self, pk: str, sk: str, **more: Any) -> None:
        """Remove an item. Raises Refused."""
        if "ConditionExpression" in more:
            more["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        self._call("delete_item", Key=_key(pk, sk), **more)

    def write_many(
        self, puts: Sequence[Item] = (), deletes: Sequence[tuple[str, str]] = ()
    ) -> None:  # fmt: skip
        """Put and remove any number of items, without conditions and one by one."""
        rows: list[Any] = [{"PutRequest": {"Item": item}} for item in puts]
        rows += [{"DeleteRequest": {"Key": _key(*key)}} for key in deletes]
        for start in range(0, len(rows), _BATCH_WRITE):
            rest = rows[start : start + _BATCH_WRITE]
            while rest:
                answer = self._call("batch_write_item", table=False, RequestItems={self.name: rest})
                rest = answer.get("UnprocessedItems", {}).get(self.name, [])
                if rest and not self._rest():
                    raise StoreError(_BUSY, retry_after=2)

    def transact(self, token: str, parts: Sequence[Mapping[str, Any]]) -> None:
        """Make several writes or none. Raises Refused. ``token`` makes a repetition harmless."""
        named = []
        for part in parts:
            ((kind, body),) = part.items()
            named.append({kind: {"TableName": self.name, **body}})
        try:
            self._call("transact_write_items", table=False, ClientRequestToken=token, TransactItems=named)
        except StoreError as error:
            # known, though not by what it asked for: an earlier try was taken, and its caller can see it
            if boto3.error_code(error.__cause__ or error) != "IdempotentParameterMismatchException":
                raise
            raise Refused([None] * len(named), [False] * len(named)) from None

    # --- inside ---------------------------------------------------------------------------------

    def describe(self) -> Any:
        """Return the description of the table."""
        return self._call("describe_table")["Table"]

    def _call(self, operation: str, *, table: bool = True, once: bool = False, **parameters: Any) -> Any:
        if table:
            parameters["TableName"] = self.name
        run = getattr(boto3.client("dynamodb"), operation)
        for attempt in range(_ATTEMPTS):
            try:
                return run(**parameters)
            except Exception as error:
                refused = _refusal(error)
                if refused is not None:
                    raise refused from None
                again = _again(error) and not (once and boto3.is_unclear(error))
                if not again or attempt + 1 == _ATTEMPTS or not self._rest(attempt):
                    raise self._translated(error) from error
        raise AssertionError("unreachable")

    def _rest(self, attempt: int = 2) -> bool:
        """Wait a moment before the next try; False when there is no time left for one."""
        until = getattr(self._local, "until", None)
        wait = random.uniform(_SHORTEST, min(_LONGEST, 2 * _SHORTEST * 2**attempt))  # noqa: S311 - jitter
        if until is not None and time.monotonic() + wait > until:
            return False
        self._pause(wait)
        return True

    def _translated(self, error: Exception) -> Exception:
        code = boto3.error_code(error)
        if code == "ValidationException" and "size" in str(error).lower():
            return PayloadTooLarge("the record of this job is larger than DynamoDB takes (400 KB)")
        if boto3.is_throttled(error) or code == "TransactionCanceledException":
            return StoreError(_BUSY, retry_after=2)
        if code == "ResourceNotFoundException":
            return StoreError(
                f"DynamoDB has no table {self.name}, or an index of it is missing", retry_after=30
            )
        if boto3.is_misconfigured(error):
            what = code or type(error).__name__
            return StoreError(f"DynamoDB refuses the credentials of this service ({what})", retry_after=30)
        if boto3.is_unclear(error) or boto3.is_transient(error):
            return StoreError("DynamoDB does not answer")
        if code:
            return StoreError(f"DynamoDB refuses a call ({code})")
        return error


def _key(pk: str, sk: str) -> dict[str, AV]:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def _again(error: Exception) -> bool:
    if boto3.error_code(error) in ("TransactionConflictException", "TransactionInProgressException"):
        return True
    if boto3.error_code(error) == "TransactionCanceledException":
        return any(reason.get("Code") in _REASONS for reason in _reasons(error))
    return boto3.is_transient(error)


def _reasons(error: Exception) -> Sequence[Mapping[str, Any]]:
    response: Mapping[str, Any] = getattr(error, "response", {})
    reasons: Sequence[Mapping[str, Any]] = response.get("CancellationReasons", ())
    return reasons


def _refusal(error: Exception) -> Refused | None:
    code = boto3.error_code(error)
    if code == "ConditionalCheckFailedException":
        response: Mapping[str, Any] = getattr(error, "response", {})
        return Refused([response.get("Item") or None], [True])
    if code != "TransactionCanceledException":
        return None
    refused = [reason.get("Code") == "ConditionalCheckFailed" for reason in _reasons(error)]
    return (
        Refused([reason.get("Item") or None for reason in _reasons(error)], refused) if any(refused) else None
    )
