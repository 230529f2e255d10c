"""A worker's line to its coordinator: one request at a time, repeated where that is safe.

Every request may be repeated: reads are reads, and writes carry what makes a second one harmless (a claim its
id, a move its lease, events their number, a piece of a file is only used when it is named).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import pydantic_core

from router_core.errors import Forbidden, Misconfigured, RouterError, StoreError, Unauthorized
from router_core.jobs.job import Fence
from router_core.jobs.remote_wire import EPOCH_HEADER, TOKEN_HEADER
from router_core.vendors.httpx import Answer, NotSent, Unclear

__all__ = ["CoordinatorLink", "NotACoordinator", "Refused", "Sender"]

SILENCE: Final = 15.0
"""Seconds in which an answer has to begin, and to go on."""
TRIES: Final = 3
_PAUSE: Final = 0.1


class Sender(Protocol):
    """What carries requests."""

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", silence: float
    ) -> Answer:
        """Send one; raises NotSent or Unclear."""

    async def aclose(self) -> None:
        """Close the connections."""


class NotACoordinator(Misconfigured):
    """Something answers at the address that takes no remote workers."""


class Refused(RouterError):
    """The coordinator understood and said no."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail or f"the coordinator answered {status}", code=code or "refused")
        self.status = status


class CoordinatorLink:
    """Sends what a worker has to say, under its key; answers 5xx and 429 are a StoreError."""

    def __init__(self, url: str, key: str, sender: Sender) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise Misconfigured(
                f"{url!r} is no coordinator's address; write https://host or http://host:port"
            )
        if parts.username or parts.password:
            raise Misconfigured("the address must not hold a password: give the key by ROUTER_WORKER_KEY")
        self.url = url.rstrip("/")
        self._sender = sender
        self._headers = {"authorization": f"Bearer {key}", "accept": "application/json"}

    async def ask(
        self, path: str, value: Any, *, lease: Fence | None = None, silence: float = SILENCE,
        opening: bool = False,
    ) -> Any:  # fmt: skip
        """Post a JSON object and return the one that comes back."""
        body = pydantic_core.to_json(value)
        answer = await self.send("POST", path, body, lease=lease, silence=silence, opening=opening)
        if answer.status == 303:  # ten jobs may be more than the coordinator's platform lets it answer
            return _object(await self.fetch(answer.headers.get("location", "")))
        return _object(answer.body)

    async def read(self, path: str, *, lease: Fence) -> Any:
        """Get a JSON object."""
        return _object((await self.send("GET", path, lease=lease)).body)

    async def send(
        self, method: str, path: str, body: bytes = b"", *, lease: Fence | None = None,
        headers: Mapping[str, str] | None = None, silence: float = SILENCE, opening: bool = False,
    ) -> Answer:  # fmt: skip
        """Send and return an answer below 400. Raises StoreError or Refused.

        ``opening`` raises Unauthorized, Forbidden and NotACoordinator, too. Later these are a StoreError like
        any other: what happened to the coordinator may be mended while the leases last.
        """
        told = {**self._headers, "content-type": "application/json", **(headers or {})}
        if lease is not None:
            told |= {EPOCH_HEADER: str(lease.epoch), TOKEN_HEADER: lease.token}
        answer = await self._repeated(method, self.url + path, told, body, silence)
        if answer.status >= 400:
            raise _refusal(answer, opening)
        return answer

    async def _repeated(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, silence: float
    ) -> Answer:
        for left in range(TRIES - 1, -1, -1):
            try:
                return await self._sender.send(method, url, headers=headers, body=body, silence=silence)
            except (NotSent, Unclear):
                if not left:
                    raise
            await asyncio.sleep(_PAUSE * (0.5 + random.random()))  # noqa: S311 - only spreads the tries
        raise AssertionError("unreachable")

    async def fetch(self, url: str) -> bytes:
        """Return what lies at an address that the coordinator named; the key is not shown there."""
        if urlsplit(url).scheme != "https" and not self.url.startswith("http://"):
            raise StoreError("the coordinator named an address that is not https")
        answer = await self._repeated("GET", url, {}, b"", SILENCE)
        if answer.status != 200:
            raise StoreError(f"what the coordinator keeps elsewhere could not be fetched: {answer.status}")
        return answer.body

    async def aclose(self) -> None:
        """Close the connections of this loop."""
        await self._sender.aclose()


def _object(body: bytes) -> Any:
    try:
        value = pydantic_core.from_json(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise NotACoordinator("what answers there is no coordinator: it does not answer in JSON")
    return value


def _refusal(answer: Answer, opening: bool) -> RouterError:
    code, detail = _problem(answer.body)
    status = answer.status
    said = detail or f"the coordinator answered {status}"
    if status >= 500 or status in (408, 425, 429):
        return StoreError(said, code=code or None)
    if not opening:
        return StoreError(said, code=code or None) if status in (401, 403) else Refused(status, code, said)
    if status == 401:
        return Unauthorized(said)
    if status == 403 and code:
        return Forbidden(said, code=code)
    if status in (404, 405):
        return NotACoordinator(
            f"what answers there takes no remote workers ({status}): set ROUTER_WORKER_KEYS"
        )
    return Refused(status, code, said)


def _problem(body: bytes) -> tuple[str, str]:
    try:
        problem = pydantic_core.from_json(body)
        return str(problem["code"]), str(problem["detail"])[:1_000]
    except (ValueError, KeyError, TypeError):
        return "", ""
