"""The hub's tests of the examples, as the hub runs them: each input through a worker, each with an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router_core.testing.runpod_api import PlatformJob, RunpodApi
from tests.runpod.sdk_process import ROOT, sdk_worker

pytest.importorskip("runpod", reason="the runpod SDK is not installed")
pytest.importorskip("PIL", reason="the examples' Pillow is not installed")
pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

HUB = ROOT / ".runpod"
TESTS: dict[str, Any] = json.loads((HUB / "tests.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, PlatformJob]]:
    """Run all of them in the worker that the hub's handler.py starts, with the environment of tests.json."""
    folder = Path(tmp_path_factory.mktemp("hub"))
    environ = {each["key"]: each["value"] for each in TESTS["config"]["env"]}
    with RunpodApi(poll=1.0) as api, sdk_worker(api, [str(HUB / "handler.py")], folder, **environ) as worker:
        worker.ready()
        jobs = {case["name"]: api.submit(case["input"]) for case in TESTS["tests"]}
        yield {name: api.ended(job, 60) for name, job in jobs.items()}


@pytest.mark.parametrize("name", [case["name"] for case in TESTS["tests"]])
def test_the_hubs_test_passes(ended: dict[str, PlatformJob], name: str) -> None:
    """The job completes, with an output."""
    job = ended[name]
    assert job.status == "COMPLETED", job.error
    assert job.output


def test_they_show_what_the_examples_do(ended: dict[str, PlatformJob]) -> None:
    """A greeting, words as a stream, a picture, groups, the description."""
    assert ended["hello"].output == "Hello, hub!"
    assert len(ended["text_generate"].chunks) == len(ended["text_generate"].output) > 0
    assert ended["image_process"].output["content_type"] == "image/png"
    assert sum(group["rows"] for group in ended["batch_segment"].output["groups"]) == 6
    assert "/image/process" in ended["openapi"].output["paths"]
