"""A stand-in for RunPod's serverless platform, true to its wire: real workers and clients talk to it.

    with RunpodApi() as api:
        worker = subprocess.Popen([...], env={**os.environ, **api.environ("worker-1")})
        job = api.submit({"path": "/hello"})
        assert api.ended(job).output == "Hello!"

Both sides are there: what a worker polls and posts (job-take, job-take-batch, job-stop, job-done, job-stream,
ping) and what a caller uses (run, runsync, status, stream, cancel, retry, health, purge-queue), so that the
official client works against it (``RUNPOD_ENDPOINT_BASE_URL`` is among the variables). The wire is that of
SDK 1.12.0. Tests need more: every request in order (``requests``), faults for any of them (``fault``),
an API that is down (``down``, ``up``), and the platform's own doings at a word instead of by a clock
(``time_out``, ``deliver_again``, ``forget``). Webhooks are kept with the job, not called.

It runs in a thread of its own on 127.0.0.1; methods block, from any thread, and return what was true then.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

from router_core.testing.runpod_http import Ask, Hangup, Reply, Wire
from router_core.testing.runpod_queue import PlatformJob, Queue, new_id
from router_core.testing.runpod_routes import Limits, Routes

__all__ = ["Fault", "Limits", "PlatformJob", "RunpodApi", "Seen"]

T = TypeVar("T")
Kind = Literal["answer", "drop", "lose", "cut", "garbage", "hold"]

_WAIT: Final = 30.0
_LOOK: Final = 0.05


@dataclass(slots=True)
class Seen:
    """One request, in the order in which they came."""

    number: int
    at: float
    """time.monotonic() when it had been read."""
    method: str
    path: str
    action: str
    """``job-done``, ``run``, ``status`` ...: what follows the endpoint."""
    worker: str
    job: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    status: int = 0
    """0 until it is answered, and for good if it never was."""

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def is_progress(self) -> bool:
        """Whether it is a job-done that reports progress."""
        return self.action == "job-done" and b'"IN_PROGRESS"' in self.body and self.json.get("status") == (
            "IN_PROGRESS"
        )  # fmt: skip


@dataclass(slots=True)
class Fault:
    """Something that goes wrong with the next requests of one kind.

    answer: ``status`` comes back and nothing is done. drop: the connection is closed and nothing is done.
    lose: all is done, and the connection is closed without an answer. cut: all is done, half of the answer is
    sent. garbage: 200 with what is not JSON, nothing is done. hold: it waits for ``release`` before it is
    looked at.
    """

    action: str
    kind: Kind
    status: int = 500
    times: int | None = 1
    """How many requests; None means all until it is lifted."""
    job: str = ""
    """Only requests for this job."""
    worker: str = ""
    hits: int = 0
    released: bool = False
    notify: Callable[[], None] = lambda: None

    def release(self) -> None:
        """Let go of what is held, and hold nothing more."""
        self.released = True
        self.lift()
        self.notify()

    def lift(self) -> None:
        """Let this go wrong no more."""
        self.times = 0

    def meets(self, seen: Seen) -> bool:
        """Say whether this request is one of them, and count it."""
        if self.times is not None and self.hits >= self.times:
            return False
        if seen.action != self.action or (self.job or seen.job) != seen.job:
            return False
        if (self.worker or seen.worker) != seen.worker:
            return False
        self.hits += 1
        return True


class RunpodApi:
    """One endpoint of the platform."""

    def __init__(
        self, endpoint: str = "fake", *, key: str = "rp-test-key", poll: float = 2.0,
        limits: Limits | None = None,
    ) -> None:  # fmt: skip
        """``poll`` is how many seconds job-take and job-stop are held open when there is nothing to say."""
        self.endpoint = endpoint
        self.key = key
        self.requests: list[Seen] = []
        self._faults: list[Fault] = []
        self._queue = Queue()
        self._wire = Wire(self._answer, self._queue.change)
        self._routes = Routes(self._queue, key, poll, limits or Limits())

    # -- life ----------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen."""
        self._wire.start()
        return self

    def stop(self) -> None:
        """End all."""
        self._wire.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def down(self) -> None:
        """Refuse every connection and close those that are open; what is queued stays."""
        self._wire.down()

    def up(self) -> None:
        """Answer again, at the same address."""
        self._wire.start()

    @property
    def base_url(self) -> str:
        """What the official client wants: ``RUNPOD_ENDPOINT_BASE_URL``."""
        return f"http://127.0.0.1:{self._wire.port}/v2"

    @property
    def url(self) -> str:
        """The address of the endpoint."""
        return f"{self.base_url}/{self.endpoint}"

    def environ(self, worker_id: str = "worker-1", *, ping_ms: int = 10_000) -> dict[str, str]:
        """Return the variables that the platform sets for a worker, in its own forms."""
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self.url}/job-take/$ID?gpu=FAKE",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self.url}/job-done/$RUNPOD_POD_ID/$ID?gpu=FAKE",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{self.url}/job-stream/$RUNPOD_POD_ID/$ID?gpu=FAKE",
            "RUNPOD_WEBHOOK_PING": f"{self.url}/ping/$RUNPOD_POD_ID",
            "RUNPOD_PING_INTERVAL": str(ping_ms),
            "RUNPOD_AI_API_KEY": self.key,
            "RUNPOD_POD_ID": worker_id,
            "RUNPOD_POD_HOSTNAME": f"{worker_id}.local",
            "RUNPOD_ENDPOINT_ID": self.endpoint,
            "RUNPOD_ENDPOINT_BASE_URL": self.base_url,
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }

    # -- jobs ----------------------------------------------------------------------------------------

    def new_id(self, *, sync: bool = False) -> str:
        """Return an id for ``submit``, to let something go wrong with a job from its first moment on."""
        return new_id(sync=sync)

    def submit(self, given: Any, *, sync: bool = False, job_id: str | None = None, **extras: Any) -> str:
        """Queue a job as /run does, without a request, and return its id."""
        body = {**extras, "input": given}
        return self._do(lambda: self._routes.submit(body, sync=sync, job_id=job_id).id)

    def submit_all(self, inputs: Sequence[Any]) -> list[str]:
        """Queue many jobs at one moment, so that a worker finds them together."""
        return self._do(lambda: [self._routes.submit({"input": each}, sync=False).id for each in inputs])

    def job(self, job_id: str) -> PlatformJob:
        """Return a copy of a job as it stands."""
        return self._do(lambda: self._queue.jobs[job_id].copy())

    def ended(self, job_id: str, timeout: float = _WAIT) -> PlatformJob:
        """Wait for the end of a job and return it."""
        self.wait(lambda: self._queue.jobs[job_id].ended, timeout, f"the end of {job_id}")
        return self.job(job_id)

    def all_ended(self, job_ids: Sequence[str], timeout: float = _WAIT) -> list[PlatformJob]:
        """Wait for the ends of jobs and return them."""
        jobs = self._queue.jobs
        self.wait(lambda: all(jobs[each].ended for each in job_ids), timeout, f"{len(job_ids)} ends")
        return [self.job(each) for each in job_ids]

    def taken(self, job_id: str, timeout: float = _WAIT) -> PlatformJob:
        """Wait until a worker has the job."""
        self.wait(lambda: bool(self._queue.jobs[job_id].workers), timeout, f"a worker for {job_id}")
        return self.job(job_id)

    def cancel(self, job_id: str) -> None:
        """Cancel as /cancel does."""
        self._do(lambda: self._queue.end(self._queue.jobs[job_id], "CANCELLED"))

    def time_out(self, job_id: str) -> None:
        """Let a job reach its executionTimeout: its worker is told to stop."""
        self._do(lambda: self._queue.end(self._queue.jobs[job_id], "TIMED_OUT"))

    def retry(self, job_id: str) -> bool:
        """Queue a failed or timed-out job again as /retry does."""
        return self._do(lambda: self._queue.retry(self._queue.jobs[job_id]))

    def deliver_again(self, job_id: str) -> None:
        """Hand the same id out once more, whatever became of it."""
        self._do(lambda: self._queue.deliver_again(self._queue.jobs[job_id]))

    def forget(self, job_id: str) -> None:
        """Let the retention of a job end: it is unknown from now on."""
        self._do(lambda: self._queue.jobs.pop(job_id, None))

    # -- what was asked, and what goes wrong ---------------------------------------------------------

    def fault(
        self, action: str, kind: Kind = "answer", *, status: int = 500, times: int | None = 1,
        job: str = "", worker: str = "",
    ) -> Fault:  # fmt: skip
        """Let the next requests of one kind go wrong; see ``Fault``."""
        fault = Fault(action, kind, status, times, job, worker, notify=lambda: self._do(self._queue.change))
        self._do(lambda: self._faults.append(fault))
        return fault

    def release_polls(self) -> None:
        """Answer all open long polls now, with nothing."""
        self._do(self._queue.release_polls)

    def seen(self, action: str = "", *, job: str = "", worker: str = "") -> list[Seen]:
        """Return the requests of one kind, in order."""
        return [
            each
            for each in list(self.requests)
            if each.action == (action or each.action)
            and each.job == (job or each.job)
            and each.worker == (worker or each.worker)
        ]

    def posts(self, job: str) -> list[Seen]:
        """Return all that workers have posted for a job, in order."""
        return [each for each in self.seen(job=job) if each.action in ("job-done", "job-stream")]

    def asked(self, action: str, *, worker: str = "", count: int = 1, timeout: float = _WAIT) -> list[Seen]:
        """Wait until there have been so many requests of one kind."""
        what = f"{count} x {action}"
        self.wait(lambda: len(self.seen(action, worker=worker)) >= count, timeout, what)
        return self.seen(action, worker=worker)

    def wait(self, condition: Callable[[], bool], timeout: float = _WAIT, what: str = "") -> None:
        """Wait until something holds; it is looked at after every change, on the server's thread."""
        if not self._wire.call(self._queue.outlast(condition, timeout, _LOOK), timeout + 10):
            last = [f"{each.action} {each.job} {each.status}" for each in self.requests[-8:]]
            raise TimeoutError(f"waited {timeout:g} s for {what or 'a condition'}; the last requests: {last}")

    def _do(self, work: Callable[[], T]) -> T:
        async def run() -> T:
            return work()

        return self._wire.call(run())

    async def _answer(self, ask: Ask) -> Reply:
        action, worker, job = self._routes.parse(ask)
        seen = Seen(
            len(self.requests), time.monotonic(), ask.method, ask.path, action, worker, job, ask.query,
            ask.headers, ask.body,
        )  # fmt: skip
        self.requests.append(seen)
        fault = next((each for each in self._faults if each.meets(seen)), None)
        self._queue.change()
        reply = await self._spoiled(ask, fault)
        seen.status = 0 if reply.lost or reply.half else reply.status
        self._queue.change()
        return reply

    async def _spoiled(self, ask: Ask, fault: Fault | None) -> Reply:
        kind = fault.kind if fault is not None else ""
        if kind == "drop":
            raise Hangup
        if fault is not None and kind == "answer":
            return Reply.of({"error": "as the test wants it"}, fault.status)
        if kind == "garbage":
            return Reply(200, b'{"id": "half a job", "inp')
        if fault is not None and kind == "hold":
            await self._queue.outlast(lambda: fault.released or ask.gone.is_set(), math.inf)
        reply = await self._routes.answer(ask)
        if kind == "lose":
            return Reply(reply.status, lost=True)
        if kind == "cut":
            return Reply(reply.status, reply.body or b"{}", reply.content_type, half=True)
        return reply
