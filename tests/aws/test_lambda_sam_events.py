"""The sample events of AWS's own SAM CLI are understood like ours."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from handlers.aws.events import sniff
from handlers.aws.function import LambdaApp, build
from router_core import Request, Router
from tests.aws.lambda_events import Context, received
from tests.parts import sam_program

pytestmark = pytest.mark.process


def _sample(service: str, event: str) -> dict[str, Any]:
    environ = {**os.environ, "SAM_CLI_TELEMETRY": "0"}
    command = [str(sam_program()), "local", "generate-event", service, event]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    sample: dict[str, Any] = json.loads(done.stdout)
    return sample


@pytest.fixture  # for one test only: it takes over the logging of the process
def served() -> Iterator[LambdaApp]:
    """Run a service that says what it sees."""
    router = Router()

    @router.post("/path/to/resource")
    async def seen(request: Request) -> dict[str, Any]:
        return {
            "body": request.body.decode(), "query": sorted(request.query_items()), "root": request.root,
            "client": request.client, "host": request.headers.get("host"),
        }  # fmt: skip

    handler = build({}, router)
    yield handler
    handler.stop()


@pytest.mark.parametrize(
    ("service", "event", "kind", "wanted"),
    [
        ("apigateway", "http-api-proxy", "http_v2", {
            "query": [["parameter1", "value1"], ["parameter1", "value2"], ["parameter2", "value"]],
            "root": "", "client": "192.168.0.1/32", "host": "id.execute-api.us-east-1.amazonaws.com",
        }),
        ("apigateway", "aws-proxy", "rest_v1", {
            "query": [["foo", "bar"]], "root": "/prod", "client": "127.0.0.1",
            "host": "0123456789.execute-api.us-east-1.amazonaws.com",
        }),
        ("alb", "request", "alb", {
            "query": [["query", "1234ABCD"]], "root": "", "client": "72.12.164.125",
            "host": "lambda-alb-123578498.us-east-2.elb.amazonaws.com",
        }),
    ],
)  # fmt: skip
def test_a_sample_is_read_as_it_is_meant(
    served: LambdaApp, service: str, event: str, kind: str, wanted: dict[str, Any]
) -> None:
    """Path, query, body, caller and the name that was called."""
    sample = _sample(service, event)
    assert sniff(sample) == kind
    answer = received(served(sample, Context()))
    assert answer.status == 200, answer.body
    assert json.loads(answer.body) == {"body": '{"test":"body"}', **wanted}


def test_a_sample_of_a_queue_is_known() -> None:
    """By the source of its records."""
    assert sniff(_sample("sqs", "receive-message")) == "sqs"
