"""A caller who gives up while a blob is written leaves neither a file nor an open descriptor behind."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from router_core.blobs.file import FileBlobStore, _Draft


def opened(folder: Path) -> list[str]:
    """Return what this process has open below a folder; others' descriptors come and go as they like."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue  # closed since
    return sorted(path for path in found if path.startswith(f"{folder}{os.sep}"))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open descriptors are counted in /proc")
async def test_a_cancel_while_the_draft_is_opened_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draft that the thread was just opening is closed and removed."""
    blobs = FileBlobStore(tmp_path / "blobs")
    await blobs.put(b"the folders are there now")
    begun, go = threading.Event(), threading.Event()
    begin = blobs._begin

    def slowly() -> _Draft:
        begun.set()
        assert go.wait(60)
        return begin()

    monkeypatch.setattr(blobs, "_begin", slowly)
    before = opened(tmp_path)
    task = asyncio.create_task(blobs.put(b"x"))
    await asyncio.to_thread(begun.wait, 20)
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, go.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await asyncio.to_thread(blobs._pool.shutdown)  # whatever its threads were still doing is done now
    assert opened(tmp_path) == before
    assert not list((tmp_path / "blobs").rglob(".new-*"))
