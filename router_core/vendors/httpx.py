"""Requests to one service, over kept connections: httpx, imported when the first one is sent.

One table says what its errors mean: was something sent or not?
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from router_core.errors import Misconfigured, StoreError

if TYPE_CHECKING:
    import httpx

__all__ = ["Answer", "HttpxSender", "NotSent", "Unclear"]

_CONNECT: Final = 10.0
_CONNECTIONS: Final = 50
_IDLE: Final = 10.0
"""Shorter than the 15 s after which our own server closes an idle connection."""


class NotSent(StoreError):
    """No connection: what was asked has certainly not happened."""

    code = "coordinator_unreachable"


class Unclear(StoreError):
    """The connection broke or stayed silent: what was asked may have happened."""

    code = "coordinator_silent"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class HttpxSender:
    """Sends from any event loop and thread; each loop has connections of its own.

    Certificates are always checked: against the usual authorities, or those of ``verify``.
    """

    def __init__(self, *, verify: ssl.SSLContext | None = None, most: int) -> None:
        """``most`` is the largest answer that is read, in bytes."""
        self._verify = verify
        self._most = most
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = self._clients[loop] = _library().AsyncClient(
                verify=True if self._verify is None else self._verify,
                limits=_library().Limits(max_connections=_CONNECTIONS, keepalive_expiry=_IDLE),
                follow_redirects=False,
            )
        return client

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", silence: float
    ) -> Answer:
        """Send one request; ``silence`` is for how many seconds nothing may come.

        Raises NotSent, Unclear, or Misconfigured for what is no address.
        """
        library = _library()
        timeout = library.Timeout(silence, connect=_CONNECT, pool=_CONNECT)
        try:
            async with self._client().stream(
                method, url, headers=dict(headers), content=body, timeout=timeout
            ) as response:
                return Answer(response.status_code, dict(response.headers), await self._read(response))
        except (library.HTTPError, library.InvalidURL, OSError) as error:
            raise _translated(library, error) from None  # what is news in it is in the text

    async def _read(self, response: httpx.Response) -> bytes:
        chunks, size = [], 0
        async for chunk in response.aiter_bytes():
            size += len(chunk)
            if size > self._most:
                raise Unclear(f"the answer is larger than {self._most} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    async def aclose(self) -> None:
        """Close the connections of this loop; those of others end with their loops."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()


def _library() -> Any:
    try:
        import httpx
    except ImportError:
        raise Misconfigured('a remote worker needs httpx: pip install "router-core[local]"') from None
    return httpx


def _translated(library: Any, error: Exception) -> Exception:
    why = _words(error)
    if isinstance(error, (library.UnsupportedProtocol, library.InvalidURL)):
        return Misconfigured(f"that is no address that can be called: {why}")
    refused = (library.ConnectError, library.ConnectTimeout, library.PoolTimeout, library.ProxyError)
    if isinstance(error, refused):
        return NotSent(f"no connection: {why}")
    if isinstance(error, library.TimeoutException):
        return Unclear("no answer in time")
    return Unclear(f"the connection broke: {why}")


def _words(error: BaseException) -> str:
    """Return the innermost reason: "All connection attempts failed" tells less than "Connection refused"."""
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted: {reason.verify_message}"
        if isinstance(reason, OSError) and reason.errno and reason.strerror:
            # of name lookups the number is negative and its text is only in the error itself
            return (os.strerror(reason.errno) if reason.errno > 0 else reason.strerror).lower()
        reason = reason.__cause__ or reason.__context__
    return " ".join(str(error).split())[:200] or type(error).__name__
