"""Our worker in the SDK's own loop: what comes out, whatever a function does."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from router_core.testing.runpod_api import PlatformJob
from tests.runpod.real_worker import RealWorker

pytest.importorskip("runpod", reason="the runpod SDK is not installed")
pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

DEEP: Any = json.loads("[" * 500 + "]" * 500)


def problem(job: PlatformJob) -> dict[str, Any]:
    """Return the error of a failed job, which is one line of JSON."""
    assert job.status == "FAILED", job
    assert isinstance(job.error, str)
    assert "\n" not in job.error
    found: dict[str, Any] = json.loads(job.error)
    return found


# --- plain


def test_plain_calls_are_routed_coerced_and_answered(real: RealWorker) -> None:
    """By path, with or without the slash, defaults filled in; sync and async functions."""
    api = real.api
    jobs = api.submit_all([
        {"path": "/add", "a": "40", "b": 2}, {"path": "add", "a": 1},
        {"path": "/hello", "name": "Ann"}, {"path": "/nothing"},
    ])  # fmt: skip
    ended = api.all_ended(jobs)
    assert [job.status for job in ended] == ["COMPLETED"] * 4
    assert [job.output for job in ended] == [42, 2, {"hello": "Ann"}, {}]
    for job in jobs:
        (post,) = api.posts(job)
        assert (post.action, set(post.json)) == ("job-done", {"output"})
        assert post.headers["authorization"] == api.key


def test_runsync_gets_the_whole_status(real: RealWorker) -> None:
    """The same, for a caller who waits."""
    job = real.run("/add", sync=True, a=1, b=2)
    assert job.id.startswith("sync-")
    told = job.tell()
    assert (told["status"], told["output"]) == ("COMPLETED", 3)


def test_the_description_is_a_virtual_route(real: RealWorker) -> None:
    """What the service offers can be asked like everything else."""
    document = real.run("openapi.json").output
    assert document["info"]["title"] == "for the real worker"
    assert {"/add", "/count"} <= set(document["paths"])


def test_keys_that_the_sdk_takes_for_orders_are_the_authors(real: RealWorker) -> None:
    """error, refresh_worker and status reach the caller; nobody replaces the worker or fails the job."""
    job = real.run("/keys")
    assert (job.status, job.output) == (
        "COMPLETED", {"error": "mine", "refresh_worker": True, "status": "IN_PROGRESS", "x": 1},
    )  # fmt: skip
    assert "stopPod" not in job.body
    assert real.run("/hello").status == "COMPLETED"


# --- errors


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        ({"path": "/add", "a": "one"}, 422, ["a", "integer"]),
        ({"path": "/add"}, 422, ["a", "required"]),
        ({"path": "/nowhere"}, 422, ["path"]),
        ({"a": 1}, 422, ["path"]),
        ({"path": ["/add"]}, 422, ["path"]),
        ({"path": "/teapot"}, 418, ["short and stout"]),
        ({"path": "/hello", "method": "DELETE"}, 422, ["method", "GET"]),
        ({"path": "/hello", "method": 5}, 422, ["method", "GET"]),
        ({"path": "/hello?name=x"}, 422, ["path"]),
        ({"path": "../hello"}, 422, ["path"]),
        ({"path": "/jobs"}, 422, ["path"]),
        ({"path": "\0"}, 422, ["path"]),
        ({"path": "/add", "a": "1" * 5000}, 422, ["a", "integer"]),
        ({"path": "/hello", "name": DEEP}, 400, ["depth"]),
        ("text", 422, ["input"]),
        (None, 422, ["input"]),
        ([], 422, ["input"]),
    ],
)
def test_a_mistake_is_named_in_one_line(real: RealWorker, given: Any, status: int, words: list[str]) -> None:
    """FAILED, the same problem as on every platform, as text; nobody waits for a timeout."""
    told = problem(real.api.ended(real.api.submit(given)))
    assert told["status"] == status, told
    for word in words:
        assert word in json.dumps(told), told


@pytest.mark.parametrize("path", ["/crash", "/leave", "/odd"])
def test_a_bug_fails_the_job_at_once_and_shows_no_code(real: RealWorker, path: str) -> None:
    """An exception, SystemExit, a result that is none: one post, no traceback; the worker goes on."""
    job = real.api.ended(real.submit(path))
    told = problem(job)
    assert told["status"] == 500
    assert "Traceback" not in str(job.error)
    assert ".py" not in str(job.error)
    assert "a secret place" not in str(told.get("traceback", ""))
    assert len(real.api.posts(job.id)) == 1
    assert real.run("/hello").status == "COMPLETED"


def test_not_a_number_is_posted_as_json(real: RealWorker) -> None:
    """As null, like on every platform; the SDK alone would post NaN, which the platform cannot read."""
    job = real.run("/nan")
    assert (job.status, job.output) == ("COMPLETED", {"value": None})
    assert b"NaN" not in real.api.posts(job.id)[0].body


@pytest.mark.parametrize(
    ("kind", "words"), [("bug", "a wheel came off"), ("refusal", "no more tea"), ("exit", "SystemExit")]
)
def test_a_job_route_fails_in_the_same_form(real: RealWorker, kind: str, words: str) -> None:
    """With type and message of the author's error."""
    job = real.run("/wrong", kind=kind)
    assert words in json.dumps(problem(job))
    assert "Traceback" not in str(job.error)


def test_a_mistake_of_a_job_routes_caller_is_named_too(real: RealWorker) -> None:
    """Before anything runs."""
    told = problem(real.run("/count", to="many"))
    assert (told["status"], told["errors"][0]["loc"][-1]) == (422, "to")


# --- size


def test_a_result_that_is_too_large_fails_loudly(real: RealWorker) -> None:
    """Instead of being dropped by the platform with the job left hanging; nothing was refused with 400."""
    api = real.api
    small, large, asked = (
        real.submit("/big", size=8_000_000), real.submit("/big", size=11_000_000),
        real.submit("/big", size=15_000_000, sync=True),
    )  # fmt: skip
    first, second, third = api.all_ended([small, large, asked])
    assert (first.status, len(first.output)) == ("COMPLETED", 8_000_000)
    assert "11000002" in json.dumps(problem(second))
    assert problem(second)["code"] == "result_too_large"
    assert (third.status, len(third.output)) == ("COMPLETED", 15_000_000)
    assert {post.status for job in (small, large, asked) for post in api.posts(job)} == {200}


# --- streams


@pytest.mark.parametrize(
    ("path", "arguments", "chunks"),
    [
        ("/tokens", {"count": 5}, [{"n": n, "text": "xxx"} for n in range(5)]),
        ("/letters", {"word": "queue"}, list("queue")),
        ("/spell", {"word": "letters"}, list("letters")),
        ("/letters", {"word": ""}, []),
    ],
)
def test_what_is_yielded_is_posted_in_order_and_kept_whole(
    real: RealWorker, path: str, arguments: dict[str, Any], chunks: list[Any]
) -> None:
    """Async, sync, as a job, and nothing at all: chunks one after the other, then the list of all."""
    job = real.run(path, **arguments)
    assert (job.status, job.chunks, job.output) == ("COMPLETED", chunks, chunks)
    posts = [post.action for post in real.api.posts(job.id) if not post.is_progress]
    assert posts == ["job-stream"] * len(chunks) + ["job-done"]
    assert real.api.posts(job.id)[-1].query["isStream"] == "true"


def test_no_chunk_is_larger_than_the_platform_takes(real: RealWorker) -> None:
    """Large items go through while they fit; one that does not fails the job and says so."""
    job = real.run("/tokens", count=3, size=900_000)
    assert (job.status, len(job.chunks)) == ("COMPLETED", 3)
    assert all(len(post.body) <= 1_000_000 for post in real.api.posts(job.id) if post.action == "job-stream")
    too_large = real.run("/tokens", count=3, size=1_000_000)
    assert problem(too_large)["code"] == "chunk_too_large"
    assert too_large.chunks == []


def test_a_stream_that_fails_keeps_what_it_had_said(real: RealWorker) -> None:
    """The chunks before the error, then the error; nothing after it."""
    job = real.run("/tokens", count=5, fail_at=3)
    assert [chunk["n"] for chunk in job.chunks] == [0, 1, 2]
    assert problem(job)["status"] == 500
    assert job.late == []


# --- progress


def test_progress_arrives_in_order_and_never_after_the_end(real: RealWorker) -> None:
    """Coalesced: fewer posts than steps; the last word is the result."""
    jobs = real.api.submit_all([{"path": "/count", "to": 100, "pause": 0.005} for _ in range(3)])
    for job in real.api.all_ended(jobs):
        values = [each["progress"] for each in job.progress]
        assert values == sorted(values)
        assert 2 <= len(values) < 60
        assert all(0 < value <= 1 for value in values)
        assert (job.status, job.output) == ("COMPLETED", {"counted": 100})
        posts = real.api.posts(job.id)
        assert [post.is_progress for post in posts] == [True] * (len(posts) - 1) + [False]
    late = [job for job in real.api.all_ended(jobs) if job.late]
    assert late == []


@pytest.mark.parametrize("path", ["/tell", "/report"])
def test_a_result_waits_for_the_progress_that_is_under_way(real: RealWorker, path: str) -> None:
    """Of a job and of a plain call: else a slow post of progress would arrive after the result."""
    job, (held,) = real.faulty(path, {"action": "job-done", "kind": "hold"})
    real.noted(f"{path[1:]} ends")
    time.sleep(0.3)
    assert [post.is_progress for post in real.api.posts(job)] == [True]
    held.release()
    ended = real.api.ended(job)
    assert (ended.status, ended.output, ended.late) == ("COMPLETED", "told", [])
    assert [post.is_progress for post in real.api.posts(job)] == [True, False]
