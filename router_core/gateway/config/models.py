"""Read models: both forms of Albert, and what we have beside them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, cast, get_args

from router_core.gateway.budgets.parse import parse_limits
from router_core.gateway.config import policies
from router_core.gateway.config.deployments import (
    Defaults,
    Read,
    capabilities,
    deployment,
    is_name,
    name_of,
    words_of,
)
from router_core.gateway.config.document import Table, plain
from router_core.gateway.config.named import line_of
from router_core.gateway.config.section import Section
from router_core.gateway.values import (
    MODEL_TYPES,
    STATUSES,
    HealthPolicy,
    Limit,
    Model,
    StrategyName,
    Timeouts,
)

__all__ = ["CHAINS", "Mention", "ModelRead", "model"]

CHAINS: Final = ("fallbacks", "context_fallbacks", "policy_fallbacks")
STRATEGIES: Final = get_args(StrategyName)


@dataclass(frozen=True, slots=True)
class Mention:
    """A place in the file that names a model."""

    line: int
    what: str
    """``fallbacks of model 'turbo'``."""
    name: str


@dataclass(slots=True)
class ModelRead:
    """A model, with what the check of the whole needs to know."""

    model: Model
    line: int
    deployments: list[Read]
    aliases: list[tuple[int, str]]
    mentions: list[Mention] = field(default_factory=list)


def model(section: Section) -> ModelRead | None:
    """Read one model; None when it has no name to be known by."""
    name = name_of(section, "id", "name")
    if name:
        section.name = f"model {name!r}"
    kind = section.choice("type", known=MODEL_TYPES, required=True)
    strategy = section.choice(
        "routing_strategy", "load_balancing_strategy", "strategy", known=STRATEGIES, default="shuffle"
    )
    read = _deployments(section, name, _defaults(section))
    aliases = section.lined_words("aliases")
    for line, alias in aliases:
        if not is_name(alias):
            section.problems.add(line, f"aliases of {section.name} hold what is not a name")
    total = section.number("total_timeout", default=0.0, least=0.001, most=86400.0)
    longest = max([each.deployment.timeouts.total for each in read], default=600.0)
    made = Model(
        id=name, type=kind, deployments=tuple(each.deployment for each in read),
        aliases=tuple(dict.fromkeys(alias for _, alias in aliases)), strategy=cast("StrategyName", strategy),
        owned_by=section.text("owned_by", default="router-core"), created=section.whole("created") or 0,
        fallbacks=section.words("fallbacks"), context_fallbacks=section.words("context_fallbacks"),
        policy_fallbacks=section.words("policy_fallbacks"), wake_fallback=section.text("wake_fallback"),
        sticky_by=_sticky_by(section), retry=policies.retry(section), breaker=policies.breaker(section),
        ejection=policies.ejection(section), hedge=policies.hedge(section),
        total_timeout=total or max(600.0, longest), tags=words_of(section, "tags"),
        status=section.choice("status", known=STATUSES, default="active"), limits=_limits(section),
    )  # fmt: skip
    # Of Albert: the web search that answers of this model go through, and marks of its own database.
    section.ignore("default_internet", "default", "cycle_offset", "from_config")
    section.close()
    if not name:
        return None
    return ModelRead(made, section.line, read, aliases, _mentions(section, made))


def _deployments(section: Section, name: str, defaults: Defaults) -> list[Read]:
    vector_size = section.whole("vector_size", least=1, most=10**6)
    entries = section.sections("clients", "providers", "deployments", name="deployment")
    found = section.find("clients", "providers", "deployments")
    if found is None or (not entries and found[1].size == 1):
        section.problems.add(section.line, f"{section.name} has no deployments; write clients: or providers:")
    read = [each for each in (deployment(entry, name, defaults) for entry in entries) if each is not None]
    for each in read:
        size = each.vector_size
        vector_size = vector_size or size
        if size is not None and size != vector_size:
            section.problems.add(
                each.vector_line, f"vector_size of {each.deployment.id!r} is {size} where another deployment "
                f"of {section.name} has {vector_size}; vectors of one model need one size",
            )  # fmt: skip
    return _unique(read)


def _unique(read: list[Read]) -> list[Read]:
    """Number the made ids of deployments that are the same but for their keys."""
    seen: dict[str, int] = {}
    made = []
    for each in read:
        own = each.deployment.id
        seen[own] = seen.get(own, 0) + 1
        if not each.named and seen[own] > 1:
            each = replace(each, deployment=replace(each.deployment, id=f"{own}-{seen[own]}"))
        made.append(each)
    return made


def _defaults(section: Section) -> Defaults:
    return Defaults(
        max_context_length=section.whole("max_context_length", least=1),
        price=policies.price(section, None), timeouts=policies.timeouts(section, Timeouts()),
        health=policies.health(section, HealthPolicy()), capabilities=capabilities(section, frozenset()),
        tags=words_of(section, "tags"),
    )  # fmt: skip


def _limits(section: Section) -> tuple[Limit, ...]:
    """Read ``limits``, in the words of the API."""
    found = section.find("limits")
    if found is None:
        return ()
    try:
        return parse_limits(plain(found[1]), "limits")
    except ValueError as error:
        node = Table({"limits": (section.line_of("limits"), found[1])}, section.line)
        section.problems.add(line_of(node, str(error)), f"{section.name}: {error}")
        return ()


def _sticky_by(section: Section) -> str:
    word = section.text("sticky_by", default="user")
    kind, _, name = word.partition(":")
    if word in ("user", "principal") or (kind == "header" and name.strip()):
        return f"header:{name.strip().lower()}" if name else word
    section.wrong("sticky_by", "must be user, principal or header:NAME")
    return "user"


def _mentions(section: Section, made: Model) -> list[Mention]:
    mentions = [
        Mention(line, f"{chain} of {section.name}", name)
        for chain in CHAINS
        for line, name in section.lined_words(chain)
    ]
    if made.wake_fallback:
        line = section.line_of("wake_fallback")
        mentions.append(Mention(line, f"wake_fallback of {section.name}", made.wake_fallback))
    return mentions
