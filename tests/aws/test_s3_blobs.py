"""Run the blob store contract over S3; what only S3 can get wrong."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import pytest
from botocore.exceptions import IncompleteReadError

from router_core.blobs import s3
from router_core.blobs.s3 import S3BlobStore
from router_core.errors import Misconfigured, NotFound, PayloadTooLarge, StoreError
from router_core.jobs.blobs import SignsUrls
from router_core.testing.blob_store_contract import MAX_BYTES, BlobStoreContract
from router_core.testing.clock import FakeClock
from router_core.vendors import boto3

MIB = 1024 * 1024


class TestS3(BlobStoreContract):
    """The contract over a bucket."""

    @pytest.fixture
    def blobs(self, clock: FakeClock, bucket: str) -> S3BlobStore:
        """A fresh bucket."""
        return S3BlobStore(bucket, "some/prefix", clock, max_bytes=MAX_BYTES)


class TestS3InParts(BlobStoreContract):
    """The contract where most of its blobs go up in parts."""

    @pytest.fixture
    def blobs(self, clock: FakeClock, bucket: str, monkeypatch: pytest.MonkeyPatch) -> S3BlobStore:
        """A fresh bucket, no prefix, small parts (the emulator takes them, S3 wants 5 MiB)."""
        monkeypatch.setattr(s3, "PART", 600_000)
        return S3BlobStore(bucket, "", clock, max_bytes=MAX_BYTES)


def uploads(bucket: str) -> list[Any]:
    """Return uploads that were begun and neither finished nor aborted."""
    return list(boto3.client("s3").list_multipart_uploads(Bucket=bucket).get("Uploads", ()))


def objects(bucket: str) -> list[str]:
    """Return the names of all objects."""
    found = boto3.client("s3").list_objects_v2(Bucket=bucket).get("Contents", ())
    return [item["Key"] for item in found]


class Source:
    """A stream that says how much of it was ever taken but not yet sent."""

    def __init__(self, chunks: int, size: int, *, breaks: bool = False) -> None:
        self.left = chunks
        self.size = size
        self.breaks = breaks
        self.given = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Return itself."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk, or break."""
        if not self.left:
            if self.breaks:
                raise ConnectionResetError("peer went away")
            raise StopAsyncIteration
        self.left -= 1
        self.given += self.size
        return bytes([self.left % 251]) * self.size


async def test_a_large_stream_goes_up_in_parts_and_is_never_held_whole(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 20 MB in chunks of 1 MB at most one part and a chunk are in memory."""
    blobs = S3BlobStore(bucket)
    source = Source(20, MIB)
    send, sent, most = s3._Upload.send, [0], [0]

    def watched(self: Any, piece: bytes) -> None:
        most[0] = max(most[0], source.given - sent[0])
        send(self, piece)
        sent[0] += len(piece)

    monkeypatch.setattr(s3._Upload, "send", watched)
    blob = await blobs.put(source)
    assert blob.size == 20 * MIB == sent[0]
    assert most[0] <= 2 * s3.PART + MIB
    data = await blobs.get(blob.key)
    assert (len(data), data[:1], data[-1:]) == (20 * MIB, bytes([19]), b"\0")
    assert uploads(bucket) == []


async def test_a_broken_upload_is_aborted(bucket: str) -> None:
    """Its parts cost nothing afterwards, also when the caller is cancelled, or sends too much."""
    blobs = S3BlobStore(bucket, max_bytes=12 * MIB)
    with pytest.raises(ConnectionResetError):
        await blobs.put(Source(10, MIB, breaks=True))
    with pytest.raises(PayloadTooLarge):
        await blobs.put(Source(20, MIB))
    reached = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * (9 * MIB)
        yield b"y"
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(blobs.put(endless()))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (uploads(bucket), objects(bucket)) == ([], [])


async def test_a_caller_that_leaves_while_a_blob_is_written_leaves_nothing(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write that was under way is undone."""
    blobs = S3BlobStore(bucket)
    whole, begun = s3._Upload.whole, asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(self: Any, data: bytes) -> None:
        loop.call_soon_threadsafe(begun.set)
        whole(self, data)

    monkeypatch.setattr(s3._Upload, "whole", slow)
    task = asyncio.ensure_future(blobs.put(b"x"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert objects(bucket) == []


async def test_services_share_a_bucket(bucket: str) -> None:
    """Each reads all blobs and lists its own, also those of another prefix's neighbour."""
    clock = FakeClock()
    ours, theirs = (S3BlobStore(bucket, "p", clock, owner=owner) for owner in ("a", "b"))
    mine, other = await ours.put(b"a"), await theirs.put(b"b")
    clock.advance(1)
    assert await ours.get(other.key) == b"b"
    assert await ours.keys(clock.now()) == [mine.key]
    assert await theirs.keys(clock.now(), after=mine.key) in ([], [other.key])
    assert await S3BlobStore(bucket, "p2", clock, owner="a").keys(clock.now()) == []


async def test_a_long_list_is_read_in_pages(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of their age, up to the limit, and no further than the young ones."""
    clock = FakeClock()
    blobs = S3BlobStore(bucket, "p", clock)
    monkeypatch.setattr(s3, "_PAGE", 3)
    made = []
    for _ in range(8):
        made.append((await blobs.put(b"x")).key)
        clock.advance(10)
    asked: list[str] = []
    read = s3._list

    def counted(bucket: str, prefix: str, after: str, limit: int) -> Any:
        asked.append(after)
        return read(bucket, prefix, after, limit)

    monkeypatch.setattr(s3, "_list", counted)
    assert await blobs.keys(clock.now()) == made
    assert await blobs.keys(clock.now(), limit=4, after=made[1]) == made[2:6]
    asked.clear()
    assert await blobs.keys(clock.now() - 65) == made[:2]
    assert len(asked) == 1


def fetch(url: str) -> tuple[int, dict[str, str], bytes]:
    """Read a signed address as a browser would."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {}, error.read()


async def test_a_signed_address_gives_the_blob_to_anybody(bucket: str) -> None:
    """With the type and name that were asked for; a page is saved rather than shown."""
    blobs = S3BlobStore(bucket, "p")
    assert isinstance(blobs, SignsUrls)
    blob = await blobs.put(b"<b>hi</b>", content_type="text/html")
    url = await asyncio.to_thread(
        blobs.presign, blob.key, seconds=60, content_type="text/html", filename="a \u4e2d.html"
    )
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Expires"] == ["60"]
    assert query["response-content-type"] == ["text/html"]
    assert query["response-content-disposition"] == ["attachment; filename*=UTF-8''a%20%E4%B8%AD.html"]
    status, _, body = await asyncio.to_thread(fetch, url)
    assert (status, body) == (200, b"<b>hi</b>")
    shown = urllib.parse.urlsplit(blobs.presign(blob.key, content_type="image/png"))
    assert urllib.parse.parse_qs(shown.query)["response-content-disposition"] == ["inline"]
    for odd in ("", "../x", "0" * 32):
        with pytest.raises(NotFound):
            blobs.presign(odd)


async def test_an_odd_content_type_harms_nobody(bucket: str) -> None:
    """It came from a caller; the record keeps it, the object gets one that a header can carry."""
    blobs = S3BlobStore(bucket)
    for odd in ("image/png\r\nx-evil: 1", "\u4e2d/text", "", "x" * 5000):
        blob = await blobs.put(b"x", content_type=odd)
        assert blob.content_type == odd
        assert await blobs.get(blob.key) == b"x"
        assert "\n" not in blobs.presign(blob.key, content_type=odd)


async def test_a_bucket_that_is_not_there_is_an_error_of_the_store(aws: str) -> None:
    """Which somebody has to mend; it is not taken for a blob that is not there."""
    blobs = S3BlobStore("no-such-bucket-anywhere")
    with pytest.raises(StoreError, match="NoSuchBucket"):
        await blobs.put(b"x")
    with pytest.raises(StoreError):
        await blobs.ping()
    with pytest.raises(StoreError):
        await blobs.get((await _made("a")).key)


async def _made(owner: str) -> Any:
    class Key:
        key = S3BlobStore("any", owner=owner)._new_key()

    return Key


async def test_a_store_that_does_not_answer_is_unavailable(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead endpoint, which may come back."""
    boto3.forget()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    try:
        with pytest.raises(StoreError) as caught:
            await S3BlobStore("some-bucket").put(b"x")
        assert caught.value.retry_after == 5.0
    finally:
        boto3.forget()


@pytest.mark.parametrize(("cuts", "comes"), [(1, True), (2, True), (3, False)])
async def test_a_download_that_breaks_is_begun_again(
    bucket: str, monkeypatch: pytest.MonkeyPatch, cuts: int, comes: bool
) -> None:
    """Half a blob is none; a store whose answers keep breaking is unavailable."""
    blobs = S3BlobStore(bucket)
    blob = await blobs.put(b"whole")
    client = boto3.client("s3")
    get, left = client.get_object, [cuts]

    class Cut:
        def read(self) -> bytes:
            """Break after some bytes, as a socket does."""
            raise IncompleteReadError(actual_bytes=2, expected_bytes=5)

    def cut(**parameters: Any) -> Any:
        left[0] -= 1
        return {"Body": Cut()} if left[0] >= 0 else get(**parameters)

    monkeypatch.setattr(client, "get_object", cut)
    if comes:
        assert await blobs.get(blob.key) == b"whole"
    else:
        with pytest.raises(StoreError):
            await blobs.get(blob.key)


def test_a_name_that_no_bucket_has_is_refused() -> None:
    """When the store is made, naming the setting."""
    for odd in ("", "A", "x" * 64, "has space", "-dash"):
        with pytest.raises(Misconfigured, match="ROUTER_BLOBS"):
            S3BlobStore(odd)
