"""Read deployments: ``clients`` of the early form of Albert, ``providers`` of the newer one; one reader.

Both say the same in other words, so each thing may be written in any of its words in either form.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from router_core.gateway.config import policies
from router_core.gateway.config.arguments import ARGUMENTS
from router_core.gateway.config.section import MaskedText, Section, near
from router_core.gateway.config.urls import cleaned
from router_core.gateway.lifecycle.huggingface import names_of
from router_core.gateway.values import CLIENT_TYPES, Deployment, HealthPolicy, Price, Secret, Timeouts

__all__ = ["Defaults", "Read", "capabilities", "deployment", "is_name", "name_of", "words_of"]

_TYPES: Final = {**{each: each for each in CLIENT_TYPES}, "mistral": "generic"}
"""Written -> ours. Mistral speaks plain OpenAI."""
_URLS: Final = {"mistral": "https://api.mistral.ai/v1"}
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}\Z")
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}\Z")
_OURS: Final = frozenset(
    {"host", "content-length", "content-type", "content-encoding", "accept-encoding", "transfer-encoding",
     "connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "expect"}
)  # fmt: skip
"""Headers that belong to the transport."""
_CARBON: Final = (
    "carbon", "model_total_params", "model_active_params", "model_carbon_footprint_total_params",
    "model_carbon_footprint_active_params",
)  # fmt: skip
"""What Albert computes footprints from."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a model says for all of its deployments."""

    max_context_length: int | None = None
    price: Price | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    health: HealthPolicy = field(default_factory=HealthPolicy)
    capabilities: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    """Borne beside those of the deployment."""


@dataclass(frozen=True, slots=True)
class Read:
    """A deployment, with what the check of the whole needs to know."""

    deployment: Deployment
    line: int
    named: bool
    """Whether its id was written; else it may be changed to be unique."""
    sound: bool
    """Whether nothing was wrong with it."""
    endpoint_line: int = 0
    vector_size: int | None = None
    vector_line: int = 0


def name_of(section: Section, *keys: str, required: bool = True) -> str:
    """Read the name of something that callers or operators write."""
    text = section.text(*keys, required=required)
    found = section.find(*keys)
    if text and found and not is_name(text):
        section.wrong(found[0], "is not a name; write up to 256 printable characters")
        return ""
    return text


def is_name(text: str) -> bool:
    """Return whether a text can be the name of something."""
    return len(text) <= 256 and text.isprintable() and text == text.strip()


def deployment(section: Section, model_id: str, defaults: Defaults) -> Read | None:
    """Read one deployment; None when it cannot even be named."""
    before = section.problems.count
    own = name_of(section, "id", "name", required=False)
    section.name = f"deployment {own!r}" if own else f"{section.name} of model {model_id!r}"
    kind = section.choice("type", known=_TYPES, required=True)
    args = section.section("args") or _nothing(section)
    endpoint = section.text("endpoint")
    url = _url(section, args, kind)
    key = _one_key(section, args)
    timeouts = policies.timeouts(args, policies.timeouts(section, defaults.timeouts))
    upstream = section.text("model", "model_name") or model_id
    vector_size = section.whole("vector_size", least=1, most=10**6)
    made = Deployment(
        id=own or _made_id(model_id, kind, upstream, url, endpoint), model_id=model_id,
        type=_TYPES.get(kind, kind), model=upstream, base_url=url, key=key,
        weight=section.number("weight", default=1.0, least=0, most=1e6),
        priority=section.whole("priority", least=-1000000, most=1000000) or 0,
        tags=words_of(section, "tags") | defaults.tags, region=_region(section),
        compliance=words_of(section, "compliance"),
        capabilities=capabilities(section, defaults.capabilities),
        max_context_length=section.whole("max_context_length", least=1) or defaults.max_context_length,
        max_concurrency=_concurrency(section), timeouts=timeouts,
        price=policies.price(section, defaults.price), endpoint=endpoint,
        health=policies.health(section, defaults.health), headers=_headers(section, key),
        args=_arguments(args, kind),
    )  # fmt: skip
    section.ignore(*_CARBON)
    section.close()
    if not kind:
        return None
    return Read(
        made, section.line, bool(own), section.problems.count == before, section.line_of("endpoint"),
        vector_size, section.line_of("vector_size"),
    )  # fmt: skip


def capabilities(section: Section, base: frozenset[str]) -> frozenset[str]:
    """Read what a deployment can do."""
    return words_of(section, "capabilities") or base


def _nothing(section: Section) -> Section:
    from router_core.gateway.config.document import Table

    return Section(Table({}, section.line), f"args of {section.name}", section.problems, section.environ)


def _made_id(model_id: str, kind: str, upstream: str, url: str, endpoint: str) -> str:
    """Make an id out of what it is, not where it stands: it stays when its neighbours come and go.

    Without the address in readable form: callers see ids in headers.
    """
    told = hashlib.sha256("\n".join((kind, upstream, url, endpoint)).encode()).hexdigest()[:6]
    return f"{model_id}/{kind}-{told}"


def _url(section: Section, args: Section, kind: str) -> str:
    names = ("url", "base_url", "api_url")
    inside = args.find(*names)
    outside = section.find(*names)
    if inside and outside:
        section.wrong(outside[0], f"says the same as {inside[0]} in args; keep one of them")
    place = args if inside else section
    text = place.text(*names)
    if not text:
        return _URLS.get(kind, "")  # the client, or the endpoint, knows where it is
    key = (inside or outside or ("url",))[0]
    url, wrong = cleaned(text)
    if wrong:
        place.wrong(key, wrong)
    elif names_of(url)[1]:
        place.wrong(key, "is the page of an endpoint, not where inference goes; write it under endpoints: "
                    "and name it here with endpoint:")  # fmt: skip
    return url


def _one_key(section: Section, args: Section) -> Secret:
    inside, outside = args.find("api_key", "key"), section.find("key", "api_key")
    if inside and outside:
        section.wrong(outside[0], f"says the same as {inside[0]} in args; keep one of them")
    return args.secret("api_key", "key") if inside else section.secret("key", "api_key")


def words_of(section: Section, key: str) -> frozenset[str]:
    """Read a list of words."""
    words = section.lined_words(key)
    for line, word in words:
        if not _WORD.match(word):
            section.problems.add(line, f"{key} of {section.name}: {word[:60]!r} is not one word")
    return frozenset(word.lower() if key == "compliance" else word for _, word in words)


def _region(section: Section) -> str:
    region = section.text("region", "model_hosting_zone", "model_carbon_footprint_zone")
    if region and not _WORD.match(region):
        found = section.find("region", "model_hosting_zone", "model_carbon_footprint_zone")
        section.wrong(found[0] if found else "region", "is not one word")
    return "" if region == "WOR" else region  # Albert's word for anywhere


def _concurrency(section: Section) -> int | None:
    """Read how many calls it takes at once; Albert's load control says it in two ways."""
    limit = section.whole("max_concurrency", "max_parallel_requests", least=1, most=10**6)
    section.choice("qos_policy", known=("warning-log", "parallel-requests-threshold"))
    metric = section.choice("qos_metric", known=("inflight",))
    quota = section.whole("qos_limit", least=1, most=10**6)
    if metric and quota is None and section.find("qos_limit") is None:
        section.wrong("qos_metric", "needs a qos_limit")
    return limit if limit is not None else (quota if metric else None)


def _headers(section: Section, key: Secret) -> tuple[tuple[str, str], ...]:
    headers: list[tuple[str, str]] = []
    for name, value in section.texts("headers").items():
        if not _HEADER.match(name) or name.lower() in _OURS:
            section.wrong("headers", f"may not hold {name[:60]!r}")
        elif not value.isascii():
            section.wrong("headers", f"holds a value for {name!r} that is not ASCII")
        else:
            headers.append((name.lower(), value))
    login = section.section("basic_auth")
    if login is not None:
        user, password = login.text("username", required=True), login.secret("password").reveal()
        login.close()
        if key:
            section.wrong("basic_auth", "cannot stand beside a key; keep one of them")
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers.append(("authorization", MaskedText(f"Basic {token}")))
    names = [name for name, _ in headers]
    for name in sorted({name for name in names if names.count(name) > 1}):
        section.wrong("headers", f"hold {name!r} twice")
    return tuple(headers)


def _arguments(args: Section, kind: str) -> Mapping[str, Any]:
    """Return what is left in ``args``, when the client type knows it."""
    known = ARGUMENTS.get(kind)
    for key, line in args.left:
        if known is not None and key not in known:
            takes = sorted({*known, "api_key", "base_url", "timeout"})
            hint = near(key, takes) or f"; it takes {', '.join(takes)}"
            args.problems.add(line, f"args of a deployment of type {kind!r} take no {key[:60]!r}{hint}")
    return args.free()
