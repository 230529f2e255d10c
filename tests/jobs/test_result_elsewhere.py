"""Results that are larger than the platform's answers may be: the caller is sent to the blob store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pydantic_core
import pytest

from router_core.http.message import Headers, Request, Response
from router_core.jobs.blobs import SignsUrls
from router_core.jobs.http import accept
from router_core.jobs.job import Job
from tests.jobs.serving import ANN, Bench, Blobs, data


class Signing(Blobs):
    """Blobs with addresses of their own."""

    presigns = True

    def presign(
        self, key: str, *, seconds: int = 300, content_type: str | None = None, filename: str | None = None
    ) -> str:
        """Return what was asked for, as an address."""
        return f"https://blobs.example/{key}?type={content_type}&name={filename}&for={seconds}"


@dataclass
class SigningBench(Bench):
    """A service over them."""

    blobs: Blobs = field(default_factory=Signing)


async def ended(bench: Bench, size: int, **ref: Any) -> Job:
    """Return a job whose result of so many bytes lies in the blob store."""
    job = (await bench.submit()).job
    blob = await bench.blobs.put(b"x" * size, content_type=ref.get("content_type", "application/json"))
    full = {"key": blob.key, "sha256": blob.sha256, "size": size, "content_type": blob.content_type, **ref}
    return await bench.succeed(await bench.claim(job.id), ref=pydantic_core.to_json(full))


async def read(bench: Bench, job: Job, limit: int) -> Response:
    """Ask for the result through an adapter with such a limit."""
    request = Request(
        "GET", f"/jobs/{job.id}/result", principal=ANN, path_params={"job_id": job.id}, max_reply_bytes=limit
    )
    return await bench.http.result(request)


async def test_a_result_over_the_limit_is_read_from_the_blob_store() -> None:
    """303 to an address that ends soon, with the type and name of the file, and not to be kept."""
    bench = SigningBench()
    assert isinstance(bench.blobs, SignsUrls)
    job = await ended(bench, 1001, content_type="image/png", filename="cat.png")
    answer = await read(bench, job, 1000)
    assert (answer.status, answer.body) == (303, b"")
    place = answer.header("location")
    assert place is not None
    assert place.endswith("?type=image/png&name=cat.png&for=300")
    assert place.startswith("https://blobs.example/")
    assert answer.header("cache-control") == "no-store"


@pytest.mark.parametrize(("size", "limit"), [(1000, 1000), (5000, 0)])
async def test_a_result_within_the_limit_is_answered(size: int, limit: int) -> None:
    """So is any result where the platform has no limit."""
    bench = SigningBench()
    answer = await read(bench, await ended(bench, size), limit)
    assert (answer.status, answer.body) == (200, b"x" * size)


async def test_a_blob_store_without_addresses_answers_itself() -> None:
    """What becomes of an answer that is too large is then up to the adapter."""
    bench = Bench()
    assert (await read(bench, await ended(bench, 2000), 1000)).status == 200


async def test_a_sync_wait_is_answered_the_same_way() -> None:
    """Location leads to the result, and a link to the job."""
    bench = SigningBench()
    job = await ended(bench, 2000)
    route = bench.routes["/paint"]

    async def wait(job_id: str, *_: Any) -> Job:
        return job

    bench.service.wait = wait  # type: ignore[method-assign, assignment]
    request = Request(
        "POST", "/paint", "sync=true", Headers([("content-type", "application/json")]),
        b'{"prompt":"a"}', principal=ANN, max_reply_bytes=1000,
    )  # fmt: skip
    answer = await accept(bench.service, route, request, await route.plan.collect(request))
    assert answer.status == 303
    assert [name for name, _ in answer.headers].count("location") == 1
    assert answer.header(
        "location",
    ).startswith("https://blobs.example/")  # type: ignore[union-attr]
    assert answer.header("link") == f'</jobs/{job.id}>; rel="status"'


async def test_a_job_body_embeds_no_more_than_fits() -> None:
    """For clients that cannot follow links; the rest of the body is answered all the same."""
    bench = SigningBench()
    job = await ended(bench, 900, content_type="image/png", filename="")
    for limit, embedded in ((0, True), (2000, True), (1000, False)):
        request = Request(
            "GET", f"/jobs/{job.id}", "shape=apipod", principal=ANN, path_params={"job_id": job.id},
            max_reply_bytes=limit,
        )  # fmt: skip
        body = data(await bench.http.get(request))
        assert (body.get("result") is not None) is embedded, limit
