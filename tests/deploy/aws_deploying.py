"""What the tests of ``deploy aws`` share: the command line, a SAM that is quick, and an account."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

__all__ = ["SERVICE", "Account", "FakeSam"]

SERVICE = """\
from router_core import Router

router = Router()


@router.get("/hello")
def hello(name: str = "world") -> str:
    return f"hello {name}"


@router.route("/predict", timeout=60, max_attempts=6)
def predict(text: str) -> str:
    return text.upper()


@router.route("/broken")
def broken() -> str:
    raise ValueError("out of order")
"""


@dataclass(frozen=True, slots=True)
class FakeSam:
    """The folder in which the fake program lies, which goes to PATH."""

    place: Path

    @classmethod
    def made(cls, place: Path) -> FakeSam:
        """Write the program."""
        program = place / "sam"
        program.write_text(
            f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("fake_sam.py")} "$@"\n'
        )
        program.chmod(0o755)
        sam = cls(place)
        sam.plan(url="")
        return sam

    def plan(self, **plan: Any) -> None:
        """Say what it is to do from now on."""
        (self.place / "plan.json").write_text(json.dumps(plan))

    def calls(self) -> list[Any]:
        """Return what it was asked."""
        path = self.place / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def commands(self) -> list[str]:
        """Return the commands, in order."""
        return [call["words"][0] for call in self.calls()]


@dataclass(frozen=True, slots=True)
class Account:
    """The emulator, seen from outside."""

    stack: str

    def state(self) -> Mapping[str, Any] | None:
        """Return the stack as CloudFormation shows it."""
        client = boto3.client("cloudformation")
        try:
            found: Mapping[str, Any] = client.describe_stacks(StackName=self.stack)["Stacks"][0]
        except client.exceptions.ClientError:
            return None
        return None if found["StackStatus"] == "DELETE_COMPLETE" else found

    def status(self) -> str:
        """Return its status; "" where there is none."""
        state = self.state()
        return str(state["StackStatus"]) if state else ""

    def parameters(self) -> dict[str, str]:
        """Return its parameters."""
        state = self.state() or {}
        return {entry["ParameterKey"]: entry["ParameterValue"] for entry in state.get("Parameters", ())}

    def delay(self) -> str:
        """Return the property by which versions of the stack differ here."""
        client = boto3.client("cloudformation")
        url = client.describe_stack_resource(StackName=self.stack, LogicalResourceId="JobQueue")
        place = url["StackResourceDetail"]["PhysicalResourceId"]
        found = boto3.client("sqs").get_queue_attributes(QueueUrl=place, AttributeNames=["DelaySeconds"])
        return str(found["Attributes"]["DelaySeconds"])
