"""A stand-in for RunPod's REST API (v2, the part about serverless endpoints), true to its wire.

    with RunpodRest() as runpod:
        subprocess.run(["router-core", "deploy", "runpod", ...], env={**os.environ, **runpod.environ()})
        assert runpod.endpoint("service")["image"] == "ann/service:1"

Endpoints are created, changed and deleted by their rules (unknown fields are refused by name, an update that
sends ``env`` replaces it, the kind of hardware is fixed, names need not be unique), and each has the job API
of the platform. Its workers are pretended: they start when a job waits, get ready after some looks at the
list of workers, and answer as ``habits`` say; or real workers are attached (``habits.answer = None``,
``worker_environ``). Nothing happens by a clock.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

from router_core.testing.runpod_endpoint import Endpoint, Habits
from router_core.testing.runpod_http import Ask, Hangup, Reply, Wire
from router_core.testing.runpod_schema import Problem

__all__ = ["RestFault", "RestSeen", "RunpodRest"]

T = TypeVar("T")
Kind = Literal["answer", "drop", "lose", "garbage", "hold"]

_REST: Final = "/rest/v2/serverless"
_ACTIONS: Final = {
    ("GET", 0): "list", ("POST", 0): "create", ("GET", 1): "get", ("PATCH", 1): "update",
    ("DELETE", 1): "delete", ("GET", 2): "workers", ("GET", 4): "logs",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RestSeen:
    """One request, in the order in which they came."""

    method: str
    action: str
    """list, create, get, update, delete, workers, logs; or that of the job API: run, status, cancel ..."""
    path: str
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


@dataclass(slots=True)
class RestFault:
    """What goes wrong with the next requests of one action; the kinds are those of ``runpod_api.Fault``."""

    action: str
    kind: Kind
    status: int
    times: int
    retry_after: str
    released: asyncio.Event = field(default_factory=asyncio.Event)
    held: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class _Answer(Reply):
    """An answer with headers of its own."""

    headers: tuple[tuple[str, str], ...] = ()

    def encode(self) -> bytes:
        """Return the bytes."""
        first, _, rest = Reply.encode(self).partition(b"\r\n")
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        return first + b"\r\n" + lines.encode() + rest


class RunpodRest:
    """One account."""

    def __init__(self, *, key: str = "rpa_TESTKEY0123456789") -> None:
        self.habits = Habits()
        self.key = key
        self.requests: list[RestSeen] = []
        self._faults: list[RestFault] = []
        self._endpoints: dict[str, Endpoint] = {}
        self._wire = Wire(self._answer)
        self._thread = 0

    # -- life ----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._wire.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wire.stop()

    @property
    def endpoint_url(self) -> str:
        """The base of the job API."""
        return f"http://127.0.0.1:{self._wire.port}/v2"

    def environ(self) -> dict[str, str]:
        """Return the variables that lead a deployment here."""
        return {
            "RUNPOD_API_KEY": self.key,
            "RUNPOD_REST_URL": f"http://127.0.0.1:{self._wire.port}/rest/v2",
            "RUNPOD_ENDPOINT_BASE_URL": self.endpoint_url,
        }

    def worker_environ(self, endpoint_id: str, worker_id: str = "worker-1") -> dict[str, str]:
        """Return the variables that the platform sets for a worker, those of the endpoint included."""
        url = f"{self.endpoint_url}/{endpoint_id}"
        return {
            **self._do(lambda: dict(self._endpoints[endpoint_id].fields["env"])),
            "RUNPOD_WEBHOOK_GET_JOB": f"{url}/job-take/$ID?gpu=FAKE",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{url}/job-done/$RUNPOD_POD_ID/$ID?gpu=FAKE",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{url}/job-stream/$RUNPOD_POD_ID/$ID?gpu=FAKE",
            "RUNPOD_WEBHOOK_PING": f"{url}/ping/$RUNPOD_POD_ID",
            "RUNPOD_PING_INTERVAL": "10000",
            "RUNPOD_AI_API_KEY": self.key,
            "RUNPOD_POD_ID": worker_id,
            "RUNPOD_POD_HOSTNAME": f"{worker_id}.local",
            "RUNPOD_ENDPOINT_ID": endpoint_id,
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }

    # -- what is there -------------------------------------------------------------------------------

    def add(self, name: str, **fields: Any) -> str:
        """Create an endpoint with ready workers, as somebody did before; returns its id."""
        body = {
            "name": name, "type": "QUEUE", "image": "ann/service:0", "gpu": {"pools": ["ADA_24"]},
            "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4}, **fields,
        }  # fmt: skip
        if "cpu" in fields:
            del body["gpu"]

        def add() -> str:
            endpoint = self._created(body)
            endpoint.warm()
            return endpoint.id

        return self._do(add)

    def names(self) -> list[str]:
        """Return the names of the endpoints."""
        return self._do(lambda: [each.fields["name"] for each in self._endpoints.values()])

    def endpoint(self, name: str) -> dict[str, Any]:
        """Return the only endpoint of a name or id, as the API tells it."""
        told = self._do(lambda: [each.told() for each in self._endpoints.values()])
        (found,) = [each for each in told if name in (each["id"], each["name"])]
        return found

    def change(self, endpoint_id: str, **fields: Any) -> None:
        """Change fields as somebody else would."""
        self._do(lambda: self._endpoints[endpoint_id].update(fields))

    def submit(self, endpoint_id: str, given: Any) -> None:
        """Queue a job as /run does, without a request."""
        self._do(lambda: self._endpoints[endpoint_id].routes.submit({"input": given}, sync=False))

    def jobs(self, endpoint_id: str) -> list[tuple[Any, str]]:
        """Return input and status of each job."""
        return self._do(
            lambda: [(j.input, j.status) for j in self._endpoints[endpoint_id].queue.jobs.values()]
        )

    def seen(self, *actions: str) -> list[RestSeen]:
        """Return the requests of these actions, in order."""
        return [each for each in list(self.requests) if each.action in actions]

    def fault(
        self, action: str, kind: Kind = "answer", *, status: int = 500, times: int = 1, retry_after: str = ""
    ) -> RestFault:
        """Let the next requests of one action go wrong."""
        fault = RestFault(action, kind, status, times, retry_after)
        self._do(lambda: self._faults.append(fault))
        return fault

    def held(self, fault: RestFault, timeout: float = 30.0) -> None:
        """Wait until a request is held."""
        self._wire.call(asyncio.wait_for(fault.held.wait(), timeout))

    def release(self, fault: RestFault) -> None:
        """Let go of it."""
        self._do(fault.released.set)

    def _do(self, work: Callable[[], T]) -> T:
        async def run() -> T:
            return work()

        if threading.get_ident() == self._thread:
            # from the habits, which are asked in the middle of a request
            return work()
        return self._wire.call(run())

    # -- requests ------------------------------------------------------------------------------------

    async def _answer(self, ask: Ask) -> Reply:
        self._thread = threading.get_ident()
        action = _action(ask)
        self.requests.append(RestSeen(ask.method, action, ask.path, ask.body))
        fault = next((each for each in self._faults if each.action == action and each.times > 0), None)
        if fault is None:
            return await self._answered(ask, action)
        fault.times -= 1
        if fault.kind == "drop":
            raise Hangup
        if fault.kind == "answer":
            after = (("retry-after", fault.retry_after),) if fault.retry_after else ()
            return _problem(Problem(fault.status, "Fault", "as the test wants it"), after)
        if fault.kind == "garbage":
            return Reply(200, b"<html>not what you wanted</html>", "text/html")
        if fault.kind == "hold":
            fault.held.set()
            await fault.released.wait()
        reply = await self._answered(ask, action)
        return Reply(reply.status, lost=True) if fault.kind == "lose" else reply

    async def _answered(self, ask: Ask, action: str) -> Reply:
        if not ask.path.startswith(_REST):
            return await self._about_jobs(ask)
        if ask.headers.get("authorization") != f"Bearer {self.key}":
            given = bool(ask.headers.get("authorization"))
            return _problem(
                Problem(401, "Unauthorized", "invalid bearer token" if given else "missing bearer token")
            )
        try:
            return self._about_endpoints(ask, action)
        except Problem as problem:
            return _problem(problem)

    def _about_endpoints(self, ask: Ask, action: str) -> Reply:
        if action == "list":
            return Reply.of({"endpoints": [each.told() for each in self._endpoints.values()]})
        if action == "create":
            return Reply.of(self._created(_object(ask.body)).told(), 201)
        if ask.path.rstrip("/") == _REST:
            raise Problem(405, "Method Not Allowed", "The requested method is not allowed for this path.")
        endpoint = self._endpoints.get(ask.path.removeprefix(_REST).strip("/").split("/")[0])
        if endpoint is None:
            raise Problem(404, "Not Found", "resource not found")
        if action == "delete":
            del self._endpoints[endpoint.id]
            return Reply(204)
        if action == "update":
            endpoint.update(_object(ask.body))
        elif action == "workers":
            return Reply.of(endpoint.look())
        elif action == "logs":
            tail = ask.query.get("tail", "100")
            worker_id = ask.path.split("/")[-2]
            return Reply(200, endpoint.log(worker_id, int(tail)), "text/event-stream")
        elif action != "get":
            raise Problem(405, "Method Not Allowed", "The requested method is not allowed for this path.")
        return Reply.of(endpoint.told())

    async def _about_jobs(self, ask: Ask) -> Reply:
        parts = ask.path.strip("/").split("/")
        endpoint = self._endpoints.get(parts[1]) if len(parts) > 2 else None
        if endpoint is None:
            return Reply.of({"error": "endpoint not found"}, 404)
        # it is worked on while a caller of runsync waits, and after the others have their answer
        asyncio.get_running_loop().call_soon(endpoint.work)
        return await endpoint.routes.answer(ask)

    def _created(self, body: Any) -> Endpoint:
        endpoint = Endpoint(body, self.key, self.habits)
        self._endpoints[endpoint.id] = endpoint
        return endpoint


def _action(ask: Ask) -> str:
    if ask.path.startswith(_REST):
        depth = sum(1 for part in ask.path.removeprefix(_REST).split("/") if part)
        return _ACTIONS.get((ask.method, depth), "other")
    parts = ask.path.strip("/").split("/")
    return parts[2] if len(parts) > 2 else "other"


def _object(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        raise Problem(400, "Bad Request", "the body is no JSON") from None


def _problem(problem: Problem, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    body = json.dumps(problem.body()).encode()
    return _Answer(problem.status, body, "application/problem+json", headers=headers)
