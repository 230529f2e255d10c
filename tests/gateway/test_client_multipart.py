"""Uploads: the name of the model is replaced, all else goes on byte for byte, and tricks are refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from router_core.errors import BadRequest
from router_core.gateway.call import Call
from router_core.gateway.clients.multipart import read_form, replace_model
from tests.gateway.client_parts import Recorder, client_of

TYPE = "multipart/form-data; boundary=XX"


def form(*parts: tuple[str, bytes], boundary: str = "XX") -> bytes:
    """Return a form of parts, each the rest of its disposition and its content."""
    lines = [
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
        for head, content in parts
    ]
    return b"".join(lines) + f"--{boundary}--\r\n".encode()


MODEL = ('name="model"', b"turbo")
FILE = ('name="file"; filename="a.wav"\r\nContent-Type: audio/wav', b"RIFF\x00\xff\r\n--X\r\n\r\n")


async def test_only_the_name_of_the_model_changes() -> None:
    """The boundary, the order, the file and every other field stay as they were."""
    body = form(FILE, MODEL, ('name="language"', b"fr"), ('name="timestamp_granularities[]"', b"word"))
    transport = Recorder()
    call = Call("audio/transcriptions", "turbo", body=body, content_type=TYPE)
    call.headers = {"x-request-id": "abc", "cookie": "a=b"}
    await client_of(transport, model="whisper-1").send(call, 1.0)
    sent = transport.last
    assert sent.path == "/v1/audio/transcriptions"
    assert sent.body == body.replace(b"turbo", b"whisper-1")
    assert sent.headers["content-type"] == TYPE
    assert sent.headers["x-request-id"] == "abc"
    assert "cookie" not in sent.headers


def test_what_httpx_writes_is_read() -> None:
    """The SDK of OpenAI sends its forms through it."""
    request = httpx.Request(
        "POST",
        "http://h",
        data={"model": "turbo", "prompt": "été"},
        files={"file": ('é "q".wav', b"\x00" * 9)},
    )
    kind = request.headers["content-type"]
    body = request.read()
    assert read_form(body, kind) == {"model": "turbo", "prompt": "été"}
    replaced = replace_model(body, kind, "whisper-large-v3")
    assert read_form(replaced, kind) == {"model": "whisper-large-v3", "prompt": "été"}
    assert len(replaced) == len(body) + len("whisper-large-v3") - len("turbo")


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data; boundary=XX",
        'multipart/form-data; boundary="XX"',
        "Multipart/Form-Data;boundary=XX",
        "multipart/form-data; charset=utf-8; boundary=XX",
        "multipart/form-data; boundary=XX; charset=utf-8",
    ],
)
def test_boundaries_are_read_as_clients_write_them(kind: str) -> None:
    """Quoted or not, and beside a charset."""
    assert read_form(form(MODEL), kind) == {"model": "turbo"}


def test_an_empty_field_and_file_are_fine() -> None:
    """They are there all the same."""
    body = form(('name="prompt"', b""), MODEL, ('name="file"; filename=""', b""))
    assert read_form(body, TYPE) == {"prompt": "", "model": "turbo"}
    assert replace_model(body, TYPE, "m") == body.replace(b"turbo", b"m")


_BAD: dict[str, tuple[Any, ...]] = {
    "no boundary": (form(MODEL), "multipart/form-data"),
    "empty boundary": (form(MODEL), "multipart/form-data; boundary="),
    "long boundary": (form(MODEL, boundary="X" * 71), f"multipart/form-data; boundary={'X' * 71}"),
    "two boundaries": (form(MODEL), "multipart/form-data; boundary=XX; boundary=YY"),
    "boundary in a second line": (form(MODEL), "multipart/form-data;\r\n boundary=XX"),
    "another boundary": (form(MODEL), "multipart/form-data; boundary=YY"),
    "empty": (b"", TYPE),
    "no end": (form(MODEL)[:-6], TYPE),
    "cut in a part": (form(MODEL)[:-12], TYPE),
    "cut in headers": (b"--XX\r\nContent-Disp", TYPE),
    "preamble": (b"hello\r\n" + form(MODEL), TYPE),
    "epilogue": (form(MODEL) + b"--XX\r\n", TYPE),
    "more behind the end": (form(MODEL) + b"x", TYPE),
    "bare line feeds": (form(MODEL).replace(b"\r\n", b"\n"), TYPE),
    "boundary inside a part": (form(('name="prompt"', b"a\n--XX\nb"), MODEL), TYPE),
    "folded header": (form(('name="model";\r\n x="y"', b"turbo")), TYPE),
    "two dispositions": (form(('name="a"\r\nContent-Disposition: form-data; name="model"', b"turbo")), TYPE),
    "no disposition": (b"--XX\r\nX-A: b\r\n\r\nturbo\r\n--XX--\r\n", TYPE),
    "no name": (form(("", b"turbo")), TYPE),
    "encoded name": (form(("name*=utf-8''model", b"turbo")), TYPE),
    "escaped name": (form(('name="mod\\"el"', b"turbo"), MODEL), TYPE),
    "name twice": (form(('name="a"; name="model"', b"turbo")), TYPE),
    "model twice": (form(MODEL, ('name="model"', b"dear")), TYPE),
    "many parts": (form(MODEL, *[('name="x"', b"y")] * 100), TYPE),
    "long headers": (form((f'name="{"m" * 5000}"', b"turbo")), TYPE),
    "part without a line": (b"--XX\r\n\r\nturbo\r\n--XX--\r\n", TYPE),
    "nothing inside": (b"--XX--\r\n", TYPE),
}


@pytest.mark.parametrize("name", list(_BAD))
def test_whatever_two_parsers_might_read_differently_is_refused(name: str) -> None:
    """The model that was judged has to be the one that the upstream reads."""
    body, kind = _BAD[name]
    for read in (read_form, lambda body, kind: replace_model(body, kind, "m")):
        with pytest.raises(BadRequest) as caught:
            read(body, kind)
        assert caught.value.status == 400


def test_a_form_without_a_model_cannot_be_sent() -> None:
    """Nor one whose model is a file."""
    for body in (form(FILE), form(('name="model"; filename="m"', b"turbo"))):
        with pytest.raises(BadRequest) as caught:
            replace_model(body, TYPE, "m")
        assert caught.value.extra["param"] == "model"


def test_a_field_that_we_judge_by_is_given_once() -> None:
    """Lists, which are given as often as they have members, are not such fields."""
    body = form(MODEL, ('name="stream"', b"false"), ('name="stream"', b"true"))
    with pytest.raises(BadRequest, match="stream twice"):
        read_form(body, TYPE)
    assert read_form(form(MODEL, ('name="include[]"', b"a"), ('name="include[]"', b"b")), TYPE)


def test_fields_are_bounded_and_text() -> None:
    """A field of megabytes is a file that was not called one."""
    for content in (b"x" * 70_000, b"\xff"):
        with pytest.raises(BadRequest):
            read_form(form(MODEL, ('name="prompt"', content)), TYPE)


def test_names_of_models_are_sent_in_utf_8() -> None:
    """As forms of today are."""
    assert read_form(replace_model(form(MODEL), TYPE, "modèle"), TYPE)["model"] == "modèle"


def test_large_files_are_not_looked_through_part_by_part() -> None:
    """A file full of dashes and line breaks takes as long as any other."""
    content = b"\r\n--X\r\n" * 500_000
    body = form(('name="file"; filename="a"', content), MODEL)
    assert len(replace_model(body, TYPE, "m")) == len(body) - 4
