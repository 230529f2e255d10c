"""Messages of SQS as an event brings them: read with suspicion, hidden by their receipt."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from router_core.queues.sqs import hide, url_of
from router_core.telemetry.events import Events, Note
from router_core.types import ID_PATTERN
from router_core.vendors.boto3 import error_code

__all__ = ["Message", "Poison", "Visibility", "failures", "job_id_of", "read_messages", "shown"]

MAX_BODY: Final = 1024
"""Characters; a message of ours has far fewer."""
_SHOWN: Final = 500
_GONE: Final = ("ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue")
"""Said of a message that was deleted, or received again, in the meantime."""


class Poison(ValueError):
    """A message that names no job of this service, and never will; the text says why."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a batch."""

    id: str
    receipt: str
    body: str
    receives: int
    """How often it was received, this time included."""
    sent_at: float
    group: str
    arn: str
    """Names the queue."""

    @property
    def fifo(self) -> bool:
        """Whether it must not overtake those before it in its group."""
        return self.arn.endswith(".fifo")


def read_messages(event: Mapping[str, Any]) -> list[Message]:
    """Return the messages of an event; a record without an id cannot be reported and is left out."""
    records = event.get("Records")
    found = []
    for record in records if isinstance(records, list) else ():
        if isinstance(record, dict) and _text(record, "messageId"):
            found.append(_message(record))
    return found


def _message(record: Mapping[str, Any]) -> Message:
    facts = record.get("attributes")
    facts = facts if isinstance(facts, dict) else {}
    return Message(
        id=_text(record, "messageId"),
        receipt=_text(record, "receiptHandle"),
        body=_text(record, "body"),
        receives=max(1, int(_number(facts, "ApproximateReceiveCount"))),
        sent_at=_number(facts, "SentTimestamp") / 1000,
        group=_text(facts, "MessageGroupId"),
        arn=_text(record, "eventSourceARN"),
    )


def _text(facts: Mapping[str, Any], name: str) -> str:
    value = facts.get(name)
    return value if isinstance(value, str) else ""


def _number(facts: Mapping[str, Any], name: str) -> float:
    try:
        value = float(facts.get(name) or 0)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return value if 0 <= value < 1e15 else 0.0


def job_id_of(message: Message) -> str:
    """Return the id of the job that a message names. Raises Poison."""
    if len(message.body) > MAX_BODY:
        raise Poison(f"the body has {len(message.body)} characters")
    try:
        body = json.loads(message.body)
    except (ValueError, RecursionError):
        raise Poison("the body is not JSON") from None
    job_id = body.get("job_id") if isinstance(body, dict) else None
    if not isinstance(job_id, str):
        raise Poison("the body names no job_id")
    if not ID_PATTERN.match(job_id):
        raise Poison("its job_id is none of ours")
    return job_id


def shown(message: Message) -> dict[str, Any]:
    """Return what a log line says about a message; what stands in a strange one is cut short."""
    return {"message_id": message.id, "receives": message.receives, "body": message.body[:_SHOWN]}


def failures(messages: Iterable[Message]) -> dict[str, Any]:
    """Return the answer that keeps these messages in their queue and deletes the others."""
    return {"batchItemFailures": [{"itemIdentifier": message.id} for message in messages]}


class Visibility:
    """Decides when a message comes back. Without it the queue's own timeout does, which is long: a failure
    costs time and nothing else, so it is noted and never raised."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._urls: dict[str, str] = {}

    async def hide(self, message: Message, seconds: float) -> None:
        """Let the message come back after so many seconds."""
        try:
            url = self._urls.get(message.arn)
            if url is None:
                url = self._urls[message.arn] = await url_of(message.arn)
            await hide(url, message.receipt, seconds)
        except Exception as error:
            level = "debug" if error_code(error).endswith(_GONE) else "warning"
            text = "a message could not be hidden: it comes back when its queue's own timeout ends"
            fields = {"message_id": message.id, "seconds": round(seconds, 1)}
            self._events.emit(Note("hide_failed", level, text, fields, error))
