"""The keys of an issuer (JWKS): fetched, kept for a while, and used a while longer when it does not answer.

    fresh (its max-age, 1 minute to 1 day)   used; fetched anew beside the calls when that is over
    older, and the issuer away               used for up to ``stale`` seconds more, asked every 30 seconds
    none that may be used                    503: nobody can say whether a token is good
    a key id that is not among them          fetched anew, at most every 30 seconds, and then 401

One fetch is under way at a time, whoever asks for it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from router_core.clock import Clock
from router_core.errors import Misconfigured, RouterError, Unavailable
from router_core.security.fetch import GuardedHttp
from router_core.security.url_guard import UrlGuard
from router_core.telemetry.events import Events, Note

__all__ = ["ALGORITHMS", "Fetched", "JwksKeys", "KeyLoader", "Usable", "jwks_source"]

ALGORITHMS: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", "")),
    "ES256": ("EC", "P-256"), "ES384": ("EC", "P-384"), "ES512": ("EC", "P-521"), "EdDSA": ("OKP", "Ed25519"),
}  # fmt: skip
"""Type and curve of the keys that each algorithm takes."""
_LARGEST: Final = 256 * 1024
_MOST_KEYS: Final = 100
_SHORTEST, _USUAL, _LONGEST = 60.0, 600.0, 86_400.0
_AGAIN: Final = 30.0
_OWN: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_PATIENCE: Final = 5.0
_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age=([0-9]{1,9})(?:[\s,]|$)")


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of a fetch."""

    body: bytes
    cache_control: str = ""


@dataclass(frozen=True, slots=True)
class Usable:
    """A key, and the algorithms that it verifies."""

    kid: str
    algorithms: frozenset[str]
    key: Any


Fetch = Callable[[int, float], Awaitable[Fetched]]
"""Bytes and seconds that it may take -> what came. Raises RouterError or OSError."""
KeyLoader = Callable[[Mapping[str, Any]], Any]
"""A key of a JWKS -> what the verifier takes; raises ValueError for one that is too weak or none."""


class JwksKeys:
    """The keys. Made for one event loop at a time."""

    def __init__(
        self, fetch: Fetch, load: KeyLoader, algorithms: frozenset[str], clock: Clock, events: Events,
        stale: float = 3600.0,
    ) -> None:  # fmt: skip
        self._fetch = fetch
        self._load = load
        self._algorithms = algorithms
        self._clock = clock
        self._events = events
        self._stale = stale
        self._keys: Sequence[Usable] = ()
        self._print: bytes = b""
        self._fresh_until = 0.0
        self._tried_at: float | None = None
        self._failing = False
        self._task: asyncio.Task[None] | None = None
        self.generation = 0
        """Another number whenever the keys have changed."""
        self.believed_until = 0.0
        """Until when the keys may be used, by the monotonic clock."""

    async def find(self, kid: str | None, algorithm: str) -> Usable | None:
        """Return the key of a token; raises Unavailable where it cannot be found out."""
        self.refresh_soon()
        now = self._clock.monotonic()
        if now < self.believed_until:
            found = self._among(kid, algorithm)
            if found is not None:
                return found
        if self._may_try(now):
            await asyncio.shield(self._refresh())
        elif self._task is not None and not self._task.done():
            await asyncio.shield(self._refresh())
        if self._clock.monotonic() >= self.believed_until:
            raise Unavailable("the keys of the issuer of tokens are not to be had", retry_after=_AGAIN)
        return self._among(kid, algorithm)

    def refresh_soon(self) -> None:
        """Fetch the keys beside the calls, if it is time to."""
        now = self._clock.monotonic()
        if self._fresh_until <= now < self.believed_until and self._may_try(now):
            self._refresh()

    def _among(self, kid: str | None, algorithm: str) -> Usable | None:
        if kid is not None:
            return next((each for each in self._keys if each.kid == kid), None)
        fitting = [each for each in self._keys if algorithm in each.algorithms]
        return fitting[0] if len(fitting) == 1 else None

    def _may_try(self, now: float) -> bool:
        return self._tried_at is None or now - self._tried_at >= _AGAIN

    def _refresh(self) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._tried_at = self._clock.monotonic()
            self._task = loop.create_task(self._fetched())
        return self._task

    async def _fetched(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE * 2):
                fetched = await self._fetch(_LARGEST, _PATIENCE)
            keys = self._read(fetched.body)
        except (RouterError, OSError, ValueError, TimeoutError) as error:
            self._tell(str(error) or "no answer in time")
            return
        now = self._clock.monotonic()
        if fetched.body != self._print:
            self._print, self._keys = fetched.body, keys
            self.generation += 1
        self._fresh_until = now + _max_age(fetched.cache_control)
        self.believed_until = self._fresh_until + self._stale
        if self._failing:
            self._failing = False
            self._events.emit(Note("jwks_up", "info", "the keys of the issuer of tokens are to be had again"))

    def _tell(self, reason: str) -> None:
        """Say that there are no new keys, once."""
        if not self._failing:
            self._failing = True
            text = f"the keys of the issuer of tokens could not be fetched: {reason[:300]}"
            self._events.emit(Note("jwks_down", "warning", text))

    def _read(self, body: bytes) -> Sequence[Usable]:
        try:
            data = json.loads(body)
        except RecursionError:
            raise ValueError("it is no JWKS") from None
        listed = data.get("keys") if isinstance(data, dict) else None
        if not isinstance(listed, list) or len(listed) > _MOST_KEYS:
            raise ValueError("it is no JWKS")
        keys: dict[str, Usable] = {}
        for each in listed:
            usable = self._usable(each)
            if usable is not None:
                keys.setdefault(usable.kid, usable)
        if not keys:
            raise ValueError("there is no key in it that tokens may be signed with here")
        return tuple(keys.values())

    def _usable(self, data: Any) -> Usable | None:
        """Return a key that may verify signatures of our algorithms; a secret one never may."""
        if not isinstance(data, dict) or data.get("use", "sig") != "sig" or "d" in data:
            return None
        operations = data.get("key_ops", ["verify"])
        if not isinstance(operations, list) or "verify" not in operations:
            return None
        kind, kid = (data.get("kty"), data.get("crv", "")), data.get("kid", "")
        fitting = {
            name for name in self._algorithms
            if name in ALGORITHMS and (ALGORITHMS[name] == kind or ALGORITHMS[name] == (kind[0], ""))
        }  # fmt: skip
        if "alg" in data:
            fitting &= {data["alg"]} if isinstance(data["alg"], str) else set()
        if not fitting or not isinstance(kid, str):
            return None
        try:
            return Usable(kid, frozenset(fitting), self._load(data))
        except ValueError:
            return None

    async def close(self) -> None:
        """Let go of a fetch that is under way."""
        task = self._task
        if task is not None and not task.done() and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def jwks_source(setting: str) -> Fetch:
    """Return what fetches a JWKS from an address or ``@path``; raises Misconfigured for anything else."""
    if setting.startswith("@"):
        path = Path(setting[1:])
        if not path.is_file():
            raise Misconfigured(f"ROUTER_JWT_JWKS names the file {path}, which is not there")
        return _FileSource(path).fetch
    parts = urlsplit(setting)
    safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _OWN)
    if not safe or not parts.hostname or parts.username is not None:
        raise Misconfigured(
            "ROUTER_JWT_JWKS has to be an https URL (http for this machine alone), or @ and the path of a "
            "file"
        )
    return _UrlSource(setting).fetch


class _FileSource:
    """A file, read again every minute."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def fetch(self, largest: int, _timeout: float) -> Fetched:
        """Read it."""
        body = await asyncio.to_thread(self._read, largest)
        return Fetched(body, f"max-age={_SHORTEST:.0f}")

    def _read(self, largest: int) -> bytes:
        with self._path.open("rb") as file:
            body = file.read(largest + 1)
        if len(body) > largest:
            raise ValueError("it is too large")
        return body


class _UrlSource:
    """An address that the operator trusts, private or public; nothing else can name one here."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = GuardedHttp(UrlGuard(allow_private=True))

    async def fetch(self, largest: int, timeout: float) -> Fetched:
        """Ask for it, with all that ``GuardedHttp`` checks."""
        headers, body = await self._http.read(self._url, max_bytes=largest, timeout=timeout)
        return Fetched(body, headers.get("cache-control", ""))


def _max_age(cache_control: str) -> float:
    found = _MAX_AGE.search(cache_control.lower())
    return min(_LONGEST, max(_SHORTEST, float(found[1]))) if found else _USUAL
