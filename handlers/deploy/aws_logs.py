"""What the functions of a stack said last: a new stack that does not work is deleted with its logs."""

from __future__ import annotations

import json
import time
from typing import Any, Final

from handlers.deploy.aws_stack import Stack, translated
from handlers.deploy.errors import DeployError

__all__ = ["last_errors"]

_GROUPS: Final = ("HttpLogs", "JobLogs")
_PATIENCE: Final = 10.0
"""Seconds that CloudWatch may take to show what was said."""
_PAUSE: Final = 1.0
_LINES: Final = 3
_MAX_LINE: Final = 500
_SIGNS: Final = ("Task timed out", "Runtime exited", "Unable to import", "Runtime.", "Error", "init failed")
"""In what Lambda itself says of a function that failed."""


def last_errors(stack: Stack, since: float) -> list[str]:
    """Return the last errors of its functions since then; [] where there are none, or no log can be read."""
    until = time.monotonic() + _PATIENCE
    try:
        groups = _groups(stack)
        while groups:
            events = [event for group in groups for event in _events(stack, group, int(since * 1000))]
            found = [told for event in events if (told := _told(event["message"]))]
            if found or time.monotonic() > until:
                return list(dict.fromkeys(found))[-_LINES:]
            time.sleep(_PAUSE)
    except DeployError:
        pass  # what is looked for explains a failure; another one would hide it
    return []


def _groups(stack: Stack) -> list[str]:
    with translated():
        client = stack.account.client("cloudformation")
        found = client.describe_stack_resources(StackName=stack.name)["StackResources"]
    places = {entry["LogicalResourceId"]: str(entry.get("PhysicalResourceId", "")) for entry in found}
    return [places[name] for name in _GROUPS if places.get(name)]


def _events(stack: Stack, group: str, since_ms: int) -> list[dict[str, Any]]:
    with translated():
        answer = stack.account.client("logs").filter_log_events(logGroupName=group, startTime=since_ms)
    events: list[dict[str, Any]] = answer.get("events", [])
    return events


def _told(message: str) -> str:
    """Return what a line says of an error; "" where it is about something else."""
    text = " ".join(message.split())
    try:
        line = json.loads(message)
    except ValueError:
        return text[:_MAX_LINE] if any(sign in text for sign in _SIGNS) else ""
    if not isinstance(line, dict) or line.get("level") not in ("error", "ERROR"):
        return ""
    error = line.get("error")
    told = [str(line["message"])] if line.get("message") else []
    if isinstance(error, dict):
        told.append(f"{error.get('type')}: {error.get('message')}")
    return f"{line.get('event', 'error')}: {'; '.join(told)}"[:_MAX_LINE] if told else ""
