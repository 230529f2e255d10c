"""Streams that go out below ASGI: each chunk is framed and written, and that is all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from router_core.http.message import Response
from router_core.telemetry.events import Note

if TYPE_CHECKING:
    from handlers.local.direct import DirectHttpToolsProtocol
    from handlers.local.direct_cycle import DirectCycle

__all__ = ["stream"]


async def stream(protocol: DirectHttpToolsProtocol, cycle: DirectCycle, response: Response) -> bool:
    """Write a stream as it comes, if nothing about it is unusual; False: nothing was written.

    A peer that goes away cancels the task at its next wait; one that takes nothing is the business of the
    protocol, which ends its connection.
    """
    head = _head(protocol, cycle, response)
    if head is None:
        return False
    chunks: Any = response.body
    transport, flow = protocol.transport, protocol.flow
    cycle.response_started = True
    transport.write(head)
    cycle.interrupts = True
    _tap(protocol, cycle, chunks)
    try:
        async for chunk in chunks:
            if chunk:
                transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                if flow.write_paused:
                    await flow.drain()
        transport.write(b"0\r\n\r\n")
    except asyncio.CancelledError:
        if not cycle.disconnected:
            raise
    except Exception as error:
        # the status is out already: the missing end of the body is what tells the peer
        fields = {"request_id": cycle.request_id}
        protocol.door.events.emit(Note("stream_failed", "error", str(error), fields, error))
        cycle.keep_alive = False
    finally:
        cycle.interrupts = False
        await protocol.door.close(chunks, cycle.request_id)
    cycle.response_complete = True
    if not cycle.keep_alive:
        transport.close()
    protocol.on_response_complete()
    return True


def _tap(protocol: DirectHttpToolsProtocol, cycle: DirectCycle, chunks: Any) -> None:
    """Have chunks written as soon as they come, where the stream can do that: the task that iterates over
    it then wakes up for what is out of the ordinary alone."""
    tap = getattr(chunks, "tap", None)
    if tap is None:
        return
    flow, send = protocol.flow, protocol.transport.write

    def write(chunk: bytes) -> bool:
        if flow.write_paused or cycle.disconnected or not chunk:
            return False
        send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        return True

    tap(write)


def _head(protocol: DirectHttpToolsProtocol, cycle: DirectCycle, response: Response) -> bytes | None:
    """Return the head as uvicorn would write it, or None for what is better left to it."""
    fields = response.headers
    if cycle.method == "HEAD" or cycle.version != "1.1" or cycle.disconnected or not fields:
        return None
    if protocol.flow.write_paused or fields[-1] != ("x-request-id", cycle.request_id):
        return None
    try:
        block = protocol.door.block(response.status, fields[:-1])
    except ValueError:
        return None
    if block is None:
        return None
    return b"%b%b%bx-request-id: %b\r\n%btransfer-encoding: chunked\r\n\r\n" % (
        STATUS_LINE[response.status],
        protocol.door.front(protocol.server_state.default_headers),
        block,
        cycle.request_id.encode("ascii"),
        b"" if cycle.keep_alive else b"connection: close\r\n",
    )
