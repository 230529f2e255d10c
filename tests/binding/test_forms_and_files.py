"""Forms, uploads, and the ways a file can be written in JSON."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from router_core.binding.inputs import Intake
from router_core.binding.params import Form
from router_core.errors import (
    BadRequest,
    PayloadTooLarge,
    RouterError,
    Unavailable,
    UnsupportedMedia,
    ValidationFailed,
)
from router_core.http.media import File
from router_core.http.message import Request
from router_core.http.multipart import FormLimits
from tests.binding.calling import bound, json_request, request_for, router_with

PNG = b"\x89PNG\r\n\x1a\n\0\xff"
FORM = "application/x-www-form-urlencoded"


def upload(
    *parts: tuple[str, str | None, bytes], boundary: str = "xyz", extra: str = ""
) -> tuple[bytes, str]:
    """Return a multipart body and its content type; a part is (name, file name, content)."""
    body = b""
    for name, filename, content in parts:
        disposition = f'form-data; name="{name}"' + (
            f'; filename="{filename}"' if filename is not None else ""
        )
        body += (
            f"--{boundary}\r\nContent-Disposition: {disposition}\r\n{extra}\r\n".encode() + content + b"\r\n"
        )
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def posted(target: str, *parts: tuple[str, str | None, bytes], **kwargs: Any) -> Request:
    """Return a request with an upload."""
    body, content_type = upload(*parts, **kwargs)
    return request_for("POST", target, body, content_type)


def take_image(image: File, strength: float = 0.5) -> None:
    """Take an image."""


async def test_every_way_to_send_a_file_gives_the_same_file() -> None:
    """Upload, data URI, base64 object in both spellings, plain base64, a URL, and the body itself."""
    code = base64.b64encode(PNG).decode()
    fetched: list[str] = []

    async def fetch(url: str) -> File:
        """Stand for a download."""
        fetched.append(url)
        return File(PNG, filename="a.png", content_type="image/png")

    router = router_with("/i", take_image)
    named = {"file_name": "a.png", "content_type": "image/png", "content": code}
    requests = [
        posted("/i", ("image", "a.png", PNG)),
        json_request("/i", {"image": named}),
        json_request("/i", {"image": {"filename": "a.png", "data": code}}),
        json_request("/i", {"image": {"file_name": "a.png", "content": f"data:image/png;base64,{code}"}}),
        json_request("/i", {"image": f"data:image/png;name=a.png;base64,{code}"}),
        json_request("/i", {"image": "https://example.com/a.png"}),
        request_for("POST", "/i", b"image=HTTPS%3A%2F%2Fexample.com%2Fa.png", FORM),
    ]
    for request in requests:
        values = await bound(router, request, Intake(fetch=fetch))
        assert values == {"image": File(PNG, filename="a.png", content_type="image/png")}
    assert fetched == ["https://example.com/a.png", "HTTPS://example.com/a.png"]
    for request in (json_request("/i", {"image": code}), request_for("POST", "/i", PNG, "image/png")):
        values = await bound(router, request)
        assert values["image"].read() == PNG


async def test_lists_optional_files_and_files_in_models() -> None:
    """A file may stand wherever a type says so."""

    class Pair(BaseModel):
        left: File
        right: File | None = None
        more: list[File] = []
        named: dict[str, File] = {}

    async def fetch(url: str) -> File:
        """Stand for a download."""
        return File(url.encode())

    def take(pair: Pair, extra: list[File] | None = None) -> None:
        """Take files."""

    def many(images: list[File], mask: File | None = None) -> None:
        """Take files."""

    values = await bound(router_with("/m", many), posted("/m", ("images", "a", b"1"), ("images", "b", b"2")))
    assert [image.read() for image in values["images"]] == [b"1", b"2"]
    given = {"left": "http://l", "more": ["http://m", "Zm9v"], "named": {"k": "http://n"}}
    values = await bound(
        router_with("/p", take),
        json_request("/p", {"pair": given, "extra": ["http://e"]}),
        Intake(fetch=fetch),
    )
    pair = values["pair"]
    assert pair.left.read() == b"http://l"
    assert [file.read() for file in pair.more] == [b"http://m", b"foo"]
    assert pair.named["k"].read() == b"http://n"
    assert values["extra"][0].read() == b"http://e"

    def alone(pair: Pair) -> None:
        """Take one model."""

    values = await bound(
        router_with("/a", alone),
        posted("/a", ("left", "l.txt", b"1"), ("more", "m", b"2"), ("more", "n", b"3")),
    )
    assert (values["pair"].left.read(), len(values["pair"].more)) == (b"1", 2)


async def test_bytes_are_the_content_of_a_file() -> None:
    """``bytes`` takes what a File takes."""

    def take(data: bytes, more: list[bytes] | None = None) -> None:
        """Take bytes."""

    router = router_with("/b", take)
    assert await bound(router, posted("/b", ("data", "x.bin", PNG))) == {"data": PNG}
    assert await bound(router, json_request("/b", {"data": "Zm9v", "more": ["YmFy"]})) == {
        "data": b"foo", "more": [b"bar"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        "not base64!", "data:image/png;base64,***", "data:", {"content": 5}, {}, {"file_name": "x"}, 5, [1],
        None, True, {"content": "Zm9v", "file_name": 7}, {"content": "Zm9v", "content_type": {}},
        "file:///etc/passwd", "/etc/passwd", "ftp://x/y",
    ],
)  # fmt: skip
async def test_what_is_no_file_is_a_validation_error(value: Any) -> None:
    """Never a 500, never a local path; the place is named."""
    with pytest.raises(ValidationFailed) as caught:
        await bound(router_with("/i", take_image), json_request("/i", {"image": value}))
    assert caught.value.errors[0]["loc"][:2] == ["body", "image"]


async def test_links_are_refused_or_fail_as_values() -> None:
    """Without a fetcher, with too many, and when the other side fails; our own failure stays ours."""

    def many(images: list[File]) -> None:
        """Take files."""

    router = router_with("/m", many)
    request = json_request("/m", {"images": ["http://a", "http://b"]})
    with pytest.raises(ValidationFailed) as caught:
        await bound(router, request)
    assert [error["loc"] for error in caught.value.errors] == [["body", "images", 0], ["body", "images", 1]]

    async def refuse(url: str) -> File:
        """Refuse as a guard does."""
        raise BadRequest("not a public address")

    async def down(url: str) -> File:
        """Fail on our side."""
        raise Unavailable("no sockets left")

    with pytest.raises(ValidationFailed, match="wrong") as caught:
        await bound(router, request, Intake(fetch=refuse))
    assert caught.value.errors[0]["msg"] == "not a public address"
    with pytest.raises(Unavailable):
        await bound(router, request, Intake(fetch=down))
    with pytest.raises(PayloadTooLarge):
        await bound(router, request, Intake(fetch=refuse, max_links=1))


async def test_a_form_carries_scalars_lists_and_json() -> None:
    """An object in a form field is JSON text; an empty field of an optional number was left empty."""

    class Options(BaseModel):
        depth: int

    def take(name: str, tags: list[int], options: Options, limit: int | None = None, note: str = "n") -> None:
        """Take a form."""

    body = b"name=a+b&tags=1&tags=2&options=%7B%22depth%22%3A+3%7D&limit=&note="
    values = await bound(router_with("/f", take), request_for("POST", "/f", body, FORM))
    assert values == {"name": "a b", "tags": [1, 2], "options": Options(depth=3), "note": ""}


async def test_a_form_is_a_model_when_the_model_is_alone() -> None:
    """Its fields are the form's fields."""

    class Login(BaseModel):
        user: str
        roles: list[str] = []

    def take(login: Login) -> None:
        """Take a model."""

    router = router_with("/l", take)
    values = await bound(router, request_for("POST", "/l", b"user=u&roles=a&roles=b", FORM))
    assert values == {"login": Login(user="u", roles=["a", "b"])}
    with pytest.raises(ValidationFailed) as caught:
        await bound(router, request_for("POST", "/l", b"user=u&user=v", FORM))
    assert caught.value.errors[0]["type"] == "duplicate"


@pytest.mark.parametrize("body", [b'{"to": 3}', b' \n{"to":3}', b"[1, 2]", b"{}"])
async def test_json_that_is_called_a_form_is_refused(body: bytes) -> None:
    """``curl -d '{...}'`` names no type and means JSON: its values must not be dropped without a word."""

    def count(to: int = 5) -> None:
        """Take one number."""

    def fill(to: Annotated[int, Form()] = 5) -> None:
        """The same, of forms only."""

    for func, advice in ((count, "Content-Type: application/json"), (fill, "fields of a form")):
        with pytest.raises(UnsupportedMedia, match=advice) as caught:
            await bound(router_with("/c", func), request_for("POST", "/c", body, FORM))
        assert FORM in caught.value.headers["Accept-Post"]


@pytest.mark.parametrize("body", [b"{to=3&to2", b"[to]=3", b"to={}", b'{"to":3}=&to=3'])
async def test_a_form_may_look_like_json(body: bytes) -> None:
    """Only what can be read as JSON as a whole is taken for it."""

    def count(to: str = "5") -> None:
        """Take one text."""

    await bound(router_with("/c", count), request_for("POST", "/c", body, FORM))


async def test_form_only_parameters_refuse_json() -> None:
    """``Form()`` says that the route reads forms."""

    def take(user: Annotated[str, Form()], age: int = Form(1)) -> None:
        """Take a form."""

    router = router_with("/f", take)
    assert await bound(router, request_for("POST", "/f", b"user=u&age=3", FORM)) == {"user": "u", "age": 3}
    with pytest.raises(UnsupportedMedia):
        await bound(router, json_request("/f", {"user": "u"}))


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", "multipart/form-data", 422),
        (b"x", "multipart/form-data", 400),
        (b"x", "multipart/form-data; boundary=", 400),
        (b"x", "multipart/form-data; boundary=" + "b" * 71, 400),
        (b"x", "multipart/form-data; boundary=xyz", 400),
        (b"--xyz\r\n", "multipart/form-data; boundary=xyz", 400),
        (
            b"--xyz\r\nContent-Disposition: form-data; name=image\r\n\r\nabc",
            "multipart/form-data; boundary=xyz",
            400,
        ),
        (b"--xyz\r\n\r\nabc\r\n--xyz--\r\n", "multipart/form-data; boundary=xyz", 400),
        (
            b"--xyz\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--xyz--\r\n",
            "multipart/form-data; boundary=xyz",
            400,
        ),
        (b"--xyz\r\nBad Header\r\n\r\nabc\r\n--xyz--\r\n", "multipart/form-data; boundary=xyz", 400),
        (b"--xyz--\r\n", "multipart/form-data; boundary=xyz", 422),
        (b"image=%ff", FORM, 400),
        (b"\xff=1", FORM, 400),
        (b"&".join([b"a=1"] * 1001), FORM, 413),
        (upload(("strength", None, b"\xff"))[0], upload()[1], 400),
        (upload(("image", "a", b"1"), ("image", "b", b"2"))[0], upload()[1], 422),
        (upload(("image", "a", b"1"), ("strength", "b", b"2"))[0], upload()[1], 422),
        (upload(("image", None, b"no base64 !"))[0], upload()[1], 422),
        (upload(("image", "a", b"1"), extra="X: " + "y" * 9000 + "\r\n")[0], upload()[1], 400),
        (upload(("image", "a", b"1"), extra="X: y\r\n" * 20)[0], upload()[1], 400),
        (upload(*[("x", None, b"")] * 1001)[0], upload()[1], 413),
        (upload(*[("x", "f", b"1")] * 101)[0], upload()[1], 413),
        (upload(("strength", None, b"1" * (1024 * 1024 + 1)))[0], upload()[1], 413),
    ],
)
async def test_a_bad_form_is_the_callers_error(body: bytes, content_type: str, status: int) -> None:
    """Each malformation has its 4xx."""
    with pytest.raises(RouterError) as caught:
        await bound(router_with("/i", take_image), request_for("POST", "/i", body, content_type))
    assert caught.value.status == status


async def test_form_limits_are_settable() -> None:
    """The limits come with the intake."""
    with pytest.raises(PayloadTooLarge):
        await bound(
            router_with("/i", take_image), posted("/i", ("a", None, b""), ("b", None, b"")),
            Intake(form=FormLimits(fields=1)),
        )  # fmt: skip


async def test_an_upload_larger_than_the_parsers_piece_arrives_whole() -> None:
    """Content that holds near-boundaries and crosses pieces is kept byte for byte."""
    content = (b"\r\n--xy" + b"\r\n--xyZ--" + bytes(range(256))) * 3000
    values = await bound(router_with("/i", take_image), posted("/i", ("image", "big.bin", content)))
    assert values["image"].read() == content


async def test_an_empty_file_input_is_no_file() -> None:
    """A browser sends an empty part without a name for a file input that was left empty."""
    with pytest.raises(ValidationFailed) as caught:
        await bound(router_with("/i", take_image), posted("/i", ("image", "", b"")))
    assert caught.value.errors[0]["type"] == "missing"
    values = await bound(router_with("/i", take_image), posted("/i", ("image", "empty.txt", b"")))
    assert values["image"].size == 0


async def test_input_objects_are_validated_like_requests() -> None:
    """The same values, the same errors; only the first part of the place differs."""

    def take(item_id: int, image: File, strength: float = 0.5, tags: list[str] | None = None) -> None:
        """Take several sources."""

    router = router_with("/x/{item_id}", take)
    plan = router.routes[0].plan
    wrong = {"image": "!", "strength": "x", "tags": [1]}
    with pytest.raises(ValidationFailed) as of_request:
        await bound(router, json_request("/x/7", wrong))
    with pytest.raises(ValidationFailed) as of_input:
        plan.validate(plan.collect_input({"item_id": "7", **wrong}))
    for mine, theirs in zip(of_input.value.errors, of_request.value.errors, strict=True):
        assert mine["loc"][1:] == theirs["loc"][1:]
        assert (mine["type"], mine["msg"]) == (theirs["type"], theirs["msg"])
    good = {"image": base64.b64encode(PNG).decode(), "strength": "1"}
    assert plan.validate(plan.collect_input({"item_id": "7", **good})) == await bound(
        router, json_request("/x/7", good)
    )


async def test_an_input_object_may_be_the_model_itself() -> None:
    """As with a body: the fields of a single model, or the model under its name."""

    class Item(BaseModel):
        name: str

    def take(item: Item) -> None:
        """Take an item."""

    plan = router_with("/t", take).routes[0].plan
    for values in ({"name": "a"}, {"item": {"name": "a"}}):
        assert plan.validate(plan.collect_input(values)) == {"item": Item(name="a")}
    with pytest.raises(ValidationFailed) as caught:
        plan.validate(plan.collect_input({}))
    assert caught.value.errors[0]["type"] == "missing"


async def test_links_in_an_input_object_wait_for_fetch() -> None:
    """``collect_input`` is not async; ``fetch`` follows the links it has noted."""

    async def fetch(url: str) -> File:
        """Stand for a download."""
        return File(PNG)

    plan = router_with("/i", take_image).routes[0].plan
    inputs = plan.collect_input({"image": "https://example.com/x"})
    with pytest.raises(ValidationFailed):
        plan.validate(inputs)
    await plan.fetch(inputs, Intake(fetch=fetch))
    assert plan.validate(inputs)["image"].read() == PNG


@pytest.mark.parametrize(
    "values",
    [{"image": float("nan")}, {"image": "\ud800"}, {"strength": float("inf")}, {"image": {"a": "\udfff"}}],
)
def test_an_input_object_of_no_json_is_refused(values: dict[str, Any]) -> None:
    """NaN and half surrogates can come out of a lenient parser; they go no further."""
    with pytest.raises(BadRequest):
        router_with("/i", take_image).routes[0].plan.collect_input(values)


def test_an_input_object_has_a_depth_limit() -> None:
    """As a body has."""
    value: Any = []
    for _ in range(100):
        value = [value]
    with pytest.raises(BadRequest, match="deep"):
        router_with("/i", take_image).routes[0].plan.collect_input({"image": value})
