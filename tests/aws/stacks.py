"""The stack of template.yaml in the AWS emulator, whose functions run with the rights of their roles only."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3
import pytest

from handlers.deploy.aws_bundle import zip_folder
from tests.aws.template_files import ROOT, read, translate
from tests.parts import aws_emulator

__all__ = ["Answer", "Site", "deploy", "emulator", "folder_of", "share_packages", "until"]

_SERVICE: Final = Path(__file__).parent / "lambda_service"
_SECONDS: Final = 40.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Site:
    """A deployed stack."""

    url: str
    """Of the emulator."""
    name: str

    def client(self, service: str) -> Any:
        """Return a client that may do everything."""
        return boto3.client(
            service, endpoint_url=self.url, region_name="us-east-1",
            aws_access_key_id="test", aws_secret_access_key="test",
        )  # fmt: skip

    def resources(self) -> dict[str, str]:
        """Return logical name -> physical name."""
        pages = (
            self.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=self.name)
        )
        found = [entry for page in pages for entry in page["StackResourceSummaries"]]
        return {entry["LogicalResourceId"]: entry["PhysicalResourceId"] for entry in found}

    def output(self, name: str) -> str:
        """Return what the stack puts out."""
        (stack,) = self.client("cloudformation").describe_stacks(StackName=self.name)["Stacks"]
        (value,) = (entry["OutputValue"] for entry in stack["Outputs"] if entry["OutputKey"] == name)
        return str(value)

    def call(self, method: str, path: str, body: Any = None, host: str = "", **headers: str) -> Answer:
        """Send a request through the HTTP API, or to another host of the emulator."""
        host = host or f"{self.resources()['HttpApi']}.execute-api.localhost"
        request = urllib.request.Request(
            f"{self.url}{path}", method=method, data=None if body is None else json.dumps(body).encode(),
            headers={"Host": host, "Content-Type": "application/json", **headers},
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, dict(answer.headers.items()), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers.items()), error.read())

    def ended(self, job_id: str) -> Any:
        """Wait for a job, and return it."""

        def look() -> Any:
            job = self.call("GET", f"/jobs/{job_id}").json()
            return job if job["status"] in ("succeeded", "failed", "cancelled", "expired") else None

        return until(look)


def until(look: Callable[[], Any], seconds: float = _SECONDS) -> Any:
    """Look until there is something, and return it."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


@contextlib.contextmanager
def emulator(folder: Path) -> Iterator[str]:
    """Run an emulator that looks at policies; yields its URL."""
    before = os.environ.get("AUTH")
    os.environ["AUTH"] = "true"
    try:
        with aws_emulator(folder) as url:
            yield url
    finally:
        if before is None:
            del os.environ["AUTH"]
        else:
            os.environ["AUTH"] = before


def folder_of(place: Path) -> Path:
    """Return a folder with the service, which shares installed packages with the other tests."""
    shutil.copytree(_SERVICE, place, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copyfile(ROOT / "constraints.txt", place / "constraints.txt")
    share_packages(place)
    return place


def share_packages(folder: Path) -> None:
    """Let a service use the packages that were installed for another test; all else stays in its folder."""
    installed = ROOT / ".router-core" / "lambda"
    installed.mkdir(parents=True, exist_ok=True)
    (folder / ".router-core").mkdir()
    (folder / ".router-core" / "lambda").symlink_to(installed)


def deploy(url: str, bundle: Path, place: Path, name: str = "service", **parameters: str) -> Site:
    """Deploy a bundle as a stack by a change set; another stack of the same place has the same code."""
    site = Site(url, name)
    if not (place / "bundle.zip").exists():
        zip_folder(bundle, place / "bundle.zip")
        site.client("s3").create_bucket(Bucket="artifacts")
        site.client("s3").upload_file(str(place / "bundle.zip"), "artifacts", "bundle.zip")
    (result,) = translate(read())
    template = result["template"]
    for policy in ("BlobBucketPolicy", "QueuePolicy"):  # the emulator speaks no TLS
        del template["Resources"][policy]
    given = {"App": "service:router", "AllowAnonymous": "true", **parameters}
    _execute(site, _with_numbers(template, template["Parameters"], given), given)
    return site


def _with_numbers(value: Any, known: Mapping[str, Any], given: Mapping[str, str]) -> Any:
    """Put the values of number parameters into their places: the emulator compares them as text."""
    if isinstance(value, list):
        return [_with_numbers(each, known, given) if isinstance(each, dict) else each for each in value]
    if not isinstance(value, dict):
        return value
    name = value.get("Ref")
    if isinstance(name, str) and known.get(name, {}).get("Type") == "Number":
        return int(given.get(name, known[name]["Default"]))
    keeps = {"Fn::FindInMap"}  # whose keys are text
    return {key: each if key in keeps else _with_numbers(each, known, given) for key, each in value.items()}


def _execute(site: Site, template: Mapping[str, Any], parameters: Mapping[str, str]) -> None:
    cloudformation = site.client("cloudformation")
    named = {"StackName": site.name, "ChangeSetName": "first"}
    # too large to be sent along, as SAM's are
    key = f"{site.name}.template"
    site.client("s3").put_object(Bucket="artifacts", Key=key, Body=json.dumps(template).encode())
    cloudformation.create_change_set(
        **named, ChangeSetType="CREATE", TemplateURL=f"https://s3.amazonaws.com/artifacts/{key}",
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    )  # fmt: skip
    until(lambda: cloudformation.describe_change_set(**named)["Status"] == "CREATE_COMPLETE")
    cloudformation.execute_change_set(**named)

    def status() -> str:
        found: str = cloudformation.describe_stacks(StackName=site.name)["Stacks"][0]["StackStatus"]
        return "" if found.endswith("_IN_PROGRESS") else found

    if until(status) != "CREATE_COMPLETE":
        events = cloudformation.describe_stack_events(StackName=site.name)["StackEvents"]
        pytest.fail("; ".join(
            f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason')}"
            for event in events if event["ResourceStatus"].endswith("FAILED")
        ))  # fmt: skip
