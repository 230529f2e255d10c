"""The prices that come with genai-prices: a list inside the package, so that nothing is fetched."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from router_core.gateway.accounting.prices import Listed, PriceList, Tariff
from router_core.gateway.values import Price

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice

__all__ = ["GenaiModel", "GenaiPrices", "open_list"]

_MICRO: Final = 1_000_000
_KILO: Final = 1000


class GenaiModel:
    """One model of the list."""

    __slots__ = ("_model", "changes")

    def __init__(self, model: ModelInfo) -> None:
        self._model = model
        self.changes = isinstance(model.prices, list) and len(model.prices) > 1

    def tariff(self, at: float) -> Tariff | None:
        """Return what it costs at that moment; None where it is billed by something that we cannot count."""
        if not self._model.prices:
            return None
        prices = self._model.get_prices(datetime.fromtimestamp(at, UTC))
        base = _price(prices, 0)
        hour = _rate(prices, "input_audio_hours", 0)
        if hour is None:
            hour = _rate(prices, "audio_hours", 0)
        if base is None and hour is None:
            return None
        starts = sorted({start for name in _BY_TOKENS for start in _starts(prices, name)}, reverse=True)
        tiers = [(start, _price(prices, start + 1)) for start in starts]
        return Tariff(
            base,
            tuple((start, price) for start, price in tiers if price is not None),
            hour,
            _rate(prices, "input_audio_mtok", 0),
        )


class GenaiPrices:
    """The list."""

    __slots__ = ("_snapshot",)

    def __init__(self, snapshot: DataSnapshot) -> None:
        self._snapshot = snapshot

    def find(self, provider: str, url: str, model: str) -> Listed | None:
        """Return a model of whoever is at the address, else of the provider."""
        found = self._find(None, url, model) if url else None
        if found is None and provider and not (url and self._is_known(url)):
            found = self._find(provider, None, model)
        return None if found is None else GenaiModel(found)

    def _is_known(self, url: str) -> bool:
        """Return whether somebody in the list is at that address: then nobody else's prices apply."""
        try:
            self._snapshot.find_provider(None, None, url)
        except LookupError:
            return False
        return True

    def _find(self, provider: str | None, url: str | None, model: str) -> ModelInfo | None:
        try:
            return self._snapshot.find_provider_model(model, None, provider, url)[1]
        except LookupError:
            return None


class _Nothing:
    """The list where the package is not installed."""

    def find(self, provider: str, url: str, model: str) -> Listed | None:
        """Know nobody."""
        return None


def open_list() -> PriceList:
    """Load the list (0.2 s); without the package everything is unpriced."""
    try:
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        return _Nothing()
    return GenaiPrices(get_snapshot())


_BY_TOKENS: Final = ("input_mtok", "output_mtok", "cache_read_mtok")


def _price(prices: ModelPrice, tokens: int) -> Price | None:
    """Return the price of a call with so many tokens of input; None where tokens are not what is billed."""
    given, made = _rate(prices, "input_mtok", tokens), _rate(prices, "output_mtok", tokens)
    request = _rate(prices, "requests_kcount", tokens)
    if given is None and made is None and request is None:
        return None
    cached = _rate(prices, "cache_read_mtok", tokens)
    # the list has it for a thousand requests
    return Price(given or 0, made or 0, cached, -(-(request or 0) // _KILO))


def _rate(prices: ModelPrice, name: str, tokens: int) -> int | None:
    """Return one of its rates in micro-dollars, with so many tokens of input."""
    value = getattr(prices, name, None)
    if value is None:
        return None
    if not isinstance(value, Decimal):
        base = value.base
        value = next((tier.price for tier in reversed(value.tiers) if tokens > tier.start), base)
    return round(value * _MICRO)


def _starts(prices: ModelPrice, name: str) -> list[int]:
    value = getattr(prices, name, None)
    return [] if value is None or isinstance(value, Decimal) else [tier.start for tier in value.tiers]
