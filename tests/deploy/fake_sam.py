"""A ``sam`` that does what it is told, at once: records its calls, and makes a small stack by itself.

    FAKE_SAM=folder with plan.json: {"url": "what the stack puts out", "fails": "build", "says": "..."}

``deploy`` creates or updates a stack as SAM does: parameters come from the file of ``--config-file``, those
that are not in it stay as they are.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any


def main(words: list[str]) -> int:
    """Run one command; returns the exit code."""
    place = Path(os.environ["FAKE_SAM"])
    plan = json.loads((place / "plan.json").read_text())
    given = _parameters(words)
    names = ("AWS_PROFILE", "AWS_REGION", "ROUTER_LAMBDA_FOLDER", "ROUTER_LAMBDA_ARCH", "ROUTER_LAMBDA_APP")
    call = {
        "words": words, "parameters": given, "cwd": os.getcwd(),
        "environ": {name: os.environ[name] for name in names if name in os.environ},
    }  # fmt: skip
    with (place / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(call) + "\n")
    print(f"fake sam: {words[0]}")
    if plan.get("fails") == words[0]:
        print(plan.get("says", "Error: as planned"), file=sys.stderr)
        return 1
    if words[0] == "build":
        out = Path(_after(words, "--build-dir"))
        out.mkdir(parents=True, exist_ok=True)
        (out / "template.yaml").write_text(json.dumps(_template(plan)))
    if words[0] == "deploy":
        return _deploy(words, given, plan)
    if words[0] == "delete":
        _client().delete_stack(StackName=_after(words, "--stack-name"))
    return 0


def _after(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def _parameters(words: list[str]) -> dict[str, str]:
    if "--config-file" not in words:
        return {}
    path = Path(_after(words, "--config-file"))
    assert path.stat().st_mode & 0o077 == 0, "others may read the keys"
    items = tomllib.loads(path.read_text())["default"]["deploy"]["parameters"]["parameter_overrides"]
    found = {}
    for item in items:
        name, _, value = item.partition("=")
        matched = re.fullmatch(r'"((?:[^"\\]|\\.)*)"', value)
        assert matched, item
        found[name] = matched[1].replace('\\"', '"')
    return found


def _template(plan: dict[str, Any]) -> dict[str, Any]:
    names = (
        "App",
        "AllowAnonymous",
        "ApiKeys",
        "ApiKeysSecret",
        "JobTimeout",
        "MaxReceiveCount",
        "Stage",
        "Architecture",
        "SnapStart",
    )
    parameters: dict[str, Any] = {name: {"Type": "String", "Default": ""} for name in names}
    parameters["ApiKeys"]["NoEcho"] = True
    resources: dict[str, Any] = {
        "JobQueue": {
            "Type": "AWS::SQS::Queue",
            "Properties": {"DelaySeconds": plan.get("delay", 0), **plan.get("queue", {})},
        },
        "JobsTable": {
            "Type": "AWS::DynamoDB::Table",
            "DeletionPolicy": "Retain",
            "Properties": {
                "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
                "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
            },
        },
        "BlobBucket": {"Type": "AWS::S3::Bucket", "DeletionPolicy": "Retain"},
        **plan.get("resources", {}),
    }
    outputs: dict[str, Any] = {name: {"Value": {"Ref": name}} for name in ("JobsTable", "BlobBucket")}
    outputs |= {name: {"Value": value} for name, value in plan.get("outputs", {}).items()}
    if plan["url"]:
        outputs["Url"] = {"Value": plan["url"]}
    return {"Parameters": parameters, "Resources": resources, "Outputs": outputs}


def _client() -> Any:
    import boto3

    return boto3.client("cloudformation")


def _deploy(words: list[str], given: dict[str, str], plan: dict[str, Any]) -> int:
    cloudformation, name = _client(), _after(words, "--stack-name")
    body = Path(_after(words, "--template-file")).read_text()
    try:
        stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    except cloudformation.exceptions.ClientError:
        stack = None
    if stack is not None and plan.get("unchanged"):
        print("No changes to deploy. Stack is up to date")
        return 0
    parameters = [
        {"ParameterKey": key, "ParameterValue": given[key]} if key in given
        else {"ParameterKey": key, "UsePreviousValue": True}
        for key in json.loads(body)["Parameters"] if key in given or stack is not None
    ]  # fmt: skip
    change = cloudformation.update_stack if stack is not None else cloudformation.create_stack
    change(StackName=name, TemplateBody=body, Parameters=parameters)
    kind = "stack_update_complete" if stack is not None else "stack_create_complete"
    waiter = cloudformation.get_waiter(kind)
    try:
        waiter.wait(StackName=name, WaiterConfig={"Delay": 0.1, "MaxAttempts": 300})
    except Exception as error:
        print(f"Error: Failed to create/update the stack: {name}, {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
