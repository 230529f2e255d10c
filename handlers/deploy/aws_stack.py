"""The CloudFormation stack: what it is now, and how it becomes again what it was."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from handlers.deploy.errors import DeployError, NotPrepared, Refused, TooSlow, Unreachable

__all__ = ["DATA", "Account", "Snapshot", "Stack", "StackState"]

_MAX_BODY: Final = 51_200
"""Bytes of a template that CloudFormation takes in a call."""
_CODE: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/")
_HIDDEN: Final = "****"
_POLL: Final = 2.0
DATA: Final = ("JobsTable", "StateTable", "BlobBucket")
"""Outputs that name what outlives a stack."""


@dataclass(frozen=True, slots=True)
class StackState:
    """What CloudFormation says of a stack."""

    status: str
    changed: str
    """When it was changed last."""
    outputs: Mapping[str, str]
    parameters: Mapping[str, str]

    @property
    def moving(self) -> bool:
        """Whether somebody is changing it now."""
        return self.status.endswith("_IN_PROGRESS")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a stack was made of."""

    body: str
    parameters: Mapping[str, str]
    """Values that CloudFormation does not show are None of these: it keeps them to itself."""


class Account:
    """Calls AWS as whoever the usual variables and files say."""

    def __init__(self, region: str, profile: str) -> None:
        """Raises NotPrepared without boto3, a profile of that name, or a region."""
        if importlib.util.find_spec("boto3") is None:
            raise NotPrepared("boto3 is not installed: pip install 'router-core[aws]'")
        import boto3
        from botocore.config import Config
        from botocore.exceptions import ProfileNotFound

        self._config = Config(
            connect_timeout=10, read_timeout=30, retries={"max_attempts": 4, "mode": "standard"}
        )
        try:
            self._session = boto3.Session(profile_name=profile or None, region_name=region or None)
        except ProfileNotFound as error:
            raise NotPrepared(str(error)) from error
        self.region: str = self._session.region_name or ""
        if not self.region:
            raise NotPrepared("no AWS region is chosen: pass --region, or set AWS_REGION")
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """Return the client of a service."""
        if service not in self._clients:
            self._clients[service] = self._session.client(service, config=self._config)
        return self._clients[service]

    def identity(self) -> str:
        """Return the account's number. Raises NotPrepared for credentials that are missing or not valid."""
        with translated():
            return str(self.client("sts").get_caller_identity()["Account"])


@contextmanager
def translated() -> Iterator[None]:
    """Let errors of boto3 become errors of a deployment."""
    from botocore import exceptions as boto

    try:
        yield
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.TokenRetrievalError) as error:
        raise NotPrepared(
            f"no AWS credentials ({error}): run `aws configure` or `aws sso login`, or set AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY"
        ) from error
    except boto.ClientError as error:
        said = error.response.get("Error", {})
        code, message = str(said.get("Code", "")), str(said.get("Message", error))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in _BAD_KEYS:
            raise NotPrepared(f"AWS does not accept the credentials ({code}): {message}") from error
        raise Refused(f"AWS refused {error.operation_name} ({code}): {message}", status) from error
    except boto.BotoCoreError as error:
        raise Unreachable(f"AWS cannot be asked: {error}") from error


_BAD_KEYS: Final = frozenset({
    "ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "SignatureDoesNotMatch",
    "UnrecognizedClientException", "AuthFailure", "InvalidAccessKeyId", "MissingAuthenticationToken",
})  # fmt: skip


class Stack:
    """One stack of an account."""

    def __init__(self, account: Account, name: str) -> None:
        self.account = account
        self.name = name

    def state(self) -> StackState | None:
        """Return what it is, or None where there is none."""
        try:
            with translated():
                found = self._client.describe_stacks(StackName=self.name)["Stacks"][0]
        except Refused as error:
            if "does not exist" in str(error):
                return None
            raise
        status = found["StackStatus"]
        if status in ("DELETE_COMPLETE", "REVIEW_IN_PROGRESS"):
            return None
        return StackState(
            status=status,
            changed=str(found.get("LastUpdatedTime") or found.get("CreationTime")),
            outputs={entry["OutputKey"]: entry["OutputValue"] for entry in found.get("Outputs", ())},
            parameters={
                entry["ParameterKey"]: entry["ParameterValue"] for entry in found.get("Parameters", ())
            },
        )

    def failures(self, limit: int = 3) -> list[str]:
        """Return why the last change failed, the first cause first."""
        with translated():
            events = self._client.describe_stack_events(StackName=self.name)["StackEvents"]
        found: list[str] = []
        for event in events:  # newest first
            if event["LogicalResourceId"] == self.name and event["ResourceStatus"].endswith(_BEGINS):
                break
            reason = event.get("ResourceStatusReason", "")
            if event["ResourceStatus"].endswith("_FAILED") and "cancelled" not in reason:
                found.append(f"{event['LogicalResourceId']}: {reason}")
        return found[::-1][:limit]

    def snapshot(self, state: StackState) -> Snapshot:
        """Keep what is needed to restore it."""
        with translated():
            body = self._client.get_template(StackName=self.name, TemplateStage="Original")["TemplateBody"]
        return Snapshot(body if isinstance(body, str) else json.dumps(body), state.parameters)

    def restore(self, snapshot: Snapshot, seconds: float) -> None:
        """Make it again what it was. Raises DeployError, or TooSlow."""
        parameters = [
            {"ParameterKey": name, "UsePreviousValue": True} if value == _HIDDEN
            else {"ParameterKey": name, "ParameterValue": value}
            for name, value in snapshot.parameters.items()
        ]  # fmt: skip
        try:
            with translated():
                self._client.update_stack(
                    StackName=self.name, **self._template(snapshot.body), Parameters=parameters,
                    Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
                )  # fmt: skip
        except Refused as error:
            if "No updates are to be performed" in str(error):
                return
            raise
        state = self.settled(seconds)
        if state is None or state.status != "UPDATE_COMPLETE":
            raise DeployError(
                f"the stack is {state.status if state else 'gone'}: {'; '.join(self.failures())}"
            )

    def _template(self, body: str) -> dict[str, str]:
        """Return how a template is handed over: as it is, or, a large one, from the bucket of its code."""
        data = body.encode()
        if len(data) <= _MAX_BODY:
            return {"TemplateBody": body}
        bucket = _CODE.search(body)
        if bucket is None:
            raise DeployError("the previous template is too large to be sent back, and names no bucket")
        place = {"Bucket": bucket[1], "Key": f"{self.name}/{hashlib.sha256(data).hexdigest()}.template"}
        s3 = self.account.client("s3")
        s3.put_object(**place, Body=data)
        # the address without its signature: CloudFormation reads it with the rights of the caller
        return {"TemplateURL": s3.generate_presigned_url("get_object", Params=place).partition("?")[0]}

    def delete(self, seconds: float) -> None:
        """Delete it; resources that are to be retained stay."""
        with translated():
            self._client.delete_stack(StackName=self.name)
        state = self.settled(seconds)
        if state is not None:
            raise DeployError(f"the stack is {state.status}: {'; '.join(self.failures())}")

    def settled(self, seconds: float) -> StackState | None:
        """Wait until nobody changes it any more. Raises TooSlow."""
        end = time.monotonic() + seconds
        while True:
            state = self.state()
            if state is None or not state.moving:
                return state
            if time.monotonic() > end:
                raise TooSlow(
                    f"the stack is still {state.status} after {seconds:g} s; CloudFormation goes on"
                )
            time.sleep(_POLL)

    def delete_data(self, outputs: Mapping[str, str]) -> list[str]:
        """Delete the tables and the bucket that outlive a stack; returns their names."""
        deleted = []
        with translated():
            for key in DATA:
                if outputs.get(key):
                    delete = self._delete_bucket if key == "BlobBucket" else self._delete_table
                    delete(outputs[key])
                    deleted.append(outputs[key])
        return deleted

    def _delete_table(self, name: str) -> None:
        client = self.account.client("dynamodb")
        try:
            client.update_table(TableName=name, DeletionProtectionEnabled=False)
        except client.exceptions.ResourceNotFoundException:
            return
        except client.exceptions.ClientError as error:
            if "already" not in str(error) and "no change" not in str(error).lower():
                raise
        client.delete_table(TableName=name)

    def _delete_bucket(self, name: str) -> None:
        client = self.account.client("s3")
        try:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
                keys = [{"Key": entry["Key"]} for entry in page.get("Contents", ())]
                if keys:
                    client.delete_objects(Bucket=name, Delete={"Objects": keys, "Quiet": True})
            client.delete_bucket(Bucket=name)
        except client.exceptions.NoSuchBucket:
            return

    @property
    def _client(self) -> Any:
        return self.account.client("cloudformation")


_BEGINS: Final = ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS")
