"""What every blob store has to do, as tests that a stranger's store can run.

Subclass ``BlobStoreContract`` and give it a fixture ``blobs`` that takes its times from the fixture ``clock``
and refuses more than ``MAX_BYTES`` in one blob.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator

import pytest

from router_core.errors import NotFound, PayloadTooLarge
from router_core.jobs.blobs import BlobStore
from router_core.testing.clock import FakeClock

__all__ = ["MAX_BYTES", "BlobStoreContract"]

MAX_BYTES = 4 * 1024 * 1024
_ODD_KEYS = (
    "", ".", "..", "../secret", "/etc/passwd", "a/b", "a" * 4096, "nul\0byte", "\u4e2d", "0" * 31, "0" * 32,
    "G" * 32, "0" * 32 + "\n", "%2e%2e", "..\\x",
)  # fmt: skip


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


class BlobStoreContract:
    """The whole suite; needs a fixture ``blobs``."""

    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def clock(self) -> FakeClock:
        """The time that the store lives by."""
        return FakeClock()

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000], ids=["empty", "one", "1.2 MB"])
    async def test_bytes_come_back(self, blobs: BlobStore, data: bytes) -> None:
        """With their digest and size, any number of times."""
        blob = await blobs.put(data, content_type="image/png")
        assert (blob.size, blob.content_type) == (len(data), "image/png")
        assert blob.sha256 == hashlib.sha256(data).hexdigest()
        assert await blobs.get(blob.key) == data
        assert await blobs.get(blob.key) == data

    async def test_a_stream_comes_back(self, blobs: BlobStore) -> None:
        """Chunks of any size, empty ones and none at all included."""
        parts = [b"a" * 700_000, b"", b"b" * 700_000, b"c"]
        blob = await blobs.put(_chunks(*parts))
        assert await blobs.get(blob.key) == b"".join(parts)
        assert blob.sha256 == hashlib.sha256(b"".join(parts)).hexdigest()
        assert await blobs.get((await blobs.put(_chunks())).key) == b""

    async def test_same_bytes_are_two_blobs(self, blobs: BlobStore) -> None:
        """Deleting the one leaves the other."""
        first, second = await blobs.put(b"same"), await blobs.put(b"same")
        assert first.key != second.key
        await blobs.delete(first.key)
        assert await blobs.get(second.key) == b"same"

    async def test_deleted_is_gone(self, blobs: BlobStore) -> None:
        """And deleting again is no error."""
        blob = await blobs.put(b"x")
        await blobs.delete(blob.key)
        await blobs.delete(blob.key)
        with pytest.raises(NotFound):
            await blobs.get(blob.key)

    @pytest.mark.parametrize("key", _ODD_KEYS, ids=[str(n) for n in range(len(_ODD_KEYS))])
    async def test_an_odd_key_finds_nothing(self, blobs: BlobStore, key: str) -> None:
        """A key that the store did not make leads nowhere."""
        with pytest.raises(NotFound):
            await blobs.get(key)
        await blobs.delete(key)

    async def test_too_much_is_refused_and_leaves_nothing(self, blobs: BlobStore, clock: FakeClock) -> None:
        """At once for bytes, on the way for a stream; the limit itself is allowed."""
        whole = await blobs.put(b"x" * MAX_BYTES)
        await blobs.delete(whole.key)
        with pytest.raises(PayloadTooLarge):
            await blobs.put(b"x" * (MAX_BYTES + 1))
        with pytest.raises(PayloadTooLarge):
            await blobs.put(_chunks(*[b"x" * 1_000_000] * 6))
        assert await blobs.keys(clock.now() + 1) == []

    async def test_a_stream_that_breaks_leaves_nothing(self, blobs: BlobStore, clock: FakeClock) -> None:
        """The error reaches the caller as it was raised; so does cancellation."""

        async def broken() -> AsyncIterator[bytes]:
            yield b"x" * 1_500_000
            raise ConnectionResetError("peer went away")

        with pytest.raises(ConnectionResetError):
            await blobs.put(broken())

        reached = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            yield b"x" * 1_500_000
            reached.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(blobs.put(endless()))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await blobs.keys(clock.now() + 1) == []

    async def test_old_keys_are_listed(self, blobs: BlobStore, clock: FakeClock) -> None:
        """Those written before a time, up to a limit."""
        old = [await blobs.put(b"old") for _ in range(3)]
        clock.advance(100)
        young = await blobs.put(b"young")
        assert set(await blobs.keys(clock.now())) == {blob.key for blob in old}
        assert len(await blobs.keys(clock.now(), limit=2)) == 2
        first = await blobs.keys(clock.now(), limit=2)
        rest = await blobs.keys(clock.now(), after=first[-1])
        assert [*first, *rest] == await blobs.keys(clock.now())
        assert first[-1] not in rest
        assert await blobs.keys(clock.now() - 100) == []
        assert young.key in await blobs.keys(clock.now() + 1)

    async def test_many_at_once(self, blobs: BlobStore) -> None:
        """Forty writers do not mix."""
        wanted = [bytes([number]) * (number * 1000 + 1) for number in range(40)]
        made = await asyncio.gather(*(blobs.put(data) for data in wanted))
        assert await asyncio.gather(*(blobs.get(blob.key) for blob in made)) == wanted

    async def test_any_loop_may_use_it(self, blobs: BlobStore) -> None:
        """A blob written in one thread's loop is read in another's."""
        blob = await blobs.put(b"shared")
        seen: list[bytes] = []
        thread = threading.Thread(target=lambda: seen.append(asyncio.run(_get(blobs, blob.key))))
        thread.start()
        await asyncio.to_thread(thread.join)
        assert seen == [b"shared"]

    async def test_it_can_write(self, blobs: BlobStore, clock: FakeClock) -> None:
        """The readiness probe passes and leaves nothing behind."""
        await blobs.ping()
        assert await blobs.keys(clock.now() + 1) == []


async def _get(blobs: BlobStore, key: str) -> bytes:
    return await blobs.get(key)
