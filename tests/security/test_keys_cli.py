"""``router-core keys create`` and the others, against a state on disk and against a running service."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.cli.main import main
from router_core import Router, Settings, build_app
from tests.local.tiny_app import served

ADMIN = "0123456789abcdef-root"


class Shell:
    """Runs commands; what they say is kept."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.err = ""

    def __call__(self, *words: str, code: int = 0) -> str:
        """Run one and return what it printed."""
        assert main(["keys", *words]) == code, self._capsys.readouterr()
        out, self.err = self._capsys.readouterr()
        return out.strip()


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A shell without settings."""
    for name in ("ROUTER_STATE", "ROUTER_KEYS", "ROUTER_URL", "ROUTER_API_KEY", "REDIS_URL", "ROUTER_ROLES"):
        monkeypatch.delenv(name, raising=False)
    return Shell(capsys)


@pytest.fixture(params=["state", "url"])
def place(
    request: pytest.FixtureRequest, shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[str, ...]]:
    """The options that name where the keys are: in a file, or behind a service that has the same file."""
    state = f"sqlite:///{tmp_path}/state.db"
    if request.param == "state":
        monkeypatch.setenv("ROUTER_STATE", state)
        monkeypatch.setenv("ROUTER_KEYS", "state")
        yield ()
        return
    settings = Settings(
        jobs="memory://", blobs="memory://", state=state, keys="state", api_keys=f"root:{ADMIN}", port=0,
        drain_grace=2.0,
    )  # fmt: skip
    with served(build_app(Router(), settings)) as port:
        monkeypatch.setenv("ROUTER_API_KEY", ADMIN)
        yield ("--url", f"http://127.0.0.1:{port}")


def test_a_key_from_its_beginning_to_its_end(shell: Shell, place: tuple[str, ...], tmp_path: Path) -> None:
    """The secret alone on standard output, once; nothing of it in the file."""
    key = shell(
        "create", "ci", "--role", "developer", "--scope", "paint", "--workspace", "ws-1",
        "--workspace", "ws-2",
        "--limit", "daily=2.5", "--limit", "requests=60", "--tier", "gold", "--expires", "90d", *place,
    )  # fmt: skip
    assert key.startswith("rk_")
    key_id = key.split("_")[1]
    assert "shown only now" in shell.err
    shown = json.loads(shell("show", key_id, *place))
    assert (shown["name"], shown["workspace"], shown["tier"]) == ("ci", "ws-1", "gold")
    assert [(each["kind"], each["amount"]) for each in shown["limits"]] == [
        ("daily", 2_500_000),
        ("requests", 60),
    ]
    rotated = shell("rotate", key_id, "--overlap", "1h", *place)
    assert rotated.split("_")[1] == key_id
    assert rotated != key
    shell("expire", key, "--in", "7d", *place)  # somebody pasted all of it
    assert key not in shell.err
    assert "ci" in shell("list", *place)
    shell("revoke", key_id, *place)
    assert "revoked" in shell("list", *place)
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert key.split("_", 2)[2].encode() not in held
    assert rotated.split("_", 2)[2].encode() not in held


WRONG: list[tuple[tuple[str, ...], str]] = [
    (("create",), "say what the key may do"), (("create", "--role", "boss"), "there are admin, developer"),
    (("create", "--role", "viewer", "--expires", "soon"), "is no time"),
    (("create", "--role", "viewer", "--limit", "daily"), "write kind=amount"),
    (("create", "--role", "viewer", "--limit", "daily=nan"), "write kind=amount"),
    (("create", "--role", "viewer", "--limit", "yearly=1"), "write kind=amount"),
    (("create", "--role", "viewer", "--workspace", "../x"), "workspace"), (("show", "../x"), "is no id"),
    (("show", "nothing0"), "no such key"), (("rotate", "nothing0", "--overlap", "90d"), "overlapSeconds"),
]  # fmt: skip


def test_what_is_wrong_is_said_on_one_line(shell: Shell, place: tuple[str, ...]) -> None:
    """With an exit code that is not 0, and no traceback."""
    for words, told in WRONG:
        code = main(["keys", *words, *place])
        out, err = shell._capsys.readouterr()
        assert code in (2, 4), words
        assert told in err, (words, err)
        assert err.startswith("router-core: ")
        assert err.count("\n") == 1
        assert out == ""


def test_a_state_that_ends_with_the_command_is_none(shell: Shell, tmp_path: Path) -> None:
    """A key in it would be lost with it; a file of something else is told."""
    shell("list", code=2)
    assert "set ROUTER_STATE" in shell.err
    shell("list", "--state", "sqlite:///x", "--url", "http://127.0.0.1:1", code=2)
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE things (id)")
    other.close()
    shell("list", "--state", f"sqlite:///{tmp_path}/other.db", code=2)
    assert shell.err.count("\n") == 1


def test_a_key_made_by_hand_opens_a_service(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one of a service that has no other."""
    state = f"sqlite:///{tmp_path}/state.db"
    key = shell("create", "--role", "admin", "--state", state)
    assert "ROUTER_KEYS=state" in shell.err
    settings = Settings(
        jobs="memory://", blobs="memory://", state=state, keys="state", port=0, drain_grace=2.0
    )
    with served(build_app(Router(), settings)) as port:
        url = f"http://127.0.0.1:{port}"
        assert shell("list", "--url", url, "--api-key", key).count("\n") == 1
        shell("list", "--url", url, code=4)
        shell("list", "--url", url, "--api-key", key[:-1], code=4)
        assert key[:-1] not in shell.err
