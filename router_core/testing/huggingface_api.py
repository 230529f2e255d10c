"""A stand-in for Hugging Face Inference Endpoints: the management API, and the proxy before each endpoint.

    with HuggingFaceApi() as hub:
        hub.add("ann", "llama", state="scaledToZero")
        EndpointSpec("llama", "huggingface", hub.url("llama"), "ann", "llama", Secret(hub.token), hub.api_url)

Both speak HTTP on loopback ports, each proxy on one of its own, as each endpoint has a host of its own.
States follow each other by the clock that was given (``habits`` say how long they last), so a test may move
it. The proxy starts what is scaled to zero at the first request that carries the key, answers 503 until it
runs (or holds the request for ``X-Scale-Up-Timeout`` seconds), and refuses what is paused with 400.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

from router_core.testing.runpod_http import Ask, Hangup, Reply, Wire

__all__ = ["Habits", "HuggingFaceApi", "HuggingFaceFault", "HuggingFaceSeen"]

T = TypeVar("T")
Kind = Literal["answer", "drop", "garbage", "hold"]

_BASE: Final = "/v2/endpoint/"
_STARTING: Final = ("pending", "initializing")
_TIMEOUT_RANGE: Final = (15, 2880)
_POLL: Final = 0.002
_LONGEST_HOLD: Final = 30.0
_TOKEN: Final = "hf_TESTTOKEN0123456789"
_MESSAGES: Final = {
    "pending": "Endpoint waiting to be scheduled", "initializing": "Endpoint is initializing",
    "updating": "Endpoint is updating", "running": "Endpoint is ready", "failed": "Endpoint failed to start",
    "updateFailed": "Endpoint failed to update", "paused": "Endpoint is paused",
    "scaledToZero": "Endpoint is scaled to zero",
}  # fmt: skip


@dataclass(slots=True)
class Habits:
    """How long things take, in seconds of the given clock."""

    pending: float = 1.0
    initializing: float = 3.0
    updating: float = 2.0
    unhealthy: float = 0.0
    """From the state ``running`` to the first 200 of the health route."""
    lag: float = 0.0
    """From a request or an order to the first change of the state."""
    fails: str = ""
    """Starts end in ``failed`` with this message."""


@dataclass(frozen=True, slots=True)
class HuggingFaceSeen:
    """One request, in the order in which they came."""

    action: str
    """list, get, update, pause, resume, scale-to-zero, delete; health or inference for the proxy."""
    name: str
    """Of the endpoint."""
    method: str
    headers: Mapping[str, str]
    body: bytes
    status: int

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


@dataclass(slots=True)
class HuggingFaceFault:
    """What goes wrong with the next requests of one action: an answer, no answer, one that is no JSON, or
    one that does not come before ``released`` is set."""

    action: str
    kind: Kind = "answer"
    status: int = 500
    times: int = 1
    body: bytes = b'{"error":"Internal Server Error"}'
    released: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class _Endpoint:
    namespace: str
    name: str
    state: str
    scaling: dict[str, Any]
    wire: Wire
    changed_at: float
    used_at: float
    health_route: str
    message: str = ""
    coming: list[tuple[float, str]] = field(default_factory=list)
    """When which state is next."""


class HuggingFaceApi:
    """All endpoints of one account."""

    def __init__(self, *, token: str = _TOKEN, now: Callable[[], float] = time.monotonic) -> None:
        self.token = token
        self.habits = Habits()
        self.seen: list[HuggingFaceSeen] = []
        self._now = now
        self._lock = threading.RLock()
        self._faults: list[HuggingFaceFault] = []
        self._endpoints: dict[tuple[str, str], _Endpoint] = {}
        self._wire = Wire(self._manage)

    def __enter__(self) -> Self:
        self._wire.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for endpoint in self._endpoints.values():
            endpoint.wire.stop()
        self._wire.stop()

    # -- what a test does ----------------------------------------------------------------------------

    @property
    def api_url(self) -> str:
        """The base of the management API."""
        return f"http://127.0.0.1:{self._wire.port}/v2"

    def add(
        self, namespace: str, name: str, *, state: str = "running", min_replica: int = 0,
        scale_to_zero_timeout: int | None = None, health_route: str = "/health",
    ) -> str:  # fmt: skip
        """Create an endpoint as somebody did before; returns its inference address."""

        async def answer(ask: Ask) -> Reply:
            return await self._proxy(endpoint, ask)

        now = self._now()
        scaling: dict[str, Any] = {"minReplica": min_replica, "maxReplica": 1, "measure": {}}
        scaling["scaleToZeroTimeout"] = scale_to_zero_timeout
        long_ago = now - 1e6
        endpoint = _Endpoint(namespace, name, state, scaling, Wire(answer), long_ago, now, health_route)
        endpoint.wire.start()
        with self._lock:
            self._endpoints[namespace, name] = endpoint
        return self.url(name)

    def url(self, name: str) -> str:
        """Return the address of an endpoint's proxy."""
        return f"http://127.0.0.1:{self._named(name).wire.port}"

    def state(self, name: str) -> str:
        """Return the state of an endpoint."""
        with self._lock:
            return self._settled(self._named(name)).state

    def scaling(self, name: str) -> dict[str, Any]:
        """Return how an endpoint is scaled."""
        return dict(self._named(name).scaling)

    def become(self, name: str, state: str) -> None:
        """Let an endpoint be in a state from now on."""
        with self._lock:
            self._turn(self._named(name), [(self._now(), state)])

    def actions(self, *wanted: str) -> list[HuggingFaceSeen]:
        """Return the requests of these actions, in order."""
        return [each for each in list(self.seen) if each.action in wanted]

    def fault(self, action: str, kind: Kind = "answer", **options: Any) -> HuggingFaceFault:
        """Let the next requests of one action go wrong."""
        fault = HuggingFaceFault(action, kind, **options)
        self._faults.append(fault)
        return fault

    def down(self) -> None:
        """Refuse connections to the management API; the endpoints go on."""
        self._wire.down()

    def up(self) -> None:
        """Be there again."""
        self._wire.start()

    # -- states --------------------------------------------------------------------------------------

    def _named(self, name: str) -> _Endpoint:
        (found,) = [each for each in self._endpoints.values() if each.name == name]
        return found

    def _settled(self, endpoint: _Endpoint) -> _Endpoint:
        """Let happen what is due."""
        now = self._now()
        while endpoint.coming and endpoint.coming[0][0] <= now:
            endpoint.changed_at, endpoint.state = endpoint.coming.pop(0)
            endpoint.message = self.habits.fails if endpoint.state == "failed" else ""
        idle = endpoint.scaling.get("scaleToZeroTimeout")
        last = max(endpoint.used_at, endpoint.changed_at)
        if endpoint.state == "running" and idle and not endpoint.scaling["minReplica"]:
            if now - last >= idle * 60:
                endpoint.state, endpoint.changed_at = "scaledToZero", last + idle * 60
        return endpoint

    def _turn(self, endpoint: _Endpoint, coming: list[tuple[float, str]]) -> None:
        endpoint.coming = coming
        self._settled(endpoint)

    def _start(self, endpoint: _Endpoint) -> None:
        habits = self.habits
        at = self._now() + habits.lag
        begun = at + habits.pending
        end = (begun + habits.initializing, "failed" if habits.fails else "running")
        self._turn(endpoint, [(at, "pending"), (begun, "initializing"), end])

    def _healthy(self, endpoint: _Endpoint) -> bool:
        self._settled(endpoint)
        if endpoint.state == "updating":
            return True
        return endpoint.state == "running" and self._now() - endpoint.changed_at >= self.habits.unhealthy

    def _told(self, endpoint: _Endpoint) -> dict[str, Any]:
        ready = int(endpoint.state in ("running", "updating"))
        status: dict[str, Any] = {
            "state": endpoint.state, "message": endpoint.message or _MESSAGES.get(endpoint.state, ""),
            "readyReplica": ready, "targetReplica": ready, "private": None,
            "createdAt": "2026-06-01T12:00:00.000Z", "createdBy": {"id": "1", "name": endpoint.namespace},
            "updatedAt": "2026-06-01T12:00:00.000Z", "updatedBy": {"id": "1", "name": endpoint.namespace},
        }  # fmt: skip
        if endpoint.state not in _STARTING:
            status["url"] = f"http://127.0.0.1:{endpoint.wire.port}"
        return {
            "name": endpoint.name, "type": "authenticated", "accountId": None,
            "provider": {"vendor": "aws", "region": "us-east-1"},
            "compute": {
                "accelerator": "gpu", "instanceType": "nvidia-a100", "instanceSize": "x1",
                "scaling": dict(endpoint.scaling),
            },
            "model": {
                "repository": "ann/model", "revision": "main", "task": "text-generation",
                "framework": "pytorch", "image": {"vLLM": {"url": "vllm/vllm-openai", "port": 8000}},
            },
            "healthRoute": endpoint.health_route, "status": status,
        }  # fmt: skip

    # -- the management API --------------------------------------------------------------------------

    async def _manage(self, ask: Ask) -> Reply:
        action, namespace, name = _action(ask)
        reply = await self._faulty(action)
        if reply is None:
            with self._lock:
                reply = self._managed(ask, action, namespace, name)
        self.seen.append(HuggingFaceSeen(action, name, ask.method, ask.headers, ask.body, reply.status))
        return reply

    def _managed(self, ask: Ask, action: str, namespace: str, name: str) -> Reply:
        if ask.headers.get("authorization") != f"Bearer {self.token}":
            return _error(401, "Invalid credentials in Authorization header")
        if action == "list":
            mine = [each for each in self._endpoints.values() if each.namespace == namespace]
            return Reply.of({"items": [self._told(self._settled(each)) for each in mine]})
        endpoint = self._endpoints.get((namespace, name))
        if endpoint is None:
            return _error(404, "Endpoint not found")
        self._settled(endpoint)
        refusal = self._ordered(endpoint, action, ask)
        if refusal is not None:
            return refusal
        return Reply(202) if action == "delete" else Reply.of(self._told(endpoint))

    def _ordered(self, endpoint: _Endpoint, action: str, ask: Ask) -> Reply | None:
        """Do it, or return why not."""
        at = self._now() + self.habits.lag
        if action == "resume":
            if endpoint.state not in ("paused", "scaledToZero", "failed"):
                return _error(400, "Bad Request: Endpoint is already running")
            self._start(endpoint)
        elif action == "pause":
            self._turn(endpoint, [(at, "paused")])
        elif action == "scale-to-zero":
            if endpoint.state == "paused":
                return _error(400, "Bad Request: Endpoint is paused")
            self._turn(endpoint, [(at, "scaledToZero")])
        elif action == "update":
            return self._updated(endpoint, ask.body)
        elif action == "delete":
            del self._endpoints[endpoint.namespace, endpoint.name]
        elif action != "get":
            return _error(404, "Not Found")
        return None

    def _updated(self, endpoint: _Endpoint, body: bytes) -> Reply | None:
        try:
            given = json.loads(body)["compute"]["scaling"]
            minutes = given.get("scaleToZeroTimeout")
        except (ValueError, KeyError, TypeError, AttributeError):
            return _error(400, "Bad Request: invalid body")
        if minutes is not None and not _TIMEOUT_RANGE[0] <= minutes <= _TIMEOUT_RANGE[1]:
            low, high = _TIMEOUT_RANGE
            return _error(400, f"Bad Request: scaleToZeroTimeout must be between {low} and {high} minutes")
        endpoint.scaling.update(given)
        if endpoint.state == "running" and self.habits.updating:
            now = self._now()
            self._turn(endpoint, [(now, "updating"), (now + self.habits.updating, "running")])
        return None

    # -- the proxy -----------------------------------------------------------------------------------

    async def _proxy(self, endpoint: _Endpoint, ask: Ask) -> Reply:
        action = "health" if ask.path == endpoint.health_route else "inference"
        reply = await self._faulty(action) or await self._proxied(endpoint, ask, action)
        self.seen.append(
            HuggingFaceSeen(action, endpoint.name, ask.method, ask.headers, ask.body, reply.status)
        )
        return reply

    async def _proxied(self, endpoint: _Endpoint, ask: Ask, action: str) -> Reply:
        if ask.headers.get("authorization") != f"Bearer {self.token}":
            return Reply.of({"error": "401 Unauthorized", "code": "UNAUTHORIZED"}, 401)
        with self._lock:
            self._settled(endpoint)
            if endpoint.state == "paused":
                text = "Bad Request: The endpoint is paused, ask a maintainer to restart it"
                return Reply.of({"error": text, "code": "BAD_REQUEST"}, 400)
            endpoint.used_at = self._now()
            if endpoint.state == "scaledToZero" and not endpoint.coming:
                self._start(endpoint)
        if not await self._held(endpoint, ask):
            return Reply.of({"error": "503 Service Unavailable", "code": "SERVICE_UNAVAILABLE"}, 503)
        if action == "health":
            return Reply(200)
        return Reply.of({"endpoint": endpoint.name, "path": ask.path})

    async def _held(self, endpoint: _Endpoint, ask: Ask) -> bool:
        """Wait as long as the caller asked for; returns whether the endpoint can answer then."""
        asked = ask.headers.get("x-scale-up-timeout", "")
        until = self._now() + (float(asked) if asked.isdigit() else 0.0)
        while True:
            with self._lock:
                if self._healthy(endpoint):
                    return True
            if self._now() >= until or ask.gone.is_set():
                return False
            await asyncio.sleep(_POLL)

    async def _faulty(self, action: str) -> Reply | None:
        fault = next((each for each in self._faults if each.action == action and each.times > 0), None)
        if fault is None:
            return None
        fault.times -= 1
        if fault.kind == "drop":
            raise Hangup
        if fault.kind == "garbage":
            return Reply(200, b"<html>not what you wanted</html>", "text/html")
        if fault.kind == "hold":
            await asyncio.to_thread(fault.released.wait, _LONGEST_HOLD)
            return None
        return Reply(fault.status, fault.body)


def _action(ask: Ask) -> tuple[str, str, str]:
    """Return what a request to the management API asks for: action, namespace, name."""
    if not ask.path.startswith(_BASE):
        return "other", "", ""
    namespace, _, rest = ask.path.removeprefix(_BASE).partition("/")
    name, _, order = rest.partition("/")
    plain = {"GET": "get", "PUT": "update", "DELETE": "delete"}
    if not name:
        return "list" if ask.method == "GET" else "other", namespace, ""
    if not order:
        return plain.get(ask.method, "other"), namespace, name
    known = ask.method == "POST" and order in ("pause", "resume", "scale-to-zero")
    return order if known else "other", namespace, name


def _error(status: int, text: str) -> Reply:
    return Reply.of({"error": text}, status)
