"""When a deployed service fails its test, the last words of its functions are shown."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

import boto3
import pytest

from handlers.deploy import aws_logs
from handlers.deploy.aws_stack import Account, Stack

TEMPLATE = json.dumps({"Resources": {"HttpLogs": {"Type": "AWS::Logs::LogGroup"}}})


@pytest.fixture
def stack(aws: str, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """Make a stack with a log, which is looked at once."""
    monkeypatch.setattr(aws_logs, "_PATIENCE", 0.0)
    name = f"logs-{secrets.token_hex(4)}"
    client = boto3.client("cloudformation")
    client.create_stack(StackName=name, TemplateBody=TEMPLATE)
    client.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1})
    return Stack(Account("", ""), name)


def say(stack: Stack, *lines: str | dict[str, Any]) -> None:
    """Write lines as Lambda does."""
    client = boto3.client("cloudformation")
    found = client.describe_stack_resource(StackName=stack.name, LogicalResourceId="HttpLogs")
    group = found["StackResourceDetail"]["PhysicalResourceId"]
    logs, now = boto3.client("logs"), int(time.time() * 1000)
    logs.create_log_stream(logGroupName=group, logStreamName="s")
    messages = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    events = [{"timestamp": now, "message": message} for message in messages]
    logs.put_log_events(logGroupName=group, logStreamName="s", logEvents=events)


def test_errors_are_found_among_the_lines(stack: Stack) -> None:
    """Take what went wrong, of the service and of Lambda itself, and nothing else; the last three."""
    say(
        stack,
        "START RequestId: 1 Version: $LATEST",
        {"level": "info", "event": "request", "message": "fine"},
        {"level": "error", "event": "init_failed", "message": "ROUTER_API_KEYS: a key is too short"},
        {"level": "error", "event": "request"},
        {
            "level": "error",
            "event": "job_error",
            "message": "no",
            "error": {"type": "KeyError", "message": "w"},
        },
        "2026-01-01T00:00:00Z 1 Task timed out after 29.00 seconds\n",
        "[1, 2",
    )
    assert aws_logs.last_errors(stack, time.time() - 60) == [
        "init_failed: ROUTER_API_KEYS: a key is too short",
        "job_error: no; KeyError: w",
        "2026-01-01T00:00:00Z 1 Task timed out after 29.00 seconds",
    ]


def test_a_log_that_cannot_be_read_hides_nothing(stack: Stack) -> None:
    """Return nothing for what is older, and where there is no such stack."""
    say(stack, {"level": "error", "event": "old", "message": "of yesterday"})
    assert aws_logs.last_errors(stack, time.time() + 60) == []
    assert aws_logs.last_errors(Stack(stack.account, "nobody"), time.time() - 60) == []
