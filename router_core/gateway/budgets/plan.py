"""What a call takes of each limit: worked out once for each set of limits, estimated for each call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from router_core.gateway.accounting.tokens import estimate_output
from router_core.gateway.call import Call
from router_core.gateway.values import Deployment, GatewayConfig, Limit, Model, Price
from router_core.quota.cap import Cap, Kind

__all__ = ["ASSUMED_OUTPUT", "Plan", "Rate", "Rates"]

ASSUMED_OUTPUT: Final = 1024
"""Tokens of output that are reserved for a call that does not say how many it may have."""
_SHARE: Final = 4
"""What is only assumed is at most this part of a limit: it must not keep out a call that may well fit."""
_MINUTE: Final = 60_000
_MILLION: Final = 1_000_000
_FRESH: Final = 60.0
"""Seconds for which a price is remembered: some change with the hour."""

_KINDS: Final[Mapping[str, tuple[Kind, str | int]]] = {
    "daily": ("budget", "day"), "weekly": ("budget", "week"), "monthly": ("budget", "month"),
    "requests": ("rate", _MINUTE), "tokens": ("rate", _MINUTE), "concurrency": ("concurrency", 0),
}  # fmt: skip
_MOST_SETS: Final = 4096
"""Sequences of models, such as rules and agents come to, whose prices are remembered."""
_BOUNDLESS: Final = 1 << 62
_FREE: Final = (0, 0, 0)
_ONE: Final = 0
_TOKENS: Final = 1
_MONEY: Final = 2

Rate = tuple[int, int, int]
"""Micro-dollars for a million tokens of input, for a million of output, and for a request."""
PriceOf = Callable[[Deployment], Price | None]


class Plan:
    """The limits of one subject."""

    __slots__ = (
        "_codes",
        "_plenty_money",
        "_plenty_tokens",
        "amounts",
        "caps",
        "limits",
        "priced",
        "subject",
    )

    def __init__(self, subject: str, limits: Sequence[Limit]) -> None:
        self.subject = subject
        self.limits = tuple(limits)
        self.caps = tuple(_cap(each) for each in limits)
        self.amounts = tuple(each.amount for each in limits)
        self.priced = any(each.unpriced == "refuse" for each in limits)
        """Whether what has no known price may not serve."""
        self._codes = tuple(_code(each.kind) for each in limits)
        self._plenty_tokens = self._least(_TOKENS) // _SHARE
        self._plenty_money = self._least(_MONEY) // _SHARE
        """Estimates up to these are within all bounds."""

    def _least(self, code: int) -> int:
        return min([each for each, kind in zip(self.amounts, self._codes, strict=True) if kind == code],
                   default=_BOUNDLESS)  # fmt: skip

    def wants(self, call: Call, rate: Rate) -> list[int]:
        """Return what a call may take at most of each limit, by estimate."""
        given = call.input_tokens
        written = _output(call)
        paid = -(-given * rate[0] // _MILLION) + rate[2]
        earned = -(-written * rate[1] // _MILLION)
        if not (paid or earned) and rate != _FREE:
            paid = 1  # what takes nothing is let in by a budget of which nothing is left
        tokens, cost = given + written, paid + earned
        if tokens <= self._plenty_tokens and cost <= self._plenty_money:
            values = (1, tokens, cost)
            return [values[code] for code in self._codes]
        assumed = call.max_tokens is None
        parts = ((1, 0), (given, written), (paid, earned))
        return [
            1 if code == _ONE else _bounded(*parts[code], amount, assumed, money=code == _MONEY)
            for code, amount in zip(self._codes, self.amounts, strict=True)
        ]

    def used(self, cost: int, tokens: int) -> list[int]:
        """Return what a call has really used of each limit."""
        values = (1, tokens, cost)
        return [values[code] for code in self._codes]


class Rates:
    """What a token costs at most of all that may serve a model; remembered for a minute."""

    __slots__ = ("_arms", "_known", "_price_of", "_sets", "models")

    def __init__(self, price_of: PriceOf) -> None:
        self._price_of = price_of
        self._arms: dict[str, tuple[str, ...]] = {}
        """Of a model that is on trial: which others may get its calls."""
        self.models: dict[str, Model] = {}
        """By each of their names."""
        self._known: dict[str, tuple[float, Rate]] = {}
        self._sets: dict[tuple[str, ...], tuple[float, Rate]] = {}

    def follow(self, config: GatewayConfig) -> None:
        """Go by another configuration."""
        self.models = {alias: model for model in config.models for alias in model.aliases}
        self.models |= {model.id: model for model in config.models}
        self._arms = _arms(config)
        self._known = {}
        self._sets = {}

    def of(self, name: str, now: float) -> Rate:
        """Return the highest prices of a model and of all that may serve in its place; of a name that nobody
        bears, of all models."""
        known = self._known.get(name)
        if known is not None and now - known[0] < _FRESH:
            return known[1]
        name = name if name in self.models else ""
        rate = self._highest(self._deployments(name))
        self._known[name] = (now, rate)
        return rate

    def of_all(self, names: tuple[str, ...], now: float) -> Rate:
        """Return the highest prices of several models, each with all that may serve in its place."""
        known = self._sets.get(names)
        if known is not None and now - known[0] < _FRESH:
            return known[1]
        if len(self._sets) >= _MOST_SETS:
            self._sets.clear()
        rates = [self.of(name, now) for name in names]
        given, written, request = (max(prices) for prices in zip(*rates, strict=True))
        rate = (given, written, request)
        self._sets[names] = (now, rate)
        return rate

    def _deployments(self, name: str) -> Iterable[Deployment]:
        models = self.models.values() if not name else self._chain(self.models[name])
        return [deployment for model in models for deployment in model.deployments]

    def _chain(self, model: Model) -> Iterable[Model]:
        """Return the model, those on trial in its place, and all that any of them falls back to."""
        found: dict[str, Model] = {}
        waiting = [model.id, *self._arms.get(model.id, ())]
        while waiting:
            one = self.models.get(waiting.pop())
            if one is not None and one.id not in found:
                found[one.id] = one
                waiting += (*one.fallbacks, *one.context_fallbacks, *one.policy_fallbacks, one.wake_fallback)
        return found.values()

    def _highest(self, deployments: Iterable[Deployment]) -> Rate:
        prices = [price for each in deployments if (price := self._price_of(each)) is not None]
        return (
            max([each.input for each in prices], default=0),
            max([each.output for each in prices], default=0),
            max([each.request for each in prices], default=0),
        )


def _arms(config: GatewayConfig) -> dict[str, tuple[str, ...]]:
    found = {each.model: (each.canary,) for each in config.rollouts if each.model and each.enabled}
    for each in config.experiments:
        if each.model and each.enabled:
            found[each.model] = tuple(variant.model_id for variant in each.variants)
    ids = {alias: model.id for model in config.models for alias in model.aliases}
    return {ids.get(name, name): arms for name, arms in found.items()}


def _cap(limit: Limit) -> Cap:
    kind, window = _KINDS[limit.kind]
    marks: tuple[int, ...] = ()
    if kind == "budget":
        marks = tuple(-(-limit.amount * percent // 100) for percent in limit.alerts)
    return Cap(limit.kind, limit.amount, kind, window, limit.on_store_failure, marks)


def _code(kind: str) -> int:
    if kind == "tokens":
        return _TOKENS
    return _MONEY if _KINDS[kind][0] == "budget" else _ONE


def _output(call: Call) -> int:
    """Return the tokens that may be written: what the caller allows, else a guess."""
    if call.max_tokens is not None:
        return estimate_output(call)
    return ASSUMED_OUTPUT * call.choices if estimate_output(call) else 0


def _bounded(certain: int, output: int, amount: int, assumed: bool, *, money: bool) -> int:
    """Return an estimate that a limit can hold at all, where it is a guess: one that is above the limit would
    refuse the call for good, though it most likely needs far less.

    Money that a caller has allowed for (``max_tokens``) is no guess: it is reserved, or the call is refused.
    """
    if assumed:
        output = min(output, amount // _SHARE)
    total = certain + output
    if money and not assumed:
        return total
    return max(1, min(total, amount)) if total else 0
