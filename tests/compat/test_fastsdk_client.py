"""``fastsdk`` against the server's own routes and against the RunPod-shaped ones, unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

BOTH = pytest.mark.parametrize("way", ["native", "runpod"])


@pytest.fixture(scope="module")
def seen(run_script: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """What the client saw, connected to the root and to the endpoint."""
    return run_script("fastsdk_client.py", "fastsdk")


@BOTH
def test_the_service_is_recognised_as_one_with_jobs(seen: dict[str, Any], way: str) -> None:
    """``info.apipod`` says so; every function of the author is an operation."""
    assert (seen[way]["specification"], seen[way]["queue"]) == ("apipod", True)
    assert {"/add", "/fail", "/hello", "/shout", "/tokens", "/wait"} <= set(seen[way]["operations"])


@BOTH
def test_functions_are_called_by_name(seen: dict[str, Any], way: str) -> None:
    """By operation or path, with and without defaults; a generator's result is the list of what it yields."""
    assert (seen[way]["added"], seen[way]["defaulted"]) == (42, 2)
    assert seen[way]["tokens"] == ["to", "be", "or", "not", {"count": 4}]


@BOTH
def test_files_come_back_as_media(seen: dict[str, Any], way: str) -> None:
    """Name, type and content survive in both directions."""
    assert seen[way]["file"] == ["loud.txt", "text/plain", "HELLO " * 100]


def test_files_are_uploaded_from_disk(seen: dict[str, Any]) -> None:
    """Given a path, the client reads and sends the file: as multipart, or within the input."""
    assert seen["uploaded"] == ["FROM DISK " * 20] * 2


def test_progress_is_seen_on_the_way(seen: dict[str, Any]) -> None:
    """Half of the polling step, which is the third of four."""
    assert any(step[0] == 0.625 and step[1].endswith("half way") for step in seen["native"]["steps"])
    assert any(step[0] == 0.625 for step in seen["runpod"]["steps"])


@BOTH
def test_a_failure_is_raised_with_its_reason(seen: dict[str, Any], way: str) -> None:
    """The client's exception holds type and message."""
    assert seen[way]["error"].endswith("ValueError: no cat")


@BOTH
def test_cancel_ends_the_job(seen: dict[str, Any], way: str) -> None:
    """A running job is cancelled on the server, not only given up by the client."""
    assert seen[way]["cancelled"] == "CANCELLED"


def test_output_is_streamed_while_it_comes(seen: dict[str, Any]) -> None:
    """Unnamed events are output, the end is the end."""
    assert seen["stream"] == ["a", "b", {"count": 2}]
