"""``router-core gateway``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from handlers.cli.exits import Exit, UsageError
from handlers.cli.output import say, table, to_text
from handlers.cli.service import add_service_options, connected

if TYPE_CHECKING:
    from router_core.client.gateway_sync import Collection, Gateway

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "run"]

DESCRIPTION = "Look at and change what a running gateway is configured with."
EXAMPLES = """\
examples:
  router-core gateway models list --status active
  router-core gateway models add model.json               - reads standard input, {...} is the JSON itself
  router-core gateway models status gpt-4 maintenance
  router-core gateway rules change creative '{"priority": 200}'
  router-core gateway test agentType=creative prompt="Write a poem"
  router-core gateway workspaces budget ws-marketing
  router-core gateway rollouts steer canary-4 rollback
  router-core gateway experiments results small-or-large
  router-core gateway analytics --range 7d --workspace ws-marketing
  router-core gateway export backup.json
  router-core gateway import backup.json --dry-run
  router-core gateway rollback 41

A key of the role viewer may look, admin may change; operator changes statuses and steers rollouts."""

_KINDS: Final = {
    "models": ("id", "provider", "version", "status", "managedBy"),
    "rules": ("id", "name", "priority", "enabled", "shadow", "managedBy"),
    "agents": ("agentType", "preferredModels", "fallbackModels", "managedBy"),
    "workspaces": ("workspaceId", "modelRestrictions", "budgetLimits", "managedBy"),
    "rollouts": ("id", "model", "canary", "strategy", "enabled", "managedBy"),
    "experiments": ("id", "model", "metric", "enabled", "managedBy"),
}
"""Kind -> the fields that a list shows."""
_ADDS: Final = frozenset({"models", "rules", "rollouts", "experiments"})
"""Kinds of which a new one has an id of its own choice; others are written with ``set``."""
_MERGES: Final = frozenset({"models", "rules", "workspaces", "rollouts", "experiments"})
_MOST: Final = 64 * 1024 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what gateway takes."""
    commands = parser.add_subparsers(
        dest="what", required=True,
        metavar="models|rules|agents|workspaces|rollouts|experiments|test|overview|requests|analytics|"
        "export|import|versions|rollback",
    )  # fmt: skip
    for kind in _KINDS:
        _add_kind(commands.add_parser(kind, help=f"the {kind} that are configured", allow_abbrev=False), kind)
    test = _command(commands, "test", "say where a request would go, and why")
    test.add_argument("fields", nargs="*", metavar="NAME=VALUE", help="agentType=creative, prompt=...")
    _command(commands, "overview", "say how everything is")
    requests = _command(commands, "requests", "show the last requests")
    requests.add_argument("--limit", type=int, default=20)
    requests.add_argument("--model", default="", help="only those of this model")
    requests.add_argument("--workspace", default="", help="only those of this workspace")
    analytics = _command(commands, "analytics", "sum up calls")
    analytics.add_argument("--range", default="24h", dest="period", help="1h, 24h, 7d ... (default: 24h)")
    analytics.add_argument("--model", default="", help="only this model")
    analytics.add_argument("--workspace", default="", help="the calls of this workspace")
    export = _command(commands, "export", "write the configuration to a file; keys by name alone")
    export.add_argument("file", nargs="?", default="-", help="default: standard output")
    load = _command(commands, "import", "take in an export: all of it, or nothing")
    load.add_argument("file", help="a file, - for standard input")
    load.add_argument("--replace", action="store_true", help="in the place of all that there is")
    load.add_argument("--dry-run", action="store_true", help="only say what it would come to")
    _command(commands, "versions", "list the versions that can be gone back to")
    back = _command(commands, "rollback", "go back to a version, as a new one")
    back.add_argument("version", type=int)
    back.add_argument("--dry-run", action="store_true", help="only say what it would come to")


def _add_kind(parser: argparse.ArgumentParser, kind: str) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|show|set|delete|...")
    listing = _command(verbs, "list", f"list the {kind}")
    if kind == "models":
        for name in ("provider", "status", "type", "tags"):
            listing.add_argument(f"--{name}", default="", help="only those")
    for verb, text in (("show", "print one"), ("delete", "take one away")):
        one = _command(verbs, verb, text)
        one.add_argument("id")
    if kind in _ADDS:
        _command(verbs, "add", "make one").add_argument("json", help="a file, - for standard input, or {...}")
    for verb, text in (("set", "write one whole"), ("change", "change some fields; null takes one away")):
        if verb == "set" or kind in _MERGES:
            one = _command(verbs, verb, text)
            one.add_argument("id")
            one.add_argument("json", help="a file, - for standard input, or {...}")
            one.add_argument("--if-match", default="", metavar="TAG", help="only over this version of it")
    for verb, (text, arguments) in _EXTRA.get(kind, {}).items():
        one = _command(verbs, verb, text)
        for name in arguments:
            one.add_argument(name)


_EXTRA: Final[Mapping[str, Mapping[str, tuple[str, tuple[str, ...]]]]] = {
    "models": {
        "status": ("let one serve or not: active, inactive, maintenance, deprecated", ("id", "status")),
        "health": ("say how one is", ("id",)),
        "endpoints": ("list the endpoints of one", ("id",)),
    },
    "agents": {"models": ("say which models its agents get", ("id",))},
    "workspaces": {
        "budget": ("say what it may spend, and has", ("id",)),
        "reset": ("let it begin at nothing", ("id",)),
    },
    "rollouts": {"steer": ("advance, pause, resume, rollback or promote one", ("id", "action"))},
    "experiments": {
        "results": ("say what one has found so far", ("id",)),
        "start": ("let one take calls", ("id",)),
        "stop": ("let one take no more", ("id",)),
    },
}


def _command(parent: Any, name: str, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = parent.add_parser(name, help=text, allow_abbrev=False)
    made.add_argument("--json", action="store_true", dest="raw", help="print JSON")
    add_service_options(made)
    return made


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    with connected(args) as client:
        gateway = client.gateway
        if args.what in _KINDS:
            return _run_kind(args, gateway)
        found = _WHOLE[args.what](args, gateway)
    if found is not None:
        print(to_text(found))
    return Exit.OK


def _run_kind(args: argparse.Namespace, gateway: Gateway) -> int:
    things: Collection[Any] = getattr(gateway, args.what)
    if args.verb == "list":
        return _list(args, things)
    if args.verb == "delete":
        things.delete(args.id)
        say(f"{args.id} is gone")
        return Exit.OK
    if args.verb in _EXTRA.get(args.what, {}):
        print(to_text(_EXTRAS[args.what, args.verb](args, gateway)))
        return Exit.OK
    if args.verb == "show":
        kept = things.get(args.id)
    elif args.verb == "add":
        kept = things.add(_object(args.json))
    elif args.verb == "set":
        kept = things.put(args.id, _object(args.json), if_match=args.if_match)
    else:
        kept = things.change(args.id, _object(args.json), if_match=args.if_match)
    print(to_text(kept.value))
    for warning in kept.value.get("warnings", ()):
        say(f"warning: {warning}")
    if not args.raw:
        say(f"version {kept.etag}")
    return Exit.OK


_EXTRAS: Final[Mapping[tuple[str, str], Callable[[argparse.Namespace, Any], Any]]] = {
    ("models", "status"): lambda args, gateway: gateway.models.set_status(args.id, args.status).value,
    ("models", "health"): lambda args, gateway: gateway.models.health(args.id),
    ("models", "endpoints"): lambda args, gateway: gateway.models.endpoints(args.id),
    ("agents", "models"): lambda args, gateway: gateway.agent_models(args.id),
    ("workspaces", "budget"): lambda args, gateway: gateway.budget(args.id),
    ("workspaces", "reset"): lambda args, gateway: gateway.reset_budget(args.id),
    ("rollouts", "steer"): lambda args, gateway: gateway.steer(args.id, args.action),
    ("experiments", "results"): lambda args, gateway: gateway.results(args.id),
    ("experiments", "start"): lambda args, gateway: gateway.start(args.id),
    ("experiments", "stop"): lambda args, gateway: gateway.stop(args.id),
}


def _list(args: argparse.Namespace, things: Collection[Any]) -> int:
    filters = {}
    if args.what == "models":
        given = {
            "provider": args.provider, "status": args.status, "modelType": args.type, "tags": args.tags,
        }  # fmt: skip
        filters = {name: value for name, value in given.items() if value}
    found = things.list(**filters)
    if args.raw:
        print(to_text(found))
    elif not found:
        say(f"no {args.what}")
    else:
        columns = _KINDS[args.what]
        rows = [tuple(_cell(each.get(column)) for column in columns) for each in found]
        print(table(tuple(_heading(column) for column in columns), rows))
    return Exit.OK


def _test(args: argparse.Namespace, gateway: Gateway) -> Any:
    fields: dict[str, Any] = {}
    for word in args.fields:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"{word!r} is not NAME=VALUE, such as agentType=creative")
        fields[name] = value.split(",") if name == "tags" else value
    return gateway.test(**fields)


def _requests(args: argparse.Namespace, gateway: Gateway) -> Any:
    return gateway.requests(limit=args.limit, modelId=args.model, workspaceId=args.workspace)


def _analytics(args: argparse.Namespace, gateway: Gateway) -> Any:
    if args.workspace:
        if args.model:
            raise UsageError("--model and --workspace ask for two different things; leave one out")
        return gateway.workspace_analytics(args.workspace, timeRange=args.period)
    return gateway.model_analytics(timeRange=args.period, modelId=args.model)


def _export(args: argparse.Namespace, gateway: Gateway) -> Any:
    found = gateway.export()
    if args.file == "-":
        return found
    with open(args.file, "w", encoding="utf-8") as file:
        file.write(json.dumps(found, ensure_ascii=False, indent=2) + "\n")
    say(f"wrote {args.file}, version {found.get('version')}")
    return None


def _import(args: argparse.Namespace, gateway: Gateway) -> Any:
    given = _object(args.file)
    config = given.get("config", given)
    return gateway.load(config, mode="replace" if args.replace else "merge", dry_run=args.dry_run)


_WHOLE: Final[Mapping[str, Callable[[argparse.Namespace, Any], Any]]] = {
    "test": _test,
    "overview": lambda args, gateway: gateway.overview(),
    "requests": _requests,
    "analytics": _analytics,
    "export": _export,
    "import": _import,
    "versions": lambda args, gateway: gateway.versions(),
    "rollback": lambda args, gateway: gateway.rollback(args.version, dry_run=args.dry_run),
}


def _object(source: str) -> dict[str, Any]:
    """Return a JSON object from a file, standard input, or the word itself."""
    where = "standard input" if source == "-" else source
    if source.lstrip().startswith("{"):
        text, where = source, "the JSON"
    elif source == "-":
        text = sys.stdin.read(_MOST)
    else:
        try:
            with open(source, encoding="utf-8") as file:
                text = file.read(_MOST)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{source} cannot be read: {error}") from None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{where} holds no JSON object")
    return found


def _heading(name: str) -> str:
    return "".join(f" {sign}" if sign.isupper() else sign for sign in name).upper()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return " ".join(f"{name}={each}" for name, each in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(str(each) for each in value)
    return str(value)
