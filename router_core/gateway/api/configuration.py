"""``/api/config``: all of it out and in, and the versions that it had."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from router_core.errors import BadRequest, NotFound
from router_core.gateway.api.queries import number, parameter, query_of, wrong
from router_core.gateway.api.resources import (
    MANAGE,
    READ,
    Resources,
    body_of,
    described,
    entitled,
    invalid,
    items_of,
    stamp,
    telling,
)
from router_core.gateway.api.schemas import IMPORT, ROLLBACK
from router_core.gateway.control.build import Invalid
from router_core.gateway.control.control import Change, Control
from router_core.gateway.control.kinds import KINDS, MODELS
from router_core.gateway.control.resource import Document, Draft
from router_core.gateway.control.transfer import Wrong, diff_of, exported, import_into, parsed
from router_core.gateway.control.versions import KEPT, Version
from router_core.gateway.rules.read import members, text, whole
from router_core.http.message import Request, Response
from router_core.routing.router import Router

__all__ = ["ConfigurationRoutes"]

_MODES: Final = ("merge", "replace")
_BODY: Final = ("config", "version", "exportedAt", "why")
_MOST: Final = 16 * 1024 * 1024
_WORDS: Final = {"true": True, "1": True, "false": False, "0": False}
_IMPORT: Final = (
    parameter("dryRun", "Only say what it would come to", type="boolean", default=False),
    parameter("mode", "merge: beside what there is; replace: in the place of all of it", enum=list(_MODES)),
)
_EXAMPLE: Final[Any] = {
    "config": {"models": [], "routingRules": [], "agentPreferences": {}, "workspaceConfigs": {}}
}


class ConfigurationRoutes:
    """The routes of the configuration as a whole."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._resources = Resources(control, MODELS)

    def router(self) -> Router:
        """Return the routes."""
        router = Router(prefix="/api/config", tags=("control",))
        all_of_it = parameter("all", "Also what the file configures", type="boolean", default=False)
        router.get(
            "/export", scopes=(MANAGE,), meta=described("The configuration", parameters=(all_of_it,))
        )(self.export_config)  # fmt: skip
        router.post(
            "/import", scopes=(MANAGE,), max_body_bytes=_MOST,
            meta=described(
                "What came of it", body="An export", example=_EXAMPLE, schema=IMPORT, parameters=_IMPORT
            ),
        )(self.import_config)  # fmt: skip
        limit = parameter("limit", "How many at most", type="integer", minimum=1, maximum=KEPT)
        router.get("/versions", scopes=(READ,), meta=described("The versions", parameters=(limit,)))(
            self.list_versions
        )
        router.get("/versions/{version}", scopes=(MANAGE,), meta=described("The configuration then"))(
            self.get_version
        )
        router.post(
            "/rollback", scopes=(MANAGE,),
            meta=described("What came of it", body="Where to", example={"version": 1}, schema=ROLLBACK),
        )(self.rollback_config)  # fmt: skip
        return router

    async def export_config(self, request: Request) -> Response:
        """Give out all that was configured through the API, as an import takes it; keys by name alone."""
        entitled(request)
        given = query_of(request, ("all",))
        await self._resources.fresh()
        config = exported(self._control.document)
        if _flag(given, "all"):
            self._add_file(config)
        return self._whole(config, self._control.current)

    async def import_config(self, request: Request) -> Response:
        """Take in an export: all of it as one version, or nothing."""
        entitled(request)
        given = query_of(request, ("dryRun", "mode"))
        dry, mode = _flag(given, "dryRun"), given.get("mode", "merge")
        if mode not in _MODES:
            raise wrong("mode", f"there are {', '.join(_MODES)}")
        with telling():
            body = members(body_of(request), "", _BODY)
            if "config" not in body:
                raise ValueError("config: is missing")
            why = text(body["why"], "why") if "why" in body else f"import ({mode})"
        try:
            found, skipped = await asyncio.to_thread(parsed, self._control, body["config"])
        except Wrong as error:
            raise _refused(error.errors) from None
        except ValueError as error:
            raise invalid(error) from None
        now = self._control.clock.now()

        def edit(draft: Draft) -> Document:
            import_into(draft, found, replace=mode == "replace", now=now)
            return draft.base

        change = await self._done(edit, request, why, dry)
        told = {"mode": mode, "dryRun": dry, **self._told(change), "skipped": skipped}
        return Response.json(told)

    async def list_versions(self, request: Request) -> Response:
        """List the versions that can be gone back to, the newest first."""
        entitled(request)
        limit = number(query_of(request, ("limit",)), "limit", KEPT, KEPT)
        await self._resources.fresh()
        control = self._control
        listed = [each for each in (control.current, *control.history) if each.number][:limit]
        told = {
            "current": control.version, "durable": control.durable, "base": control.base.version or None,
            "problem": control.problem or None,
            "versions": [_version(each) for each in listed],
        }  # fmt: skip
        return Response.json(told, headers=(("cache-control", "no-cache"),))

    async def get_version(self, request: Request, version: str) -> Response:
        """Give out what was configured at a version."""
        entitled(request)
        await self._resources.fresh()
        control = self._control
        known = {str(each.number): each for each in (control.current, *control.history) if each.number}
        found = known.get(version)
        if found is None:
            raise NotFound(f"there is no version {version[:40]!a}; the last {KEPT} are kept")
        document = await control.version_of(found.number)
        return self._whole(exported(document), found)

    async def rollback_config(self, request: Request) -> Response:
        """Go back to what was configured at a version, as a new version."""
        entitled(request)
        with telling():
            body = members(body_of(request), "", ("version", "why", "dryRun"))
            if "version" not in body:
                raise ValueError("version: is missing")
            wanted = whole(body["version"], "version")
            why = text(body["why"], "why") if "why" in body else f"back to version {wanted}"
            if not isinstance(body.get("dryRun", False), bool):
                raise ValueError("dryRun: has to be true or false")

        async def edit(draft: Draft) -> Document:
            draft.become(await self._control.version_of(wanted))
            return draft.base

        change = await self._done(edit, request, why, body.get("dryRun", False))
        return Response.json({"rolledBackTo": wanted, **self._told(change)})

    async def _done(self, edit: Any, request: Request, why: str, dry: bool) -> Change:
        """Make a change, or say what it would come to."""
        try:
            if dry:
                return await self._control.preview(edit)
            return await self._control.change(edit, who=request.principal.id, why=why)
        except Invalid as error:
            raise _refused([f"config.{error.kind}.{error.key}.{error}"]) from None

    def _told(self, change: Change) -> dict[str, Any]:
        warnings = [
            f"{kind}/{key}: {remark}" for (kind, key), told in change.remarks.items() for remark in told
        ]
        return {
            "version": change.version.number, "changed": change.changed,
            "diff": diff_of(change.result, change.document), "warnings": warnings[:100],
        }  # fmt: skip

    def _whole(self, config: dict[str, Any], version: Version) -> Response:
        told = {"config": config, "version": version.number, "exportedAt": stamp(self._control.clock.now())}
        return Response.json(told, headers=(("cache-control", "no-store"),))

    def _add_file(self, config: dict[str, Any]) -> None:
        for name, kind in KINDS.items():
            for item in items_of(self._control, name):
                if item.resource is not None:
                    break
                body = {**item.body, "managedBy": item.managed_by}
                if kind.listed:
                    config[name].append({"id": item.id, **body})
                else:
                    config[name][item.id] = body


def _flag(given: dict[str, str], name: str) -> bool:
    word = given.get(name, "false").lower()
    if word not in _WORDS:
        raise wrong(name, "is true or false")
    return _WORDS[word]


def _refused(errors: list[str]) -> BadRequest:
    """Return the 400 for an import, with all that is wrong with it."""
    told = [invalid(ValueError(each)).extra["errors"][0] for each in errors]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return BadRequest(f"{errors[0]}{more}", code="validation_failed", extra={"errors": told})


def _version(version: Version) -> dict[str, Any]:
    return {
        "version": version.number, "createdAt": stamp(version.at), "by": version.who, "why": version.why,
        "changes": version.changes,
    }  # fmt: skip
