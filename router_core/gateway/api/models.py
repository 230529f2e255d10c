"""``/api/models``: what models there are, and changing that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote

from router_core.binding.params import Path
from router_core.errors import Conflict
from router_core.gateway.api.queries import parameter, query_of
from router_core.gateway.api.resources import (
    MANAGE,
    PAGING,
    READ,
    Item,
    Resources,
    described,
    invalid,
    items_of,
    merged,
    page_of,
    telling,
)
from router_core.gateway.api.schemas import MODEL, STATUS
from router_core.gateway.control.build import by_file, referrers
from router_core.gateway.control.control import Control
from router_core.gateway.control.kinds import MODELS
from router_core.gateway.control.model_body import model_id_of
from router_core.gateway.control.resource import Draft
from router_core.gateway.values import STATUSES
from router_core.http.message import Request, Response
from router_core.routing.router import Router

__all__ = ["MODEL_EXAMPLE", "STATUS_SCOPE", "ModelId", "ModelRoutes", "status_of"]

STATUS_SCOPE: Final = "models:manage"
ModelId = Annotated[str, Path(alias="modelId")]
MODEL_EXAMPLE: Final = {
    "name": "GPT-4 Turbo", "version": "gpt-4-1106-preview", "provider": "openai", "modelType": "chat",
    "capabilities": [{"type": "text-generation", "maxTokens": 4096}],
    "parameters": {"temperature": 0.7, "maxTokens": 4096}, "status": "active", "tags": ["gpt-4"],
}  # fmt: skip
_FILTERS: Final = ("provider", "status", "modelType", "tags", "capability", "managedBy")
_PARAMETERS: Final = (
    parameter("provider", "Only those of this provider"),
    parameter("status", f"Only those in this status: {', '.join(STATUSES)}"),
    parameter("modelType", "Only those of this type"),
    parameter("tags", "Only those with all of these, separated by commas"),
    parameter("capability", "Only those that can do this"),
    parameter("managedBy", "Only those of the api, the file or the environment"),
    *PAGING,
)
_NAMES: Final = tuple(each["name"] for each in _PARAMETERS)
_FORCED: Final = (
    {"name": "modelId", "in": "path", "required": True, "schema": {"type": "string"}},
    parameter("force", "Also where rules and others speak of it", type="boolean", default=False),
)  # fmt: skip


def status_of(body: Mapping[str, Any], path: str = "") -> str:
    """Return the status that a body asks for. Raises ValueError."""
    status = body.get("status")
    if "status" not in body:
        raise ValueError(f"{path}status: is missing")
    if status not in STATUSES:
        raise ValueError(f"{path}status: there are {', '.join(STATUSES)}")
    return str(status)


class ModelRoutes:
    """The routes of models."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._resources = Resources(control, MODELS)

    def router(self) -> Router:
        """Return the routes."""
        router = Router(prefix="/api/models", tags=("control",))
        router.post(
            "",
            scopes=(MANAGE,),
            status=201,
            meta=described("The model", created=True, body="The model", example=MODEL_EXAMPLE, schema=MODEL),
        )(self.register_model)
        router.get("", scopes=(READ,), meta=described("A page of models", parameters=_PARAMETERS))(
            self.list_registered_models
        )
        router.get("/{modelId}", scopes=(READ,), meta=described("The model"))(self.get_registered_model)
        router.put(
            "/{modelId}",
            scopes=(MANAGE,),
            meta=described("The model", created=True, body="The model", example=MODEL_EXAMPLE),
        )(self.put_model)
        router.patch(
            "/{modelId}",
            scopes=(MANAGE,),
            meta=described(
                "The model", body="What changes of it (JSON Merge Patch)", example={"tags": ["fast"]}
            ),
        )(self.patch_model)
        router.patch(
            "/{modelId}/status",
            scopes=(STATUS_SCOPE,),
            meta=described("The model", body="The status", example={"status": "inactive"}, schema=STATUS),
        )(self.patch_model_status)
        router.delete(
            "/{modelId}",
            scopes=(MANAGE,),
            status=204,
            meta=described("It is gone", empty=True, parameters=_FORCED),
        )(self.delete_model)
        return router

    async def register_model(self, request: Request) -> Response:
        """Register a model.

        Its id is ``id``, else its ``version`` where that is the name of a model, else made of its ``name``.
        Without endpoints it is served by its provider's own.
        """
        given = self._resources.given(request)
        with telling():
            key = model_id_of(given)
            body = self._control.bodies.model(_without_id(given))
        now = self._control.clock.now()

        def edit(draft: Draft) -> None:
            self._resources.absent(draft, key)
            draft.put(MODELS, key, body, now)

        change = await self._resources.changed(edit, request, f"model {key} registered")
        return self._resources.answer(self._resources.item(change, key), status=201, location=_at(key))

    async def list_registered_models(self, request: Request) -> Response:
        """List the models of the API and of the file, in order of id."""
        given = query_of(request, _NAMES)
        await self._resources.fresh()
        found = _filtered(items_of(self._control, MODELS), given)
        shown, told = page_of(found, given, lambda item: [item.id])
        return Response.json({"models": [self._resources.shown(each) for each in shown], **told})

    async def get_registered_model(self, request: Request, model_id: ModelId) -> Response:
        """Tell one model."""
        await self._resources.fresh()
        return self._resources.answer(self._resources.find(model_id), request)

    async def put_model(self, request: Request, model_id: ModelId) -> Response:
        """Write a whole model, whether there is such a one or not."""
        given = self._resources.given(request, model_id)
        with telling():
            key = model_id_of({"id": model_id})
            body = self._control.bodies.model(given)
        now = self._control.clock.now()

        def edit(draft: Draft) -> bool:
            held = draft.get(MODELS, key)
            if held is not None or request.headers.get("if-match") is not None:
                self._resources.own(draft, key, request)
            elif self._control.by_file(MODELS, key):
                raise by_file(MODELS, key)
            draft.put(MODELS, key, body, now)
            return held is None

        change = await self._resources.changed(edit, request, f"model {key} written")
        created = bool(change.result)
        return self._resources.answer(
            self._resources.item(change, key),
            status=201 if created else 200,
            location=_at(key) if created else "",
        )

    async def patch_model(self, request: Request, model_id: ModelId) -> Response:
        """Change some fields of a model; null takes one away."""
        return await _patched(self._resources, request, model_id, self._resources.given(request, model_id))

    async def patch_model_status(self, request: Request, model_id: ModelId) -> Response:
        """Let a model serve (``active``, ``deprecated``) or not (``inactive``, ``maintenance``)."""
        given = self._resources.given(request)
        with telling():
            status = status_of(given)
        other = next((name for name in given if name != "status"), None)
        if other is not None:
            raise invalid(ValueError(f"{other[:60]}: there is no such field; there is status"))
        now = self._control.clock.now()

        def edit(draft: Draft) -> None:
            held = self._resources.own(draft, model_id, request)
            draft.put(MODELS, model_id, {**held.body, "status": status}, now)

        change = await self._resources.changed(edit, request, f"model {model_id} is {status}")
        return self._resources.answer(self._resources.item(change, model_id))

    async def delete_model(self, request: Request, model_id: ModelId) -> Response:
        """Take a model away; 409 while rules, agents, workspaces or others speak of it."""
        force = query_of(request, ("force",)).get("force", "").lower() == "true"

        def edit(draft: Draft) -> None:
            held = self._resources.own(draft, model_id, request, leaving=True)
            if self._control.by_file(MODELS, model_id):
                draft.drop(MODELS, model_id)  # nobody speaks of it: they speak of the file's
                return
            names = {model_id, *held.body.get("aliases", ())}
            used = [each for each in referrers(self._control.config, names) if each != f"{MODELS}/{model_id}"]
            if used and not force:
                text = (
                    f"model {model_id} is used by {', '.join(used[:5])}; take it out there, or say force=true"
                )
                raise Conflict(text, code="model_in_use", extra={"usedBy": used[:100]})
            draft.drop(MODELS, model_id)

        await self._resources.changed(edit, request, f"model {model_id} taken away")
        return Response(204)


async def _patched(resources: Resources, request: Request, key: str, patch: Mapping[str, Any]) -> Response:
    control = resources.control
    now = control.clock.now()

    def edit(draft: Draft) -> None:
        held = resources.own(draft, key, request)
        draft.put(MODELS, key, control.bodies.model(merged(held.body, patch)), now)

    change = await resources.changed(edit, request, f"model {key} changed: {', '.join(patch)}")
    return resources.answer(resources.item(change, key))


def _at(key: str) -> str:
    return f"/api/models/{quote(key, safe='')}"


def _without_id(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != "id"}


def _filtered(items: Iterable[Item], given: Mapping[str, str]) -> list[Item]:
    tags = {word.strip() for word in given.get("tags", "").split(",") if word.strip()}
    if not given.keys() & {*_FILTERS}:
        return list(items)  # nobody has to look into them
    plain = {name: given[name] for name in ("provider", "status", "modelType") if name in given}
    found = []
    for item in items:
        body = item.body
        if "managedBy" in given and item.managed_by != given["managedBy"]:
            continue
        if any(body.get(name) != value for name, value in plain.items()):
            continue
        able = {each["type"] for each in body.get("capabilities", ())}
        if "capability" in given and given["capability"] not in able:
            continue
        if tags <= set(body.get("tags", ())):
            found.append(item)
    return found
