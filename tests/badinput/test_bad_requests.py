"""Hundreds of malformed requests against a real server: each gets its 4xx, none disturbs the others."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.badinput import cases_bodies, cases_head, cases_jobs, cases_values
from tests.badinput.bad_wire import Answer, Bad, send
from tests.badinput.conftest import Service

GROUPS: dict[str, list[Bad]] = {
    **cases_values.CASES, **cases_bodies.CASES, **cases_head.CASES, **cases_jobs.CASES,
}  # fmt: skip
CASES = {bad.name: bad for group in GROUPS.values() for bad in group}

_LEAK = re.compile(
    rb"Traceback|File \"|\.py\b|site-packages|/router_core/|/home/|/tmp/|sqlite3|0x[0-9a-f]{8,}"
)
_MAX_ANSWER = 64 * 1024


def check(bad: Bad, answer: Answer) -> None:
    """Hold an answer to the form of a problem."""
    shown = (bad.name, answer.status, answer.body[:600])
    assert answer.status == bad.status, shown
    assert answer.headers["content-type"] == "application/problem+json", shown
    problem = answer.problem
    assert problem["status"] == answer.status
    assert problem["type"] == f"urn:router-core:error:{problem['code']}", shown
    for member in ("title", "detail", "request_id"):
        assert isinstance(problem[member], str), shown
        assert problem[member], shown
    assert answer.headers["x-request-id"] == problem["request_id"], shown
    assert answer.headers["x-content-type-options"] == "nosniff", shown
    assert not bad.code or problem["code"] == bad.code, shown
    assert not _LEAK.search(answer.body), shown
    assert len(answer.body) < _MAX_ANSWER, (bad.name, len(answer.body))
    for name in bad.headers:
        assert name in answer.headers, (name, answer.headers)
    if answer.status == 422 and problem["code"] == "validation_failed":
        check_errors(bad, problem["errors"])


def check_errors(bad: Bad, errors: list[dict[str, object]]) -> None:
    """Hold the list of wrong values to its form, and its first to the place."""
    assert errors, bad.name
    for error in errors:
        assert set(error) == {"loc", "msg", "type"}, error
        assert isinstance(error["loc"], list), error
    if bad.loc is not None:
        assert errors[0]["loc"] == list(bad.loc), (bad.name, errors[:3])


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, service: Service) -> None:
    """A malformed request gets exactly its 4xx, as a problem that says no more than it should."""
    bad = CASES[name]
    answer = send(service.port, service.fill(bad.raw), to_the_end=bad.framing)
    check(bad, answer)
    if bad.framing:
        assert answer.closed
        assert answer.headers["connection"] == "close"
        assert answer.rest == b"", (bad.name, answer.rest[:300])


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_leaves_nothing_behind(group: str, service: Service) -> None:
    """After each group once more, all on one worker: the server answers, and has not grown by much."""
    before = service.memory
    for bad in GROUPS[group]:
        check(bad, send(service.port, service.fill(bad.raw), to_the_end=bad.framing))
    service.check_alive()
    assert service.memory - before < 160 * 1024 * 1024


def test_the_table_is_what_it_claims_to_be() -> None:
    """At least 200 requests, all different."""
    cases = [bad for group in GROUPS.values() for bad in group]
    assert len(cases) >= 200
    twice = [name for name, count in Counter(bad.name for bad in cases).items() if count > 1]
    assert not twice
    assert len({bad.raw for bad in cases}) == len(cases)
