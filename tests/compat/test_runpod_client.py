"""The official ``runpod`` client against the RunPod-shaped routes, unchanged."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def seen(service_url: str, run_script: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """What the client saw; its base URL is read when it is imported, hence the environment."""
    return run_script("runpod_client.py", "runpod", RUNPOD_ENDPOINT_BASE_URL=f"{service_url}/v2")


def test_a_job_is_run_and_read_as_often_as_wanted(seen: dict[str, Any]) -> None:
    """run, status, output, and the whole status once more."""
    calls = seen["calls"]
    assert (calls["output"], calls["status"]) == (3, "COMPLETED")
    assert (calls["again"]["status"], calls["again"]["output"]) == ("COMPLETED", 3)
    assert calls["again"]["executionTime"] >= 0
    assert calls["again"]["delayTime"] >= 0


def test_run_sync_returns_the_output_itself(seen: dict[str, Any]) -> None:
    """Arguments are coerced as everywhere, plain calls run as well, and a failure has no output."""
    calls = seen["calls"]
    assert (calls["sync"], calls["wrapped"], calls["sync_failed"]) == (42, {"hello": "bob"}, None)


def test_progress_and_files_travel(seen: dict[str, Any]) -> None:
    """A file goes in as an object and comes back as one; the progress shows in between."""
    calls = seen["calls"]
    assert calls["progress"] == {"progress": 0.5, "message": "half way"}
    assert (calls["file"]["file_name"], calls["file"]["content_type"]) == ("loud.txt", "text/plain")
    assert b64decode(calls["file"]["content"]) == b"HELLO"


def test_a_failure_says_why_and_shows_no_traceback(seen: dict[str, Any]) -> None:
    """The error is one line of text."""
    assert seen["calls"]["error"] == "ValueError: no cat in the picture"


def test_what_cannot_be_right_is_refused_at_once(seen: dict[str, Any]) -> None:
    """422 for a wrong path and wrong arguments, 404 for a job that nobody knows."""
    refusals = seen["refusals"]
    assert refusals["path"] == [422, ["input", "path"]]
    assert refusals["missing"] == [422, ["input", "path"]]
    assert refusals["type"][0] == 422
    assert refusals["type"][1][-1] == "a"
    assert refusals["unknown"] == 404


def test_a_stream_is_read_to_its_end(seen: dict[str, Any]) -> None:
    """Every chunk once and in order; the aggregate is the output; a cancelled stream ends, too."""
    streams = seen["streams"]
    assert streams["chunks"] == ["to", "be", "or", "not", {"count": 4}]
    assert (streams["status"], streams["output"]) == ("COMPLETED", streams["chunks"])
    assert (streams["cancel"], streams["rest"]) == ("CANCELLED", 410)


def test_health_and_purge_tell_of_the_queue(seen: dict[str, Any]) -> None:
    """One runs, three wait; the purge takes the three and leaves the one."""
    queue = seen["queue"]
    assert (queue["before"]["jobs"]["inProgress"], queue["before"]["jobs"]["inQueue"]) == (1, 3)
    assert queue["before"]["workers"]["running"] == 1
    assert queue["purged"] == {"removed": 3, "status": "completed"}
    assert queue["statuses"] == ["CANCELLED"] * 3
    assert queue["running"] == "IN_PROGRESS"
    assert (queue["after"]["jobs"]["inProgress"], queue["after"]["jobs"]["inQueue"]) == (0, 0)


def test_the_asynchronous_client_works_as_well(seen: dict[str, Any]) -> None:
    """run, output, stream, cancel, health and purge over aiohttp."""
    assert seen["asynchronous"] == {
        "output": 5,
        "status": "COMPLETED",
        "chunks": ["a", "b", {"count": 2}],
        "cancel": "CANCELLED",
        "health": ["jobs", "workers"],
        "purged": {"removed": 0, "status": "completed"},
    }
