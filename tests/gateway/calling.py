"""Call one client of the gateway as its pipeline would, and serve it to real SDKs over a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from router_core.errors import RouterError
from router_core.gateway.call import Call
from router_core.gateway.clients.protocol import ModelClient
from router_core.gateway.json import model_of, read_fields, stream_of, wants_usage_of
from router_core.gateway.reply import Reply
from router_core.gateway.values import Deployment

__all__ = ["ask", "deployment", "events", "make_call", "read", "serving"]

CONTENT_TYPE: Final = "application/json"


def deployment(kind: str, model: str = "m", **members: Any) -> Deployment:
    """Return a deployment of one type."""
    return Deployment(id=f"{model}/{kind}", model_id=model, type=kind, model=model, **members)


def make_call(endpoint: str, body: Any, content_type: str = CONTENT_TYPE) -> Call:
    """Return the call that the API makes of a request."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    if not content_type.startswith("application/json"):
        return Call(endpoint, "m", body=raw, content_type=content_type, stream=b"\r\n\r\ntrue\r\n" in raw)
    fields = read_fields(raw)
    call = Call(endpoint, model_of(fields), body=raw, fields=fields, stream=stream_of(fields))
    call.wants_usage = wants_usage_of(fields)
    return call


async def ask(client: ModelClient, endpoint: str, body: Mapping[str, Any], seconds: float = 30.0) -> Reply:
    """Make one attempt."""
    deadline = asyncio.get_running_loop().time() + seconds
    return await client.send(make_call(endpoint, {"model": "m", **body}), deadline)


async def read(reply: Reply) -> bytes:
    """Return all bytes of an answer."""
    if reply.chunks is None:
        return reply.body or b""
    return b"".join([chunk async for chunk in reply.chunks])


async def events(reply: Reply) -> list[Any]:
    """Return the data of a stream's events, decoded; the last is "[DONE]" where it ended well."""
    texts = [line[6:] for line in (await read(reply)).decode().split("\n") if line.startswith("data: ")]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


@asynccontextmanager
async def serving(client: ModelClient) -> AsyncIterator[str]:
    """Serve one client on a loopback port; yields the base URL for an SDK."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await _exchange(client, reader, writer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        await server.wait_closed()


async def _exchange(client: ModelClient, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    endpoint = head[0].split(" ")[1].removeprefix("/v1/")
    try:
        call = make_call(endpoint, body, headers.get("content-type", CONTENT_TYPE))
        reply = await client.send(call, asyncio.get_running_loop().time() + 30)
    except RouterError as exc:
        error = {"message": exc.detail, "type": "invalid_request_error", "code": exc.code}
        data = json.dumps({"error": error | {"param": exc.extra.get("param")}}).encode()
        reply = Reply(exc.status, {"content-type": CONTENT_TYPE}, data)
    lines = [f"HTTP/1.1 {reply.status} X", "connection: close"]
    lines += [
        f"{name}: {reply.headers[name]}" for name in ("content-type", "retry-after") if name in reply.headers
    ]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    if reply.chunks is None:
        writer.write(reply.body or b"")
    else:
        async for chunk in reply.chunks:
            writer.write(chunk)
            await writer.drain()
    await writer.drain()
