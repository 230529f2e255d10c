"""Run the blob store contract over memory and files; what only files can get wrong."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router_core.blobs.file import FileBlobStore
from router_core.blobs.memory import MemoryBlobStore
from router_core.errors import NotFound, StoreError
from router_core.testing.blob_store_contract import MAX_BYTES, BlobStoreContract
from router_core.testing.clock import FakeClock


class TestMemory(BlobStoreContract):
    """The contract over memory."""

    @pytest.fixture
    def blobs(self, clock: FakeClock) -> MemoryBlobStore:
        """A fresh store."""
        return MemoryBlobStore(clock, max_bytes=MAX_BYTES)


class TestFiles(BlobStoreContract):
    """The contract over a directory that does not exist yet."""

    @pytest.fixture
    async def blobs(self, clock: FakeClock, tmp_path: Path) -> AsyncIterator[FileBlobStore]:
        """A fresh directory."""
        store = FileBlobStore(tmp_path / "a" / "blobs", clock, max_bytes=MAX_BYTES)
        yield store
        await store.close()


async def test_a_full_memory_store_refuses() -> None:
    """Its total is bounded, and deleting makes room."""
    blobs = MemoryBlobStore(max_total_bytes=10)
    blob = await blobs.put(b"0123456789")
    with pytest.raises(StoreError, match="full"):
        await blobs.put(b"x")
    with pytest.raises(StoreError, match="full"):
        await blobs.ping()
    await blobs.delete(blob.key)
    await blobs.put(b"x")


async def test_files_are_private(tmp_path: Path) -> None:
    """Only their owner may read them, whatever the umask."""
    before = os.umask(0)
    try:
        blobs = FileBlobStore(tmp_path / "blobs")
        blob = await blobs.put(b"secret")
    finally:
        os.umask(before)
    path = tmp_path / "blobs" / blob.key[:2] / blob.key
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    await blobs.close()


async def test_no_link_is_followed(tmp_path: Path) -> None:
    """Neither a link in place of a blob nor one in place of a folder leads out of the root."""
    secret = tmp_path / "outside"
    secret.mkdir()
    key = "ab" + "0" * 30
    (secret / key).write_bytes(b"secret")
    blobs = FileBlobStore(tmp_path / "blobs")
    (tmp_path / "blobs" / "ab").mkdir(parents=True)
    (tmp_path / "blobs" / "ab" / key).symlink_to(secret / key)
    with pytest.raises(NotFound):
        await blobs.get(key)
    (tmp_path / "blobs" / "ab" / key).unlink()
    (tmp_path / "blobs" / "ab").rmdir()
    (tmp_path / "blobs" / "ab").symlink_to(secret)
    with pytest.raises(NotFound):
        await blobs.get(key)
    await blobs.close()


async def test_a_pipe_in_place_of_a_blob_does_not_block(tmp_path: Path) -> None:
    """It is not one of ours."""
    blobs = FileBlobStore(tmp_path)
    key = "cd" + "0" * 30
    (tmp_path / "cd").mkdir()
    os.mkfifo(tmp_path / "cd" / key)
    with pytest.raises(NotFound):
        await blobs.get(key)
    await blobs.close()


async def test_drafts_of_a_killed_process_are_collected(tmp_path: Path) -> None:
    """They are no keys, and go when they are as old as what is listed."""
    clock = FakeClock()
    blobs = FileBlobStore(tmp_path, clock)
    blob = await blobs.put(b"x")
    draft = tmp_path / blob.key[:2] / f".new-{'0' * 32}"
    draft.write_bytes(b"half")
    os.utime(draft, (clock.now(), clock.now()))
    assert await blobs.keys(clock.now()) == []
    assert draft.exists()
    assert await blobs.keys(clock.now() + 1) == [blob.key]
    assert not draft.exists()
    await blobs.close()


async def test_a_file_in_place_of_the_root_is_an_error_of_the_store(tmp_path: Path) -> None:
    """Not an OSError that nobody above knows."""
    (tmp_path / "blobs").write_text("not a directory")
    blobs = FileBlobStore(tmp_path / "blobs")
    with pytest.raises(StoreError):
        await blobs.put(b"x")
    with pytest.raises(StoreError):
        await blobs.ping()
    await blobs.close()
