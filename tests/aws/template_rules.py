"""What a template has to hold beyond being valid: the rules of the service, on the translated document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from router_core.jobs.submission import MAX_DELAY
from router_core.settings import VARIABLES
from router_core.stores.dynamodb_table import TTL_ATTRIBUTE, table_definition
from router_core.stores.state_dynamodb import state_table_definition

__all__ = ["problems"]

Document = Mapping[str, Any]

_LONGEST: Final = 900
"""Seconds: a job function may not have more, and AWS does not give more."""
_VISIBILITY: Final = 6
_NO_RESOURCE: Final = frozenset({"xray:PutTelemetryRecords", "xray:PutTraceSegments"})
"""Actions for which AWS knows no resource, so that `*` is the narrowest statement."""
_FORBIDDEN: Final[Mapping[str, tuple[str, ...]]] = {
    "HttpRole": ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"),
    "DeadLetterRole": (
        "sqs:SendMessage",
        "dynamodb:DeleteItem",
        "s3:GetObject",
        "s3:PutObject",
        "s3:DeleteObject",
    ),
    "SweeperRole": ("sqs:ReceiveMessage", "sqs:DeleteMessage", "s3:PutObject"),
}
"""What a role must not be able to do, even with a mistake in its function."""
_ELSEWHERE: Final = frozenset({
    "ROUTER_LAMBDA_ROLE", "ROUTER_TRACER", "AWS_LAMBDA_EXEC_WRAPPER", "SNAPSHOT",
    "POWERTOOLS_SERVICE_NAME", "POWERTOOLS_METRICS_NAMESPACE", "ROUTER_GATEWAY",
})  # fmt: skip
"""Variables that are no settings: the adapter, Lambda and Powertools read them."""
_TLS: Final = {"Bool": {"aws:SecureTransport": "false"}}


def problems(template: Document) -> list[str]:
    """Return a sentence for each rule that is broken."""
    resources: Document = template["Resources"]
    found = [
        *_words_of(template), *_functions(template), *_roles(resources), *_queues(template),
        *_tables(resources), *_bucket(template), *_alarms(resources), *_open_doors(template),
    ]  # fmt: skip
    return sorted(set(found))


def _words_of(template: Document) -> Iterator[str]:
    """Look at what the console shows of parameters and outputs."""
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    shown = [name for group in groups for name in group["Parameters"]]
    if sorted(shown) != sorted(template["Parameters"]):
        yield "a parameter is in no group, or in two"
    for kind in ("Parameters", "Outputs"):
        for name, entry in template[kind].items():
            if not entry.get("Description"):
                yield f"nobody is told what {name} is"


def _of_type(resources: Document, kind: str) -> Iterator[tuple[str, Document]]:
    for name, resource in resources.items():
        if resource["Type"] == kind:
            yield name, resource["Properties"]


# -- functions ---------------------------------------------------------------------------------------------


def _functions(template: Document) -> Iterator[str]:
    resources: Document = template["Resources"]
    for name, function in _of_type(resources, "AWS::Lambda::Function"):
        yield from _function(name, function, resources)
    if template["Parameters"]["Architecture"]["Default"] != "arm64":
        yield "arm64 is not the default"
    # releases and chains of jobs come back to it; Lambda would drop what it takes for an endless loop
    if resources["JobFunction"]["Properties"].get("RecursiveLoop") != "Allow":
        yield "Lambda drops jobs that were given back often"
    longest = max(_values(template, resources["JobFunction"]["Properties"]["Timeout"]))
    if longest > _LONGEST:
        yield f"jobs may run for {longest} s"


def _function(name: str, function: Document, resources: Document) -> Iterator[str]:
    if function["Runtime"] != "python3.13" or function["Handler"] != "handlers.aws.entry.handler":
        yield f"{name} runs something else"
    if function["Architectures"] != [{"Ref": "Architecture"}]:
        yield f"{name} does not run on the chosen architecture"
    if function.get("TracingConfig") != {"Mode": {"Fn::If": ["HasTracer", "Active", "PassThrough"]}}:
        yield f"{name} sends traces that nobody has asked for, or none though somebody did"
    if function.get("Layers"):
        yield f"{name} carries a layer, which each cold start pays for"
    group = resources.get(_ref(function.get("LoggingConfig", {}).get("LogGroup")), {})
    if not group.get("Properties", {}).get("RetentionInDays"):
        yield f"the log of {name} is kept for ever"
    if "ReservedConcurrentExecutions" not in function:
        yield f"no concurrency can be kept for {name}"
    for variable in function["Environment"]["Variables"]:
        if variable not in _ELSEWHERE and not any(variable in names for names in VARIABLES.values()):
            yield f"{name} sets {variable}, which nobody reads"


def _values(template: Document, value: Any) -> list[int]:
    """Return every number that a value may stand for."""
    if isinstance(value, (int, str)):
        return [int(value)]
    if "Ref" in value:
        parameter = template["Parameters"][value["Ref"]]
        allowed = parameter.get("AllowedValues") or [parameter["Default"], parameter.get("MaxValue", 2**31)]
        return [int(number) for number in allowed]
    name, key, field = value["Fn::FindInMap"]
    table = template["Mappings"][name]
    return [int(table[str(number)][field]) for number in _values(template, key)]


def _ref(value: Any) -> str:
    if isinstance(value, Mapping) and "Ref" in value:
        return str(value["Ref"])
    if isinstance(value, Mapping) and "Fn::GetAtt" in value:
        return str(value["Fn::GetAtt"][0])
    return ""


# -- what each may do --------------------------------------------------------------------------------------


def _statements(properties: Document) -> Iterator[Document]:
    for policy in properties.get("Policies", ()):
        yield from policy["PolicyDocument"]["Statement"]


def _words(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _roles(resources: Document) -> Iterator[str]:
    for name, role in _of_type(resources, "AWS::IAM::Role"):
        if role.get("ManagedPolicyArns"):
            yield f"{name} has a managed policy, whose resource is *"
        for statement in _statements(role):
            yield from _statement(name, statement)
    for _, policy in _of_type(resources, "AWS::IAM::Policy"):
        for statement in policy["PolicyDocument"]["Statement"]:
            for role in policy["Roles"]:
                yield from _statement(_ref(role), statement)
    for name in ("HttpFunction", "JobFunction", "DeadLetterFunction", "SweeperFunction"):
        if _ref(resources[name]["Properties"]["Role"]) != f"{name.removesuffix('Function')}Role":
            yield f"{name} has another function's role"


def _statement(name: str, statement: Document) -> Iterator[str]:
    for action in _words(statement["Action"]):
        if "*" in action:
            yield f"{name} may do {action}"
        if action in _FORBIDDEN.get(name, ()):
            yield f"{name} may do {action}, which its function never does"
        for resource in _words(statement["Resource"]):
            if _is_everything(resource) and action not in _NO_RESOURCE:
                yield f"{name} may do {action} to everything"


def _is_everything(resource: Any) -> bool:
    """Whether a resource is more than one of this stack (or what lies in it)."""
    if isinstance(resource, Mapping) and "Fn::Sub" in resource:
        return not re.fullmatch(r"\$\{[A-Za-z]+\.Arn\}(/[a-z]+)*/\*", str(resource["Fn::Sub"]))
    return not _ref(resource)


# -- queues ------------------------------------------------------------------------------------------------


def _queues(template: Document) -> Iterator[str]:
    resources: Document = template["Resources"]
    readers = [mapping for _, mapping in _of_type(resources, "AWS::Lambda::EventSourceMapping")]
    for mapping in readers:
        queue, function = _ref(mapping["EventSourceArn"]), _ref(mapping["FunctionName"])
        timeouts = _values(template, resources[function]["Properties"]["Timeout"])
        hidden = _values(template, resources[queue]["Properties"]["VisibilityTimeout"])
        if len(timeouts) != len(hidden) or any(
            seconds < _VISIBILITY * timeout for seconds, timeout in zip(hidden, timeouts, strict=False)
        ):
            yield f"a message of {queue} is visible again before {function} had six tries of time"
        if mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            yield f"{function} cannot give single messages of {queue} back"
        if min(_values(template, mapping["ScalingConfig"]["MaximumConcurrency"])) < 2:
            yield f"{function} takes fewer than two messages of {queue} at a time"
    if {_ref(mapping["EventSourceArn"]) for mapping in readers} != {"JobQueue", "DeadLetterQueue"}:
        yield "a queue is not read"
    yield from _letters(template)


def _letters(template: Document) -> Iterator[str]:
    resources: Document = template["Resources"]
    jobs, dead = (resources[name]["Properties"] for name in ("JobQueue", "DeadLetterQueue"))
    (mapping,) = (
        found for _, found in _of_type(resources, "AWS::Lambda::EventSourceMapping")
        if _ref(found["EventSourceArn"]) == "JobQueue"
    )  # fmt: skip
    if mapping["BatchSize"] != 1:
        yield "a job waits for others of its batch"
    redrive = jobs["RedrivePolicy"]
    if _ref(redrive["deadLetterTargetArn"]) != "DeadLetterQueue":
        yield "dead letters go nowhere"
    count = redrive["maxReceiveCount"]
    least = template["Parameters"][count["Ref"]]["MinValue"] if isinstance(count, Mapping) else count
    if least < 10:
        yield "messages are given up before the record has counted its attempts"
    if dead["MessageRetentionPeriod"] <= jobs["MessageRetentionPeriod"]:
        yield "a dead letter may be gone as soon as it arrives"
    for name, queue in _of_type(resources, "AWS::SQS::Queue"):
        if not queue.get("SqsManagedSseEnabled"):
            yield f"{name} is not encrypted"


# -- records and blobs -------------------------------------------------------------------------------------


def _tables(resources: Document) -> Iterator[str]:
    yield from _table("JobsTable", resources["JobsTable"], table_definition("any"))
    yield from _table("SharedState", resources["SharedState"], state_table_definition("any"))


def _table(name: str, table: Document, wanted: Document) -> Iterator[str]:
    properties = table["Properties"]
    for field in ("BillingMode", "KeySchema", "GlobalSecondaryIndexes"):
        if properties.get(field) != wanted.get(field):
            yield f"{field} of {name} is not what the store needs"
    if _sorted(properties["AttributeDefinitions"]) != _sorted(wanted["AttributeDefinitions"]):
        yield f"AttributeDefinitions of {name} is not what the store needs"
    if properties.get("TimeToLiveSpecification") != {"AttributeName": TTL_ATTRIBUTE, "Enabled": True}:
        yield f"records of {name} never go"
    if not properties.get("SSESpecification", {}).get("SSEEnabled"):
        yield f"{name} is not encrypted with a key of the account"
    if not properties.get("PointInTimeRecoverySpecification", {}).get("PointInTimeRecoveryEnabled"):
        yield f"{name} cannot be restored"
    if properties.get("DeletionProtectionEnabled") != {"Fn::If": ["IsProd", True, False]}:
        yield f"{name} of production can be deleted"
    if any(
        table.get(policy) not in ("Retain", "RetainExceptOnCreate")
        for policy in ("DeletionPolicy", "UpdateReplacePolicy")
    ):
        yield f"{name} goes with the stack"


def _sorted(definitions: Any) -> list[Any]:
    return sorted(definitions, key=lambda definition: str(definition["AttributeName"]))


def _bucket(template: Document) -> Iterator[str]:
    resources: Document = template["Resources"]
    bucket = resources["BlobBucket"]["Properties"]
    block = bucket.get("PublicAccessBlockConfiguration", {})
    closed = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    if not all(block.get(name) is True for name in closed):
        yield "BlobBucket may become public"
    if not bucket.get("BucketEncryption"):
        yield "BlobBucket is not encrypted"
    rules = [rule for rule in bucket["LifecycleConfiguration"]["Rules"] if rule["Status"] == "Enabled"]
    if not any("AbortIncompleteMultipartUpload" in rule for rule in rules):
        yield "uploads that were broken off are paid for ever"
    if not any("ExpirationInDays" in rule for rule in rules):
        yield "objects of BlobBucket never go"
    if template["Parameters"]["BlobExpiryDays"]["Default"] * 86_400 < MAX_DELAY + 7 * 86_400:
        yield "the input of a job that was put off for long is deleted before it runs"
    for name, kind, held in (
        ("BlobBucketPolicy", "AWS::S3::BucketPolicy", {"BlobBucket"}),
        ("QueuePolicy", "AWS::SQS::QueuePolicy", {"JobQueue", "DeadLetterQueue"}),
    ):
        policy = dict(_of_type(resources, kind)).get(name, {})
        named = {_ref(value) for value in _words(policy.get("Queues", policy.get("Bucket")))}
        denied = [
            statement for statement in policy.get("PolicyDocument", {}).get("Statement", ())
            if statement["Effect"] == "Deny" and statement["Condition"] == _TLS
        ]  # fmt: skip
        if named != held or not denied:
            yield f"{name} lets requests in that are not encrypted"


# -- alarms ------------------------------------------------------------------------------------------------


def _alarms(resources: Document) -> Iterator[str]:
    alarms = dict(_of_type(resources, "AWS::CloudWatch::Alarm"))
    told = {"Fn::If": ["HasAlarmTopic", [{"Ref": "AlarmTopicArn"}], {"Ref": "AWS::NoValue"}]}
    for name, alarm in alarms.items():
        if alarm.get("AlarmActions") != told or alarm.get("OKActions") != told:
            yield f"nobody hears {name}"
        if not alarm.get("AlarmDescription") or not alarm.get("TreatMissingData"):
            yield f"{name} does not say what it means, or what silence means"
    watched = {measure for alarm in alarms.values() for measure in _measures(alarm)}
    for measure in (
        ("ApproximateNumberOfMessagesVisible", "DeadLetterQueue"),
        ("ApproximateNumberOfMessagesNotVisible", "DeadLetterQueue"), ("Invocations", "DeadLetterFunction"),
        ("Errors", "SnapStartFunction"), ("Throttles", "SnapStartFunction"),
        ("Duration", "SnapStartFunction"),
        ("Errors", "StreamFunction"), ("Throttles", "StreamFunction"),
        ("ApproximateAgeOfOldestMessage", "JobQueue"),
        ("Errors", "HttpFunction"), ("Errors", "JobFunction"), ("Errors", "DeadLetterFunction"),
        ("Errors", "SweeperFunction"), ("Throttles", "HttpFunction"), ("Throttles", "JobFunction"),
        ("Duration", "HttpFunction"), ("Duration", "JobFunction"), ("5xx", "HttpApi"),
        ("Invocations", "SweeperFunction"),
    ):  # fmt: skip
        if measure not in watched:
            yield f"no alarm watches {measure[0]} of {measure[1]}"


def _measures(alarm: Document) -> Iterator[tuple[str, str]]:
    for dimension in alarm["Dimensions"]:
        value = dimension["Value"]
        for either in value["Fn::If"][1:] if "Fn::If" in value else [value]:
            yield str(alarm["MetricName"]), _ref(either)


# -- who may come in ---------------------------------------------------------------------------------------


def _open_doors(template: Document) -> Iterator[str]:
    for name in ("ApiKeys", "WorkerKeys", "WebhookSecret"):
        if not template["Parameters"][name].get("NoEcho"):
            yield f"{name} is shown to whoever looks at the stack"
    rules = template.get("Rules", {})
    if "SomebodyIsAsked" not in rules:
        yield "a stack without keys is not refused"
    if "KeysHaveATable" not in rules:
        yield "a stack is not refused whose keys are kept where nobody finds them"
    if "TokensAreForSomebody" not in rules:
        yield "a stack is not refused that takes tokens for anybody, or cannot verify them"
    encryption = template["Resources"]["HttpFunction"]["Properties"]["Environment"]["Variables"].get(
        "ROUTER_ENCRYPTION_KEY"
    )
    if "aws-sm:" not in str(encryption):
        yield "the key that encrypts stands in the configuration of the functions"
    if template["Parameters"]["AllowAnonymous"]["Default"] != "false":
        yield "everybody is let in unless somebody says no"
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Lambda::Url" and resource["Properties"]["AuthType"] != {
            "Ref": "FunctionUrlAuth"
        }:
            yield f"{name} asks nobody"
