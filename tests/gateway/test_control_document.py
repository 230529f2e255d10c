"""What the gateway's OpenAPI document promises is true: schemathesis tries it out on a real server.

The bodies of the control plane are told by example and by page, not by schema, so that what is refused is no
failure here; what may not happen is an error of the server, an answer that the document does not know, or one
of another shape.
"""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from tests.gateway.serving import on_socket

YAML = """
models:
  - id: small
    type: text-generation
    clients: [{type: scripted, model: small}]
  - id: embeddings
    type: text-embeddings-inference
    clients: [{type: scripted, model: embeddings}]
default_model: small
"""
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_schema_conformance", "unsupported_method",
)  # fmt: skip


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
            "coverage": {"enabled": True},
            "fuzzing": {"enabled": True},
            "stateful": {"enabled": False},
        },
        "max-stream-events": 3,
        "checks": {"enabled": False, **{name: {"enabled": True} for name in CHECKS}},
    })  # fmt: skip


def hold(examples: int) -> None:
    """Check every answer."""
    found: dict[str, str] = {}
    operations, cases = set[str](), 0
    with on_socket(YAML) as (_, url):
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config(examples))
        chosen = schema.include(path_regex="^/(api|v1)/")
        for event in from_schema(chosen).execute():
            assert not isinstance(event, events.FatalError), event.exception
            if not isinstance(event, events.ScenarioFinished):
                continue
            operations.add(event.recorder.label)
            cases += len(event.recorder.cases)
            for key, text in _failures(event):
                found.setdefault(key, text)
    assert not found, "\n\n".join(found.values())
    assert {"POST /api/models", "PATCH /api/routing/rules/{ruleId}", "POST /api/config/import"} <= operations
    assert cases > 1000


def _failures(event: Any) -> list[tuple[str, str]]:
    found = []
    for case_id, checks in event.recorder.checks.items():
        for check in checks:
            if check.failure_info is None:
                continue
            failure, case = check.failure_info.failure, event.recorder.cases[case_id].value
            response = event.recorder.interactions[case_id].response
            body = response.content[:400] if response is not None else b""
            key = f"{case.operation.label} {type(failure).__name__} {failure.message[:200]}"
            found.append((key, f"{key}\n{case.as_curl_command()[:1500]}\n{body!r}"))
    return found


def test_the_document_of_a_gateway_holds() -> None:
    """No operation answers with a 5xx, or otherwise than documented."""
    hold(1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_document_of_a_gateway_holds_at_length() -> None:
    """The same for many more examples of each operation."""
    hold(30)
