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
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
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
        _ask("DeleteStack", StackName=_after(words, "--stack-name"))
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
        "Keys",
        "StateTable",
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


def _ask(action: str, **parameters: str) -> str:
    """Ask the emulator's CloudFormation; boto3 would take longer to import than all else here together."""
    scope = f"test/20260101/{os.environ['AWS_REGION']}/cloudformation/aws4_request"
    request = urllib.request.Request(
        os.environ["AWS_ENDPOINT_URL"],
        data=urllib.parse.urlencode({"Action": action, "Version": "2010-05-15", **parameters}).encode(),
        headers={"Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def _status(name: str) -> str:
    """Return the status of a stack; "" where there is none."""
    try:
        found = re.search(r"<StackStatus>(\w+)<", _ask("DescribeStacks", StackName=name))
    except urllib.error.HTTPError as error:
        with error:
            return ""
    return found[1] if found else ""


def _deploy(words: list[str], given: dict[str, str], plan: dict[str, Any]) -> int:
    name = _after(words, "--stack-name")
    body = Path(_after(words, "--template-file")).read_text()
    there = _status(name)
    if there and plan.get("unchanged"):
        print("No changes to deploy. Stack is up to date")
        return 0
    parameters = {}
    keys = [key for key in json.loads(body)["Parameters"] if key in given or there]
    for number, key in enumerate(keys, 1):
        parameters[f"Parameters.member.{number}.ParameterKey"] = key
        kept = ("ParameterValue", given[key]) if key in given else ("UsePreviousValue", "true")
        parameters[f"Parameters.member.{number}.{kept[0]}"] = kept[1]
    action, wanted = ("UpdateStack", "UPDATE_COMPLETE") if there else ("CreateStack", "CREATE_COMPLETE")
    _ask(action, StackName=name, TemplateBody=body, **parameters)
    status = _status(name)
    while status.endswith("_IN_PROGRESS"):
        time.sleep(0.05)
        status = _status(name)
    if status == wanted:
        return 0
    print(f"Error: Failed to create/update the stack: {name}, {status}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
