"""``/api/models/{modelId}/endpoints``: where a model is served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote

from router_core.binding.params import Path
from router_core.errors import Conflict, NotFound
from router_core.gateway.api.models import ModelId
from router_core.gateway.api.resources import MANAGE, READ, Resources, described, merged, telling
from router_core.gateway.api.schemas import ENDPOINT
from router_core.gateway.control.control import Control
from router_core.gateway.control.kinds import MODELS
from router_core.gateway.control.resource import Draft, Resource
from router_core.http.message import Request, Response
from router_core.routing.router import Router

__all__ = ["ModelEndpointRoutes"]

EndpointId = Annotated[str, Path(alias="endpointId")]
_EXAMPLE: Final = {
    "url": "https://api.openai.com/v1/chat/completions", "type": "primary", "weight": 1.0,
    "healthCheckUrl": "https://api.openai.com/v1/models",
}  # fmt: skip


class ModelEndpointRoutes:
    """The routes of the endpoints of models."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._resources = Resources(control, MODELS)

    def router(self) -> Router:
        """Return the routes."""
        router = Router(prefix="/api/models", tags=("control",))
        router.post(
            "/{modelId}/endpoints",
            scopes=(MANAGE,),
            status=201,
            meta=described(
                "The endpoint", created=True, body="The endpoint", example=_EXAMPLE, schema=ENDPOINT
            ),
        )(self.register_endpoint)
        router.get("/{modelId}/endpoints", scopes=(READ,), meta=described("The endpoints"))(
            self.list_endpoints
        )
        router.patch(
            "/{modelId}/endpoints/{endpointId}",
            scopes=(MANAGE,),
            meta=described("The endpoint", body="What changes (JSON Merge Patch)", example={"weight": 0.5}),
        )(self.patch_endpoint)
        router.delete(
            "/{modelId}/endpoints/{endpointId}",
            scopes=(MANAGE,),
            status=204,
            meta=described("It is gone", empty=True),
        )(self.delete_endpoint)
        return router

    async def register_endpoint(self, request: Request, model_id: ModelId) -> Response:
        """Add a place where a model is served; calls are sent there from now on.

        The first one takes the place of the provider's own.
        """
        given = self._resources.given(request)
        with telling():
            made = self._control.bodies.endpoint(
                {name: one for name, one in given.items() if name != "modelId"}
            )
        now = self._control.clock.now()

        def edit(draft: Draft) -> None:
            held = self._resources.own(draft, model_id, request)
            if any(one["id"] == made["id"] for one in held.body["endpoints"]):
                text = f"model {model_id} has an endpoint {made['id']} already"
                raise Conflict(text, code="already_exists", extra={"endpointId": made["id"]})
            _write(self._control, draft, held, [*held.body["endpoints"], made], now)

        change = await self._resources.changed(edit, request, f"endpoint {made['id']} of model {model_id}")
        item = self._resources.item(change, model_id)
        location = f"/api/models/{quote(model_id, safe='')}/endpoints/{quote(made['id'], safe='')}"
        headers = (("etag", item.etag), ("location", location))
        return Response.json(_shown(self._resources, model_id, made), 201, headers)

    async def list_endpoints(self, request: Request, model_id: ModelId) -> Response:
        """List where a model is served; an empty list: by its provider, or by nobody."""
        await self._resources.fresh()
        item = self._resources.find(model_id)
        listed = [{**one, "modelId": model_id} for one in item.body["endpoints"]]
        told = {"modelId": model_id, "endpoints": listed, "managedBy": item.managed_by}
        return Response.json(told, headers=(("etag", item.etag),))

    async def patch_endpoint(self, request: Request, model_id: ModelId, endpoint_id: EndpointId) -> Response:
        """Change some fields of an endpoint; null takes one away."""
        patch = {name: one for name, one in self._resources.given(request).items() if name != "modelId"}
        now = self._control.clock.now()

        def edit(draft: Draft) -> dict[str, Any]:
            held = self._resources.own(draft, model_id, request)
            at = _place(held, model_id, endpoint_id)
            listed = list(held.body["endpoints"])
            listed[at] = self._control.bodies.endpoint({**merged(listed[at], patch), "id": endpoint_id})
            _write(self._control, draft, held, listed, now)
            return dict(listed[at])

        change = await self._resources.changed(edit, request, f"endpoint {endpoint_id} of model {model_id}")
        etag = self._resources.item(change, model_id).etag
        return Response.json(_shown(self._resources, model_id, change.result), headers=(("etag", etag),))

    async def delete_endpoint(self, request: Request, model_id: ModelId, endpoint_id: EndpointId) -> Response:
        """Take an endpoint away; calls that are under way there end there."""
        now = self._control.clock.now()

        def edit(draft: Draft) -> None:
            held = self._resources.own(draft, model_id, request)
            at = _place(held, model_id, endpoint_id)
            listed = list(held.body["endpoints"])
            del listed[at]
            _write(self._control, draft, held, listed, now)

        await self._resources.changed(edit, request, f"endpoint {endpoint_id} of model {model_id} taken away")
        return Response(204)


def _place(held: Resource, model_id: str, endpoint_id: str) -> int:
    for at, one in enumerate(held.body["endpoints"]):
        if one["id"] == endpoint_id:
            return at
    raise NotFound(f"model {model_id} has no endpoint {endpoint_id[:128]!a}")


def _write(
    control: Control, draft: Draft, held: Resource, endpoints: list[dict[str, Any]], now: float
) -> None:
    draft.put(MODELS, held.id, {**held.body, "endpoints": control.bodies.endpoints(endpoints)}, now)


def _shown(resources: Resources, model_id: str, one: Mapping[str, Any]) -> dict[str, Any]:
    warnings = resources.control.remarks(MODELS, model_id)
    told = {**one, "modelId": model_id, "managedBy": "api"}
    return told | ({"warnings": list(warnings)} if warnings else {})
