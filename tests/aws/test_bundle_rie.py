"""The bundle as it is uploaded, under AWS's runtime client, with records in DynamoDB and a queue on SQS."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from router_core.stores.dynamodb import create_table
from router_core.testing.adapter_contract import Call
from router_core.testing.lambda_rie import Emulator, Invoked
from router_core.vendors import boto3
from tests.aws.lambda_events import http_api, received
from tests.parts import AWS_VARIABLES, rie_binary

pytestmark = pytest.mark.process

JSON = (("content-type", "application/json"),)


def _answer(called: Invoked) -> tuple[int, Any]:
    reply = received(called.json())
    return reply.status, json.loads(reply.body)


def test_the_bundle_answers_and_takes_jobs(aws: str, bucket: str, service_bundle: Path) -> None:
    """Answer a first call, a second one and a wrong one; write a job's record and send its id."""
    pytest.importorskip("awslambdaric", reason="AWS's runtime client is not installed")
    binary = rie_binary()
    table = f"jobs-{secrets.token_hex(4)}"
    create_table(table)
    queue = boto3.client("sqs").create_queue(QueueName=table)["QueueUrl"]
    folder = service_bundle
    environ = {
        **AWS_VARIABLES, "AWS_ENDPOINT_URL": aws, "PYTHONPATH": str(folder), "LAMBDA_TASK_ROOT": str(folder),
        "ROUTER_APP": "service:router", "ROUTER_JOBS": f"dynamodb://{table}", "ROUTER_QUEUE": f"sqs://{table}",
        "ROUTER_BLOBS": f"s3://{bucket}/blobs", "AWS_LAMBDA_FUNCTION_NAME": "HttpFunction",
    }  # fmt: skip
    with Emulator(
        binary, "handlers.aws.entry.handler", environ=environ, timeout=20, folder=folder
    ) as function:
        for name in ("cold", "warm"):
            called = function.invoke(http_api(Call("GET", "/hello", f"name={name}")))
            assert _answer(called) == (200, f"Hello, {name}!")
        status, problem = _answer(function.invoke(http_api(Call("POST", "/add", "", JSON, b'{"a": "x"}'))))
        assert (status, problem["code"]) == (422, "validation_failed")
        status, job = _answer(function.invoke(http_api(Call("POST", "/double", "", JSON, b'{"n": 2}'))))
        assert (status, job["status"]) == (202, "queued")
        log = function.log()
    (message,) = boto3.client("sqs").receive_message(QueueUrl=queue)["Messages"]
    assert json.loads(message["Body"]) == {"job_id": job["job_id"]}
    assert str(folder) in _imported(log)


def _imported(log: str) -> str:
    """Return where the service says that its framework lies."""
    return next(line for line in log.splitlines() if "service imported from" in line)
