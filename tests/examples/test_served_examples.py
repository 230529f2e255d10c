"""The examples as their callers see them: through the test client, and through a real server."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from examples.app import router
from examples.image import router as image_router
from router_core import Settings
from router_core.client import Client, File, JobFailed, connect
from router_core.errors import ValidationFailed
from router_core.testing.client import TestClient
from tests.served import Served, served

EXAMPLES = Path(__file__).parents[2] / "examples"
PHOTO = EXAMPLES / "photo.jpg"


@pytest.fixture(scope="module")
def in_process() -> Iterator[TestClient]:
    with TestClient(router) as client:
        yield client


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "examples").symlink_to(EXAMPLES)
    with served("examples.app:router", folder) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Served) -> Iterator[Client]:
    with connect(service.url) as client:
        yield client


def opened(file: File) -> Image.Image:
    picture = Image.open(file.open())
    picture.load()
    return picture


def small_photo() -> File:
    with Image.open(PHOTO) as picture:
        out = BytesIO()
        picture.crop((100, 50, 260, 170)).save(out, "JPEG", quality=90)
    return File.from_bytes(out.getvalue(), filename="small.jpg", content_type="image/jpeg")


def test_image_through_the_test_client(in_process: TestClient) -> None:
    """Upload, data URI, base64 object and base64 text give the same picture."""
    photo = small_photo()
    process = in_process.connect().endpoint("/image/process")
    by_upload = process(image=photo, operation="enhance").result(timeout=30)
    for form in (photo.to_data_uri(), photo.to_object(), photo.to_object()["content"]):
        body = {"image": form, "operation": "enhance"}
        answer = in_process.post("/image/process", query={"sync": "true"}, json=body)
        assert answer.status == 200
        assert answer.header("content-type") == "image/png"
        assert answer.content == by_upload.read()


@pytest.fixture
def photo_url(tmp_path: Path) -> Iterator[str]:
    """A server on this machine that holds one photograph."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "image/jpeg")
            self.end_headers()
            self.wfile.write(small_photo().read())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/small.jpg"
        server.shutdown()
        thread.join()


def test_image_by_url(in_process: TestClient, photo_url: str) -> None:
    """A picture is fetched from its URL, but not from this machine unless that is allowed."""
    body = {"image": photo_url, "operation": "enhance"}
    refused = in_process.post("/image/process", json=body)
    assert refused.status == 422
    assert refused.value["errors"][0]["type"] == "file_url", refused.value
    trusting = Settings(jobs="memory://", blobs="memory://", allow_private_urls=True)
    with TestClient(image_router, settings=trusting) as client:
        answer = client.post("/process", query={"sync": "true"}, json=body)
    assert answer.status == 200
    assert opened(File.from_bytes(answer.content)).size == (160, 120)


def test_unreadable_picture_is_refused_before_it_is_a_job(in_process: TestClient) -> None:
    """422 with the place and the reason, and no record."""
    answer = in_process.post("/image/process", files={"image": b"not a picture"})
    assert answer.status == 422
    assert answer.value["errors"][0]["loc"] == ["body", "image"]
    assert "not a picture" in answer.value["errors"][0]["msg"]
    assert not in_process.get("/jobs", query={"status": "failed"}).value["jobs"]


def test_damaged_picture_fails_its_job_with_422(in_process: TestClient) -> None:
    """What only decoding can show fails the job; a waiting caller is answered with 422."""
    cut = File.from_bytes(PHOTO.read_bytes()[:20_000], filename="cut.jpg")
    answer = in_process.post("/image/process", query={"sync": "true"}, files={"image": cut})
    assert answer.status == 422
    assert "damaged" in answer.value["detail"]


def test_text_through_the_test_client(in_process: TestClient) -> None:
    """The stream begins at once, and the same seed gives the same words in both formats."""
    body = {"prompt": "the Queen", "seed": 7, "max_tokens": 15, "tokens_per_second": 10_000}
    lines = in_process.post("/text/generate", json=body).content.splitlines()
    words = [json.loads(line) for line in lines]
    assert len(words) == 15
    sse = {"accept": "text/event-stream"}
    events = in_process.post("/text/generate", json=body, headers=sse).content.decode().split("\n\n")
    data = [json.loads(event[6:]) for event in events if event.startswith("data: ")]
    assert data == words
    wrong = in_process.post("/text/generate", json={"temperature": 9})
    assert (wrong.status, wrong.value["errors"][0]["loc"]) == (422, ["body", "temperature"])


def test_readability_through_the_test_client(in_process: TestClient) -> None:
    """A plain call with a model as its body."""
    answer = in_process.post("/text/readability", json={"text": "The cat sat. The dog ran."})
    assert answer.value["sentences"] == 2
    assert in_process.post("/text/readability", json={"text": ""}).status == 422


@pytest.mark.process
def test_photograph_through_a_server(client: Client) -> None:
    """The README's first example: progress is seen to rise, and the PNG is what was asked for."""
    process = client.endpoint("/image/process")
    job = process(image=PHOTO, operation="upscale", scale=3, strength=0.5)
    seen = [job.progress]
    while not job.done:
        job.refresh()
        seen.append(job.progress)
    picture = job.result()
    assert seen == sorted(seen)
    assert any(0 < fraction < 1 for fraction in seen)
    assert seen[-1] == 1.0
    assert (picture.filename, picture.content_type) == ("photo-upscale.png", "image/png")
    result = opened(picture)
    assert (result.format, result.size, result.mode) == ("PNG", (1800, 1200), "RGB")
    with Image.open(PHOTO) as before:
        plain = before.convert("RGB").resize(result.size)
    difference = ImageChops.difference(result, plain).convert("L")
    share = sum(difference.histogram()[3:]) / (1800 * 1200)
    assert 0.05 < share < 0.95
    assert sum(value * count for value, count in enumerate(difference.histogram())) / (1800 * 1200) < 20


@pytest.mark.process
def test_cancel_through_a_server(client: Client) -> None:
    """A cancel in the middle ends the job between two tiles."""
    job = client.endpoint("/image/process").submit(image=PHOTO, operation="upscale", scale=4)
    while job.refresh().status == "queued":
        pass
    assert job.cancel().status in ("cancelling", "cancelled")
    assert job.wait(timeout=60).status == "cancelled"


@pytest.mark.process
def test_stream_through_a_server(service: Served) -> None:
    """Words arrive one by one, not all at the end."""
    body = json.dumps({"seed": 3, "max_tokens": 30, "tokens_per_second": 60}).encode()
    request = urllib.request.Request(
        f"{service.url}/text/generate", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        first: Any = json.loads(answer.readline())
        rest = [json.loads(line) for line in answer]
    assert isinstance(first, str)
    assert len(rest) == 29


@pytest.mark.process
def test_batch_job_in_a_process(client: Client) -> None:
    """The groups that the table was drawn around are found, by a child of the server."""
    job = client.endpoint("/batch/segment")(table=EXAMPLES / "customers.csv", groups=4, restarts=4)
    found = job.result(timeout=60)
    assert [group["rows"] for group in found["groups"]] == pytest.approx([900, 700, 550, 250], abs=30)
    with pytest.raises(JobFailed, match="cannot make"):
        client.endpoint("/batch/segment")(table=b"a,b\n1,2\n", groups=4).result(timeout=60)
    with pytest.raises(ValidationFailed):
        client.endpoint("/batch/segment")(table=b"a\n1\n", groups=1)


@pytest.mark.process
def test_batch_job_is_killed_when_it_is_cancelled(client: Client) -> None:
    """A cancel reaches a child that computes."""
    segment = client.endpoint("/batch/segment")
    job = segment(table=EXAMPLES / "customers.csv", groups=20, restarts=200)
    while job.refresh().status == "queued":
        pass
    job.cancel()
    assert job.wait(timeout=30).status == "cancelled"
