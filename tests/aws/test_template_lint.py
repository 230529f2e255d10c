"""What other makers' tools say of template.yaml, and that they would say something."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

from tests.aws.template_files import lint, read, translate

Document = dict[str, Any]


def _function(document: Document, name: str) -> Document:
    properties: Document = document["Resources"][name]["Properties"]
    return properties


def _endless(document: Document) -> None:
    _function(document, "SweeperFunction")["Timeout"] = 2900


def _whole_batches(document: Document) -> None:
    jobs = _function(document, "JobFunction")["Events"]["Jobs"]
    jobs["Properties"]["FunctionResponseTypes"] = ["ReportBatchFailures"]


def _visible_too_soon(document: Document) -> None:
    document["Resources"]["JobQueue"]["Properties"]["VisibilityTimeout"] = 30
    _function(document, "JobFunction")["Timeout"] = 60  # cfn-lint compares numbers, and no parameters


def _nobodys_queue(document: Document) -> None:
    letters = _function(document, "DeadLetterFunction")["Events"]["DeadLetters"]
    letters["Properties"]["Queue"] = {"Fn::GetAtt": ["Letters", "Arn"]}


def _unknown_event(document: Document) -> None:
    _function(document, "JobFunction")["Events"]["Jobs"]["Type"] = "Sqs"


_FAULTS: Final[Mapping[str, tuple[Callable[[Document], None], str]]] = {
    "a timeout that Lambda does not have": (_endless, "E3717"),
    "a response type that does not exist": (_whole_batches, "E3030"),
    "a message that is visible before its function ends": (_visible_too_soon, "E3505"),
    "a queue that is not there": (_nobodys_queue, "E1010"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Lint the template, and a copy with all faults: each copy takes a second, and no fault hides another."""
    document = read()
    broken = copy.deepcopy(document)
    for plant, _ in _FAULTS.values():
        plant(broken)
    results = translate(document, broken)
    assert not any("error" in result for result in results), results
    templates = dict(zip(("whole", "broken"), (result["template"] for result in results), strict=True))
    return lint(tmp_path_factory.mktemp("lint"), templates)


def test_the_translated_template_is_clean(found: dict[str, set[str]]) -> None:
    """Find nothing, not even a warning, in what CloudFormation will get."""
    assert found["whole"] == set()


@pytest.mark.parametrize("name", _FAULTS)
def test_a_planted_fault_is_found(found: dict[str, set[str]], name: str) -> None:
    """Notice each fault that a look at the untranslated template misses."""
    assert _FAULTS[name][1] in found["broken"]


def test_an_unknown_event_is_refused_by_the_translator() -> None:
    """Notice an event source that does not exist."""
    document = read()
    _unknown_event(document)
    (result,) = translate(document)
    assert "JobFunction" in result["error"]
