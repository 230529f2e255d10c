"""The rules that template.yaml has to keep, and that breaking one is noticed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.aws.template_files import read, translate
from tests.aws.template_rules import problems

Document = dict[str, Any]


@pytest.fixture(scope="module")
def translated() -> Document:
    """Translate the template once; it is only read."""
    (result,) = translate(read())
    template: Document = result["template"]
    return template


def test_all_rules_are_kept(translated: Document) -> None:
    """Find nothing to object to."""
    assert problems(translated) == []


def test_snapstart_publishes_for_other_digits_only() -> None:
    """Make another version for other digits, and none for another key: `deploy` has to draw digits."""
    documents = [read() for _ in range(3)]
    for document, digits in zip(documents, ("0123456789", "abcdefabcd", "0123456789"), strict=True):
        document["Parameters"]["SnapStart"]["Default"] = digits
    documents[2]["Parameters"]["ApiKeys"]["Default"] = "another"
    names = []
    for result in translate(*documents):
        resources = result["template"]["Resources"].items()
        names += [name for name, resource in resources if resource["Type"] == "AWS::Lambda::Version"]
    assert len(names) == 3
    assert names[0] != names[1]
    assert names[0] == names[2]


def _properties(template: Document, name: str) -> Document:
    properties: Document = template["Resources"][name]["Properties"]
    return properties


def _shorter_visibility(template: Document) -> None:
    template["Mappings"]["JobTimes"]["600"]["Visibility"] = 3599


def _literal_visibility(template: Document) -> None:
    _properties(template, "JobQueue")["VisibilityTimeout"] = 900


def _longer_jobs(template: Document) -> None:
    template["Parameters"]["JobTimeout"]["AllowedValues"].append(1200)
    template["Mappings"]["JobTimes"]["1200"] = {"Visibility": 7200, "SlowMilliseconds": 1}


def _few_receives(template: Document) -> None:
    template["Parameters"]["MaxReceiveCount"]["MinValue"] = 3


def _short_lived_letters(template: Document) -> None:
    _properties(template, "DeadLetterQueue")["MessageRetentionPeriod"] = 345600


def _whole_batches(template: Document) -> None:
    del _properties(template, "JobFunctionJobs")["FunctionResponseTypes"]


def _no_ttl(template: Document) -> None:
    _properties(template, "JobsTable")["TimeToLiveSpecification"]["AttributeName"] = "expires"


def _no_restore(template: Document) -> None:
    del _properties(template, "JobsTable")["PointInTimeRecoverySpecification"]


def _plain_table(template: Document) -> None:
    _properties(template, "JobsTable")["SSESpecification"]["SSEEnabled"] = False


def _other_index(template: Document) -> None:
    _properties(template, "JobsTable")["GlobalSecondaryIndexes"].pop()


def _public_bucket(template: Document) -> None:
    _properties(template, "BlobBucket")["PublicAccessBlockConfiguration"]["BlockPublicPolicy"] = False


def _plain_transport(template: Document) -> None:
    del template["Resources"]["BlobBucketPolicy"]


def _endless_uploads(template: Document) -> None:
    del _properties(template, "BlobBucket")["LifecycleConfiguration"]["Rules"][0]


def _endless_log(template: Document) -> None:
    del _properties(template, "SweeperLogs")["RetentionInDays"]


def _log_of_its_own(template: Document) -> None:
    del _properties(template, "JobFunction")["LoggingConfig"]


def _everything(template: Document) -> None:
    _properties(template, "JobRole")["Policies"][0]["PolicyDocument"]["Statement"][1]["Resource"] = "*"


def _every_action(template: Document) -> None:
    _properties(template, "JobRole")["Policies"][0]["PolicyDocument"]["Statement"][1]["Action"] = "dynamodb:*"


def _every_bucket(template: Document) -> None:
    statement = _properties(template, "JobRole")["Policies"][0]["PolicyDocument"]["Statement"][2]
    statement["Resource"] = {"Fn::Sub": "arn:${AWS::Partition}:s3:::*"}


def _receiving_http(template: Document) -> None:
    statements = _properties(template, "HttpRole")["Policies"][0]["PolicyDocument"]["Statement"]
    statements[-1]["Action"] = ["sqs:SendMessage", "sqs:ReceiveMessage"]


def _sending_letters(template: Document) -> None:
    statements = _properties(template, "DeadLetterRole")["Policies"][0]["PolicyDocument"]["Statement"]
    statements[-1]["Action"].append("sqs:SendMessage")


def _borrowed_role(template: Document) -> None:
    _properties(template, "HttpFunction")["Role"] = {"Fn::GetAtt": ["SweeperRole", "Arn"]}


def _managed_policy(template: Document) -> None:
    _properties(template, "JobRole")["ManagedPolicyArns"] = ["arn:aws:iam::aws:policy/AdministratorAccess"]


def _unknown_setting(template: Document) -> None:
    _properties(template, "HttpFunction")["Environment"]["Variables"]["ROUTER_JOB"] = "memory://"


def _tracer(template: Document) -> None:
    _properties(template, "HttpFunction")["TracingConfig"] = {"Mode": "Active"}


def _no_depth_alarm(template: Document) -> None:
    del template["Resources"]["DeadLetterDepthAlarm"]


def _silent_alarm(template: Document) -> None:
    del _properties(template, "QueueAgeAlarm")["AlarmActions"]


def _open_url(template: Document) -> None:
    _properties(template, "BufferedUrl")["AuthType"] = "NONE"


def _shown_keys(template: Document) -> None:
    del template["Parameters"]["ApiKeys"]["NoEcho"]


def _keys_without_a_table(template: Document) -> None:
    del template["Rules"]["KeysHaveATable"]


def _tokens_for_anybody(template: Document) -> None:
    del template["Rules"]["TokensAreForSomebody"]


def _shown_encryption_key(template: Document) -> None:
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Lambda::Function":
            resource["Properties"]["Environment"]["Variables"]["ROUTER_ENCRYPTION_KEY"] = "key"


def _all_secrets(template: Document) -> None:
    statement = _properties(template, "EncryptionPolicy")["PolicyDocument"]["Statement"][0]
    statement["Resource"] = "*"


def _no_rule(template: Document) -> None:
    del template["Rules"]


def _unheard_recovery(template: Document) -> None:
    del _properties(template, "JobSlowAlarm")["OKActions"]


def _nameless_parameter(template: Document) -> None:
    del template["Parameters"]["LogLevel"]["Description"]


def _ungrouped_parameter(template: Document) -> None:
    template["Parameters"]["Extra"] = {"Type": "String", "Default": "", "Description": "more"}


def _endless_loop(template: Document) -> None:
    del _properties(template, "JobFunction")["RecursiveLoop"]


def _unreserved(template: Document) -> None:
    del _properties(template, "StreamFunction")["ReservedConcurrentExecutions"]


def _forgotten_letters(template: Document) -> None:
    del template["Resources"]["DeadLetterKeptAlarm"]


def _other_state(template: Document) -> None:
    _properties(template, "SharedState")["KeySchema"][1]["AttributeName"] = "key"


def _lost_state(template: Document) -> None:
    del template["Resources"]["SharedState"]["UpdateReplacePolicy"]


def _unprotected_records(template: Document) -> None:
    _properties(template, "JobsTable")["DeletionProtectionEnabled"] = False


def _all_state(template: Document) -> None:
    statement = _properties(template, "StatePolicy")["PolicyDocument"]["Statement"][0]
    statement["Resource"] = "*"


@pytest.mark.parametrize(
    ("plant", "word"),
    [
        (_shorter_visibility, "six tries"), (_literal_visibility, "six tries"), (_longer_jobs, "1200 s"),
        (_few_receives, "given up"), (_short_lived_letters, "dead letter"),
        (_whole_batches, "single messages"), (_no_ttl, "never go"), (_no_restore, "restored"),
        (_plain_table, "encrypted"), (_other_index, "GlobalSecondaryIndexes"),
        (_public_bucket, "public"), (_plain_transport, "not encrypted"),
        (_endless_uploads, "broken off"), (_endless_log, "kept for ever"),
        (_log_of_its_own, "kept for ever"), (_everything, "to everything"),
        (_every_action, "dynamodb:*"), (_every_bucket, "to everything"),
        (_receiving_http, "sqs:ReceiveMessage"), (_sending_letters, "sqs:SendMessage"),
        (_borrowed_role, "another function's role"), (_managed_policy, "managed policy"),
        (_unknown_setting, "ROUTER_JOB"), (_tracer, "sends traces"), (_no_depth_alarm, "no alarm"),
        (_silent_alarm, "nobody hears"), (_open_url, "asks nobody"), (_shown_keys, "ApiKeys"),
        (_no_rule, "not refused"), (_unheard_recovery, "nobody hears"),
        (_nameless_parameter, "LogLevel"), (_ungrouped_parameter, "no group"),
        (_endless_loop, "given back often"), (_unreserved, "kept for StreamFunction"),
        (_forgotten_letters, "NotVisible"), (_other_state, "KeySchema of SharedState"),
        (_lost_state, "SharedState goes"), (_unprotected_records, "JobsTable of production"),
        (_all_state, "HttpRole may do"), (_keys_without_a_table, "nobody finds them"),
        (_tokens_for_anybody, "takes tokens"), (_shown_encryption_key, "the key that encrypts"),
        (_all_secrets, "DeadLetterRole may do"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_noticed(translated: Document, plant: Callable[[Document], None], word: str) -> None:
    """Object to each planted mistake, in words that name it."""
    template = copy.deepcopy(translated)
    plant(template)
    assert any(word in problem for problem in problems(template)), problems(template)
