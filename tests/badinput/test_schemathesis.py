"""What our own OpenAPI document promises is true: schemathesis tries it out on a real server.

Examples are drawn by a fixed seed, so that a failure comes back until it is mended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import Failure
from schemathesis.engine import events, from_schema

from tests.badinput.conftest import Service

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "missing_required_header",
    "unsupported_method",
    "use_after_free",
)


def config(examples: int) -> SchemathesisConfig:
    """Try so many examples of each operation, beside all that its document makes worth a try."""
    return SchemathesisConfig.from_dict({
        "seed": 20240229,
        "suppress-health-check": ["all"],
        "cache": {"enabled": False},
        "generation": {
            "mode": "all", "max-examples": examples, "database": "none", "deterministic": True,
        },
        "phases": {
            "coverage": {"enabled": True, "generate-duplicate-query-parameters": True},
            "fuzzing": {"enabled": True},
            "stateful": {"enabled": True, "generation": {"max-examples": examples}},
        },
        # the events of a job that has not begun come for as long as somebody listens
        "max-stream-events": 3,
        "operations": [{"include-path-regex": "/(events$|stream/)", "request-timeout": 2}],
        "checks": {"enabled": False, **{name: {"enabled": True} for name in CHECKS}},
    })  # fmt: skip


TAKEN = {
    r"(?s)in body.*(Incorrect type|violates `type`)": "pydantic converts what it can: a bool is a number",
    r"in header - object with unexpected properties": "headers that nobody asked for are no error",
}
"""What is taken although the document does not say so, by schemathesis' words for it."""
REFUSED = {
    b"the job would be due only after its deadline": "two headers that exclude each other",
    b'"code":"no_webhooks"': "this server has no secret to sign webhooks with",
    b'"code":"job_gone"': "an earlier request deleted the job",
    b'"code":"idempotency_key_reused"': "an earlier request had this key",
    b'"type":"decimal_parsing"': "schemathesis cannot draw from the pattern that pydantic gives for decimals",
}
"""What is refused although the document allows it, by what the answer says."""
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


def run(service: Service, examples: int) -> Iterator[events.ScenarioFinished]:
    """Let schemathesis call every operation of the document."""
    url = f"http://127.0.0.1:{service.port}/openapi.json"
    schema = schemathesis.openapi.from_url(url, config=config(examples))
    for event in from_schema(schema).execute():
        assert not isinstance(event, events.FatalError), event.exception
        if isinstance(event, events.NonFatalError):
            raise AssertionError(f"{event.label}: {event.value!r}")
        if isinstance(event, events.ScenarioFinished):
            yield event


def excuse(failure: Failure, status: int, body: bytes, media_type: str | None) -> str:
    """Return why a failure is none, or nothing."""
    kind, text = type(failure).__name__, failure.message
    if kind == "ServerError" and re.search(rb'"code":"job_(failed|expired)"', body):
        return "the answer for a job without a result: its function raised, or it was too late"
    if kind == "AcceptedNegativeData" and 400 <= status < 500:
        return "refused in words that schemathesis does not know, such as 414"
    if kind == "AcceptedNegativeData" and "in body" in text and media_type in FORMS:
        return "a form has only texts, and one left empty is not given"
    if kind == "AcceptedNegativeData":
        return next((reason for words, reason in TAKEN.items() if re.search(words, text)), "")
    if kind == "RejectedPositiveData":
        return next((reason for words, reason in REFUSED.items() if words in body), "")
    return ""


def shown(failure: Failure, body: bytes, case: Any) -> str:
    """Return what a reader needs to try it again."""
    command = case.as_curl_command()
    return f"{type(failure).__name__}: {failure.title}\n{failure.message}\n{command}\n{body[:400]!r}"


def hold(service: Service, examples: int) -> None:
    """Check every answer."""
    found: dict[str, str] = {}
    operations, cases = set(), 0
    for event in run(service, examples):
        operations.add(event.recorder.label)
        cases += len(event.recorder.cases)
        for case_id, checks in event.recorder.checks.items():
            for check in checks:
                if check.failure_info is None:
                    continue
                failure = check.failure_info.failure
                case = event.recorder.cases[case_id].value
                response = event.recorder.interactions[case_id].response
                body = response.content if response is not None else b""
                status = response.status_code if response is not None else 0
                if not excuse(failure, status, body, case.media_type):
                    key = f"{case.operation.label} {type(failure).__name__} {failure.message[:200]}"
                    found.setdefault(key, shown(failure, body, case))
    service.check_alive()
    assert not found, "\n\n".join(found.values())
    assert cases > 1000


def test_the_document_holds(service: Service) -> None:
    """No operation answers other than documented, with a 5xx, or takes what the document forbids."""
    hold(service, 5)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_document_holds_at_length(service: Service) -> None:
    """The same for many more examples of each operation."""
    hold(service, 50)
