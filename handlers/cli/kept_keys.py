"""``router-core keys create|list|show|rotate|revoke|expire``: keys of the shared state, or of a service."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from handlers.cli.exits import Exit, UsageError
from handlers.cli.output import say, table, to_text

__all__ = ["ACTIONS", "add_commands", "run"]

Json = dict[str, Any]
Ask = Callable[[str, str, Json | None], Coroutine[Any, Any, Json]]
"""Method, path and body -> the answer of ``/api/keys``."""

ACTIONS: Final = ("create", "list", "show", "rotate", "revoke", "expire")
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd]?)\Z")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LIMITS: Final = ("daily", "weekly", "monthly", "requests", "tokens", "concurrency")


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare what they take."""
    create = commands.add_parser("create", help="make a key in the shared state", allow_abbrev=False)
    create.add_argument("name", nargs="?", default="", help="who it is for (default: the key's own id)")
    create.add_argument("--role", action="append", default=[], help="viewer, developer, operator, admin ...")
    create.add_argument("--scope", action="append", default=[], help="beside those of the roles (repeatable)")
    create.add_argument(
        "--workspace", action="append", default=[], metavar="ID",
        help="may be entered (repeatable; the first is the usual one; default: all)",
    )  # fmt: skip
    create.add_argument("--tier", default="", help="tier of the user, for routing rules")
    create.add_argument(
        "--limit", action="append", default=[], metavar="KIND=AMOUNT",
        help=f"{', '.join(_LIMITS)}; money in dollars",
    )  # fmt: skip
    create.add_argument("--expires", default="", metavar="IN", help="such as 90d or 12h (default: never)")
    listing = commands.add_parser("list", help="list the keys", allow_abbrev=False)
    show = commands.add_parser("show", help="print what is known of a key", allow_abbrev=False)
    rotate = commands.add_parser("rotate", help="give a key another secret", allow_abbrev=False)
    rotate.add_argument("--overlap", default="1d", metavar="FOR", help="the old one goes on (default: 1d)")
    revoke = commands.add_parser("revoke", help="let a key open nothing any more", allow_abbrev=False)
    expire = commands.add_parser("expire", help="say when a key ends", allow_abbrev=False)
    expire.add_argument("--in", dest="within", default="0", metavar="IN", help="such as 7d (default: now)")
    for command in (show, rotate, revoke, expire):
        command.add_argument("id", help="id of the key: the middle of it")
    for command in (create, listing, show, rotate, revoke, expire):
        command.add_argument("--json", action="store_true", help="print JSON")
        command.add_argument("--state", default="", metavar="URL", help="default: ROUTER_STATE")
        command.add_argument("--url", default="", help="a running service, in place of the state")
        command.add_argument("--api-key", metavar="KEY", help="for --url (default: ROUTER_API_KEY)")
        command.add_argument("--cacert", metavar="FILE", help="for --url: certificates (PEM) to trust")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    if args.url and args.state:
        raise UsageError("the keys are those of --url or of --state, not of both")
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    wish = _WISHES[args.action](args)
    async with _service(args) if args.url else _state(args) as ask:
        if args.action == "list":
            return await _list(args, ask)
        answer = await ask(*wish)
    _tell(args, answer)
    return Exit.OK


# --- what is asked --------------------------------------------------------------------------------------


def _create(args: argparse.Namespace) -> tuple[str, str, Json | None]:
    if not args.role and not args.scope:
        raise UsageError("say what the key may do: --role viewer, developer, operator or admin, or --scope")
    body: Json = {"roles": args.role, "scopes": args.scope}
    if args.name:
        body["name"] = args.name
    if args.workspace:
        body["workspaces"] = args.workspace
        body["workspace"] = next((each for each in args.workspace if each != "*"), "")
    if args.tier:
        body["tier"] = args.tier
    if args.limit:
        body["limits"] = [_limit(text) for text in args.limit]
    if args.expires:
        body["expiresIn"] = _seconds(args.expires)
    return "POST", "/api/keys", body


def _limit(text: str) -> Json:
    kind, equals, amount = text.partition("=")
    try:
        value = float(amount)
    except ValueError:
        value = -1.0
    if not equals or kind not in _LIMITS or not 0 <= value <= 1e9:
        raise UsageError(f"--limit {text!r}: write kind=amount, with a kind of {', '.join(_LIMITS)}")
    return {"kind": kind, "amount": round(value * 1_000_000) if kind.endswith("ly") else round(value)}


def _seconds(text: str) -> int:
    found = _DURATION.match(text)
    if found is None:
        raise UsageError(f"{text!r} is no time; write 90d, 12h, 30m or 45s")
    return int(found[1]) * _SECONDS[found[2]]


def _place(args: argparse.Namespace) -> str:
    """Return the path of a key; whoever pastes all of a key means its id, and should not have."""
    key_id = str(args.id)
    if re.fullmatch(r"rk_[a-z0-9]{8,32}_.+", key_id):
        say("that is a whole key: its id, the part in the middle, would have done")
        key_id = key_id.split("_")[1]
    if not re.fullmatch(r"[a-z0-9]{8,32}", key_id):
        raise UsageError(f"{key_id[:40]!r} is no id of a key; `router-core keys list` shows them")
    return f"/api/keys/{key_id}"


_WISHES: Final[Mapping[str, Callable[[argparse.Namespace], tuple[str, str, Json | None]]]] = {
    "create": _create,
    "list": lambda _args: ("GET", "/api/keys", None),
    "show": lambda args: ("GET", _place(args), None),
    "rotate": lambda args: (
        "POST", f"{_place(args)}/rotate", {"overlapSeconds": _seconds(args.overlap)},
    ),
    "revoke": lambda args: ("DELETE", _place(args), None),
    "expire": lambda args: ("PATCH", _place(args), {"expiresIn": _seconds(args.within)}),
}  # fmt: skip


# --- whom it is asked of --------------------------------------------------------------------------------


@asynccontextmanager
async def _service(args: argparse.Namespace) -> AsyncIterator[Ask]:
    """Ask a running service."""
    from urllib.parse import parse_qsl, urlsplit

    from router_core.client.exchange import Exchange
    from router_core.client.httpx_transport import HttpxTransport
    from router_core.client.retry import Retry
    from router_core.client.tls import trust

    key = args.api_key or os.environ.get("ROUTER_API_KEY")
    headers = [("user-agent", "router-core"), *([("authorization", f"Bearer {key}")] if key else [])]
    url = args.url if "://" in args.url else f"http://{args.url}"
    own = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    transport = HttpxTransport(verify=trust(args.cacert or True, os.environ), proxies=not own)
    exchange = Exchange(transport, url, headers=headers, retry=Retry(attempts=4, total=20.0))

    async def ask(method: str, path: str, body: Json | None) -> Json:
        parts = urlsplit(path)
        data = b"" if body is None else json.dumps(body).encode()
        kind = [("content-type", "application/json")] if data else []
        call = exchange.call(method, parts.path, query=parse_qsl(parts.query), headers=kind, body=data)
        # a key that was made, and whose answer was lost, would lie about unknown to everybody
        answer = await exchange.fetch(call, repeatable=method in ("GET", "DELETE", "PATCH"))
        value: Json = answer.json() if answer.body else {}
        return value

    try:
        yield ask
    finally:
        await exchange.aclose()


@asynccontextmanager
async def _state(args: argparse.Namespace) -> AsyncIterator[Ask]:
    """Ask the shared state, by the handlers that a service has; whoever can write there is an admin."""
    from router_core.backends import open_state
    from router_core.clock import SystemClock
    from router_core.http.message import Request
    from router_core.routing.table import Table
    from router_core.security.key_routes import key_routes
    from router_core.security.known_keys import KnownKeys
    from router_core.security.roles import parse_roles
    from router_core.security.stored_keys import KeyRoom
    from router_core.settings import Settings
    from router_core.telemetry.events import Events
    from router_core.types import Principal

    settings = Settings.from_env(os.environ)
    settings = replace(settings, state=args.state or settings.state)
    if settings.state.startswith("memory:"):
        raise UsageError("set ROUTER_STATE (or --state) to the state of the service, or name it with --url")
    clock = SystemClock()
    state = open_state(settings, clock, Events())
    room = KeyRoom(state, clock)
    routes = Table(key_routes(room, KnownKeys(room, clock), clock, parse_roles(settings.roles)))
    caller = Principal("cli", frozenset({"*"}), "cli")

    async def ask(method: str, path: str, body: Json | None) -> Json:
        path, _, query = path.partition("?")
        match = routes.match(method, path)
        data = b"" if body is None else json.dumps(body).encode()
        request = Request(method, path, query, body=data, principal=caller, path_params=match.path_params)
        answer = await match.route.func(request)
        value: Json = json.loads(answer.body) if answer.body else {}
        return value

    try:
        await state.open()
        yield ask
        if args.action == "create" and settings.keys != "state":
            say("a service takes these keys where it has the same ROUTER_STATE and ROUTER_KEYS=state")
    finally:
        await state.close()


# --- what is said ---------------------------------------------------------------------------------------


async def _list(args: argparse.Namespace, ask: Ask) -> int:
    from urllib.parse import urlencode

    keys: list[Json] = []
    cursor = ""
    while True:
        page = await ask("GET", f"/api/keys?{urlencode({'limit': 100, 'cursor': cursor})}", None)
        keys += page["keys"]
        cursor = page.get("cursor", "")
        if not cursor:
            break
    if args.json:
        print(to_text(keys))
    elif not keys:
        say("no keys")
    else:
        head = ("ID", "NAME", "STATUS", "MAY", "WORKSPACES", "EXPIRES", "LAST USED")
        print(table(head, [*map(_row, keys)]))
    return Exit.OK


def _row(key: Json) -> tuple[str, ...]:
    return (
        key["id"], key["name"], key["status"], " ".join([*key["roles"], *key["scopes"]]),
        " ".join(key["workspaces"]), key["expiresAt"] or "never", key["lastUsedAt"] or "never",
    )  # fmt: skip


def _tell(args: argparse.Namespace, answer: Json) -> None:
    if args.action == "revoke":
        say(f"revoked: refused everywhere within seconds, and to be seen for 30 days ({_place(args)})")
    elif args.json or args.action == "show":
        print(to_text(answer))
    elif "key" in answer:
        print(answer["key"])
        until = answer.get("previousValidUntil")
        former = f"; the one before opens until {until}" if until else ""
        say(f"key {answer['id']} ({answer['name']}), shown only now{former}")
    else:
        say(f"key {answer['id']} ends {answer['expiresAt']}")
