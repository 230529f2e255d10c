"""Jobs on Amazon SQS: the message is a job's id, and a Lambda function (or whoever else) reads the queue.

    ROUTER_QUEUE=sqs://jobs                                             resolved once, by GetQueueUrl
    ROUTER_QUEUE=sqs://sqs.eu-west-1.amazonaws.com/123456789012/jobs    the queue's URL without its scheme

The second spelling needs one permission and one call less. Where AWS_ENDPOINT_URL names an emulator, its host
takes the place of the one in the URL.

A standard queue unless its name ends in ``.fifo``: such a queue hands out the jobs of one route one after the
other, and a job that waits for its next attempt holds up those behind it. SQS delivers at least once; the
record decides what a second message means.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

import pydantic_core

from router_core.clock import Clock, SystemClock
from router_core.errors import Misconfigured, Unavailable
from router_core.jobs.dispatch import Abilities
from router_core.jobs.job import Job
from router_core.vendors import boto3 as aws

__all__ = ["MAX_DELAY", "MAX_VISIBILITY", "SqsDispatcher", "hide", "url_of"]

MAX_DELAY: Final = 900
"""Seconds for which SQS can hold a message back before anybody sees it."""
MAX_VISIBILITY: Final = 12 * 3600
"""Seconds for which a message that was received can be hidden in all."""
_ABILITIES: Final = Abilities(
    delay=True, priority=False, cancel=True, stream=True, external=True, max_delay=MAX_DELAY
)
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,75}(?:\.fifo|[A-Za-z0-9_-]{0,5})\Z")
_PLACE: Final = re.compile(r"[A-Za-z0-9.-]+(?::\d{1,5})?/[A-Za-z0-9]{1,20}/([^/]+)\Z")
_NOT_ALLOWED: Final = re.compile(r"[^!-~]")
"""In the id of a message group."""
_MAX_GROUP: Final = 128


class SqsDispatcher:
    """Sends the ids of jobs; reading the queue is the business of others."""

    def __init__(self, place: str, clock: Clock | None = None) -> None:
        """``place`` is a queue's name, or its URL without the scheme."""
        place = place.removeprefix("sqs://")
        found = _PLACE.match(place)
        self._name = found[1] if found else place
        if not _NAME.match(self._name):
            raise Misconfigured(
                f"ROUTER_QUEUE=sqs://{place} names no queue; write sqs://queue-name, or "
                "sqs://sqs.eu-west-1.amazonaws.com/123456789012/queue-name"
            )
        self._place = place if found else ""
        self._clock = clock or SystemClock()
        self._url = ""
        self.fifo = self._name.endswith(".fifo")
        # a FIFO queue delays all messages or none
        self.abilities = replace(_ABILITIES, delay=False) if self.fifo else _ABILITIES

    async def dispatch(self, job: Job) -> None:
        """Send the id. Raises Unavailable; the message may have been sent all the same, which is harmless."""
        try:
            if not self._url:
                self._url = await aws.call(_resolve, name=self._name, place=self._place)
            await aws.request("sqs", "send_message", QueueUrl=self._url, **self._message(job))
        except (Misconfigured, Unavailable):
            raise
        except Exception as error:
            raise _translate(error, self._name) from error

    async def start(self, run: Callable[[Job], Awaitable[None]]) -> None:
        """Do nothing: the queue is read elsewhere."""

    async def stop(self, grace: float) -> None:
        """Do nothing."""

    def _message(self, job: Job) -> dict[str, Any]:
        message: dict[str, Any] = {"MessageBody": pydantic_core.to_json({"job_id": job.id}).decode()}
        if self.fifo:
            message["MessageGroupId"] = _NOT_ALLOWED.sub("_", job.route)[:_MAX_GROUP]
            message["MessageDeduplicationId"] = f"{job.id}.{job.epoch}"
            return message
        # told earlier than ``abilities`` allow, it would come too early, and be hidden until it is due
        delay = min(MAX_DELAY, math.ceil(job.not_before - self._clock.now()))
        if delay > 0:
            message["DelaySeconds"] = delay
        return message


async def hide(queue_url: str, receipt: str, seconds: float) -> None:
    """Let a message that was received come back after so many seconds. Raises what boto3 raises."""
    timeout = max(0, min(MAX_VISIBILITY, math.ceil(seconds)))
    await aws.request(
        "sqs", "change_message_visibility", QueueUrl=queue_url, ReceiptHandle=receipt,
        VisibilityTimeout=timeout,
    )  # fmt: skip


async def url_of(arn: str) -> str:
    """Return the URL of the queue that an ARN names. Raises ValueError for one that names none."""
    parts = arn.split(":")
    if len(parts) != 6 or parts[2] != "sqs" or not _NAME.match(parts[5]):
        raise ValueError(f"{arn[:200]!r} is no ARN of a queue")
    base = await aws.call(_endpoint)
    return f"{base}/{parts[4]}/{parts[5]}"


def _endpoint() -> str:
    endpoint: str = aws.client("sqs").meta.endpoint_url
    return endpoint.rstrip("/")


def _resolve(name: str, place: str) -> str:
    if not place:
        url: str = aws.client("sqs").get_queue_url(QueueName=name)["QueueUrl"]
        return url
    endpoint = _endpoint()
    host = urlsplit(endpoint).hostname or ""
    if ".amazonaws." in host or host.endswith(".api.aws"):
        return f"https://{place}"
    return f"{endpoint}/{place.partition('/')[2]}"


def _translate(error: Exception, name: str) -> Unavailable:
    """Return what an error of SQS means: the job waits, whatever it was."""
    code = aws.error_code(error) or type(error).__name__
    if aws.is_misconfigured(error) or code.endswith(("NonExistentQueue", "QueueDoesNotExist")):
        text = f"the queue {name} cannot be used; somebody has to look at its name or permissions ({code})"
        return Unavailable(text, retry_after=30)
    return Unavailable(f"the queue {name} does not answer ({code})", retry_after=5)
