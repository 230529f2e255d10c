"""Hugging Face Inference Endpoints.

Running means that the endpoint's health route answered 200 once since it was last not running: every request
through the proxy counts as activity and starts a sleeping endpoint, so a health check at every look would
keep it awake for ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

from router_core.clock import Clock
from router_core.errors import Misconfigured
from router_core.gateway.lifecycle.driver import ManagementError, Seen
from router_core.gateway.lifecycle.http import Answer, ManagementApi, fetch, safe_url
from router_core.gateway.lifecycle.states import State
from router_core.gateway.reply import UpstreamFailure
from router_core.gateway.transport.protocol import Transport
from router_core.gateway.values import EndpointSpec

__all__ = ["API_URL", "HuggingFaceDriver", "inference_url", "names_of"]

API_URL: Final = "https://api.endpoints.huggingface.cloud/v2"
_CONSOLE: Final = ("endpoints.huggingface.co", "ui.endpoints.huggingface.co")
_WORDS: Final[Mapping[str, State]] = {
    "pending": State.STARTING, "initializing": State.STARTING, "updating": State.STARTING,
    "running": State.RUNNING, "paused": State.SLEEPING, "scaledToZero": State.SLEEPING,
    "failed": State.ERROR, "updateFailed": State.ERROR,
}  # fmt: skip
_HOLD: Final = "1"
"""Seconds for which the proxy may hold the request that wakes: nobody waits for its answer."""
_KNOCK_TIMEOUT: Final = 5.0
_REFUSED: Final = frozenset({400, 401, 403, 404})
"""Answers of a proxy that starts nothing: a paused endpoint's is 400."""
_MINUTES: Final = (15, 2880)
"""What ``scaleToZeroTimeout`` may be."""


def names_of(url: str) -> tuple[str, str]:
    """Return namespace and name from ``https://endpoints.huggingface.co/{namespace}/endpoints/{name}``.

    Empty texts for any other address.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    words = [word for word in parts.path.split("/") if word]
    if parts.hostname in _CONSOLE and len(words) == 3 and words[1] == "endpoints":
        return words[0], words[2]
    return "", ""


def inference_url(url: str) -> str:
    """Return the address if calls can be sent to it, empty for that of the console."""
    return "" if names_of(url)[1] else url


class HuggingFaceDriver:
    """One Inference Endpoint."""

    provider = "huggingface"

    def __init__(self, spec: EndpointSpec, transport: Transport, clock: Clock) -> None:
        """Raises Misconfigured when the spec does not say which endpoint it is."""
        namespace, name = names_of(spec.url)
        namespace, name = spec.namespace or namespace, spec.remote or name
        if not namespace or not name:
            raise Misconfigured(
                f"endpoint {spec.name}: give namespace and remote, or a url such as "
                "https://endpoints.huggingface.co/{namespace}/endpoints/{name}"
            )
        self._path = f"/endpoint/{quote(namespace, safe='')}/{quote(name, safe='')}"
        self._api = ManagementApi(transport, spec.api_url or API_URL, spec.token, clock)
        self._transport = transport
        self._token = spec.token
        self.url = safe_url(inference_url(spec.url)) if inference_url(spec.url) else ""
        self._health = "/health"
        self._confirmed = False

    async def look(self) -> Seen:
        """Read the endpoint, and its health route if it is newly running."""
        return await self._seen((await self._api.call("GET", self._path)).checked("reading the endpoint"))

    async def wake(self, sub: str, attempt: int) -> None:
        """Resume what is paused or failed; knock at what is scaled to zero, and resume it at a second try."""
        self._confirmed = False
        if sub in ("paused", "failed", "updateFailed") or not self.url:
            await self._resume()
        elif attempt > 1:
            # not documented for what is scaled to zero: a refusal means nothing
            try:
                await self._resume()
            except ManagementError:
                await self._knock()
        elif not await self._knock():
            await self._resume()

    async def sleep(self, *, pause: bool) -> None:
        """Scale to zero, which a request ends; or pause, which only a resume does."""
        action = "pause" if pause else "scale-to-zero"
        answer = await self._api.call("POST", f"{self._path}/{action}")
        if not _is_already(answer):
            answer.checked(action)
        self._confirmed = False

    async def push_timer(self, seconds: float) -> bool:
        """Set ``scaleToZeroTimeout``, which counts minutes, and read it back.

        Less than the 15 minutes that it takes at least is left to the gateway's own timer, with this one
        behind it.
        """
        minutes = min(max(_MINUTES[0], math.ceil(seconds / 60)), _MINUTES[1])
        wanted = {"minReplica": 0, "scaleToZeroTimeout": minutes}
        answer = await self._api.call("PUT", self._path, {"compute": {"scaling": wanted}})
        answer.checked("setting scaleToZeroTimeout")
        found = (await self._api.call("GET", self._path)).checked("reading the endpoint")
        return _timer(found.value) == minutes * 60.0

    async def answers(self) -> bool:
        """Ask the health route."""
        self._confirmed = await self._ask_health() == 200
        return self._confirmed

    def doubt(self) -> None:
        """Check the health route at the next look."""
        self._confirmed = False

    # -- the wire ------------------------------------------------------------------------------------

    async def _resume(self) -> None:
        answer = await self._api.call("POST", f"{self._path}/resume")
        if not _is_already(answer):
            answer.checked("resume")

    async def _knock(self) -> bool:
        """Send a request that starts what is scaled to zero; returns whether the proxy has taken it."""
        status = await self._ask_health({"x-scale-up-timeout": _HOLD})
        return status != 0 and status not in _REFUSED

    async def _ask_health(self, headers: Mapping[str, str] | None = None) -> int:
        if not self.url:
            return 0
        url = f"{self.url.rstrip('/')}/{self._health.lstrip('/')}"
        try:
            reply = await fetch(
                self._transport, "GET", url, self._token, headers=headers, timeout=_KNOCK_TIMEOUT
            )
        except UpstreamFailure as failure:
            # held for longer than we wait: it has arrived all the same
            return 503 if failure.kind == "timeout" and failure.sent else 0
        await reply.aclose()
        return reply.status

    async def _seen(self, answer: Answer) -> Seen:
        status = _object(answer.value.get("status"))
        word = str(status.get("state", ""))[:40]
        self._learn(answer.value, status)
        state = _WORDS.get(word, State.UNKNOWN)
        serving: bool | None = False
        if state is State.UNKNOWN:
            serving = None
        elif word == "running":
            serving = await self._is_confirmed()
            state = State.RUNNING if serving else State.STARTING
        elif word == "updating" and _count(status.get("readyReplica")):
            # the replicas from before serve until the new ones can
            serving = await self._is_confirmed()
        else:
            self._confirmed = False
        message = str(status.get("message", ""))[:200]
        return Seen(state, word, self.url, message, serving, _timer(answer.value))

    def _learn(self, value: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        url, route = status.get("url"), value.get("healthRoute")
        if isinstance(url, str) and url:
            try:
                self.url = safe_url(url).rstrip("/")
            except Misconfigured as error:
                raise ManagementError(f"the address that the API gave cannot be used: {error}") from None
        if isinstance(route, str) and route.isascii() and route.isprintable() and " " not in route:
            self._health = route or "/health"

    async def _is_confirmed(self) -> bool:
        if not self._confirmed:
            self._confirmed = await self._ask_health() == 200
        return self._confirmed


def _timer(value: Mapping[str, Any]) -> float | None:
    """Return after how many seconds of idleness the endpoint is scaled to zero."""
    scaling = _object(_object(value.get("compute")).get("scaling"))
    minutes = scaling.get("scaleToZeroTimeout")
    if scaling.get("minReplica") != 0 or not isinstance(minutes, int) or minutes <= 0:
        return None
    return minutes * 60.0


def _is_already(answer: Answer) -> bool:
    """Return whether a refusal says that everything is as it was asked for."""
    return answer.status == 400 and "already" in answer.words.lower()


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
