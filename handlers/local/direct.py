"""A door below ASGI: plain requests go from the parser to ``app.handle`` and back in one write.

ASGI costs a request as much as all the rest of this server: a scope, an event, three coroutines and four
messages. A request that has nothing to stream needs none of that. Everything else takes the way of ASGI on
the same connection: chunked and large bodies, ``Expect``, a target that has to be decoded, a head that is
refused, requests that are sent before the last one was answered. What comes back takes it as well when it
has to be looked at more closely: large bodies, answers to HEAD, streams to HTTP/1.0.

Both ways lead to the same ``app.handle``, and what can be seen from outside is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from handlers.local.asgi import SMALL
from handlers.local.direct_cycle import DirectCycle
from handlers.local.direct_stream import stream
from handlers.local.known_head import KnownHead, known_head
from handlers.local.protocol_httptools import EXTENSIONS, StrictHttpToolsProtocol
from router_core.errors import RouterError
from router_core.http.head import read_fields
from router_core.http.message import Request, Response
from router_core.http.problem import problem_response
from router_core.middleware.headers import with_headers
from router_core.telemetry.events import Note
from router_core.types import ANONYMOUS

__all__ = ["DirectHttpToolsProtocol"]

_STRANGE: Final = 8
"""Requests in a row after which no more heads are remembered: this peer never sends the same one twice."""
_LARGEST: Final = 256 * 1024
"""A longer body goes out in pieces, so that a slow reader costs one piece of memory."""


class DirectHttpToolsProtocol(StrictHttpToolsProtocol):
    """One connection; what it refuses and how long it waits is the business of its parent."""

    cycle: Any  # one of ours, or uvicorn's

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        door = self.config.door
        if door is None:
            raise RuntimeError("this protocol needs a door")
        self.door = door
        self._closed_to_us = bool(self.root_path) or self.limit_concurrency is not None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since = 0.0
        self._gone: asyncio.Event | None = None
        self._begun: DirectCycle | None = None
        """A request that is complete, until all that came with it is parsed."""
        self._known: KnownHead | None = None
        self._strange = 0
        """Requests in a row that had another head than the one before."""

    # --- requests --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take a request whose head is known as it is; parse everything else."""
        fresh = self._phase == 0 and not self._fed
        if fresh and self._known is not None and self._take_known(data, self._known):
            return
        super().data_received(data)
        cycle, self._begun = self._begun, None
        if cycle is not None:
            self._begin_direct(cycle, data if fresh else b"")

    def _take_known(self, data: bytes, known: KnownHead) -> bool:
        """Begin the request that these bytes are, if they are one with the head of the last."""
        door, last = self.door, self.cycle
        if not last.response_complete or self._deaf or not door.asgi.started:
            return False
        if len(self.connections) > self._limits.max_connections:
            return False
        cycle = known.read(data, self)
        if cycle is None or cycle.admission is None:
            return False
        cycle.more_body = False
        if self._timer is not None:
            self._disarm()
        self._shared = self._strange = 0
        self.cycle = cycle
        cycle.begin(door.admitted(self._request(cycle), cycle.admission))
        return True

    def _begin_direct(self, cycle: DirectCycle, data: bytes) -> None:
        """Begin to answer a request that was parsed; ``data``: it may be all of this."""
        door = self.door
        request = self._request(cycle)
        admission = door.admission(request) if cycle.url in door.taskless else None
        if admission is None:
            cycle.begin_task(door.handle(request))
            return
        if self._strange < _STRANGE:
            self._strange += 1
            self._known = known_head(data, cycle, admission)
        cycle.admission = admission
        cycle.begin(door.admitted(self._request(cycle), admission))

    def _unset_keepalive_if_required(self) -> None:
        """Do nothing: the one timer here stays, and looks at the clock."""

    def _new_request(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def _begin_request(self) -> None:
        cycle = self._direct_cycle()
        if cycle is not None:
            self.cycle = cycle
            return
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super()._new_request()  # makes the scope, which holds the list of headers
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = expect
        super()._begin_request()

    def _direct_cycle(self) -> DirectCycle | None:
        door, last = self.door, self.cycle
        if self._closed_to_us or self.expect_100_continue or not door.asgi.started:
            return None
        if last is not None and not last.response_complete:
            return None  # answers go out in the order of the requests, and uvicorn sees to that
        target = door.target(self.url)
        if target is None:
            return None
        try:
            # no request that came before it in the same bytes would have been answered by now
            head = read_fields(self.headers, *target, True, door.settings, door.ids, self._head_bytes)
        except RouterError:
            return None
        if head.has_body and not 0 < head.length <= min(SMALL, head.body_limit):
            return None
        parser = self.parser
        version = self._version
        keep_alive = version != "1.0" and parser.should_keep_alive()
        method = parser.get_method().decode("ascii")
        return DirectCycle(self, head, method, self.url, version, keep_alive, head.request_id)

    def on_body(self, body: bytes) -> None:
        """Keep what came of a body."""
        cycle = self.cycle
        if type(cycle) is not DirectCycle:
            super().on_body(body)
            return
        self._got += len(body)
        if not cycle.body:
            cycle.body = body
        else:
            if type(cycle.body) is bytes:
                cycle.body = bytearray(cycle.body)
            cycle.body += body

    def _end_request(self) -> None:
        cycle = self.cycle
        if type(cycle) is not DirectCycle:
            super()._end_request()
            return
        cycle.more_body = False
        self._begun = cycle

    async def gone(self) -> None:
        """Return when the connection has ended."""
        if self.transport.is_closing():
            return
        self.flow.resume_reading()  # its end is something that is read
        if self._gone is None:
            self._gone = asyncio.Event()
        await self._gone.wait()

    def scope_of(self, cycle: DirectCycle) -> dict[str, Any]:
        """Return the scope that uvicorn would have made."""
        path, _, query = cycle.url.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": cycle.version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "headers": list(cycle.head.headers.raw),
            "state": self.app_state.copy(),
            "method": cycle.method,
            "path": path.decode("ascii"),
            "raw_path": path,
            "query_string": query,
            "extensions": EXTENSIONS,
        }

    # --- answers ---------------------------------------------------------------------------------

    def _request(self, cycle: DirectCycle) -> Request:
        head, client, admission, body = cycle.head, self.client, cycle.admission, cycle.body
        principal = None if admission is None else admission.principal
        return Request(
            cycle.method,
            head.path,
            head.query,
            head.headers,
            body if type(body) is bytes else bytes(body),
            cycle.request_id,
            client[0] if client else "",
            self.scheme or "http",
            principal or ANONYMOUS,
            _NO_PARAMS,
            cycle,
            "",
            cycle.gone,
        )

    async def answer(self, cycle: DirectCycle, coming: Awaitable[Response]) -> None:
        """Send an answer when it comes."""
        door, request_id = self.door, cycle.request_id
        try:
            try:
                response = await coming
                if cycle.admission is not None:
                    response = with_headers(response, request_id)
            except Exception as error:
                door.events.emit(Note("handle_failed", "error", "the app raised", error=error))
                response = problem_response(RouterError(), instance=cycle.head.path, request_id=request_id)
            if type(response.body) is not bytes:
                if await stream(self, cycle, response):
                    return
            elif self._write_plain(cycle, response):
                return
            await door.send(self._uvicorn_cycle(cycle), response, request_id)
        except BaseException as error:
            if cycle.response_started:
                raise
            await self._uvicorn_cycle(cycle).run_asgi(_raising(error))
        finally:
            self.tasks.discard(cycle.task)

    def write(self, cycle: DirectCycle, response: Response) -> bool:
        """Write an answer of ``door.admitted``, if it is one of the plain ones."""
        body = response.body
        if type(body) is not bytes:
            return False
        return self._write(cycle, body, response.status, self.door.full_block(response))

    def _write_plain(self, cycle: DirectCycle, response: Response) -> bool:
        """Write an answer with all its headers, if it is one of the plain ones."""
        body, fields = response.body, response.headers
        if not isinstance(body, bytes) or not fields or fields[-1] != ("x-request-id", cycle.request_id):
            return False
        try:
            block = self.door.block(response.status, fields[:-1])
        except ValueError:
            return False
        return self._write(cycle, body, response.status, block)

    def _write(self, cycle: DirectCycle, body: bytes, status: int, block: bytes | None) -> bool:
        if block is None or cycle.disconnected or self.flow.write_paused:
            return False
        if len(body) > _LARGEST or cycle.method == "HEAD":
            return False
        keep_alive = cycle.keep_alive
        cycle.response_started = cycle.response_complete = True
        self.transport.write(
            b"%b%b%bx-request-id: %b\r\ncontent-length: %d\r\n%b\r\n%b"
            % (
                STATUS_LINE[status],
                self.door.front(self.server_state.default_headers),
                block,
                cycle.request_id.encode("ascii"),
                len(body),
                b"" if keep_alive else b"connection: close\r\n",
                body,
            )
        )
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()
        return True

    def _uvicorn_cycle(self, cycle: DirectCycle) -> RequestResponseCycle:
        """Return a cycle of uvicorn's that goes on where ours is."""
        full = RequestResponseCycle(
            scope=cycle.scope,  # type: ignore[arg-type]
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=cycle.keep_alive,
            on_response=self.on_response_complete,
        )
        full.more_body = False
        if cycle.disconnected:
            full.disconnected = True
            full.message_event.set()
        if self.cycle is cycle:
            self.cycle = full
        else:  # others came after it; it is to be told all the same when the peer goes
            self._overtaken = [full if each is cycle else each for each in self._overtaken]
        return full

    # --- between requests ------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Start the next request, or the time that the connection may be idle.

        One timer that looks at the clock when it rings, rather than two calls into the loop a request.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._idle)

    def _idle(self) -> None:
        self._idle_timer = None
        if not self._is_waiting() or self.cycle is None or not self.cycle.response_complete:
            return  # the next answer starts the time again
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0.01:
            self._idle_timer = self.loop.call_later(left, self._idle)
        else:
            self.timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the timer as well, and tell who asked to be told."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._gone is not None:
            self._gone.set()
        super().connection_lost(exc)  # marks the cycles as disconnected
        for cycle in (*self._overtaken, self.cycle):
            if type(cycle) is DirectCycle:
                cycle.interrupt()


_NO_PARAMS: Final[Mapping[str, str]] = {}


def _raising(error: BaseException) -> Any:
    """Return an ASGI app that raises: uvicorn knows what to do then."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    return app
