"""Management APIs over the gateway's transport: JSON, retries, a circuit breaker, bounds on all of it."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from router_core.clock import Clock
from router_core.errors import Misconfigured
from router_core.gateway.lifecycle.circuit import Circuit
from router_core.gateway.lifecycle.driver import ManagementError
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.transport.protocol import Origin, Transport
from router_core.gateway.values import Secret, Timeouts
from router_core.telemetry.masking import MASK

__all__ = ["Answer", "ManagementApi", "fetch", "safe_url"]

_MAX_ANSWER: Final = 1024 * 1024
_MAX_WORDS: Final = 200
_ATTEMPTS: Final = 3
_BACKOFF: Final = 0.5
_SLOWEST: Final = 8.0
_TIMEOUT: Final = 10.0
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a management API."""

    status: int
    value: Mapping[str, Any]
    """The JSON object; empty for anything else."""
    words: str
    """The beginning of the body, fit for a log."""

    @property
    def ok(self) -> bool:
        """Whether it did what it was asked."""
        return 200 <= self.status < 300

    def checked(self, what: str) -> Answer:
        """Return itself; raises ManagementError for a refusal."""
        if self.ok:
            return self
        raise ManagementError(
            f"{what}: {self.status} {self.words}".rstrip(), transient=False, status=self.status
        )


class ManagementApi:
    """Speaks to one API with one key. Everything it sends can be repeated without harm."""

    def __init__(
        self, transport: Transport, base_url: str, token: Secret, clock: Clock,
        *, draw: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        """Raises Misconfigured for an address to which a key may not be sent."""
        self._transport = transport
        self._base = safe_url(base_url).rstrip("/")
        self._token = token
        self._clock = clock
        self._draw = draw
        self._circuit = Circuit(draw)

    async def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Ask, repeatedly where that may help; a refusal is an answer. Raises ManagementError without one."""
        wait = self._circuit.closed_for(self._clock.monotonic())
        if wait is not None:
            raise ManagementError(f"{_host(self._base)} keeps failing: left alone for {wait:.0f} s")
        self._circuit.begin()
        well: bool | None = None
        try:
            answer = await self._repeated(method, path, body)
            well = True
            return answer
        except ManagementError:
            well = False
            raise
        finally:
            self._circuit.end(well, self._clock.monotonic())

    async def _repeated(self, method: str, path: str, body: Mapping[str, Any] | None) -> Answer:
        url = self._base + path
        trouble = ""
        after = 0.0
        for attempt in range(_ATTEMPTS):
            if attempt:
                backoff = min(_SLOWEST, _BACKOFF * 2.0**attempt) * self._draw()
                await self._clock.sleep(max(backoff, after))
            try:
                reply = await fetch(self._transport, method, url, self._token, body)
            except UpstreamFailure as failure:
                trouble, after = f"{_host(url)}: {failure}", 0.0
                continue
            if reply.status not in _TRANSIENT:
                return _read(reply, url, self._token)
            trouble, after = f"{_host(url)} answered {reply.status}", _retry_after(reply)
        raise ManagementError(trouble)


async def fetch(
    transport: Transport, method: str, url: str, token: Secret, body: Mapping[str, Any] | None = None,
    *, headers: Mapping[str, str] | None = None, timeout: float = _TIMEOUT,
) -> Reply:  # fmt: skip
    """Send one request with a bearer token and return the answer. Raises UpstreamFailure."""
    parts = urlsplit(url)
    content = b"" if body is None else json.dumps(body).encode()
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {path} HTTP/1.1", f"host: {parts.netloc}", "accept: application/json"]
    lines += ["user-agent: router-core", f"content-length: {len(content)}"]
    if token:
        lines.append(f"authorization: Bearer {token.reveal()}")
    if body is not None:
        lines.append("content-type: application/json")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if any("\r" in line or "\n" in line for line in lines):
        raise UpstreamFailure("malformed", "send", "a line break in an address or a key")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
    limits = Timeouts(connect=5.0, first_byte=timeout, idle=timeout, total=timeout)
    deadline = asyncio.get_running_loop().time() + timeout
    return await transport.send(_origin(url), head, content, timeouts=limits, deadline=deadline)


def safe_url(url: str) -> str:
    """Return an address to which a key may be sent: https, or this machine. Raises Misconfigured."""
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise Misconfigured("the address of an endpoint is not one") from None
    if not good or parts.username is not None or not (url.isascii() and url.isprintable() and " " not in url):
        raise Misconfigured(f"{url[:_MAX_WORDS]!r} is no address such as https://api.example.com")
    if parts.scheme == "https" or (parts.scheme == "http" and _is_here(parts.hostname or "")):
        return url
    raise Misconfigured(f"{url[:_MAX_WORDS]!r} must begin with https://: a key would be sent in the clear")


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _origin(url: str) -> Origin:
    parts = urlsplit(url)
    return Origin(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _retry_after(reply: Reply) -> float:
    given = reply.headers.get("retry-after", "").strip()
    return min(float(given), _SLOWEST) if given.isascii() and given.isdigit() and len(given) < 6 else 0.0


def _read(reply: Reply, url: str, token: Secret) -> Answer:
    body = reply.body or b""
    if token:
        body = body.replace(token.reveal().encode(), MASK.encode())  # who refuses a key may repeat it
    if len(body) > _MAX_ANSWER:
        raise ManagementError(f"{_host(url)} answered with {len(body)} bytes")
    try:
        value = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        if 200 <= reply.status < 300:
            raise ManagementError(f"{_host(url)} answered with what is no JSON object")
        value = {}
    return Answer(reply.status, value, _words(value, body))


def _words(value: Mapping[str, Any], body: bytes) -> str:
    """Return what an error body says, without what could break a line of a log."""
    said = next((value[key] for key in ("error", "message", "detail", "title") if value.get(key)), None)
    text = said if isinstance(said, str) else body[: 4 * _MAX_WORDS].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else " " for char in text)[:_MAX_WORDS].strip()
