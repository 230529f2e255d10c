"""What a call takes of each limit: worked out once for each set of limits, estimated for each call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from router_core.gateway.accounting.tokens import estimate_output
from router_core.gateway.call import Call, Usage
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
_ONE: Final = 0
_TOKENS: Final = 1
_MONEY: Final = 2

Rate = tuple[int, int, int]
"""Micro-dollars for a million tokens of input, for a million of output, and for a request."""
PriceOf = Callable[[Deployment], Price | None]


class Plan:
    """The limits of one subject."""

    __slots__ = ("_codes", "amounts", "by_money", "by_tokens", "caps", "limits", "subject")

    def __init__(self, subject: str, limits: Sequence[Limit]) -> None:
        self.subject = subject
        self.limits = tuple(limits)
        self.caps = tuple(_cap(each) for each in limits)
        self.amounts = tuple(each.amount for each in limits)
        self._codes = tuple(_code(each.kind) for each in limits)
        self.by_money = _MONEY in self._codes
        self.by_tokens = _TOKENS in self._codes

    def wants(self, call: Call, rate: Rate) -> Sequence[int]:
        """Return what a call may take at most of each limit, by estimate."""
        wants = []
        for code, amount in zip(self._codes, self.amounts, strict=True):
            if code == _ONE:
                wants.append(1)
            elif code == _TOKENS:
                wants.append(_bounded(call.input_tokens, _output(call), amount, call.max_tokens is None))
            else:
                of_input = _priced(call.input_tokens, rate[0]) + rate[2]
                of_output = _priced(_output(call), rate[1])
                wants.append(_bounded(of_input, of_output, amount, call.max_tokens is None))
        return wants

    def used(self, wants: Sequence[int], cost: int, usage: Usage | None) -> list[int]:
        """Return what a call has really used of each limit."""
        tokens = 0 if usage is None else usage.input_tokens + usage.output_tokens
        used = []
        for code, want in zip(self._codes, wants, strict=True):
            used.append(want if code == _ONE else tokens if code == _TOKENS else cost)
        return used


class Rates:
    """What a token costs at most of all that may serve a model; remembered for a minute."""

    __slots__ = ("_config", "_known", "_models", "_price_of")

    def __init__(self, price_of: PriceOf) -> None:
        self._price_of = price_of
        self._config: GatewayConfig | None = None
        self._models: dict[str, Model] = {}
        self._known: dict[str, tuple[float, Rate]] = {}

    def follow(self, config: GatewayConfig) -> None:
        """Go by another configuration."""
        self._config = config
        self._models = {alias: model for model in config.models for alias in model.aliases}
        self._models |= {model.id: model for model in config.models}
        self._known = {}

    def __contains__(self, name: object) -> bool:
        return name in self._models

    def of(self, name: str, now: float) -> Rate:
        """Return the highest prices of a model and of those that stand in for it; of a name that nobody
        bears, of all models."""
        name = name if name in self._models else ""
        known = self._known.get(name)
        if known is not None and now - known[0] < _FRESH:
            return known[1]
        rate = self._highest(self._deployments(name))
        self._known[name] = (now, rate)
        return rate

    def _deployments(self, name: str) -> Iterable[Deployment]:
        models = self._models.values() if not name else self._chain(self._models[name])
        return [deployment for model in models for deployment in model.deployments]

    def _chain(self, model: Model) -> list[Model]:
        names = (*model.fallbacks, *model.context_fallbacks, *model.policy_fallbacks, model.wake_fallback)
        return [model, *(self._models[name] for name in names if name in self._models)]

    def _highest(self, deployments: Iterable[Deployment]) -> Rate:
        prices = [price for each in deployments if (price := self._price_of(each)) is not None]
        return (
            max([each.input for each in prices], default=0),
            max([each.output for each in prices], default=0),
            max([each.request for each in prices], default=0),
        )


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
    return ASSUMED_OUTPUT if estimate_output(call) else 0


def _priced(tokens: int, per_million: int) -> int:
    return -(-tokens * per_million // _MILLION)


def _bounded(certain: int, output: int, amount: int, assumed: bool) -> int:
    """Return an estimate that a limit can hold at all: one that is above it would refuse the call for good,
    though it most likely needs far less."""
    if assumed:
        output = min(output, amount // _SHARE)
    total = certain + output
    return max(1, min(total, amount)) if total else 0
