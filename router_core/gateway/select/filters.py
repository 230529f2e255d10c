"""What speaks against a candidate. Filters may only remove, each with a word for machines and one for people.

Static filters look at the call's requirements and the deployment alone, so that the answer for a set of
requirements is worked out once and kept. The others are asked for every call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from router_core.gateway.call import Call
from router_core.gateway.select.bounds import Bounds, too_bad
from router_core.gateway.select.candidate import Candidate
from router_core.gateway.values import Deployment, Price

__all__ = [
    "ASSUMED_OUTPUT", "PASSING", "SAYS", "SOFT", "PriceOf", "Removal", "Requirements", "estimate",
    "fits_bounds", "fits_budget", "fits_context", "foremost", "misfit", "requirements",
]  # fmt: skip

ASSUMED_OUTPUT: Final = 512
"""Tokens of output that a call without ``max_tokens`` is taken to cost. To take the most that a model can
give would keep nearly every such call from nearly every model."""
_WRITING: Final = frozenset({"chat/completions", "completions", "responses"})
"""Endpoints whose output is paid by the token."""

PriceOf = Callable[[Deployment], Price | None]

SOFT: Final = frozenset({"ejected", "unhealthy"})
"""Opinions about a deployment that are wrong now and then: given up in a panic, and where nobody else is."""
PASSING: Final = SOFT | {"open_circuit", "cooldown", "busy", "probation", "quality"}
"""Reasons that go away without anybody changing the call or the configuration."""

SAYS: Final[Mapping[str, str]] = {
    "open_circuit": "its circuit is open: too many of its calls have failed",
    "cooldown": "it is left alone for a while, as it asked, or because it refused the key it was given",
    "ejected": "it fails more, or is slower, than its peers",
    "unhealthy": "its health probe fails",
    "busy": "it has as many calls in flight as it may have",
    "probation": "its circuit is half-open, and this call has failed once already",
    "tried": "this call was tried there already",
    "unpriced": "its price is not known, and the call has a limit on its cost",
    "workspace": "the workspace of the call may not use this model",
}
_FOREMOST: Final = (
    "busy", "cooldown", "open_circuit", "unhealthy", "ejected", "tried", "quality",
    "context_window", "budget", "unpriced", "compliance", "region", "workspace", "tags", "capabilities",
    "endpoint",
)  # fmt: skip


class Removal(NamedTuple):
    """Why one candidate is out."""

    id: str
    reason: str
    detail: str


Requirements = tuple[str, frozenset[str], frozenset[str], str, frozenset[str], Bounds | None]
"""Endpoint, needs, tags, region, compliance, and the bounds of the workspace: all that static filters look
at. Empty: nothing is asked."""


def requirements(call: Call) -> Requirements:
    """Return what a call asks of a deployment, whatever the state of that may be."""
    return (call.endpoint, call.needs, call.tags, call.region, call.compliance, call.bounds)


def misfit(candidate: Candidate, required: Requirements) -> Removal | None:
    """Return why a deployment can never serve such calls, or None."""
    endpoint, needs, tags, region, compliance, bounds = required
    deployment = candidate.deployment
    if bounds is not None:
        removal = _out_of_bounds(deployment, bounds)
        if removal is not None:
            return removal
    if endpoint and endpoint not in candidate.client.ENDPOINT_TABLE:
        return Removal(candidate.id, "endpoint", f"it cannot be called through {endpoint}")
    if deployment.capabilities and not needs <= deployment.capabilities:
        return Removal(candidate.id, "capabilities", f"it lacks {_named(needs - deployment.capabilities)}")
    if not tags <= deployment.tags:
        return Removal(candidate.id, "tags", f"it does not bear {_named(tags - deployment.tags)}")
    if region and not _within(deployment.region, region):
        return Removal(candidate.id, "region", f"it is in {deployment.region or 'an unknown region'}")
    if not compliance <= deployment.compliance:
        missing = _named(compliance - deployment.compliance)
        return Removal(candidate.id, "compliance", f"it does not satisfy {missing}")
    return None


def _out_of_bounds(deployment: Deployment, bounds: Bounds) -> Removal | None:
    if bounds.models and deployment.model_id not in bounds.models:
        return Removal(deployment.id, "workspace", SAYS["workspace"])
    if bounds.regions and not any(_within(deployment.region, each) for each in bounds.regions):
        where = deployment.region or "an unknown region"
        return Removal(deployment.id, "region", f"it is in {where}, which the workspace does not allow")
    return None


def fits_bounds(candidate: Candidate, bounds: Bounds, price: Price | None, now: float) -> Removal | None:
    """Return why a deployment does not measure up to what a workspace asks, or None."""
    if bounds.priced and price is None:
        return Removal(candidate.id, "unpriced", SAYS["unpriced"])
    wrong = too_bad(bounds, candidate.standing, now)
    return Removal(candidate.id, "quality", wrong) if wrong else None


def fits_context(candidate: Candidate, call: Call) -> Removal | None:
    """Return why a call is too long for a deployment, or None. An unknown window takes everything."""
    window = candidate.deployment.max_context_length
    needed = call.input_tokens + (call.max_tokens or 0)
    if not window or needed <= window:
        return None
    return Removal(candidate.id, "context_window", f"it holds {window} tokens, the call needs {needed}")


def fits_budget(candidate: Candidate, call: Call, price: Price | None) -> Removal | None:
    """Return why a call may cost too much at a deployment, or None."""
    if call.max_cost is None:
        return None
    if price is None:
        return Removal(candidate.id, "unpriced", SAYS["unpriced"])
    cost = estimate(price, call)
    if cost <= call.max_cost:
        return None
    dollars = f"it would cost about {cost / 1e6:.6f} dollars, allowed are {call.max_cost / 1e6:.6f}"
    return Removal(candidate.id, "budget", dollars)


def estimate(price: Price, call: Call) -> int:
    """Return micro-dollars, rounded up, that a call is expected to cost at most."""
    output = call.max_tokens
    if output is None:
        output = ASSUMED_OUTPUT
    if call.endpoint not in _WRITING:
        output = 0
    tokens = call.input_tokens * price.input + output * call.choices * price.output
    return -(-tokens // 1_000_000) + price.request


def foremost(removals: Sequence[Removal]) -> str:
    """Return the one word for why nobody is left: the one that leaves the caller the most to hope for."""
    words = {removal.reason for removal in removals}
    return next((word for word in _FOREMOST if word in words), "no_deployments")


def _within(region: str, wanted: str) -> bool:
    """Return whether a region is the wanted one or a part of it: ``eu-west-3`` is in ``eu``."""
    region, wanted = region.lower(), wanted.lower()
    return region == wanted or region.startswith(wanted + "-")


def _named(words: frozenset[str]) -> str:
    shown = sorted(words)
    return ", ".join(word[:64] for word in shown[:8]) + (" ..." if len(shown) > 8 else "")
