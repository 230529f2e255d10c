"""Functions of a service, called over real sockets."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router_core import Router
from router_core.client import CannotConnect, Client, File, Job, JobPage, connect
from router_core.client.files import as_upload
from router_core.client.multipart import Multipart, Part
from router_core.client.schema import Schema
from router_core.errors import Gone, KeyReused, Misconfigured, NotFound, QueueFull, ValidationFailed
from router_core.jobs.wire import parse_job
from router_core.testing.client import TestClient
from tests.client.conftest import QUICK
from tests.client.fake_service import FakeService, Reply, problem
from tests.served import free_port


def test_positional_arguments_get_the_names_of_the_signature(fake: FakeService, client: Client) -> None:
    """The order comes from the OpenAPI document, which is fetched once."""
    client.predict("x", 2)
    client.predict("x", b=3)
    assert [seen.json() for seen in fake.requests("POST /predict")] == [
        {"a": "x", "b": 2},
        {"a": "x", "b": 3},
    ]
    assert len(fake.requests("GET /openapi.json")) == 1


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        (("x", 1, 2), {}, "takes 2 arguments"),
        (("x",), {"a": "y"}, "two values for 'a'"),
        ((), {"bb": 1}, "did you mean 'b'"),
        ((object(),), {}, "cannot be sent as JSON"),
    ],
)
def test_wrong_arguments_fail_before_anything_is_sent(
    fake: FakeService, client: Client, args: tuple[Any, ...], kwargs: dict[str, Any], text: str
) -> None:
    """They fail as a Python function would: with TypeError."""
    with pytest.raises(TypeError, match=text):
        client.predict(*args, **kwargs)
    assert fake.requests("POST /predict") == []


def test_a_job_route_gives_a_job_with_its_result(fake: FakeService, client: Client) -> None:
    """Submit, look, wait, result; the credentials and a key go with the call."""
    job = client.predict("x")
    assert isinstance(job, Job)
    assert repr(job) == f"<Job {job.id} queued 0%>"
    fake.jobs[job.id] |= {"status": "running", "progress": 0.5, "message": "half"}
    job.refresh()
    assert (job.status, job.progress, job.message, job.done) == ("running", 0.5, "half", False)
    fake.jobs[job.id] |= {"status": "succeeded", "progress": 1.0, "result": {"n": 1}}
    assert job.result(timeout=5) == {"n": 1}
    sent = fake.requests("POST /predict")[0].headers
    assert sent["authorization"] == "Bearer k-123"
    assert len(sent["idempotency-key"]) == 32


def test_plain_routes_return_their_value(client: Client) -> None:
    """No job where the route makes none."""
    assert client.add(x=1, y=2) == 3
    assert client.endpoint("add").run(2, 3) == 5


def test_path_and_query_parameters_go_to_their_places(fake: FakeService, client: Client) -> None:
    """A path parameter is quoted, so that it stays one segment."""
    fake.answers["GET /items/a%2Fb%20c"] = Reply(200, b'"found"')
    assert client.endpoint("/items/{item_id}")("a/b c", size=[1, 2]) == "found"
    assert fake.seen[-1].query == "size=1&size=2"


def test_a_parameter_that_is_the_whole_body(fake: FakeService, client: Client) -> None:
    """Given by position, by name, or by its members; a 202 in the document does not make a call a job."""
    fake.answers["POST /whole"] = Reply(200, b"1")
    client.whole({"x": 1, "y": 2})
    client.whole(item={"x": 1, "y": 2})
    client.whole(x=1, y=2)
    assert [seen.json() for seen in fake.requests("POST /whole")] == [{"x": 1, "y": 2}] * 3
    assert "idempotency-key" not in fake.requests("POST /whole")[0].headers
    with pytest.raises(TypeError, match="no parameter 'z'"):
        client.whole(z=1)


def test_a_python_name_finds_a_path_with_dashes(fake: FakeService, client: Client) -> None:
    """service.do_it calls /do-it."""
    fake.answers["POST /do-it"] = Reply(200, b"true")
    assert client.do_it() is True


def test_an_unknown_route_says_what_is_near(client: Client) -> None:
    """404 alone would leave the caller searching."""
    with pytest.raises(NotFound, match="did you mean '/predict'"):
        client.predit("x")


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        (Reply(200, b"text", {"content-type": "text/plain; charset=utf-8"}), "text"),
        (Reply(204, b"", {}), None),
        (Reply(200, b'{"a": [1]}', {"content-type": "application/vnd.x+json"}), {"a": [1]}),
    ],
)
def test_answers_become_values_by_their_content_type(
    fake: FakeService, client: Client, reply: Reply, value: object
) -> None:
    """JSON, text, nothing."""
    fake.answers["GET /page"] = reply
    assert client.page() == value


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="../../evil.png"', "evil.png"),
        ("attachment; filename=plain.png", "plain.png"),
        (r'attachment; filename="a\"b.png"', 'a"b.png'),
        ("inline; filename*=UTF-8''%E7%8C%AB%2F..%2Fcat.png", "cat.png"),
        ("inline", "result.png"),
    ],
)
def test_a_file_answer_is_a_file_with_a_safe_name(
    fake: FakeService, client: Client, tmp_path: Path, disposition: str, name: str
) -> None:
    """Whatever name the service proposes, it is no path."""
    headers = {"content-type": "image/png", "content-disposition": disposition}
    fake.answers["GET /picture"] = Reply(200, b"\x89PNG", headers)
    file = client.picture()
    assert isinstance(file, File)
    assert (file.filename, file.content_type) == (name, "image/png")
    assert file.save(tmp_path) == tmp_path / name
    assert (tmp_path / name).read_bytes() == b"\x89PNG"


def test_base64_objects_in_results_become_files(fake: FakeService, client: Client) -> None:
    """Also inside lists and objects; an object that only looks like one stays."""
    content = base64.b64encode(b"bytes").decode()
    member = {"file_name": "a.bin", "content_type": "x/y", "content": content}
    lookalike = {"file_name": "a", "content_type": "x/y", "content": "not base64!"}
    job = client.predict("x")
    fake.jobs[job.id] |= {"status": "succeeded", "result": {"files": [member], "other": lookalike}}
    result = job.result()
    assert result["files"][0].read() == b"bytes"
    assert result["other"] == lookalike


def test_a_large_result_is_fetched_from_its_own_address(fake: FakeService, client: Client) -> None:
    """The job's body only refers to it; a cut download is taken again."""
    job = client.predict("x")
    fake.jobs[job.id] |= {"status": "succeeded", "result_ref": {"href": "/x", "size": 4}}
    line = f"GET /jobs/{job.id}/result"
    fake.answers[line] = Reply(200, b"\x89PNG", {"content-type": "image/png"})
    fake.faults[line] = [Reply(200, b"\x89PNG", {"content-type": "image/png"}, cut_after=2)]
    assert job.result().read() == b"\x89PNG"
    assert len(fake.requests(line)) == 2


class _Pipe(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        return b"piped"

    def seekable(self) -> bool:
        return False


def _file(tmp_path: Path, kind: str) -> Any:
    path = tmp_path / "in.txt"
    path.write_bytes(b"content")
    sources: dict[str, Any] = {
        "path": path,
        "bytes": b"content",
        "file": File.from_bytes(b"content", "in.txt"),
        "open": io.BytesIO(b"skipped:content"),
        "pipe": _Pipe(),
    }
    if kind == "open":
        sources["open"].seek(8)
    return sources[kind]


@pytest.mark.parametrize("kind", ["path", "bytes", "file", "open", "pipe"])
def test_files_are_uploaded_whole_also_on_the_second_try(
    fake: FakeService, client: Client, tmp_path: Path, kind: str
) -> None:
    """Both tries carry the same bytes, boundary included."""
    fake.faults["POST /predict"] = ["lose"]
    client.predict(_file(tmp_path, kind), b=4)
    first, second = fake.requests("POST /predict")
    assert first.body == second.body
    assert first.headers["content-type"] == second.headers["content-type"]
    assert (b"piped" if kind == "pipe" else b"\r\n\r\ncontent\r\n") in first.body
    assert b'name="b"\r\n\r\n4\r\n' in first.body
    assert len(fake.jobs) == 1


def test_a_form_is_what_its_header_says() -> None:
    """Names that would end a header are escaped, and no sender of content can guess the boundary."""
    parts = [Part('a"\r\nX: y', b"1"), Part("f", as_upload(File.from_bytes(b"2", 'n"ame.txt')))]
    first, second = Multipart(parts), Multipart(parts)
    assert first.boundary != second.boundary
    body = b"".join(asyncio.run(_collected(first)))
    assert len(body) == first.size
    assert body.count(b"\r\nX: y") == 0
    assert b'name="a%22%0D%0AX: y"' in body
    assert b'filename="n%22ame.txt"' in body


async def _collected(form: Multipart) -> list[bytes]:
    return [chunk async for chunk in form.chunks()]


def test_a_missing_file_fails_before_anything_is_sent(fake: FakeService, client: Client) -> None:
    """And with the error that opening it would give."""
    with pytest.raises(FileNotFoundError):
        client.predict(Path("/nowhere/x.png"))
    assert fake.requests("POST /predict") == []


def test_streams_are_iterated_as_they_arrive(fake: FakeService, client: Client) -> None:
    """NDJSON and SSE give the same values."""
    fake.answers["POST /tokens"] = Reply(200, b'"a"\n{"b": 1}\n', {"content-type": "application/x-ndjson"})
    assert list(client.tokens()) == ["a", {"b": 1}]
    fake.answers["POST /tokens"] = Reply(
        200, b'data: "a"\n\ndata: {"b": 1}\n\n', {"content-type": "text/event-stream"}
    )
    assert list(client.tokens.stream()) == ["a", {"b": 1}]


def test_a_stream_that_is_cut_says_so(fake: FakeService, client: Client) -> None:
    """The values before are given, then the error: never a silent end."""
    kind = {"content-type": "application/x-ndjson"}
    fake.answers["POST /tokens"] = Reply(200, b'"a"\n"b"\n', kind, cut_after=5)
    stream = client.tokens()
    assert next(stream) == "a"
    with pytest.raises(ConnectionError):
        next(stream)


def test_problems_become_the_errors_of_the_tree(fake: FakeService, client: Client) -> None:
    """By code where there is one, with their texts and fields."""
    cases: list[tuple[Reply, type[Exception], str]] = [
        (problem(422, "idempotency_key_reused", "used"), KeyReused, "used"),
        (problem(410, "job_gone", "over"), Gone, "over"),
        (
            problem(
                422, "validation_failed", "wrong", errors=[{"loc": ["body", "b"], "msg": "no", "type": "t"}]
            ),
            ValidationFailed,
            r"wrong \(body.b: no\)",
        ),
    ]
    for reply, kind, text in cases:
        fake.answers["POST /predict"] = reply
        with pytest.raises(kind, match=text) as caught:
            client.predict("x")
        assert type(caught.value) is kind


def test_a_body_that_is_no_problem_is_kept_short(fake: FakeService, client: Client) -> None:
    """A page of a megabyte does not become the text of an exception."""
    fake.answers["POST /predict"] = Reply(400, b"x" * 1_000_000, {"content-type": "text/plain"})
    with pytest.raises(Exception, match=r"^x+…$") as caught:
        client.predict("x")
    assert len(str(caught.value)) == 500


def test_a_full_queue_keeps_its_retry_after(fake: FakeService, client: Client) -> None:
    """When the service asks for more patience than the client has, the caller decides."""
    fake.answers["POST /predict"] = problem(429, "queue_full", "full", {"retry-after": "3600"})
    with pytest.raises(QueueFull) as caught:
        client.predict("x")
    assert caught.value.retry_after == 3600
    assert len(fake.requests("POST /predict")) == 1


def test_nobody_there_is_told_with_the_address() -> None:
    """Without credentials or paths in the text."""
    port = free_port()
    with connect(f"http://user:secret@127.0.0.1:{port}", retry=QUICK) as service:
        with pytest.raises(CannotConnect, match=rf"cannot connect to http://127\.0\.0\.1:{port}") as caught:
            service.predict(a=1)
        assert isinstance(caught.value, ConnectionError)
        assert "secret" not in str(caught.value)
        # one traceback, not those of three libraries
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "localhost:8000/x y\n"])
def test_an_impossible_address_is_refused(url: str) -> None:
    """With a text that shows what one looks like."""
    with pytest.raises((Misconfigured, CannotConnect)), connect(url, retry=QUICK) as service:
        service.predict(a=1)


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
def test_a_body_is_described_under_any_spelling_of_its_type(kind: str) -> None:
    """Our own services name a charset where files may come in a form as well."""
    body: dict[str, Any] = {"content": {kind: {"schema": {"properties": {"image": {}, "scale": {}}}}}}
    operation = Schema({"paths": {"/p": {"post": {"requestBody": body, "responses": {}}}}}).find("/p")
    assert operation.places == {"image": "body", "scale": "body"}
    assert not operation.multipart


def test_a_service_without_openapi_is_called_by_name(fake: FakeService, client: Client) -> None:
    """Positional arguments then say what is missing."""
    fake.answers["GET /openapi.json"] = problem(404, "not_found", "hidden")
    assert client.predict(a="x").status == "queued"
    with pytest.raises(TypeError, match="pass them by name"):
        client.predict("x")


def test_options_become_headers(fake: FakeService, client: Client) -> None:
    """They cannot be mistaken for parameters of the function."""
    endpoint = client.predict.options(
        idempotency_key="mine", priority=3, delay=1.5, expires_in=60, webhook="https://w"
    )
    endpoint.submit("x")
    sent = fake.requests("POST /predict")[0].headers
    names = ("idempotency-key", "x-job-priority", "x-job-delay", "cancel-after", "x-webhook-url", "prefer")
    assert [sent[name] for name in names] == ["mine", "3", "1.5", "60", "https://w", "respond-async"]


async def test_the_asynchronous_client_is_the_same_code(fake: FakeService) -> None:
    """Endpoints, jobs, events and streams with await."""
    async with connect(fake.url, asynchronous=True, retry=QUICK) as service:
        job = await service.predict("x", 1)
        fake.events = [("output", 1), ("progress", {"progress": 0.5})]
        kinds = [event.type async for event in job]
        assert kinds == ["output", "progress", "job"]
        assert job.status == "succeeded"
        fake.answers["POST /tokens"] = Reply(200, b"1\n2\n", {"content-type": "application/x-ndjson"})
        assert [value async for value in await service.tokens()] == [1, 2]
        assert json.loads(fake.requests("POST /predict")[0].body) == {"a": "x", "b": 1}


@pytest.fixture
def shop() -> Iterator[Client]:
    """A service with values in its paths."""
    router = Router()

    @router.post("/buy/{item}")
    def buy(item: str, count: int = 1) -> str:
        return f"{count} {item}"

    @router.get("/look/{shelf}/{item}")
    def look(shelf: str, item: str, close: bool = False) -> str:
        return f"{shelf} {item} {close}"

    @router.get("/files/{rest:path}")
    def files(rest: str) -> str:
        return rest

    with TestClient(router) as app:
        yield app.connect()


def test_values_of_a_path_are_arguments_like_others(shop: Client) -> None:
    """By position, by name, or written into the path; whatever they contain."""
    buy = shop.endpoint("/buy/{item}")
    assert [buy("x"), buy("a b?%é", 3), buy(item="{count}", count=2)] == ["1 x", "3 a b?%é", "2 {count}"]
    assert shop.endpoint("/buy/x")(2) == "2 x"
    look = shop.endpoint("/look/{shelf}/{item}")
    assert [look("a", "b"), look(item="b", shelf="a", close=True)] == ["a b False", "a b True"]
    assert shop.endpoint("/look/a/b")(close=True) == "a b True"
    # as the source of the service has it: this one may hold slashes
    assert shop.endpoint("/files/{rest:path}")("a/b c") == "a/b c"


@pytest.mark.parametrize("value", ["", None, ".", "..", "a/../b"])
def test_a_value_that_would_be_another_path_is_refused(shop: Client, value: str | None) -> None:
    """Rather than calling another route."""
    with pytest.raises(TypeError, match=r"buy\(\): 'item' is a part of its path, so it cannot be"):
        shop.endpoint("/buy/{item}")(value)


def test_a_missing_value_of_a_path_is_told(shop: Client) -> None:
    """By its name, and a place of another name is another path."""
    with pytest.raises(TypeError, match=r"buy\(\) needs a value for 'item'"):
        shop.endpoint("/buy/{item}")(count=2)
    for path in ("/buy", "/buy/{thing}"):
        with pytest.raises(NotFound, match=r"did you mean '/buy/\{item\}'"):
            shop.endpoint(path)("x")


def test_a_client_shows_what_it_calls_and_no_secret() -> None:
    """Synchronous, asynchronous, and its endpoints."""
    client = connect("http://ann:secret@127.0.0.1:9/api/", api_key="secret")
    assert repr(client) == "<Client http://127.0.0.1:9/api>"
    assert repr(client.predict) == "<Endpoint /predict>"
    assert repr(connect("127.0.0.1:9", asynchronous=True)) == "<AsyncClient http://127.0.0.1:9>"


def test_a_page_of_jobs_is_a_collection(fake: FakeService, client: Client) -> None:
    """One goes through it, and counts it."""
    page = JobPage([parse_job(json.dumps(fake.job()).encode())], "more")
    assert [view.status for view in page] == ["queued"]
    assert len(page) == 1
    assert not JobPage([])
