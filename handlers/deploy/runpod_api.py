"""RunPod's REST API (v2) and the job API of an endpoint: calls, retries, and errors in plain words.

What may be repeated (GET, PATCH, DELETE, and anything that was refused with 429) is, with backoff. A create
whose answer was lost is not: ``Unclear`` says so, and the caller looks before it tries again.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote, urlsplit

from handlers.deploy.errors import NotPrepared, Refused, Unclear, Unreachable

if TYPE_CHECKING:
    import httpx

__all__ = ["ENDPOINT_URL", "REST_URL", "RunpodApi"]

REST_URL: Final = "https://api.runpod.io/v2"
"""Version 2; version 1 (rest.runpod.io/v1) is retired in 2026."""
ENDPOINT_URL: Final = "https://api.runpod.ai/v2"
_ATTEMPTS: Final = 5
_SLOWEST: Final = 8.0
_LONGEST_RETRY_AFTER: Final = 60.0
_LOG_SECONDS: Final = 5.0
_LOG_SILENCE: Final = 2.0
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


class RunpodApi:
    """Speaks for one account."""

    def __init__(
        self, key: str, rest_url: str = REST_URL, endpoint_url: str = ENDPOINT_URL,
        *, sleep: Callable[[float], None] = time.sleep, timeout: float = 30.0,
    ) -> None:  # fmt: skip
        import httpx

        self._rest = _address(rest_url, "RUNPOD_REST_URL")
        self._jobs = _address(endpoint_url, "RUNPOD_ENDPOINT_BASE_URL")
        self._sleep = sleep
        self._http = httpx.Client(
            headers={"authorization": f"Bearer {key}", "user-agent": "router-core"},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read key and addresses. Raises NotPrepared."""
        key = environ.get("RUNPOD_API_KEY", "").strip()
        if not key:
            raise NotPrepared(
                "there is no RunPod API key: make one at https://console.runpod.io/user/settings and put it "
                "into RUNPOD_API_KEY"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise NotPrepared("RUNPOD_API_KEY is no key: it has characters that no key has")
        return cls(
            key,
            environ.get("RUNPOD_REST_URL", "").strip() or REST_URL,
            environ.get("RUNPOD_ENDPOINT_BASE_URL", "").strip() or ENDPOINT_URL,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def url(self, endpoint_id: str) -> str:
        """Return the address that callers of an endpoint use."""
        return f"{self._jobs}/{endpoint_id}"

    # -- endpoints -----------------------------------------------------------------------------------

    def endpoints(self) -> list[dict[str, Any]]:
        """Return all endpoints of the account."""
        found = self._rest_call("GET", "/serverless").get("endpoints")
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise Refused(f"{self._rest} answered with no list of endpoints; is RUNPOD_REST_URL right?")
        return found

    def endpoint(self, endpoint_id: str) -> dict[str, Any] | None:
        """Return an endpoint, or None when there is none."""
        try:
            return self._rest_call("GET", _path(endpoint_id))
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an endpoint, or raise Unclear when nobody can tell whether it was."""
        return self._rest_call("POST", "/serverless", body)

    def update(self, endpoint_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Change the fields that the body holds, and no others."""
        return self._rest_call("PATCH", _path(endpoint_id), body)

    def delete(self, endpoint_id: str) -> None:
        """Delete an endpoint; one that is gone already is fine."""
        try:
            self._rest_call("DELETE", _path(endpoint_id))
        except Refused as error:
            if error.status != 404:
                raise

    def workers(self, endpoint_id: str) -> list[dict[str, Any]]:
        """Return the active workers of an endpoint."""
        found = self._rest_call("GET", f"{_path(endpoint_id)}/workers").get("workers")
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []

    def logs(self, endpoint_id: str, worker_id: str, lines: int) -> list[str]:
        """Return the end of a worker's log, or as much of it as comes within some seconds."""
        import httpx

        url = f"{self._rest}{_path(endpoint_id)}/workers/{quote(worker_id, safe='')}/logs"
        found: list[str] = []
        end = time.monotonic() + _LOG_SECONDS
        try:
            # the stream stays open: what has been written comes at once, and then there is silence
            with self._http.stream("GET", url, params={"tail": lines}, timeout=_LOG_SILENCE) as response:
                for line in response.iter_lines() if response.status_code == 200 else ():
                    found += _log_line(line)
                    if time.monotonic() > end or len(found) >= lines:
                        break
        except httpx.HTTPError:
            pass
        return found

    # -- jobs ----------------------------------------------------------------------------------------

    def run(self, endpoint_id: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Submit a job."""
        return self._job_call("POST", f"{endpoint_id}/run", {"input": dict(values)})

    def status(self, endpoint_id: str, job_id: str) -> dict[str, Any]:
        """Tell how a job stands."""
        return self._job_call("GET", f"{endpoint_id}/status/{quote(job_id, safe='')}")

    def cancel(self, endpoint_id: str, job_id: str) -> None:
        """Cancel a job."""
        self._job_call("POST", f"{endpoint_id}/cancel/{quote(job_id, safe='')}")

    def health(self, endpoint_id: str) -> dict[str, Any]:
        """Count jobs and workers."""
        return self._job_call("GET", f"{endpoint_id}/health")

    # -- the wire ------------------------------------------------------------------------------------

    def _rest_call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._call(method, f"{self._rest}{path}", body, repeat=method != "POST")

    def _job_call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        # at worst a test request runs twice
        return self._call(method, f"{self._jobs}/{path}", body, repeat=True)

    def _call(self, method: str, url: str, body: Mapping[str, Any] | None, *, repeat: bool) -> dict[str, Any]:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                response = self._send(method, url, body)
            except Unclear:
                if not repeat or attempt == _ATTEMPTS:
                    raise
            except Unreachable:
                if attempt == _ATTEMPTS:
                    raise
            else:
                again = response.status_code == 429 or (repeat and response.status_code >= 500)
                if not again or attempt == _ATTEMPTS:
                    return _read(response, method, url, repeat=repeat)
                self._sleep(_pause(attempt, response.headers.get("retry-after", "")))
                continue
            self._sleep(_pause(attempt))
        raise AssertionError("every attempt returns or raises")

    def _send(self, method: str, url: str, body: Mapping[str, Any] | None) -> httpx.Response:
        import httpx

        host = urlsplit(url).netloc
        try:
            return self._http.request(method, url, json=None if body is None else dict(body))
        except (
            httpx.ConnectError,
            httpx.ConnectTimeout,
            httpx.PoolTimeout,
            httpx.UnsupportedProtocol,
        ) as error:
            raise Unreachable(f"cannot connect to {host}: {_words(error)}") from error
        except httpx.TimeoutException as error:
            raise Unclear(f"{host} did not answer {method} in time") from error
        except httpx.HTTPError as error:
            raise Unclear(f"the connection to {host} broke: {_words(error)}") from error


def _log_line(line: str) -> list[str]:
    """Read a line of an event stream."""
    if not line.startswith("data:"):
        return []
    try:
        said = json.loads(line.removeprefix("data:"))["line"]
    except (ValueError, TypeError, KeyError):
        return []
    return [str(said)]


def _address(url: str, variable: str) -> str:
    """Return an address to which a key may be sent. Raises NotPrepared."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NotPrepared(f"{variable} must be an address such as {REST_URL}")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise NotPrepared(f"{variable} must begin with https://: the API key would be sent in the clear")
    return url.rstrip("/")


def _path(endpoint_id: str) -> str:
    return f"/serverless/{quote(endpoint_id, safe='')}"


def _pause(attempt: int, retry_after: str = "") -> float:
    if retry_after.isdigit():
        return min(float(retry_after), _LONGEST_RETRY_AFTER)
    return float(min(_SLOWEST, 0.5 * 2.0**attempt) * random.uniform(0.5, 1.0))  # noqa: S311 - only spreads


def _words(error: Exception) -> str:
    return str(error).strip() or type(error).__name__


def _read(response: httpx.Response, method: str, url: str, *, repeat: bool) -> dict[str, Any]:
    status, host = response.status_code, urlsplit(url).netloc
    if status >= 500 and not repeat:
        raise Unclear(f"{host} answered {method} with {status}")
    if status >= 300:
        raise Refused(_refusal(response, host), status)
    if status == 204 or not response.content:
        return {}
    found = _json(response)
    if not isinstance(found, dict):
        raise Refused(f"{host} answered with what is no JSON object; is the address right?", status)
    return found


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _refusal(response: httpx.Response, host: str) -> str:
    status = response.status_code
    said = _detail(_json(response))
    if status == 401:
        return (
            "RunPod does not accept the API key (401): check RUNPOD_API_KEY, or make a new key at "
            "https://console.runpod.io/user/settings"
        )
    if status == 403:
        return (
            f"the API key in RUNPOD_API_KEY may not do this (403 {said}): it needs write access to Serverless"
        )
    if status == 429:
        return f"RunPod asks to wait (429 {said}); try again in a minute"
    return f"{host} answered {status}: {said or 'without a reason'}"


def _detail(found: Any) -> str:
    """Read problem+json of the REST API, and {"error": ...} of the job API."""
    if not isinstance(found, dict):
        return ""
    parts = [str(found[key]) for key in ("detail", "error", "message", "title") if found.get(key)][:1]
    errors = found.get("errors")
    if isinstance(errors, list):
        parts += [str(each) for each in errors[:5]]
    return "; ".join(parts)
