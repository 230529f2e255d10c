"""Files as values."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from router_core.http.media import File, safe_filename


def test_bytes_paths_and_streams(tmp_path: Path) -> None:
    """All three give name, type, size and content; reading twice is fine."""
    path = tmp_path / "a.png"
    path.write_bytes(b"abc")
    for file in (
        File(b"abc", filename="a.png"), File(path=path), File(io.BytesIO(b"abc"), filename="a.png"),
        File.from_path(str(path)), File(bytearray(b"abc"), filename="x/y/a.png"),
        File.from_bytes(b"abc", "a.png", "image/png"),
    ):  # fmt: skip
        assert (file.filename, file.content_type, file.size) == ("a.png", "image/png", 3)
        assert file.read() == file.read() == b"abc"
        with file.open() as stream:
            assert stream.read() == b"abc"
    assert File(path=path) == File(b"abc", filename="a.png")
    assert File(b"abd", filename="a.png") != File(b"abc", filename="a.png")


def test_a_file_is_data_or_a_path() -> None:
    """Neither, both, or text: the author's mistake."""
    text: Any = "text"
    wrongs: list[Callable[[], File]] = [File, lambda: File(b"", path="x"), lambda: File(text)]
    for wrong in wrongs:
        with pytest.raises(TypeError):
            wrong()


def test_save_writes_under_the_files_own_name(tmp_path: Path) -> None:
    """Into a folder, or to a path; never out of the folder."""
    assert File(b"x", filename="../../etc/passwd").save(tmp_path) == tmp_path / "passwd"
    assert File(b"y").save(tmp_path).read_bytes() == b"y"
    assert File(b"z").save(tmp_path / "z.bin").read_bytes() == b"z"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.png", "a.png"), ("C:\\Users\\x\\a.png", "a.png"), ("/etc/passwd", "passwd"), ("..", ""),
        (".", ""),
        ("a\r\nb\0.png", "ab.png"), ("ü.png", "ü.png"), ("\ud800x", "x"), ("x" * 300, "x" * 255), ("  ", ""),
        ("é" * 200, "é" * 127),
    ],
)  # fmt: skip
def test_names_from_strangers_are_made_safe(name: str, safe: str) -> None:
    """No directory, no control character, no endless name."""
    assert safe_filename(name) == safe


@pytest.mark.parametrize(
    "content_type", ["text/html\r\nx: y", "nonsense", "a/b/c", "x" * 300, 'text/plain; a="b\nc"']
)
def test_a_content_type_that_is_none_is_dropped(content_type: str) -> None:
    """It would go into a header of ours."""
    assert File(b"x", content_type=content_type).content_type == "application/octet-stream"


@given(st.binary(max_size=200))
def test_base64_comes_back(data: bytes) -> None:
    """Standard and URL alphabet, with and without padding, with line breaks, as data URI and as object."""
    standard, url = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    for text in (
        standard,
        url,
        standard.rstrip("="),
        "\r\n".join(standard[i : i + 4] for i in range(0, 300, 4)),
    ):
        assert File.from_base64(text).read() == data
    file = File(data, filename="f.png", content_type="image/png")
    assert File.parse(file.to_data_uri()).read() == data
    assert File.parse(file.to_object()) == file
    assert File.parse(standard).read() == data


def test_data_uris_without_base64_are_percent_encoded() -> None:
    """RFC 2397: ``data:,A%20note`` is text."""
    assert File.from_data_uri("data:,A%20note").read() == b"A note"
    assert File.from_data_uri("DATA:text/plain;charset=utf-8,x").content_type == "text/plain"
    with pytest.raises(ValueError, match="data URI"):
        File.from_data_uri("nothing")


@pytest.mark.parametrize("text", ["data", "test!", "/etc/passwd", "a-_b", "http://x", "", "Zm9v\n!"])
def test_bare_text_is_base64_or_refused(text: str) -> None:
    """Only what is exactly base64 is taken for it; an empty text is an empty file."""
    try:
        file = File.parse(text)
    except ValueError:
        assert text not in ("data", "")
    else:
        assert text in ("data", "")
        assert file.read() == base64.b64decode(text)


def test_pydantic_reads_and_writes_files() -> None:
    """Anywhere in a model, from JSON and back."""

    class Holder(BaseModel):
        file: File

    holder = Holder.model_validate_json('{"file": "Zm9v"}')
    assert holder.file.read() == b"foo"
    assert Holder.model_validate_json(holder.model_dump_json()) == holder
    assert holder.model_dump()["file"] is holder.file
    with pytest.raises(ValidationError, match="not a file"):
        Holder.model_validate({"file": "!"})
    assert "anyOf" in Holder.model_json_schema()["properties"]["file"]


def test_a_repr_shows_no_content() -> None:
    """It may be in a log."""
    assert repr(File(b"secret", filename="a.txt")) == "File('a.txt', 'text/plain', 6 bytes)"
