"""How a stack becomes again what it was, against the emulator's CloudFormation."""

from __future__ import annotations

import json
import secrets

import pytest

from handlers.deploy import aws_stack
from handlers.deploy.aws_stack import Account, Stack
from handlers.deploy.errors import DeployError

pytestmark = pytest.mark.process


def _template(delay: int, bucket: str) -> str:
    return json.dumps({
        "Description": f"its code: s3://{bucket}/code" if bucket else "no code",
        "Resources": {
            "Queue": {
                "Type": "AWS::SQS::Queue",
                "Properties": {"QueueName": "delayed-" + bucket[:12], "DelaySeconds": delay},
            }
        },
    })  # fmt: skip


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("large", [False, True])
def test_a_stack_is_restored_whatever_the_size_of_its_template(
    large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a call does not take is handed over through the bucket of the code."""
    account = Account("us-east-1", "")
    bucket = f"code{secrets.token_hex(6)}"
    account.client("s3").create_bucket(Bucket=bucket)
    formation, sqs = account.client("cloudformation"), account.client("sqs")
    name = f"stack-{bucket}"
    formation.create_stack(StackName=name, TemplateBody=_template(1, bucket))
    stack = Stack(account, name)
    before = stack.settled(20)
    assert before is not None
    snapshot = stack.snapshot(before)
    formation.update_stack(StackName=name, TemplateBody=_template(9, bucket))
    stack.settled(20)
    if large:
        monkeypatch.setattr(aws_stack, "_MAX_BODY", 10)
    stack.restore(snapshot, 20)
    url = sqs.get_queue_url(QueueName="delayed-" + bucket[:12])["QueueUrl"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["DelaySeconds"])
    assert found["Attributes"]["DelaySeconds"] == "1"
    kept = account.client("s3").list_objects_v2(Bucket=bucket).get("KeyCount", 0)
    assert kept == int(large)


@pytest.mark.usefixtures("aws")
def test_a_large_template_that_names_no_bucket_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is changed."""
    monkeypatch.setattr(aws_stack, "_MAX_BODY", 10)
    with pytest.raises(DeployError, match="names no bucket"):
        Stack(Account("us-east-1", ""), "nothing").restore(aws_stack.Snapshot(_template(1, ""), {}), 1)
