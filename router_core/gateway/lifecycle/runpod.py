"""RunPod serverless endpoints: the REST API (v2) for what is configured, ``/health`` for what runs.

An endpoint with ``workers.max`` above 0 starts workers for what is asked of it, so calls may be sent to one
that sleeps: its queue keeps them. Waking it means one worker that stays, until it is put to sleep again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

from router_core.clock import Clock
from router_core.errors import Misconfigured
from router_core.gateway.lifecycle.driver import ManagementError, Seen
from router_core.gateway.lifecycle.http import ManagementApi
from router_core.gateway.lifecycle.states import State
from router_core.gateway.transport.protocol import Transport
from router_core.gateway.values import EndpointSpec

__all__ = ["REST_URL", "RunpodDriver"]

REST_URL: Final = "https://api.runpod.io/v2"
_JOBS_URL: Final = "https://api.runpod.ai/v2"
_AWAKE: Final = ("idle", "ready", "running")


class RunpodDriver:
    """One endpoint."""

    provider = "runpod"

    def __init__(self, spec: EndpointSpec, transport: Transport, clock: Clock) -> None:
        """Raises Misconfigured when the spec does not say which endpoint it is."""
        base, found = _parts(spec.url)
        self._id = spec.remote or found
        if not self._id:
            raise Misconfigured(f"endpoint {spec.name}: give remote, the id of the endpoint at RunPod")
        self.url = spec.url or f"{_JOBS_URL}/{quote(self._id, safe='')}"
        self._rest = ManagementApi(transport, spec.api_url or REST_URL, spec.token, clock)
        self._jobs = ManagementApi(transport, base or _JOBS_URL, spec.token, clock)
        self._path = f"/serverless/{quote(self._id, safe='')}"
        self._health = f"/{quote(self._id, safe='')}/health"

    async def look(self) -> Seen:
        """Read how many workers are allowed, and count those that are there."""
        fields, counts = await self._fields(), await self._workers()
        limits = _object(fields.get("workers"))
        fixed, most = _number(limits.get("min")), _number(limits.get("max"))
        sub = "active" if fixed else "flex" if most else "off"
        # RunPod itself ends the workers that are not kept
        timer = None if fixed else float(_number(limits.get("idleTimeout")))
        if any(counts.get(word) for word in _AWAKE):
            return Seen(State.RUNNING, sub, self.url, "", True, timer)
        queues = most > 0 and fields.get("type") != "LOAD_BALANCER"
        state, message = State.SLEEPING, ""
        if counts.get("throttled"):
            state, message = State.STARTING, "RunPod has no capacity at the moment"
        elif counts.get("initializing"):
            state = State.STARTING
        elif counts.get("unhealthy"):
            return Seen(State.ERROR, sub, self.url, "the workers are unhealthy", False)
        elif fixed:
            state = State.STARTING
        return Seen(state, sub, self.url, message, queues, timer)

    async def wake(self, sub: str, attempt: int) -> None:
        """Keep one worker at least, and allow one at least."""
        limits = _object((await self._fields()).get("workers"))
        fixed = max(1, _number(limits.get("min")))
        await self._set(min=fixed, max=max(fixed, _number(limits.get("max"))))

    async def sleep(self, *, pause: bool) -> None:
        """Keep no worker; with ``pause`` allow none either."""
        await (self._set(min=0, max=0) if pause else self._set(min=0))

    async def push_timer(self, seconds: float) -> bool:
        """Do nothing: workers beyond the kept ones end by RunPod's own ``idleTimeout``."""
        return False

    async def answers(self) -> bool:
        """Return whether there is a worker, which is not a question for the management API here."""
        counts = await self._workers()
        return any(counts.get(word) for word in _AWAKE)

    def doubt(self) -> None:
        """Do nothing: every look counts workers."""

    # -- the wire ------------------------------------------------------------------------------------

    async def _workers(self) -> Mapping[str, int]:
        answer = (await self._jobs.call("GET", self._health)).checked("reading the health of the endpoint")
        workers = _object(answer.value.get("workers"))
        return {str(word): _number(count) for word, count in workers.items()}

    async def _fields(self) -> Mapping[str, Any]:
        return (await self._rest.call("GET", self._path)).checked("reading the endpoint").value

    async def _set(self, **workers: int) -> None:
        answer = await self._rest.call("PATCH", self._path, {"workers": workers})
        found = _object(answer.checked("setting the number of workers").value.get("workers"))
        if any(found.get(name) != count for name, count in workers.items()):
            raise ManagementError("RunPod took the number of workers and did not keep it")


def _parts(url: str) -> tuple[str, str]:
    """Return base and id from ``https://api.runpod.ai/v2/{id}`` with anything after it; empty: another."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    words = parts.path.split("/")
    if len(words) < 3 or words[1] != "v2" or not words[2]:
        return "", ""
    return f"{parts.scheme}://{parts.netloc}/v2", words[2]


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
