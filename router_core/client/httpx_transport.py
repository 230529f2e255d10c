"""The transport over sockets: httpx. Imported only when a client without a transport of its own is made."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from router_core.client.errors import CannotConnect, ConnectionCut, Silent, TlsFailed
from router_core.client.tls import explain
from router_core.client.transport import Call, Reply
from router_core.errors import Misconfigured, RouterError
from router_core.http.message import Headers

try:
    import httpx
except ImportError:  # pragma: no cover - the message is tested with the import blocked
    raise Misconfigured('the client needs httpx: pip install "router-core[local]"') from None

__all__ = ["HttpxTransport"]

_CONNECT: Final = 10.0
_WRITE: Final = 60.0


class HttpxTransport:
    """Keeps connections open between calls. It belongs to the event loop that first used it."""

    def __init__(
        self, *, verify: ssl.SSLContext | bool = True, connections: int = 100, proxies: bool = True
    ) -> None:
        self._client = httpx.AsyncClient(
            verify=verify,
            # shorter than the 15 s after which our server closes an idle connection
            limits=httpx.Limits(max_connections=connections, keepalive_expiry=10),
            follow_redirects=False,
            # a proxy of the environment cannot reach this machine's own loopback
            trust_env=proxies,
        )

    async def send(self, call: Call) -> Reply:
        """Send one call; redirects are followed for GET only, credentials stay with their origin."""
        content: Any = call.body if isinstance(call.body, bytes) else call.body.chunks()
        timeout = httpx.Timeout(call.silence, connect=_CONNECT, write=_WRITE, pool=call.silence)
        try:
            request = self._client.build_request(
                call.method, call.url, headers=list(call.headers), content=content, timeout=timeout
            )
            response = await self._client.send(request, stream=True, follow_redirects=call.method == "GET")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _translated(error, call.url) from None
        return _HttpxReply(response, call.url)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()


class _HttpxReply:
    def __init__(self, response: httpx.Response, url: str) -> None:
        self.status = response.status_code
        self.headers = Headers([(name, value) for name, value in response.headers.multi_items()])
        self._response = response
        self._url = url

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.aiter_bytes():
                yield chunk
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise _translated(error, self._url) from None

    async def aclose(self) -> None:
        await self._response.aclose()


def _translated(error: Exception, url: str) -> RouterError:
    """Say what the vendor's error means to a caller: was something sent or not?

    It is raised without its cause, whose only news, the innermost reason, is in the text.
    """
    where = _origin(url)
    refused = next((reason for reason in _reasons(error) if isinstance(reason, ssl.SSLError)), None)
    if refused is not None and isinstance(error, httpx.ConnectError):
        return TlsFailed(f"cannot connect to {where}: {explain(refused)}")
    for kinds, build in _MEANING:
        if isinstance(error, kinds):
            return build(where, _words(error))
    return ConnectionCut(f"the call to {where} broke: {_words(error)}")


def _origin(url: str) -> str:
    # the query may hold secrets, and the path says nothing about the connection
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.split('/', 1)[0].rpartition('@')[2]}"


def _reasons(error: BaseException) -> Iterator[BaseException]:
    """Return the error and what it came from."""
    reason: BaseException | None = error
    while reason is not None:
        yield reason
        reason = reason.__cause__ or reason.__context__


def _words(error: BaseException) -> str:
    """Return the innermost reason: "All connection attempts failed" tells less than "Connection refused"."""
    for reason in _reasons(error):
        if isinstance(reason, ssl.SSLError):
            return explain(reason)  # its number is one of OpenSSL's
        if isinstance(reason, OSError) and reason.errno and reason.strerror:
            # of name lookups the number is negative and its text is only in the error itself
            return (os.strerror(reason.errno) if reason.errno > 0 else reason.strerror).lower()
    return " ".join(str(error).split())[:200] or type(error).__name__


_MEANING: Final[tuple[tuple[tuple[type[Exception], ...], Callable[[str, str], RouterError]], ...]] = (
    (
        (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError),
        lambda where, why: CannotConnect(f"cannot connect to {where}: {why}"),
    ),
    (
        (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError),
        lambda where, why: Misconfigured(f"{where} is not an address that can be called: {why}"),
    ),
    (
        (httpx.TimeoutException,),
        lambda where, why: Silent(f"{where} was silent for too long"),
    ),
    (
        (httpx.HTTPError, httpx.StreamError, OSError),
        lambda where, why: ConnectionCut(f"the connection to {where} broke: {why}"),
    ),
)
