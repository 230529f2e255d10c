"""Endpoints of the Craft.AI platform: functions behind an address of their own, taking and giving JSON.

``select_endpoint`` sends the caller's JSON as it came. ``chat/completions`` sends the text of the last user
message as ``{"message": ...}`` and makes a completion of the answer, so that such an endpoint serves beside
models of other providers. A long run is answered with a redirect to where its result will be, which is
followed there, and nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, Final
from urllib.parse import urljoin

import msgspec

from router_core.errors import HTTPError, Misconfigured
from router_core.gateway.call import Call
from router_core.gateway.clients.address import check_path, parse_address
from router_core.gateway.clients.http import HttpClient, argument
from router_core.gateway.clients.probe import Probe
from router_core.gateway.json import invalid
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.transport.protocol import Transport
from router_core.gateway.values import Deployment

__all__ = ["CraftAIClient"]

_MAX_REDIRECTS: Final = 2000
_PAUSE: Final = 0.25
"""Seconds between two looks for a result: the platform itself waits for some before it redirects again."""

_encode: Final = msgspec.json.Encoder().encode


class _Message(msgspec.Struct):
    role: str
    content: Any = None


_decode_messages: Final = msgspec.json.Decoder(list[_Message]).decode


class CraftAIClient(HttpClient):
    """A deployment of type ``craftai``; ``base_url`` is the address of the endpoint itself.

    args: ``input_field`` (default ``message``) and ``output_field`` (default: the first text of the output).
    """

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {"chat/completions": "", "select_endpoint": ""}
    EXACT_URL: ClassVar[bool] = True
    NEEDS_KEY: ClassVar[bool] = True

    def __init__(self, deployment: Deployment, transport: Transport) -> None:
        super().__init__(deployment, transport)
        self._input = argument(deployment, "input_field", str, "message")
        self._output = argument(deployment, "output_field", str, "")

    async def send(self, call: Call, deadline: float) -> Reply:
        """Make one attempt. Raises UpstreamFailure without a usable answer."""
        if not self._located or self.locate is not None:
            self._follow()
        if call.endpoint not in self._heads:
            raise HTTPError(422, "Wrong model type", code="wrong_model_type")
        is_chat = call.endpoint == "chat/completions"
        body = self._question(call) if is_chat else call.body
        head = b"%b%d\r\n\r\n" % (self._heads[call.endpoint][0], len(body))
        reply = await self._exchange(head, body, deadline)
        for _ in range(_MAX_REDIRECTS):
            if not 300 <= reply.status < 400:
                break
            head = self._next(reply)
            await asyncio.sleep(_PAUSE)
            reply = await self._exchange(head, b"", deadline)
        if not 200 <= reply.status < 300:
            return self._refusal(reply)
        return self._completion(call, reply) if is_chat else reply

    def _probes(self) -> tuple[Probe | None, Probe | None]:
        return None, None

    def _authorization(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"EndpointToken {self._key}"),)

    async def _exchange(self, head: bytes, body: bytes, deadline: float) -> Reply:
        return await self._transport.send(
            self._address.origin, head, body, timeouts=self.deployment.timeouts, deadline=deadline
        )

    def _next(self, reply: Reply) -> bytes:
        """Return the request for where a redirect points, if that is the same server."""
        here = self._address
        location = reply.headers.get("location", "")
        base = f"{here.origin.scheme}://{here.host_header}{here.path}"
        url, mark, query = urljoin(base, location).partition("?")
        try:
            target = parse_address(url, ca_file=self._ca_file, exact=True)
            path = check_path((target.path or "/") + mark + query, "location")
        except (Misconfigured, ValueError):
            raise self._astray(reply) from None
        if not location or target.origin != here.origin:
            raise self._astray(reply)
        return b"GET %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (
            path.encode("ascii"), here.host_header.encode("ascii"), self._common,
        )  # fmt: skip

    def _astray(self, reply: Reply) -> UpstreamFailure:
        message = f"answered with a redirect ({reply.status}) that leads elsewhere"
        return UpstreamFailure("malformed", "first_byte", message, sent=True, started=True)

    def _question(self, call: Call) -> bytes:
        """Return what the function is given: the text that the user said last."""
        try:
            messages = _decode_messages((call.fields or {})["messages"])
        except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise invalid("messages has to be a list of messages with a role", "messages") from None
        for message in reversed(messages):
            if message.role == "user":
                return _encode({self._input: _text_of(message.content)})
        raise invalid("messages has none of the role user", "messages")

    def _completion(self, call: Call, reply: Reply) -> Reply:
        """Return a completion made of the function's output, as a stream where one was asked for."""
        text = self._said(reply)
        common = {"id": f"chatcmpl-{call.request_id}", "created": int(time.time()), "model": call.model_name}
        message = {"role": "assistant", "content": text}
        if call.stream:
            return Reply(200, {"content-type": "text/event-stream"}, chunks=_events(common, message))
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = _encode({**common, "object": "chat.completion", "choices": [choice]})
        return Reply(200, {"content-type": "application/json"}, body)

    def _said(self, reply: Reply) -> str:
        try:
            answer = msgspec.json.decode(reply.body or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UpstreamFailure(
                "malformed", "body", "the answer is not JSON", sent=True, started=True
            ) from None
        output = answer.get("output", answer.get("outputs", answer)) if isinstance(answer, dict) else answer
        if isinstance(output, dict):
            if self._output:
                output = output.get(self._output)
            else:
                output = next((each for each in output.values() if isinstance(each, str)), output)
        return output if isinstance(output, str) else _encode(output).decode()


def _text_of(content: Any) -> str:
    """Return the text of a message, which may come in parts."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


async def _events(common: dict[str, Any], message: dict[str, str]) -> AsyncIterator[bytes]:
    """Yield a whole answer as the chunks of a stream."""
    for delta, reason in ((message, None), ({}, "stop")):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {**common, "object": "chat.completion.chunk", "choices": [choice]}
        yield b"data: %b\n\n" % _encode(chunk)
    yield b"data: [DONE]\n\n"
