"""``POST /select_endpoint``: the first of ``ENDPOINT_LIST``, shuffled, that answers with 200."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from router_core.errors import RouterError, Unavailable, UpstreamError
from router_core.gateway.api.content import JSON, answer_type
from router_core.gateway.api.openapi import ANY_JSON
from router_core.gateway.call import Call
from router_core.gateway.clients.protocol import ModelClient
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.http.message import Request, Response
from router_core.routing.router import Router
from router_core.telemetry.events import Events, Note

__all__ = ["UNREACHABLE", "EndpointSelector"]

UNREACHABLE = -1
"""Stands in the log for the status of an endpoint that did not answer."""


class EndpointSelector:
    """Tries endpoints in random order."""

    def __init__(
        self, clients: Callable[[], Sequence[ModelClient]], events: Events, rng: random.Random,
        on_done: Callable[[int, int], None], timeout: float = 60.0,
    ) -> None:  # fmt: skip
        """``clients`` are those of the configuration of the moment; ``on_done`` is told the final status
        (``request-status``) and the number of the attempt that got it (``endpoint-attempt``)."""
        self._clients = clients
        self._events = events
        self._random = rng
        self._on_done = on_done
        self._timeout = timeout

    def router(self) -> Router:
        """Return the route."""
        router = Router(tags=("endpoints",))

        @router.post(
            "/select_endpoint", summary="Send a message to the first endpoint that answers",
            meta={"openapi": ANY_JSON}, scopes=("models:call",),
        )  # fmt: skip
        async def select_endpoint(request: Request) -> Response:
            """Try the endpoints of ENDPOINT_LIST in random order until one answers with 200.

            The body is passed on as it is, and so is the answer.
            """
            return await self.select(request)

        return router

    async def select(self, request: Request) -> Response:
        """Answer with what the first willing endpoint answers."""
        clients = list(self._clients())
        if not clients:
            raise Unavailable("there are no endpoints: set ENDPOINT_LIST", code="no_endpoints")
        self._random.shuffle(clients)
        began = time.monotonic()
        fields: dict[str, Any] = {"request_id": request.id}
        status = UNREACHABLE
        for number, client in enumerate(clients, 1):
            fields[f"endpoint-candidate-{number}"] = client.deployment.base_url
            asked = time.monotonic()
            reply = await self._ask(client, request, began)
            status = UNREACHABLE if reply is None else reply.status
            fields[f"statut-endpoint-{number}"] = status
            fields[f"post-duration-{number}"] = round(time.monotonic() - asked, 6)
            if reply is not None and status == 200:
                self._report(fields, began, status, number)
                return _pass_on(reply, client, number)
        self._report(fields, began, status, len(clients))
        raise UpstreamError(
            f"none of the {len(clients)} endpoints answered with 200", code="no_endpoint_answered",
            extra={"attempts": len(clients), "upstream_status": status},
        )  # fmt: skip

    async def _ask(self, client: ModelClient, request: Request, began: float) -> Reply | None:
        call = Call(
            "select_endpoint", client.deployment.model, body=request.body, request_id=request.id,
            content_type=request.headers.get("content-type") or "application/json",
            principal=request.principal, started=began,
        )  # fmt: skip
        call.deadline = time.monotonic() + self._timeout
        try:
            return await client.send(call, call.deadline)
        except (UpstreamFailure, RouterError):
            return None

    def _report(self, fields: dict[str, Any], began: float, status: int, attempt: int) -> None:
        fields |= {
            "request-status": status,
            "endpoint-attempt": attempt,
            "total-duration": round(time.monotonic() - began, 6),
        }
        level = "info" if status == 200 else "warning"
        self._events.emit(Note("endpoint_selected", level, f"{attempt} endpoints were asked", fields))
        self._on_done(status, attempt)


def _pass_on(reply: Reply, client: ModelClient, number: int) -> Response:
    headers = (
        ("content-type", answer_type(reply.headers.get("content-type", JSON))),
        ("x-router-endpoint", client.deployment.id),
        ("x-router-attempts", str(number)),
    )
    return Response(200, headers, reply.body or b"")
