"""Fetch and post to URLs that somebody else chose.

Connects only to addresses that the guard has passed, always verifies certificates, reads no proxy settings,
sends no credentials, and bounds everything that comes back. Errors say what the caller can change; a place
that the guard refuses is never connected to, so there is nothing that an error could give away about it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urljoin

from router_core.errors import BadRequest, Misconfigured, PayloadTooLarge, UpstreamError, UpstreamTimeout
from router_core.http.media import File
from router_core.http.message import Headers
from router_core.security.http1 import (
    MAX_LINE,
    AnswerTooLarge,
    Head,
    MalformedAnswer,
    read_body,
    read_head,
    render_request,
)
from router_core.security.url_guard import Target, UrlGuard, UrlRefused

__all__ = ["GuardedHttp", "PostResult"]

_USER_AGENT: Final = "router-core"
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS: Final = 3
_CONNECT_TIMEOUT: Final = 5.0
"""Seconds for one address while others are left to try."""
_RESOLVE_TIMEOUT: Final = 5.0
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PostResult:
    """How a receiver answered; its body is not read."""

    status: int
    headers: Headers


class GuardedHttp:
    """HTTP for foreign URLs. An instance may be called: it is the ``fetch`` that reads ``File`` inputs."""

    __slots__ = ("_guard", "_max_bytes", "_timeout", "_tls")

    def __init__(
        self,
        guard: UrlGuard,
        *,
        max_bytes: int = 100 * _MIB,
        timeout: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``tls`` may name other authorities to trust; one that does not verify is refused."""
        if tls is not None and (tls.verify_mode != ssl.CERT_REQUIRED or not tls.check_hostname):
            raise Misconfigured("outbound TLS must verify certificates and host names")
        self._guard = guard
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._tls = tls

    async def __call__(self, url: str) -> File:
        """Fetch with the limits given at construction."""
        return await self.fetch(url)

    async def check(self, url: str) -> Target:
        """Return where a URL leads, without going there. Raises UrlRefused, or UpstreamTimeout when the
        name cannot be resolved in time."""
        try:
            async with asyncio.timeout(_RESOLVE_TIMEOUT):
                return await self._guard.check(url)
        except TimeoutError:
            raise UpstreamTimeout("the host of the URL could not be looked up in time") from None

    async def fetch(self, url: str, *, max_bytes: int | None = None, timeout: float | None = None) -> File:
        """GET a file. Every redirect is checked like the first URL, and ``timeout`` covers all of it.

        Raises UrlRefused, BadRequest (it leads nowhere), PayloadTooLarge, UpstreamError, UpstreamTimeout.
        """
        limit = self._max_bytes if max_bytes is None else max_bytes
        try:
            async with asyncio.timeout(self._timeout if timeout is None else timeout):
                return await self._follow(url, limit)
        except TimeoutError:
            raise UpstreamTimeout("the server of the URL did not answer in time") from None

    async def read(self, url: str, *, max_bytes: int, timeout: float) -> tuple[Headers, bytes]:
        """GET a whole answer of status 200. A redirect is not followed.

        Raises what ``fetch`` raises.
        """
        try:
            async with asyncio.timeout(timeout):
                target = await self._guard.check(url)
                sent = {
                    "User-Agent": _USER_AGENT,
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                }
                async with self._ask("GET", target, sent, b"") as (head, reader):
                    file = await _take(target, head, reader, max_bytes)
                    return head.headers, file.read()
        except TimeoutError:
            raise UpstreamTimeout("the server of the URL did not answer in time") from None

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, timeout: float = 15.0
    ) -> PostResult:
        """POST and return the status, whatever it is. A redirect is not followed: it is the status.

        Raises UrlRefused, UpstreamError, UpstreamTimeout; ValueError for a header that cannot be sent.
        """
        try:
            async with asyncio.timeout(timeout):
                target = await self._guard.check(url)
                sent = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity", **headers}
                async with self._ask("POST", target, sent, body) as (head, _):
                    return PostResult(head.status, head.headers)
        except TimeoutError:
            raise UpstreamTimeout("the server of the URL did not answer in time") from None

    async def _follow(self, url: str, limit: int) -> File:
        headers = {"User-Agent": _USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
        target = await self._guard.check(url)
        for _ in range(_MAX_REDIRECTS + 1):
            async with self._ask("GET", target, headers, b"") as (head, reader):
                if head.status not in _REDIRECTS:
                    return await _take(target, head, reader, limit)
            target = await self._guard.check(_next_url(target, head))
        raise BadRequest(f"the URL redirects more than {_MAX_REDIRECTS} times", code="url_fetch_failed")

    @asynccontextmanager
    async def _ask(
        self, method: str, target: Target, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[tuple[Head, asyncio.StreamReader]]:
        """Send one request over a new connection and yield its head, with the body still to be read."""
        request = render_request(method, target.path, target.authority, headers, body)
        reader, writer = await self._connect(target)
        try:
            writer.write(request)
            try:
                await writer.drain()
            except ConnectionError:
                pass  # a server may answer, and close, before it has read everything: its answer counts
            yield await read_head(reader), reader
        except MalformedAnswer:
            raise UpstreamError("the server of the URL sent an answer that is not valid HTTP") from None
        except TimeoutError:
            raise
        except OSError:
            raise UpstreamError("the connection to the server of the URL broke") from None
        finally:
            writer.transport.abort()

    async def _connect(self, target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        tls = self._verifying() if target.scheme == "https" else None
        *others, last = target.addresses
        for address in others:
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT):
                    return await _open(address, target, tls)
            except ssl.SSLError:
                break  # the other addresses have the same certificate to show
            except OSError:
                continue
        try:
            return await _open(last, target, tls)
        except ssl.SSLCertVerificationError:
            raise UpstreamError("the certificate of the URL's server could not be verified") from None
        except OSError:
            raise UpstreamError("the server of the URL could not be reached") from None

    def _verifying(self) -> ssl.SSLContext:
        """Load the system's authorities when the first https URL comes: it takes a while."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        return self._tls


async def _open(
    address: str, target: Target, tls: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to an address, never to a name; the name is what the certificate has to be for."""
    return await asyncio.open_connection(
        address,
        target.port,
        limit=MAX_LINE,
        flags=socket.AI_NUMERICHOST,
        ssl=tls,
        server_hostname=target.host if tls else None,
    )


def _next_url(target: Target, head: Head) -> str:
    location = head.headers.get("location", "")
    if not location:
        raise UpstreamError("the server of the URL redirects to nowhere")
    try:
        following = urljoin(target.url, location)
    except ValueError:
        raise UrlRefused("the URL redirects to a malformed URL") from None
    if target.scheme == "https" and not following.lower().startswith("https:"):
        raise UrlRefused("the URL redirects from https to something less safe")
    return following


async def _take(target: Target, head: Head, reader: asyncio.StreamReader, limit: int) -> File:
    if head.status >= 500:
        raise UpstreamError(f"the server of the URL answered with status {head.status}")
    if head.status != 200:
        raise BadRequest(f"the server of the URL answered with status {head.status}", code="url_fetch_failed")
    if head.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        # Inflating is how a small answer becomes a huge one; nobody asked for it.
        raise UpstreamError("the server of the URL sent a compressed body, which was not asked for")
    try:
        data = await read_body(reader, head, limit)
    except AnswerTooLarge:
        raise PayloadTooLarge(f"the file behind the URL is larger than {limit} bytes") from None
    name = unquote(target.path.partition("?")[0], errors="replace")
    return File(data, filename=name, content_type=head.headers.get("content-type", ""))
