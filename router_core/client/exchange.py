"""One call with its repetitions, and the exception that an error answer stands for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlencode, urljoin, urlsplit

from router_core.client.errors import BadAnswer, error_from
from router_core.client.retry import Retry
from router_core.client.transport import Call, Payload, Reply, Transport, parse_json, read, read_some
from router_core.errors import RouterError
from router_core.http.message import Headers
from router_core.http.ndjson import NDJSON_TYPES
from router_core.http.sse import SSE_TYPE

__all__ = ["STREAMS", "Answer", "Exchange", "media_type"]

_MAX_PROBLEM: Final = 64 * 1024
STREAMS: Final = frozenset({SSE_TYPE, *NDJSON_TYPES})
"""Media types of answers that are handed out while they arrive."""
T = TypeVar("T")


def media_type(headers: Headers) -> str:
    """Return the content type without its parameters, lower case."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer, wholly read."""

    status: int
    headers: Headers
    body: bytes

    @property
    def content_type(self) -> str:
        """The media type without its parameters, lower case."""
        return media_type(self.headers)

    def json(self, what: str = "the answer") -> Any:
        """Decode the body; raises BadAnswer."""
        return parse_json(self.body, what)


class Exchange:
    """Calls one service: address, credentials, transport and patience."""

    def __init__(
        self, transport: Transport, base: str, *, headers: Iterable[tuple[str, str]], retry: Retry
    ) -> None:
        self.base = base.rstrip("/")
        self.retry = retry
        self._transport = transport
        self._headers = tuple(headers)

    @property
    def address(self) -> str:
        """Return the base without a user and password."""
        scheme, separator, rest = self.base.partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"

    def call(
        self, method: str, path: str, *, query: Iterable[tuple[str, str]] = (),
        headers: Iterable[tuple[str, str]] = (), body: bytes | Payload = b"", silence: float = 30.0,
    ) -> Call:  # fmt: skip
        """Build a call to a path of this service."""
        pairs = list(query)
        url = f"{self.base}{path}" + (f"?{urlencode(pairs)}" if pairs else "")
        return Call(method, url, (*self._headers, *headers), body, silence)

    async def fetch(self, call: Call, *, repeatable: bool) -> Answer:
        """Send, read the whole answer, repeat where that is harmless; raises the error it stands for."""
        answer = await self.request(call, repeatable=repeatable, streams=frozenset())
        return cast(Answer, answer)  # no streams were allowed

    async def request(
        self, call: Call, *, repeatable: bool, streams: frozenset[str] = STREAMS
    ) -> Answer | Reply:
        """As ``fetch``, but an answer of one of these media types is returned unread, to be closed by the
        caller: once its head is there, nothing is repeated."""

        async def once() -> Answer | Reply:
            reply = await self._send(call)
            if media_type(reply.headers) in streams:
                return reply
            return Answer(reply.status, reply.headers, await read(reply))

        return await self._repeated(once, repeatable=repeatable)

    async def aclose(self) -> None:
        """Close the transport."""
        await self._transport.aclose()

    async def _send(self, call: Call) -> Reply:
        reply = await self._transport.send(call)
        if reply.status < 300 or reply.status == 304:
            return reply
        if reply.status == 303 and "location" in reply.headers:
            return await self._elsewhere(call, reply)
        if reply.status < 400:
            await reply.aclose()
            raise BadAnswer(f"{self.address} answers that it has moved to {_moved(reply)}: connect to that")
        raise error_from(reply.status, reply.headers, await read_some(reply, _MAX_PROBLEM))

    async def _elsewhere(self, call: Call, reply: Reply) -> Reply:
        """Read the answer where a service has put it that cannot send so much; credentials stay here.

        The call has been carried out, so nothing that goes wrong from here on may have it sent again.
        """
        await reply.aclose()
        place = urljoin(call.url, reply.headers["location"])
        headers = self._headers if _origin(place) == _origin(call.url) else ()
        other = Call("GET", place, tuple(headers), silence=call.silence)
        try:
            found = await self._repeated(lambda: self._transport.send(other), repeatable=True)
        except RouterError as error:
            raise BadAnswer(f"the answer is kept elsewhere and cannot be read there: {error}") from error
        if found.status == 200:
            return found
        await found.aclose()
        raise BadAnswer(f"the answer is kept elsewhere and cannot be read there: status {found.status}")

    async def _repeated(self, once: Callable[[], Coroutine[Any, Any, T]], *, repeatable: bool) -> T:
        started = self.retry.now()
        tries = 0
        while True:
            tries += 1
            try:
                return await once()
            except RouterError as error:
                if not self.retry.may(error, repeatable=repeatable):
                    raise
                wait = self.retry.wait(error, tries, started)
                if wait is None:
                    raise
            await self.retry.sleep(wait)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2]


def _moved(reply: Reply) -> str:
    return repr(reply.headers.get("location", "nowhere")[:200])
