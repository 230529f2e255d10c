"""Where records go: files of whole lines, and functions."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from router_core.gateway.accounting.records import AttemptRecord
from router_core.gateway.accounting.sinks import Callback, JsonLinesFile
from router_core.gateway.call import Attributes
from tests.gateway.ledger_parts import DEPLOYMENT, make_attempt, make_call, make_ledger, settle


def records(*numbers: int) -> list[AttemptRecord]:
    """Return records with these numbers."""
    ledger = make_ledger(recent=len(numbers))
    settle(ledger, *numbers)
    return ledger.recent(len(numbers))[::-1]


def numbers_in(*paths: Path) -> list[int]:
    """Return the numbers of the records in files; every line has to be one."""
    found = []
    for path in paths:
        text = path.read_bytes()
        assert text.endswith(b"\n")
        found += [json.loads(line)["attempt"] for line in text.splitlines()]
    return found


async def test_each_record_is_a_line(tmp_path: Path) -> None:
    """Of JSON, with all its fields; nobody else may read the file."""
    path = tmp_path / "new" / "requests.jsonl"
    sink = JsonLinesFile(path)
    await sink.write(records(1, 2))
    await sink.write(records(3))
    await sink.aclose()
    assert numbers_in(path) == [1, 2, 3]
    line = json.loads(path.read_text().splitlines()[0])
    assert set(line) == set(AttemptRecord.__struct_fields__)
    assert (line["cost"], line["deployment"], line["stream"]) == (280, "turbo-1", False)
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_large_file_gets_a_successor(tmp_path: Path) -> None:
    """The names move on; what is older than the last one goes."""
    path = tmp_path / "r.jsonl"
    sink = JsonLinesFile(path, max_bytes=1, keep=2)
    for number in range(1, 6):
        await sink.write(records(number))
    await sink.aclose()
    assert sorted(os.listdir(tmp_path)) == ["r.jsonl", "r.jsonl.1", "r.jsonl.2"]
    assert numbers_in(tmp_path / "r.jsonl.2", tmp_path / "r.jsonl.1", path) == [3, 4, 5]


async def test_nothing_old_is_kept(tmp_path: Path) -> None:
    """With ``keep=0`` a new file replaces the old one."""
    path = tmp_path / "r.jsonl"
    sink = JsonLinesFile(path, max_bytes=1, keep=0)
    for number in (1, 2):
        await sink.write(records(number))
    assert os.listdir(tmp_path) == ["r.jsonl"]
    assert numbers_in(path) == [2]
    await sink.aclose()


@pytest.mark.parametrize(
    "torn", [b'{"at":1', b'{"a":1}\n{"at"', b"\0" * 200_000, b'{"a":1}\n' + b"x" * 70_000]
)
async def test_what_a_killed_process_left_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    """Half a line is no line, however long; whole ones stay."""
    path = tmp_path / "r.jsonl"
    path.write_bytes(torn)
    sink = JsonLinesFile(path)
    await sink.write(records(7))
    await sink.aclose()
    lines = path.read_bytes().splitlines()
    assert lines[:-1] == ([b'{"a":1}'] if torn.startswith(b'{"a":1}\n') else [])
    assert json.loads(lines[-1])["attempt"] == 7


async def test_a_file_that_was_moved_away(tmp_path: Path) -> None:
    """Whether by logrotate or by another process: the next write goes to the name."""
    path = tmp_path / "r.jsonl"
    sink = JsonLinesFile(path)
    await sink.write(records(1))
    path.rename(tmp_path / "old")
    await sink.write(records(2))
    path.unlink()
    await sink.write(records(3))
    await sink.aclose()
    assert numbers_in(tmp_path / "old", path) == [1, 3]


async def test_two_processes_share_a_file(tmp_path: Path) -> None:
    """Each with a file of its own open; rotation by one loses nothing of the other."""
    path = tmp_path / "r.jsonl"
    sinks = [JsonLinesFile(path, max_bytes=2000, keep=50) for _ in range(2)]
    for number in range(0, 60, 2):
        await asyncio.gather(*(sink.write(records(number + i)) for i, sink in enumerate(sinks)))
    for sink in sinks:
        await sink.aclose()
    names = os.listdir(tmp_path)
    assert sorted(numbers_in(*(tmp_path / name for name in names))) == list(range(60))
    assert len(names) > 3


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Have writes beyond a size fail, as on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


async def test_a_full_disk_leaves_no_half_batch(tmp_path: Path) -> None:
    """The batch comes again, so nothing of it may be there already."""
    path = tmp_path / "r.jsonl"
    sink = JsonLinesFile(path)
    await sink.write(records(1))
    with limited_file_size(path.stat().st_size + 100), pytest.raises(OSError, match="File too large"):
        await sink.write(records(2, 3))
    assert numbers_in(path) == [1]
    await sink.write(records(2, 3))
    await sink.aclose()
    assert numbers_in(path) == [1, 2, 3]


async def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """Is an error of each write, for the ledger to report; later writes may succeed."""
    path = tmp_path / "r.jsonl"
    path.mkdir()
    sink = JsonLinesFile(path)
    with pytest.raises(OSError):  # noqa: PT011 - its text is the platform's
        await sink.write(records(1))
    path.rmdir()
    await sink.write(records(1))
    await sink.aclose()
    assert numbers_in(path) == [1]


async def test_half_a_character_loses_no_record(tmp_path: Path) -> None:
    """Headers may hold what is no text; newlines in names stay in their line."""
    ledger = make_ledger()
    call = make_call(model_name="a\nb\r\u2028", attributes=Attributes(workspace_id="\ud800x"))
    ledger.settle(call, make_attempt(5), DEPLOYMENT, None)
    path = tmp_path / "r.jsonl"
    sink = JsonLinesFile(path)
    await sink.write(ledger.recent())
    await sink.aclose()
    (line,) = path.read_bytes().splitlines()
    assert json.loads(line)["workspace"] == "?x"
    assert json.loads(line)["model"] == "a\nb\r\u2028"


WRITER = """
import asyncio, sys
from router_core.gateway.accounting.sinks import JsonLinesFile
from tests.gateway.test_ledger_sinks import records
async def main():
    sink = JsonLinesFile(sys.argv[1])
    batch = records(*range(200))
    while True:
        await sink.write(batch)
        print("written", flush=True)
asyncio.run(main())
"""


@pytest.mark.process
def test_a_killed_process_leaves_whole_batches(tmp_path: Path) -> None:
    """What ``write`` has returned from is there; what it was at is whole lines after the next write."""
    path = tmp_path / "r.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    confirmed = 1 + len(process.communicate()[0].splitlines())
    asyncio.run(JsonLinesFile(path).write(records(999)))
    found = numbers_in(path)
    assert found[: confirmed * 200] == list(range(200)) * confirmed
    assert found[-1] == 999


async def test_a_function_gets_them() -> None:
    """Plain or async; what it raises, the ledger hears."""
    got: list[int] = []

    def plain(batch: Sequence[AttemptRecord]) -> None:
        got.extend(record.attempt for record in batch)

    async def coroutine(batch: Sequence[AttemptRecord]) -> None:
        await asyncio.sleep(0)
        plain(batch)

    def broken(batch: Sequence[AttemptRecord]) -> None:
        raise KeyError

    await Callback(plain).write(records(1))
    await Callback(coroutine).write(records(2))
    with pytest.raises(KeyError):
        await Callback(broken).write(records(3))
    await Callback(plain).aclose()
    assert got == [1, 2]
