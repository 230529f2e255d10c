"""The pretended REST API answers as RunPod's own does: its words, its checks, its rules."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from router_core.testing.runpod_rest import RunpodRest

BODY: dict[str, Any] = {
    "name": "a", "type": "QUEUE", "image": "x:1", "gpu": {"pools": ["ADA_24"]},
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
}  # fmt: skip
SCALED = {"type": "REQUEST_COUNT", "requestCount": 1}


@pytest.fixture
def account() -> Iterator[RunpodRest]:
    """An account without endpoints."""
    with RunpodRest() as account:
        yield account


def call(
    account: RunpodRest,
    method: str,
    path: str,
    body: Any = None,
    *,
    key: str | None = None,
    jobs: bool = False,
) -> tuple[int, Any]:
    """Send a request; returns status and body."""
    environ = account.environ()
    base = environ["RUNPOD_ENDPOINT_BASE_URL" if jobs else "RUNPOD_REST_URL"]
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    token = account.key if key is None else key
    headers = {"authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(base + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        kind = error.headers["content-type"]
        told = json.loads(error.read())
        return (error.code if jobs or kind == "application/problem+json" else 0), told


def test_an_endpoint_lives(account: RunpodRest) -> None:
    """Created with the API's defaults, listed, read, changed, deleted."""
    status, made = call(account, "POST", "/serverless", BODY)
    assert status == 201
    assert made["workers"] == {"min": 0, "max": 3, "idleTimeout": 10}
    assert (made["timeout"], made["flashboot"], made["env"]) == (300_000, "OFF", {})
    assert made["gpu"] == {
        "pools": ["ADA_24"], "count": 1, "allowedCudaVersions": [], "minCudaVersion": None
    }  # fmt: skip
    assert made["requestUrls"]["runSync"].endswith(f"/v2/{made['id']}/runsync")
    path = f"/serverless/{made['id']}"
    assert call(account, "GET", "/serverless") == (200, {"endpoints": [made]})
    assert call(account, "GET", path) == (200, made)
    assert call(account, "PATCH", path, {"disk": 9, "workers": {"max": 5}})[1]["workers"] == {
        "min": 0, "max": 5, "idleTimeout": 10
    }  # fmt: skip
    assert call(account, "DELETE", path) == (204, None)
    assert call(account, "GET", path)[0] == 404
    assert call(account, "DELETE", path)[0] == 404


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"imageName": "x"}, 422, "imageName"),
        ({"image": None}, 422, "image"),
        ({"type": None}, 422, "type"),
        ({"scaling": {"type": "QUEUE_DELAY"}}, 422, "queueDelay"),
        ({"disk": "20"}, 422, "disk"),
        ({"gpu": None}, 400, "exactly one"),
        ({"cpu": [{"id": "cpu5c", "vcpuCount": 4}]}, 400, "exactly one"),
        ({"gpu": {}}, 422, "gpu.pools"),
        ({"gpu": {"pools": ["A"], "allowedCudaVersions": ["12.1"], "minCudaVersion": "12.1"}}, 400, "mutual"),
        ({"scaling": SCALED, "workers": {"idleTimeout": 5}}, 400, "idle"),
    ],
)  # fmt: skip
def test_a_body_that_is_wrong_is_refused(
    account: RunpodRest, change: dict[str, Any], status: int, said: str
) -> None:
    """As a problem that names the field."""
    body = {key: value for key, value in {**BODY, **change}.items() if value is not None}
    found, problem = call(account, "POST", "/serverless", body)
    assert found == problem["status"] == status
    assert said in json.dumps(problem)
    assert account.names() == []


def test_an_update_keeps_to_the_rules(account: RunpodRest) -> None:
    """env is replaced, hardware keeps its kind, pools clear exclusions, exclusions need pools."""
    made = call(account, "POST", "/serverless", {**BODY, "env": {"A": "1"},
                "gpu": {"pools": ["A"], "excludedTypes": ["NVIDIA L40"]}})[1]  # fmt: skip
    path = f"/serverless/{made['id']}"
    assert call(account, "PATCH", path, {"env": {"B": "2"}})[1]["env"] == {"B": "2"}
    assert call(account, "PATCH", path, {"cpu": [{"id": "c", "vcpuCount": 2}]})[0] == 400
    assert call(account, "PATCH", path, {"gpu": {"excludedTypes": ["x"]}})[0] == 422
    assert call(account, "PATCH", path, {"gpu": {"count": 2}})[1]["gpu"]["excludedTypes"] == ["NVIDIA L40"]
    assert "excludedTypes" not in call(account, "PATCH", path, {"gpu": {"pools": ["A"]}})[1]["gpu"]
    assert call(account, "PATCH", path, {"type": "QUEUE"})[0] == 422
    assert call(account, "PATCH", path, b"{")[0] == 400


def test_a_cpu_endpoint_tells_its_memory(account: RunpodRest) -> None:
    """And has no gpu."""
    cpu = [{"id": "cpu5c", "vcpuCount": 4}]
    body = {key: value for key, value in BODY.items() if key != "gpu"}
    made = call(account, "POST", "/serverless", {**body, "cpu": cpu})[1]
    assert made["cpu"] == [{"id": "cpu5c", "vcpuCount": 4, "memory": 8}]
    assert "gpu" not in made


def test_keys_are_checked(account: RunpodRest) -> None:
    """Missing and wrong ones, on both APIs."""
    assert call(account, "GET", "/serverless", key="")[1]["detail"] == "missing bearer token"
    assert call(account, "GET", "/serverless", key="x")[0] == 401
    made = account.add("a")
    assert call(account, "POST", f"/{made}/run", {"input": {}}, key="x", jobs=True)[0] == 401
    assert call(account, "POST", "/none/run", {"input": {}}, jobs=True)[0] == 404
    assert call(account, "PUT", "/serverless")[0] == 405


def test_a_release_replaces_the_workers(account: RunpodRest) -> None:
    """Those of the version from before are stale, then gone; scaling alone replaces none."""
    made = account.add("a", workers={"min": 1, "max": 2})
    path = f"/serverless/{made}"

    def workers() -> list[tuple[str, bool]]:
        found = call(account, "GET", f"{path}/workers")[1]
        assert found["summary"]["total"] == len(found["workers"])
        return [(each["status"], each["isStale"]) for each in found["workers"]]

    call(account, "PATCH", path, {"workers": {"max": 3}})
    assert workers() == [("IDLE", False)]
    call(account, "PATCH", path, {"image": "x:2"})
    assert [workers(), workers(), workers()] == [
        [("IDLE", True)],
        [("INITIALIZING", False)],
        [("IDLE", False)],
    ]


def test_jobs_are_answered_by_the_habits(account: RunpodRest) -> None:
    """At once by a ready worker, else by one that starts; cancelled ones never."""
    made = account.add("warm", workers={"min": 1, "max": 1})
    status, job = call(account, "POST", f"/{made}/runsync", {"input": {"x": 1}}, jobs=True)
    assert (status, job["status"], job["output"]) == (200, "COMPLETED", {"x": 1})
    cold = account.add("cold")
    job = call(account, "POST", f"/{cold}/run", {"input": {"x": 2}}, jobs=True)[1]
    assert job["status"] == "IN_QUEUE"
    status_path = f"/{cold}/status/{job['id']}"
    assert call(account, "GET", status_path, jobs=True)[1]["status"] == "IN_QUEUE"
    for _ in range(2):
        call(account, "GET", f"/serverless/{cold}/workers")
    assert call(account, "GET", status_path, jobs=True)[1]["status"] == "COMPLETED"
    assert account.jobs(cold) == [({"x": 2}, "COMPLETED")]


def test_faults_are_as_they_are_named(account: RunpodRest) -> None:
    """An answer does nothing, a lost one everything."""
    account.fault("create", status=503)
    assert call(account, "POST", "/serverless", BODY)[0] == 503
    assert account.names() == []
    account.fault("create", "lose")
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        call(account, "POST", "/serverless", BODY)
    assert account.names() == ["a"]
    account.fault("create", "drop")
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        call(account, "POST", "/serverless", BODY)
    assert account.names() == ["a"]
    assert [each.action for each in account.seen("create")] == ["create"] * 3
