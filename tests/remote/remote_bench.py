"""A coordinator in this process, and what a remote worker says to it played by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from router_core.app import App
from router_core.http.media import File
from router_core.http.message import Headers, Request, Response
from router_core.jobs.context import JobProgress
from router_core.jobs.job import Job
from router_core.jobs.remote_wire import EPOCH_HEADER, SHA256_HEADER, TOKEN_HEADER, signature_of
from router_core.routing.router import Router
from router_core.security.api_keys import generate_key
from router_core.settings import Settings
from router_core.types import Principal, new_id
from router_core.wiring import build_app

__all__ = ["BOX", "CALLER", "PICKY", "Bench", "Lease", "bench", "router_of"]

BOX = generate_key("rw").key
PICKY = generate_key("rw").key
CALLER = generate_key().key


def router_of() -> Router:
    """Return a service; its functions do not run in these tests."""
    router = Router(title="bench")

    @router.route("/double", max_attempts=3)
    def double(job_progress: JobProgress, x: int) -> int:
        return 2 * x

    @router.route("/look")
    def look(file: File, principal: Principal) -> int:
        return file.size

    @router.route("/words", job=True)
    def words(text: str) -> Iterator[str]:
        yield from text.split()

    return router


class Lease:
    """A job as a worker has it."""

    def __init__(self, job: Mapping[str, Any], key: str) -> None:
        self.job = job
        self.id = str(job["id"])
        self.key = key

    def headers(self, epoch: object = None, token: object = None) -> dict[str, str]:
        """Return what proves it, or something else."""
        return {
            EPOCH_HEADER: str(self.job["epoch"] if epoch is None else epoch),
            TOKEN_HEADER: str(self.job["token"] if token is None else token),
        }


class Bench:
    """The coordinator and a way to speak to it."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.signatures = {route.key: signature_of(route) for route in app.routes if not route.internal}

    async def send(
        self, method: str, path: str, body: bytes | object = b"", *, key: str = BOX, query: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Response:  # fmt: skip
        """Send a request under a key."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        pairs = [("host", "localhost"), ("content-type", "application/json")]
        pairs += [("authorization", f"Bearer {key}")] if key else []
        return await self.app.handle(
            Request(method, path, query, Headers([*pairs, *(headers or {}).items()]), data)
        )

    async def ask(self, path: str, body: object, *, key: str = BOX, lease: Lease | None = None) -> Any:
        """Post and return the JSON of a good answer."""
        answer = await self.send("POST", path, body, key=key, headers=lease.headers() if lease else None)
        assert answer.status < 300, (answer.status, answer.body)
        return value_of(answer)

    async def submit(self, path: str = "/double", **values: object) -> str:
        """Submit a job as a caller."""
        answer = await self.send("POST", path, values or {"x": 4}, key=CALLER)
        assert answer.status == 202, answer.body
        return str(value_of(answer)["job_id"])

    def claim_body(self, claim_id: str = "claim-0001", **slots: int) -> dict[str, Any]:
        """Return what asks for jobs; the names of slots are those of functions."""
        wanted = {f"/{name}": count for name, count in (slots or {"double": 1}).items()}
        known = {name: self.signatures.get(name, "0" * 64) for name in wanted}
        return {
            "worker_id": "worker-0001", "claim_id": claim_id, "lease": 30.0, "slots": wanted,
            "signatures": known,
        }  # fmt: skip

    async def claim(self, claim_id: str = "claim-0001", key: str = BOX, **slots: int) -> list[Lease]:
        """Take jobs."""
        answer = await self.ask("/worker/claim", self.claim_body(claim_id, **slots), key=key)
        return [Lease(job, key) for job in answer["jobs"]]

    async def lease(self, path: str = "/double", **values: object) -> Lease:
        """Submit a job and take it."""
        await self.submit(path, **values)
        slots: dict[str, int] = {path[1:]: 1}
        (lease,) = await self.claim(new_id(), BOX, **slots)
        return lease

    async def move(self, lease: Lease, **said: object) -> Any:
        """Make a move."""
        return await self.ask(f"/worker/jobs/{lease.id}/move", said, key=lease.key, lease=lease)

    async def piece(self, lease: Lease, data: bytes) -> str:
        """Send a piece of a result."""
        told = {**lease.headers(), SHA256_HEADER: hashlib.sha256(data).hexdigest()}
        answer = await self.send("PUT", f"/worker/jobs/{lease.id}/blob", data, key=lease.key, headers=told)
        assert answer.status == 201, answer.body
        return str(value_of(answer)["piece"])

    async def record(self, job_id: str) -> Job:
        """Return the record."""
        job = await self.app.parts.store.get(job_id)
        assert isinstance(job, Job)
        return job


def value_of(answer: Response) -> Any:
    """Return the JSON of an answer."""
    assert isinstance(answer.body, bytes)
    return json.loads(answer.body)


@asynccontextmanager
async def bench(**changes: Any) -> AsyncIterator[Bench]:
    """Run a coordinator over a store in memory."""
    values: dict[str, Any] = {
        "jobs": "memory://", "blobs": "memory://", "queue": "pull", "api_keys": f"ann:{CALLER}",
        "worker_keys": f"box:{BOX},picky:{PICKY}:/words", **changes,
    }  # fmt: skip
    app = build_app(router_of(), Settings(**values).checked())
    await app.start()
    try:
        yield Bench(app)
    finally:
        await app.stop(0.0)
