"""What the routes of rollouts and experiments share: they are configured things that have a life besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from router_core.errors import NotFound
from router_core.gateway.api.queries import parameter, query_of
from router_core.gateway.api.resources import (
    PAGING,
    Item,
    Resources,
    entitled,
    items_of,
    merged,
    page_of,
    stamp,
    telling,
)
from router_core.gateway.control.control import Control
from router_core.gateway.control.kinds import KINDS
from router_core.gateway.control.resource import Draft
from router_core.gateway.trials.live import Live
from router_core.gateway.trials.state import Decision
from router_core.gateway.trials.trials import Trials
from router_core.http.message import Request, Response

__all__ = ["LISTING", "OPERATE", "TrialResources", "life_of"]

OPERATE: Final = "trials:manage"
LISTING: Final = (parameter("modelId", "Only those that this model takes part in"), *PAGING)
_NAMES: Final = tuple(each["name"] for each in LISTING)
_LIVING: Final = ("state",)
"""What answers say beside the configuration; it may come back with it, and means nothing then."""


class TrialResources:
    """Reads and writes trials of one kind for requests, and tells how they stand.

    A trial is of the calls of all workspaces, and so are its figures: it is for those who may enter all.
    """

    def __init__(
        self, control: Control, trials: Trials, kind: str, told: Callable[[Live], dict[str, Any]]
    ) -> None:
        """``kind`` is one of the control plane; ``told`` says how a trial stands."""
        self.trials = trials
        self._word = KINDS[kind].word
        self._control = control
        self._kind = kind
        self._told = told
        self._resources = Resources(control, kind)

    async def add(self, request: Request) -> Response:
        """Add one; its ``id`` has to be free."""
        entitled(request)
        given = self._given(request)
        with telling():
            key = KINDS[self._kind].new_id(given)
            kept = self._kept(key, given)
        now = self._control.clock.now()

        def edit(draft: Draft) -> None:
            self._resources.absent(draft, key)
            draft.put(self._kind, key, kept, now)

        change = await self._resources.changed(edit, request, f"{self._word} {key} added")
        return self._answer(self._resources.item(change, key), status=201, location=self._at(key))

    async def list(self, request: Request) -> Response:
        """List those of the API and of the file."""
        entitled(request)
        given = query_of(request, _NAMES)
        await self._resources.fresh()
        model = given.get("modelId", "")
        found = [each for each in items_of(self._control, self._kind) if not model or _asks(each.body, model)]
        shown, told = page_of(found, given, lambda item: [item.id])
        return Response.json({self._kind: [self._shown(each) for each in shown], **told})

    async def get(self, key: str, request: Request) -> Response:
        """Tell one, and how it stands as far as all processes know by now."""
        entitled(request)
        await self._resources.fresh()
        item = self._resources.find(key)
        live = self.live(key)
        if live is not None:
            await self.trials.look(live)
        return self._answer(item)

    async def put(self, key: str, request: Request) -> Response:
        """Write one, whether there is such a one or not."""
        entitled(request)
        answer = await self._resources.put(key, self._given(request, key), request, self._at(key))
        location = next((value for name, value in answer.headers if name == "location"), "")
        return self._answer(self._resources.find(key), status=answer.status, location=location)

    async def patch(self, key: str, request: Request) -> Response:
        """Change some fields of one; null takes one away."""
        entitled(request)
        change = self._given(request, key)
        now = self._control.clock.now()

        def edit(draft: Draft) -> None:
            held = self._resources.own(draft, key, request)
            draft.put(self._kind, key, self._kept(key, merged(held.body, change)), now)

        why = f"{self._word} {key} changed: {', '.join(change)[:100]}"
        changed = await self._resources.changed(edit, request, why)
        return self._answer(self._resources.item(changed, key))

    async def drop(self, key: str, request: Request) -> Response:
        """Take one away: its calls go where they went before it."""
        entitled(request)
        answer = await self._resources.drop(key, request)
        await self.trials.forget(key, request.principal.id)
        return answer

    async def order(self, key: str, action: str, request: Request) -> Response:
        """Carry out an order, and tell how it stands then."""
        entitled(request)
        await self._resources.fresh()
        item = self._resources.find(key)
        live = self.trials.get(key, self._word)
        await self.trials.order(live, action, request.principal.id)
        return self._answer(item)

    def live(self, key: str) -> Live | None:
        """Return a trial that is served by, or None."""
        try:
            return self.trials.get(key, self._word)
        except NotFound:
            return None

    def _answer(self, item: Item, *, status: int = 200, location: str = "") -> Response:
        headers = [("etag", item.etag), ("cache-control", "no-cache")]
        if location:
            headers.append(("location", location))
        return Response.json(self._shown(item), status, headers)

    def _shown(self, item: Item) -> dict[str, Any]:
        live = self.live(item.id)
        return self._resources.shown(item) | {"state": None if live is None else self._told(live)}

    def _given(self, request: Request, key: str = "") -> dict[str, Any]:
        given = self._resources.given(request, key)
        return {name: value for name, value in given.items() if name not in _LIVING}

    def _kept(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        kind = KINDS[self._kind]
        if kind.parse is None:
            raise TypeError("trials have a parser")
        return kind.to_json(kind.parse(key, body))

    def _at(self, key: str) -> str:
        return f"/api/{self._kind}/{quote(key, safe='')}"


def life_of(live: Live, trials: Trials) -> dict[str, Any]:
    """Return what is common to how trials stand."""
    state = live.state
    if not live.trial.enabled or state is None:
        word = "unknown" if live.trial.enabled else "disabled"
        return {"status": word, "storeAvailable": not trials.down, "decisions": []}
    return {
        "status": state.status, "storeAvailable": not trials.down, "startedAt": stamp(state.started),
        "since": stamp(state.since), "endedAt": stamp(state.ended) if state.ended else None,
        "winner": state.winner or None,
        "decisions": [_decision(each) for each in reversed(state.decisions)],
    }  # fmt: skip


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "at": stamp(decision.at), "action": decision.action, "by": decision.by, "why": decision.why,
        "share": decision.share, "figures": dict(decision.figures),
    }  # fmt: skip


def _asks(body: Mapping[str, Any], model: str) -> bool:
    named = [body.get("model"), body.get("canary")]
    return model in (*named, *(each["modelId"] for each in body.get("variants", ())))
