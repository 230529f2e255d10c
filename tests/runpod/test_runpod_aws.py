"""A real worker with records in DynamoDB and blobs in S3: what outlives it, and where large results go."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import urllib.request
import uuid
from pathlib import Path

import pytest

from router_core.stores.dynamodb import create_table
from router_core.testing.runpod_api import RunpodApi
from router_core.vendors import boto3
from tests.runpod.real_worker import real_worker

pytest.importorskip("runpod", reason="the runpod SDK is not installed")
pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


@pytest.fixture
def shared(aws: str) -> dict[str, str]:
    """Return the settings of a table and a bucket of this test's own."""
    name = f"runpod-{uuid.uuid4().hex[:12]}"
    boto3.forget()
    create_table(name, expire=False)
    boto3.client("s3").create_bucket(Bucket=name)
    boto3.forget()
    return {"ROUTER_JOBS": f"dynamodb://{name}", "ROUTER_BLOBS": f"s3://{name}/results"}


async def test_records_outlive_the_worker_and_are_shared(folder: Path, shared: dict[str, str]) -> None:
    """A result that was not posted, a caller's key, and a result that is too large to be posted."""
    notes = folder / "notes.log"
    with RunpodApi(poll=1.0) as api:
        with real_worker(api, folder, notes=notes, **shared) as worker:
            job = api.submit({"path": "/once", "name": "kept"})
            fault = api.fault("job-done", status=500, times=None, job=job)
            api.wait(lambda: fault.hits >= 2, 60)
            worker.process.signal(signal.SIGKILL)
            worker.process.wait()
        fault.lift()
        api.deliver_again(job)
        with real_worker(api, folder, "worker-2", notes=notes, **shared) as other:
            assert api.ended(job, 60).output == "kept", other.log
            first, second = (
                other.run("/once", name="keyed", idempotency_key="k").output,
                other.run("/once", name="keyed", idempotency_key="k").output,
            )
            assert first == second == "keyed"
            assert sorted(other.notes()) == ["loaded", "loaded", "once kept", "once keyed"]
            ref = other.run("/big", size=11_000_000).output["result_ref"]
    data = await asyncio.to_thread(_fetch, ref["href"])
    assert (len(data), hashlib.sha256(data).hexdigest()) == (ref["size"], ref["sha256"])
    assert data.startswith(b'"')


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        found: bytes = answer.read()
    return found
