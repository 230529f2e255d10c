"""A service as it is deployed on AWS, in this process: functions around a queue, a table and a bucket.

Each function is a pool of environments, which answer one event at a time, as on Lambda. What is AWS's own
part here is the emulator (queue, table, bucket) and, written below, the front door and the queue's trigger.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import queue
import secrets
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from handlers.aws.function import LambdaApp, build
from router_core.client.transport import Call, Reply
from router_core.http.message import Headers
from router_core.routing.router import Router
from router_core.stores.dynamodb_table import table_definition
from router_core.testing.adapter_contract import Call as Sent
from router_core.vendors import boto3
from tests.aws.lambda_events import Context, http_api
from tests.parts import AWS_VARIABLES

__all__ = ["LambdaPlatform", "LambdaTransport"]

_FRONTS: Final = 4
_WORKERS: Final = 3
_MAX_RECEIVES: Final = 20


class Pool:
    """The environments of one function."""

    def __init__(self, size: int, environ: Mapping[str, str], router: Router) -> None:
        self._all = [build(environ, router) for _ in range(size)]
        self._free: queue.SimpleQueue[LambdaApp] = queue.SimpleQueue()
        for one in self._all:
            self._free.put(one)

    def call(self, event: Any, seconds: float = 60.0) -> Any:
        """Give an event to an environment that has nothing to do."""
        one = self._free.get()
        try:
            return one(json.loads(json.dumps(event)), Context(seconds, secrets.token_hex(16)))
        finally:
            self._free.put(one)

    def stop(self) -> None:
        """End every environment."""
        for one in self._all:
            one.stop()


class LambdaPlatform:
    """The functions of one service with what they share; a context manager."""

    def __init__(self, router: Router) -> None:
        self._router = router
        name = f"service-{secrets.token_hex(6)}"
        self.queue = boto3.client("sqs").create_queue(
            QueueName=name, Attributes={"VisibilityTimeout": "30"}
        )["QueueUrl"]  # fmt: skip
        boto3.client("dynamodb").create_table(**table_definition(name))
        boto3.client("s3").create_bucket(Bucket=name)
        self.environ = {
            **AWS_VARIABLES, "ROUTER_JOBS": f"dynamodb://{name}", "ROUTER_QUEUE": f"sqs://{name}",
            "ROUTER_BLOBS": f"s3://{name}/blobs", "ROUTER_TRUSTED_HOSTS": "*", "ROUTER_LOG_LEVEL": "error",
        }  # fmt: skip
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self.trouble: list[BaseException] = []

    def __enter__(self) -> LambdaPlatform:
        root, events = logging.getLogger(), logging.getLogger("router_core.events")
        self._logging = root.handlers[:], root.level, events.level
        self.front = Pool(_FRONTS, self.environ, self._router)
        self.workers = Pool(_WORKERS, self.environ, self._router)
        self.sweeper = Pool(1, self.environ, self._router)
        steps = [self._deliver] * _WORKERS + [self._sweep]
        self._threads = [threading.Thread(target=self._go_on, args=(step,)) for step in steps]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        for pool in (self.front, self.workers, self.sweeper):
            pool.stop()
        # a Lambda process logs for itself alone, and this one has other tests to run
        root, events = logging.getLogger(), logging.getLogger("router_core.events")
        root.handlers[:], level, of_events = self._logging
        root.setLevel(level)
        events.setLevel(of_events)
        if self.trouble:
            raise self.trouble[0]

    def _go_on(self, step: Any) -> None:
        while not self._ended.is_set():
            try:
                step()
            except BaseException as error:
                self.trouble.append(error)
                return

    def _deliver(self) -> None:
        """Hand a message to the job function and delete it unless that says it failed."""
        sqs = boto3.client("sqs")
        found = sqs.receive_message(
            QueueUrl=self.queue, MaxNumberOfMessages=1, WaitTimeSeconds=1, AttributeNames=["All"]
        )
        for message in found.get("Messages", []):
            assert int(message["Attributes"]["ApproximateReceiveCount"]) < _MAX_RECEIVES
            record = {
                "messageId": message["MessageId"], "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"], "attributes": message["Attributes"], "messageAttributes": {},
                "eventSource": "aws:sqs", "awsRegion": "us-east-1",
                "eventSourceARN": f"arn:aws:sqs:us-east-1:000000000000:{self.queue.rpartition('/')[2]}",
            }  # fmt: skip
            answer = self.workers.call({"Records": [record]})
            if not answer["batchItemFailures"]:
                sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])

    def _sweep(self) -> None:
        """Do as the schedule does, more often."""
        self.sweeper.call({"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}})
        self._ended.wait(1.0)


class LambdaTransport:
    """Carries the calls of a client to a function, as an HTTP API does; redirects of GET are followed."""

    def __init__(self, platform: LambdaPlatform) -> None:
        self._platform = platform

    async def send(self, call: Call) -> Reply:
        """Answer a call."""
        body = call.body
        if not isinstance(body, bytes):
            body = b"".join([chunk async for chunk in body.chunks()])
        parts = urlsplit(call.url)
        headers = tuple((name.lower(), value) for name, value in call.headers)
        event = http_api(Sent(call.method, parts.path or "/", parts.query, headers, body))
        event["requestContext"].pop("timeEpoch")
        reply = await asyncio.to_thread(self._platform.front.call, event)
        return _Answered(reply)

    async def aclose(self) -> None:
        """Leave the platform as it is."""


class _Answered:
    def __init__(self, reply: Mapping[str, Any]) -> None:
        self.status = int(reply["statusCode"])
        cookies = [("set-cookie", one) for one in reply.get("cookies", [])]
        self.headers = Headers([*reply["headers"].items(), *cookies])
        body = reply["body"]
        self._body = base64.b64decode(body) if reply.get("isBase64Encoded") else body.encode()

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._body

    async def aclose(self) -> None:
        """Nothing is open."""
