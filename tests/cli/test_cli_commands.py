"""The commands, against a service over real sockets: what is printed, what is written, which exit code."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from handlers.cli.call import parse_items, split_target
from handlers.cli.exits import Exit, UsageError
from handlers.cli.main import main
from router_core import Router, Settings, build_app
from router_core.errors import Misconfigured
from router_core.security.api_keys import ApiKeys
from router_core.security.signing import parse_secret
from tests.client.fake_service import FakeService, Reply, problem
from tests.served import free_port

PNG = b"\x89PNG"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeService]:
    """A running service that the command line finds, and an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROUTER_API_KEY", raising=False)
    with FakeService().running() as service:
        monkeypatch.setenv("ROUTER_URL", service.url)
        yield service


def finished(fake: FakeService, **members: Any) -> None:
    """Let every job of /predict be finished from the start."""
    body = {**fake.job(), "status": "succeeded", "progress": 1.0, **members}
    fake.answers["POST /predict"] = Reply(202, json.dumps(body).encode())


def test_call_prints_the_value_of_a_plain_route(
    fake: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    """name:=json is typed, name=text is text."""
    assert main(["call", "add", "x:=1", "y:=2"]) == Exit.OK
    assert capsys.readouterr().out == "3\n"
    assert fake.requests("POST /add")[0].json() == {"x": 1, "y": 2}


def test_call_without_wait_prints_the_id_alone(fake: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """So that a script can keep it; the advice goes to standard error."""
    assert main(["call", "/predict", "a=x"]) == Exit.OK
    out, err = capsys.readouterr()
    assert out == "job-00000000\n"
    assert "router-core jobs watch job-00000000" in err


def test_call_wait_writes_a_file_to_where_it_was_asked(
    fake: FakeService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Upload by --file, result by --output, options between the arguments."""
    (tmp_path / "in.png").write_bytes(PNG)
    content = base64.b64encode(PNG * 2).decode()
    finished(fake, result={"file_name": "big.png", "content_type": "image/png", "content": content})
    command = ["call", "predict", "--file", "a=@in.png", "--wait", "b:=2", "--output", "out.png"]
    assert main(command) == Exit.OK
    assert (tmp_path / "out.png").read_bytes() == PNG * 2
    assert "wrote out.png (image/png, 8 bytes)" in capsys.readouterr().err
    assert b'filename="in.png"' in fake.requests("POST /predict")[0].body


def test_files_without_a_place_overwrite_nothing(fake: FakeService, tmp_path: Path) -> None:
    """They go to the working directory under their own names, whatever path the service proposes."""
    (tmp_path / "r.png").write_bytes(b"mine")
    content = base64.b64encode(PNG).decode()
    finished(fake, result=[{"file_name": "../r.png", "content_type": "image/png", "content": content}])
    assert main(["call", "predict", "a=x", "--wait"]) == Exit.OK
    assert (tmp_path / "r.png").read_bytes() == b"mine"
    assert (tmp_path / "r-1.png").read_bytes() == PNG


def test_json_prints_the_whole_job(fake: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """One document on standard output and nothing else."""
    finished(fake, result=5)
    assert main(["call", "predict", "a=x", "--wait", "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["result"] == 5


def test_a_failed_job_is_exit_code_1(fake: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """With the error of its function in one line."""
    finished(fake, status="failed", error={"type": "ValueError", "message": "bad\x1b[31m\nimage"})
    assert main(["call", "predict", "a=x", "--wait"]) == Exit.JOB_FAILED
    err = capsys.readouterr().err
    assert "router-core: ValueError: bad [31m image\n" in err
    assert "\x1b" not in err


def test_a_job_that_takes_too_long_is_exit_code_5(
    fake: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    """And goes on: the line says how to watch it."""
    assert main(["call", "predict", "a=x", "--wait", "--timeout", "0.1"]) == Exit.TIMEOUT
    assert "it goes on; watch it: router-core jobs watch" in capsys.readouterr().err


def test_nobody_there_is_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    """With the address and what to do."""
    url = f"http://127.0.0.1:{free_port()}"
    assert main(["call", "x", "--url", url]) == Exit.UNREACHABLE
    err = capsys.readouterr().err
    assert f"cannot connect to {url}: connection refused; is it running?" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (problem(401, "unauthorized", "an API key is needed"), "an API key is needed; pass --api-key"),
        (problem(403, "forbidden", "no"), "the service refused: no (403 forbidden)"),
        (
            problem(
                422, "validation_failed", "wrong", errors=[{"loc": ["body", "b"], "msg": "not a number"}]
            ),
            "wrong (body.b: not a number) (422 validation_failed)",
        ),
    ],
)
def test_a_refusal_is_exit_code_4(
    fake: FakeService, capsys: pytest.CaptureFixture[str], reply: Reply, said: str
) -> None:
    """One line, with the wrong fields."""
    fake.answers["POST /predict"] = reply
    assert main(["call", "predict", "a=x"]) == Exit.REFUSED
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["call", "predict", "nonsense"], "'nonsense' is no argument; write name=text"),
        (["call", "predict", "b:=abc"], "b:= takes JSON and 'abc' is none"),
        (["call", "predict", "--file", "a=@missing.png"], "there is no file missing.png"),
        (["call", "predict", "bb=1"], "did you mean 'b'"),
        (["call", "predict", "--url", "ftp://x", "a=1"], "is not the address of a service"),
        (["cal"], "did you mean 'call'"),
        (["routes"], "name the app as module:attribute"),
        (["serve", "nosuch_module:x"], "there is no module 'nosuch_module'"),
        (["serve", "--workers", "0", "x:y"], "--workers must be at least 1"),
        (["dev", "x:y", "--watch", "/nowhere"], "there is no folder /nowhere"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    fake: FakeService, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    """Never a traceback."""
    assert main(words) == Exit.USAGE
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(fake: FakeService) -> None:
    """For the author of a bug report."""
    with pytest.raises(UsageError):
        main(["call", "predict", "nonsense", "--debug"])


def test_a_stream_is_printed_as_it_comes(fake: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """Text runs on in one line, as a model writes it."""
    fake.answers["POST /tokens"] = Reply(200, b'"Once "\n"upon"\n', {"content-type": "application/x-ndjson"})
    assert main(["call", "tokens"]) == Exit.OK
    assert capsys.readouterr().out == "Once upon\n"


def test_jobs_list_shows_a_table_over_several_pages(
    fake: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    """Newest first, with what is known of each."""
    first = fake.job(created_at="2026-01-02T03:04:05.000000Z", message="half\x1b way", progress=0.5)
    page = {"jobs": [first], "cursor": "c1"}
    fake.answers["GET /jobs"] = Reply(200, json.dumps(page).encode())
    assert main(["jobs", "list", "--status", "running", "--limit", "2"]) == Exit.OK
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["ID", "ROUTE", "STATUS", "DONE", "CREATED", "MESSAGE"]
    assert "50%" in out
    assert "half  way" in out or "half way" in out
    assert [seen.query for seen in fake.requests("GET /jobs")] == [
        "status=running&limit=2",
        "status=running&cursor=c1&limit=1",
    ]


def test_jobs_show_cancel_and_watch(fake: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """Each by id; an unknown id is a refusal."""
    job_id = fake.job(status="running", progress=0.25)["job_id"]
    assert main(["jobs", "show", job_id]) == Exit.OK
    assert "progress  25%" in capsys.readouterr().out
    assert main(["jobs", "cancel", job_id]) == Exit.OK
    assert main(["jobs", "watch", job_id]) == Exit.JOB_FAILED
    assert main(["jobs", "show", "unknown-id"]) == Exit.REFUSED
    assert "no such job" in capsys.readouterr().err


def test_jobs_cancel_of_an_ended_job_says_so(fake: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 4: it did not do what was asked."""
    job_id = fake.job(status="succeeded")["job_id"]
    fake.answers[f"POST /jobs/{job_id}/cancel"] = problem(409, "conflict", "ended")
    assert main(["jobs", "cancel", job_id]) == Exit.REFUSED
    assert "has succeeded already" in capsys.readouterr().err


def test_keys_new_gives_a_key_and_its_entry(capsys: pytest.CaptureFixture[str]) -> None:
    """The key alone on standard output; hashed, the entry alone."""
    assert main(["keys", "new", "--name", "ann"]) == Exit.OK
    out, err = capsys.readouterr()
    assert out.startswith("rk_")
    assert "ann:sha256=" in err
    assert main(["keys", "new", "--name", "ann", "--hashed"]) == Exit.OK
    out, err = capsys.readouterr()
    assert out.startswith("ann:sha256=")
    assert "rk_" in err


def test_keys_new_takes_a_name_and_shows_what_goes_into_the_setting(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both forms of it; a name that the server would refuse is refused here."""
    assert main(["keys", "new", "ann"]) == Exit.OK
    out, err = capsys.readouterr()
    assert f": ann:{out}" in err
    ApiKeys.from_setting(err.splitlines()[-1].rpartition(" ")[2])
    for name in ("a b", "a,b", "a:b", "@keys.txt"):
        assert main(["keys", "new", name]) == Exit.USAGE
        assert "cannot name a key" in capsys.readouterr().err
    assert main(["keys", "new", "ann", "--name", "bob"]) == Exit.USAGE


def test_keys_webhook_gives_a_secret_that_signs(capsys: pytest.CaptureFixture[str]) -> None:
    """Alone on standard output; one that cannot sign is refused with the name of this command."""
    assert main(["keys", "webhook"]) == Exit.OK
    out, err = capsys.readouterr()
    assert len(parse_secret(out)) == 32
    assert "ROUTER_WEBHOOK_SECRET" in err
    memory = Settings(jobs="memory://", blobs="memory://")
    build_app(Router(), replace(memory, webhook_secret=f"{out}, {out}"))
    for secret in ("abc", " , ", f"{out},abc", "whsec_YWJj", "whsk_x"):
        with pytest.raises(Misconfigured, match=r"^ROUTER_WEBHOOK_SECRET .*router-core keys webhook"):
            build_app(Router(), replace(memory, webhook_secret=secret))


@pytest.mark.parametrize("command", ["serve", "dev", "routes", "openapi", "call", "jobs", "keys"])
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The newcomer's first move."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert f"router-core {command}" in out
    assert "examples:" in out


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command, too."""
    assert main([]) == main(["--help"]) == main(["--version"]) == Exit.OK
    assert "router-core call" in capsys.readouterr().out


def test_items_repeat_into_lists_and_split_at_the_first_mark(tmp_path: Path) -> None:
    """A value may hold every mark."""
    (tmp_path / "f").write_bytes(b"x")
    values = parse_items(["t=a:=b@c", "n:=[1]", "n:=2", f"f@{tmp_path / 'f'}"], [])
    assert values == {"t": "a:=b@c", "n": [1, 2], "f": tmp_path / "f"}
    assert split_target("https://h:1/v1/x?y") == ("https://h:1", "/v1/x")
    assert split_target("predict") == ("", "predict")


def test_a_value_is_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As curl -F does; JSON too; ``-`` is standard input; a text that begins so has its own spelling."""
    photo, settings = tmp_path / "photo.jpg", tmp_path / "s.json"
    photo.write_bytes(b"x")
    settings.write_text('{"a": [1]}')
    items = [f"i=@{photo}", f"j@{photo}", f"s:=@{settings}", 'at:="@ann"', "e=a@b"]
    assert parse_items(items, [f"k=@{photo}"]) == {
        "i": photo, "j": photo, "k": photo, "s": {"a": [1]}, "at": "@ann", "e": "a@b",
    }  # fmt: skip
    for item, expected in (("i=@-", b"[2]"), ("i:=@-", [2])):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[2]")))
        assert parse_items([item], []) == {"i": expected}


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("to=@ann", "there is no file ann; for this text write to:='\"@ann\"'"),
        ("to=@", "there is no file ''; for this text write to:='\"@\"'"),
        ("s:=@no.json", "there is no file no.json"),
        ("s:=@bad.json", "s:= takes JSON and bad.json holds none (Expecting value"),
        ("s:=@binary", "s:= takes JSON and binary holds none ("),
        ("f=@.", "there is no file ."),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, item: str, said: str
) -> None:
    """And the line names the path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("nope")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\xd8\xff")
    with pytest.raises(UsageError) as caught:
        parse_items([item], [])
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_help_imports_nothing_heavy() -> None:
    """The start of every command pays for what the command line imports itself."""
    code = (
        "import sys; from handlers.cli.main import main; main(['--help']); "
        "heavy = {'pydantic_core', 'httpx', 'rich', 'uvicorn', 'asyncio', 'handlers.local'}; "
        "bad = heavy & set(sys.modules); "
        "sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
