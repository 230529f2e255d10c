"""Test a deployed service: it is healthy, and it answers a request, or finishes a job."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from handlers.deploy.errors import DeployError, TooSlow, Unreachable

if TYPE_CHECKING:
    import httpx

__all__ = ["smoke_test"]

_PAUSE: Final = 1.0
_NOT_ARGUMENTS: Final = ("path", "method")
_OPEN: Final = frozenset({"scheduled", "queued", "running", "retrying", "cancelling"})


class _AsksForKey(Exception):
    """The service wants to know who asks, and nobody said."""


def smoke_test(
    http: httpx.Client, url: str, test: Mapping[str, Any], *, key: str = "", seconds: float = 120.0
) -> str:
    """Wait until the service is healthy, send the request, wait for its job; returns what was seen.

    ``test`` is written as for RunPod: ``{"path": "/predict", "method"?: "POST", ...arguments}``.
    Raises DeployError, TooSlow or Unreachable.
    """
    end = time.monotonic() + seconds
    calls = _Calls(http, url.rstrip("/"), key, end)
    calls.until_healthy()
    try:
        return f"healthy; {calls.request(test)}"
    except _AsksForKey:
        return f"healthy; {test.get('path')} was not asked: it wants an API key (set ROUTER_API_KEY)"


class _Calls:
    def __init__(self, http: httpx.Client, url: str, key: str, end: float) -> None:
        self._http = http
        self._url = url
        self._key = key
        self._end = end

    def until_healthy(self) -> None:
        """A new address takes a while until everybody knows it, and the first call starts a process."""
        while True:
            try:
                answer = self._send("GET", "/health")
                if answer.status_code == 200:
                    return
                said: DeployError = DeployError(
                    f"{self._url}/health answers {answer.status_code}: {_told(answer)}"
                )
            except Unreachable as error:
                said = error
            if time.monotonic() > self._end:
                raise said
            time.sleep(_PAUSE)

    def request(self, test: Mapping[str, Any]) -> str:
        """Send the request, and wait for the job that it may have begun."""
        path = "/" + str(test.get("path", "")).lstrip("/")
        arguments = {name: value for name, value in test.items() if name not in _NOT_ARGUMENTS}
        method = str(test.get("method") or self._method(path, arguments)).upper()
        asks = method in ("GET", "DELETE", "HEAD")
        answer = self._send(method, path, query=arguments if asks else None, body=None if asks else arguments)
        if answer.status_code in (401, 403) and not self._key:
            raise _AsksForKey
        if not answer.is_success:
            raise DeployError(f"{method} {path} answers {answer.status_code}: {_told(answer)}")
        if answer.status_code != 202:
            return f"{method} {path} answers {answer.status_code}"
        return self._job(f"{method} {path}", answer)

    def _job(self, asked: str, accepted: httpx.Response) -> str:
        # its path alone: a link may name another address of the same service
        place = urlsplit(accepted.headers.get("location", "")).path
        while True:
            answer = self._send("GET", place, query={"wait": "15"})
            if not answer.is_success:
                raise DeployError(
                    f"the job of {asked} cannot be read ({answer.status_code}): {_told(answer)}"
                )
            job = answer.json()
            if job.get("status") == "succeeded":
                return f"the job of {asked} succeeded"
            if job.get("status") not in _OPEN:
                error = job.get("error") or {}
                raise DeployError(
                    f"the job of {asked} {job.get('status')}: {error.get('message', 'without a reason')}"
                )
            if time.monotonic() > self._end:
                raise TooSlow(f"the job of {asked} is still {job.get('status')}")
            time.sleep(_PAUSE)

    def _method(self, path: str, arguments: Mapping[str, Any]) -> str:
        """Ask the service's own description; where that does not tell, arguments make it a POST."""
        answer = self._send("GET", "/openapi.json")
        methods: list[str] = []
        if answer.is_success:
            methods = list(answer.json().get("paths", {}).get(path, {}))
        usual = "POST" if arguments else "GET"
        return usual if usual.lower() in methods or not methods else methods[0]

    def _send(
        self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Any = None
    ) -> httpx.Response:
        import httpx

        headers = {"X-API-Key": self._key} if self._key else {}
        try:
            return self._http.request(
                method, f"{self._url}{path}", params=query, json=body, headers=headers, timeout=40.0
            )
        except httpx.TransportError as error:
            raise Unreachable(f"{self._url} does not answer: {str(error) or type(error).__name__}") from error


def _told(answer: httpx.Response) -> str:
    """Return what an answer says of itself, in one line."""
    try:
        problem = json.loads(answer.text)
        text = problem.get("detail") or problem.get("message") or problem.get("title") or ""
    except (ValueError, AttributeError):
        text = answer.text
    return " ".join(str(text).split())[:300] or "without a reason"
