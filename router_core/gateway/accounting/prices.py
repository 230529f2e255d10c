"""What an attempt costs, in whole micro-dollars.

A price comes from the configuration of the deployment, else from the list of ``genai-prices``, which is read
when a deployment is met that needs it. What nobody knows is "unpriced": None, which is not 0.

Bounds of what is computed, where the list knows more than an answer's ``usage`` tells us: writing into a
provider's cache is billed like other input (it costs 1.25 to 2 times as much), pictures in a prompt like
text, and searches that the provider makes by itself not at all. A configured price has neither tiers nor
hours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from router_core.gateway.call import Usage
from router_core.gateway.values import Deployment, Price

__all__ = ["Listed", "PriceList", "Prices", "Tariff", "cost"]

_MILLION: Final = 1_000_000
_HOUR: Final = 3600
_MAX_KNOWN: Final = 50_000
"""Models whose price is remembered; with more (reloads over months) it begins anew."""
REFRESH: Final = 60.0
"""Seconds after which prices that change with the time of the day are looked at again."""
_PROVIDERS: Final[Mapping[str, str]] = {
    "openai": "openai",
    "azure": "azure",
    "anthropic": "anthropic",
    "bedrock": "aws",
    "generic": "",
    "huggingface": "",
}
"""Client type -> whose prices; empty: those of whoever is at the address. Types that are not here run on
machines that are paid by the hour, or cost nothing."""


def cost(price: Price, usage: Usage) -> int:
    """Return what usage costs, rounded up to a whole micro-dollar."""
    cached = usage.cached_tokens
    rate = price.input
    total = usage.input_tokens * rate + usage.output_tokens * price.output + price.request * _MILLION
    if cached and price.cached_input is not None:
        total += cached * (price.cached_input - rate)
    return -(-total // _MILLION)


@dataclass(frozen=True, slots=True)
class Tariff:
    """Everything that is known about what a model costs."""

    price: Price | None
    """By tokens; None: it is not billed by tokens."""
    tiers: tuple[tuple[int, Price], ...] = ()
    """(tokens of input, price): with more input than that, the whole call costs this. The highest first."""
    hour: int | None = None
    """For an hour of audio."""
    audio_input: int | None = None
    """For a million tokens of audio, which is what transcriptions read."""

    def cost(self, usage: Usage, *, audio: bool = False) -> int | None:
        """Return what usage costs; None where it was counted in something that has no rate here."""
        if usage.seconds:
            return None if self.hour is None else -(-usage.seconds * self.hour // _HOUR)
        price = self.price
        if price is None:
            return None
        if self.tiers:
            price = next((each for start, each in self.tiers if usage.input_tokens > start), price)
        if not usage.input_tokens and not usage.output_tokens:
            return self._flat(price)
        if audio and self.audio_input is not None:
            return -(
                -(usage.input_tokens * self.audio_input + usage.output_tokens * price.output) // _MILLION
            )
        return cost(price, usage)

    def reserved(self) -> Price | None:
        """Return what is reserved by: of what is billed by time, as if each token of sound were a second.

        An upload is estimated at 2,000 bytes a token, and sound of 16 kbit/s has as many in a second: speech
        is hardly ever recorded with less. None where nothing is known.
        """
        if self.price is not None or self.hour is None:
            return self.price
        return Price(input=-(-self.hour * _MILLION // _HOUR))

    @staticmethod
    def _flat(price: Price) -> int | None:
        """Return the price of a call of which nothing was counted."""
        return None if price.request == 0 and (price.input or price.output) else price.request


class Listed(Protocol):
    """A model in a list of prices."""

    changes: bool
    """Whether its price depends on the time."""

    def tariff(self, at: float) -> Tariff | None:
        """Return what it costs at that moment (seconds since the epoch); None where that is not known."""


class PriceList(Protocol):
    """Prices by the names of models."""

    def find(self, provider: str, url: str, model: str) -> Listed | None:
        """Return a model of whoever is at the address, else of the provider; None where it is not listed."""


class Prices:
    """What deployments cost. Looks a model up once and remembers also that nobody knows it."""

    __slots__ = ("_at", "_changing", "_known", "_list", "_now")

    def __init__(self, listed: PriceList | None = None, *, now: Callable[[], float] = time.time) -> None:
        """``listed`` is genai-prices unless given; it is not imported before it is needed."""
        self._list = listed
        self._now = now
        self._known: dict[tuple[str, str, str], Tariff | None] = {}
        self._changing: dict[tuple[str, str, str], Listed] = {}
        self._at = 0.0

    def price(self, deployment: Deployment) -> Price | None:
        """Return what its tokens cost (for little input, where that makes a difference); None: unpriced."""
        tariff = self.tariff(deployment)
        return None if tariff is None else tariff.price

    def reserved(self, deployment: Deployment) -> Price | None:
        """Return what is reserved by before it is known what a call has used; None: unpriced."""
        tariff = self.tariff(deployment)
        return None if tariff is None else tariff.reserved()

    def tariff(self, deployment: Deployment) -> Tariff | None:
        """Return all that is known about its price; None: unpriced."""
        if deployment.price is not None:
            return Tariff(deployment.price)
        if deployment.type not in _PROVIDERS:
            return None
        key = _key(deployment)
        if key not in self._known:
            self._known[key] = self._look_up(key)
        return self._known[key]

    def learn(self, deployments: Iterable[Deployment]) -> None:
        """Look all of them up, so that no call has to. May run in a thread: the list takes time to load."""
        for deployment in deployments:
            self.tariff(deployment)

    def missing(self, deployments: Iterable[Deployment]) -> list[Deployment]:
        """Return those that would have to be looked up."""
        return [
            each
            for each in deployments
            if each.price is None and each.type in _PROVIDERS and _key(each) not in self._known
        ]

    def refresh(self) -> bool:
        """Look again at prices that change with time; returns whether one has. Quick when called often."""
        now = self._now()
        if 0.0 <= now - self._at < REFRESH:
            return False
        self._at = now
        changed = False
        for key, listed in list(self._changing.items()):
            tariff = listed.tariff(now)
            if tariff != self._known.get(key):
                self._known[key] = tariff
                changed = True
        return changed

    def _look_up(self, key: tuple[str, str, str]) -> Tariff | None:
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
            self._changing.clear()
        if self._list is None:
            from router_core.gateway.accounting.genai_prices import open_list

            self._list = open_list()
        kind, url, model = key
        found = self._list.find(_PROVIDERS[kind], url, model)
        if found is None:
            return None
        if found.changes:
            self._changing[key] = found
        return found.tariff(self._now())


def _key(deployment: Deployment) -> tuple[str, str, str]:
    return (deployment.type, deployment.base_url, deployment.model)
