"""What a job says about its result is true of what is then read."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from handlers.local.provider import build
from router_core import File, HTTPError, Request, Response, Router, Settings
from router_core.testing.client import TestClient

router = Router()
SIZE = 600_000


@router.route("/picture")
def picture() -> File:
    """Make a large picture."""
    return File.from_bytes(bytes(SIZE), filename="dots.png", content_type="image/png")


@router.route("/page")
def page() -> File:
    """Make a large page, which a browser would run."""
    return File.from_bytes(b"<script>" * (SIZE // 8), filename="page.html", content_type="text/html")


@router.route("/words")
def words() -> dict[str, Any]:
    """Make a large value that looks like a file's object."""
    return {"file_name": "x", "content_type": "text/plain", "content": "YWJj" * (SIZE // 4)}


class OutOfStock(Exception):
    """An error of the author's, with a handler."""


class SoldOut(HTTPError):
    """An error of the author's that says itself how it is answered."""

    def __init__(self, item: str) -> None:
        super().__init__(409, f"no {item} left", code="sold_out")


@router.exception_handler(OutOfStock)
def out_of_stock(request: Request, error: OutOfStock) -> Response:
    """Answer it to who calls."""
    return Response.json({"sold_out": str(error)}, status=410)


@router.route("/buy")
def buy(sold_out: bool = False) -> None:
    """Fail in one of two ways."""
    raise SoldOut("tea") if sold_out else OutOfStock("tea")


@router.post("/buy-now")
def buy_now(sold_out: bool = False) -> None:
    """Fail alike, without a job."""
    buy(sold_out)


def service() -> TestClient:
    """Return the routers' routes and RunPod's."""
    return TestClient(build(router, Settings(jobs="memory://", blobs="memory://")))


def done(client: TestClient, path: str) -> Any:
    """Submit a job and return it as it ended."""
    job = client.post(path).value
    return client.get(job["links"]["self"], query={"wait": 20}).value


def test_the_reference_describes_what_its_href_returns() -> None:
    """Size, digest, type and name are those of the answer; so for files and for JSON that looks like one."""
    with service() as client:
        for path, name in (("/picture", "dots.png"), ("/page", "page.html"), ("/words", None)):
            body = done(client, path)
            assert "result" not in body
            ref = body["result_ref"]
            answer = client.get(ref["href"])
            assert ref == {
                "href": f"/jobs/{body['job_id']}/result", "size": len(answer.content),
                "sha256": hashlib.sha256(answer.content).hexdigest(),
                "content_type": answer.header("content-type"), **({"filename": name} if name else {}),
            }  # fmt: skip


def test_a_kept_file_is_answered_as_a_plain_call_answers_it() -> None:
    """Shown or saved by its type, with its name; the same after a sync wait."""
    with service() as client:
        for path, start in (("/picture", "inline"), ("/page", "attachment")):
            href = done(client, path)["result_ref"]["href"]
            for answer in (client.get(href), client.post(path, query={"sync": "true"})):
                assert len(answer.content) == SIZE
                shown = answer.header("content-disposition")
                assert shown is not None
                assert shown.startswith(f"{start}; filename*=UTF-8''")


def test_those_who_read_json_get_the_base64_object() -> None:
    """The apipod shape and RunPod's output; our client makes a File of either."""
    with service() as client, client.connect() as library:
        job_id = done(client, "/picture")["job_id"]
        told = client.post(f"/status/{job_id}", query={"shape": "apipod"}).value["result"]
        output = json.loads(client.get(f"/v2/local/status/{job_id}").content)["output"]
        for value in (told, output):
            assert (value["file_name"], value["content_type"]) == ("dots.png", "image/png")
            assert base64.b64decode(value["content"]) == bytes(SIZE)
        file = library.job(job_id).result()
        assert (file.filename, file.content_type, file.size) == ("dots.png", "image/png", SIZE)


def test_handlers_shape_calls_and_errors_of_ours_shape_both() -> None:
    """An error of a job is recorded where no request is: its handler is not asked, its own status counts."""
    with service() as client:
        told = []
        for path, query in (("/buy-now", {}), ("/buy", {"sync": "true"})):
            for sold_out in (False, True):
                answer = client.post(path, query=query, json={"sold_out": sold_out})
                told.append((answer.status, answer.value.get("code")))
        assert told == [(410, None), (409, "sold_out"), (500, "job_failed"), (409, "sold_out")]
