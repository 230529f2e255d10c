"""Remove a RunPod endpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from handlers.deploy.errors import DeployError, NotPrepared, Refused, TooSlow
from handlers.deploy.progress import Progress
from handlers.deploy.runpod import find_endpoint
from handlers.deploy.runpod_api import RunpodApi

__all__ = ["destroy_runpod"]

_BUSY: Final = frozenset({400, 409, 422})


def destroy_runpod(
    name: str, progress: Progress, api: RunpodApi, *, confirm: Callable[[str], bool], dry_run: bool = False,
    timeout: float = 300.0, poll: float = 2.0,
) -> str:  # fmt: skip
    """Delete the endpoint of that name or id and return its id, or nothing where it was not wanted."""
    with progress.step(f"look up {name}") as step:
        endpoint = find_endpoint(api.endpoints(), name)
        if endpoint is None:
            raise NotPrepared(f"there is no endpoint {name}")
        endpoint_id = str(endpoint["id"])
        step.note(f"endpoint {endpoint_id}, image {endpoint.get('image')}")
    jobs = _open_jobs(api, endpoint_id)
    progress.say(f"  delete {endpoint.get('name')} ({endpoint_id}), its workers{jobs}; this is final")
    if dry_run or not confirm(f"delete {endpoint.get('name')}?"):
        return ""
    with progress.step(f"delete {name}"):
        try:
            api.delete(endpoint_id)
        except Refused as error:
            if error.status not in _BUSY:
                raise
            _drain(api, endpoint_id, timeout, poll)
            api.delete(endpoint_id)
        if api.endpoint(endpoint_id) is not None:
            raise DeployError(f"{name} ({endpoint_id}) is still there after it was deleted")
    return endpoint_id


def _open_jobs(api: RunpodApi, endpoint_id: str) -> str:
    """Count the jobs that would be lost; an endpoint that cannot be asked is no obstacle."""
    try:
        jobs: Mapping[str, Any] = api.health(endpoint_id).get("jobs") or {}
    except DeployError:
        return ""
    running, waiting = jobs.get("inProgress") or 0, jobs.get("inQueue") or 0
    return f", {running} running and {waiting} waiting jobs" if running or waiting else ""


def _drain(api: RunpodApi, endpoint_id: str, timeout: float, poll: float) -> None:
    """Scale to no workers and wait: some endpoints are not deleted before."""
    api.update(endpoint_id, {"workers": {"min": 0, "max": 0}})
    end = time.monotonic() + timeout
    while api.workers(endpoint_id):
        if time.monotonic() + poll > end:
            raise TooSlow(f"after {timeout:g} s workers still run; the endpoint is left with none allowed")
        time.sleep(poll)
