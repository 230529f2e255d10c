"""``/api/routing/rules``: which model a call goes to that names none."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import quote

from router_core.binding.params import Path
from router_core.errors import Forbidden
from router_core.gateway.api.queries import parameter, query_of
from router_core.gateway.api.resources import (
    MANAGE,
    PAGING,
    READ,
    Item,
    Resources,
    described,
    items_of,
    merged,
    page_of,
    telling,
)
from router_core.gateway.api.schemas import RULE
from router_core.gateway.control.control import Change, Control, Edit
from router_core.gateway.control.kinds import KINDS, RULES
from router_core.gateway.control.resource import Draft, Resource
from router_core.gateway.rules.parse import parse_rule
from router_core.http.message import Request, Response
from router_core.routing.router import Router
from router_core.types import Principal

__all__ = ["RuleRoutes"]

RuleId = Annotated[str, Path(alias="ruleId")]
_PARAMETERS: Final = (
    parameter("modelId", "Only those that send calls to this model"),
    parameter("enabled", "Only those that are enabled, or not", type="boolean"),
    *PAGING,
)
_NAMES: Final = tuple(each["name"] for each in _PARAMETERS)
_EXAMPLE: Final = {
    "name": "Creative Agent Claude Preference",
    "condition": {"agentType": ["creative"], "contentLength": {"min": 100, "max": 2000}},
    "targetModels": [{"modelId": "claude-3-sonnet", "weight": 0.7, "fallbackOrder": 1}],
    "priority": 100, "enabled": True,
}  # fmt: skip


class _Rules(Resources):
    """Rules as a caller may change them: those for calls of his own workspaces, where he is bound to some."""

    async def changed(self, edit: Edit, request: Request, why: str) -> Change:
        """Make a change. Raises 403 for a rule that other workspaces go by, before or after it."""
        principal = request.principal
        if "*" in principal.workspaces:
            return await super().changed(edit, request, why)

        def checked(draft: Draft) -> Any:
            before = {each.id: each for each in draft.of(RULES)}
            result = edit(draft)
            for kind, key in draft.touched:
                if kind == RULES:
                    _check_own(principal, before.get(key), draft.get(RULES, key))
            return result

        return await super().changed(checked, request, why)


def _check_own(principal: Principal, *states: Resource | None) -> None:
    for each in states:
        named = () if each is None else each.body["condition"].get("workspaceId", ())
        if each is not None and not (named and all(principal.may_enter(one) for one in named)):
            text = "condition.workspaceId: has to name workspaces, and only those that you may enter"
            raise Forbidden(text, code="workspace_forbidden")


class RuleRoutes:
    """The routes of rules."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._resources = _Rules(control, RULES)

    def router(self) -> Router:
        """Return the routes."""
        router = Router(prefix="/api/routing/rules", tags=("control",))
        router.post(
            "",
            scopes=(MANAGE,),
            status=201,
            meta=described("The rule", created=True, body="The rule", example=_EXAMPLE, schema=RULE),
        )(self.add_rule)
        router.get("", scopes=(READ,), meta=described("A page of rules", parameters=_PARAMETERS))(
            self.list_rules
        )
        router.get("/{ruleId}", scopes=(READ,), meta=described("The rule"))(self.get_rule)
        router.put(
            "/{ruleId}",
            scopes=(MANAGE,),
            meta=described("The rule", created=True, body="The rule", example=_EXAMPLE),
        )(self.put_rule)
        router.patch(
            "/{ruleId}",
            scopes=(MANAGE,),
            meta=described("The rule", body="What changes (JSON Merge Patch)", example={"enabled": False}),
        )(self.patch_rule)
        router.delete("/{ruleId}", scopes=(MANAGE,), status=204, meta=described("It is gone", empty=True))(
            self.delete_rule
        )
        return router

    async def add_rule(self, request: Request) -> Response:
        """Add a rule. Its id is ``id``, else made of its name, which has to be free then."""
        given = self._resources.given(request)
        with telling():
            parse_rule(given)
            key = KINDS[RULES].new_id(given)
            kept = _kept(key, given)
        now = self._control.clock.now()

        def edit(draft: Draft) -> None:
            self._resources.absent(draft, key)
            draft.put(RULES, key, kept, now)

        change = await self._resources.changed(edit, request, f"rule {key} added")
        return self._resources.answer(self._resources.item(change, key), status=201, location=_at(key))

    async def list_rules(self, request: Request) -> Response:
        """List the rules of the API and of the file, in the order in which they are asked."""
        given = query_of(request, _NAMES)
        await self._resources.fresh()
        found = [
            item for item in items_of(self._control, RULES) if _visible(item, request) and _fits(item, given)
        ]
        shown, told = page_of(found, given, _order)
        return Response.json({"rules": [self._resources.shown(each) for each in shown], **told})

    async def get_rule(self, request: Request, rule_id: RuleId) -> Response:
        """Tell one rule."""
        await self._resources.fresh()
        self._enter(rule_id, request)
        return self._resources.answer(self._resources.find(rule_id), request)

    async def put_rule(self, request: Request, rule_id: RuleId) -> Response:
        """Write a whole rule, whether there is such a one or not."""
        self._enter(rule_id, request)
        return await self._resources.put(
            rule_id, self._resources.given(request, rule_id), request, _at(rule_id)
        )

    async def patch_rule(self, request: Request, rule_id: RuleId) -> Response:
        """Change some fields of a rule; null takes one away."""
        self._enter(rule_id, request)
        patch = self._resources.given(request, rule_id)
        now = self._control.clock.now()

        def edit(draft: Draft) -> None:
            held = self._resources.own(draft, rule_id, request)
            draft.put(RULES, rule_id, _kept(rule_id, merged(held.body, patch)), now)

        change = await self._resources.changed(
            edit, request, f"rule {rule_id} changed: {', '.join(patch)[:100]}"
        )
        return self._resources.answer(self._resources.item(change, rule_id))

    async def delete_rule(self, request: Request, rule_id: RuleId) -> Response:
        """Take a rule away."""
        self._enter(rule_id, request)
        return await self._resources.drop(rule_id, request)

    def _enter(self, rule_id: str, request: Request) -> None:
        """Raise NotFound for a rule that speaks of a workspace that is not the caller's."""
        if "*" not in request.principal.workspaces:
            found = next((one for one in items_of(self._control, RULES) if one.id == rule_id), None)
            if found is not None and not _visible(found, request):
                raise self._resources.missing(rule_id)


def _kept(key: str, body: dict[str, Any]) -> dict[str, Any]:
    kind = KINDS[RULES]
    if kind.parse is None:
        raise TypeError("rules have a parser")
    return kind.to_json(kind.parse(key, body))


def _order(item: Item) -> list[Any]:
    """Return where a rule stands: the highest priority first, of equals the file's, then as they came."""
    place = item.resource.place if item.resource is not None else 0
    return [-item.body["priority"], 0 if item.resource is None else 1, place, item.id]


def _fits(item: Item, given: dict[str, str]) -> bool:
    body = item.body
    if "enabled" in given and body["enabled"] is not (given["enabled"].lower() == "true"):
        return False
    return "modelId" not in given or any(one["modelId"] == given["modelId"] for one in body["targetModels"])


def _visible(item: Item, request: Request) -> bool:
    """Return whether a rule speaks of no workspace that the caller may not enter."""
    principal = request.principal
    if "*" in principal.workspaces:
        return True
    return all(principal.may_enter(each) for each in item.body["condition"].get("workspaceId", ()))


def _at(key: str) -> str:
    return f"/api/routing/rules/{quote(key, safe='')}"
