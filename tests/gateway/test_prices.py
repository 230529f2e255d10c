"""What usage costs: whose price holds, exact sums, and prices that nobody knows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.gateway.accounting.prices import REFRESH, Listed, Prices, Tariff, cost
from router_core.gateway.call import Usage
from router_core.gateway.values import CLIENT_TYPES, Deployment, Price

GPT = Price(2_500_000, 10_000_000, 1_250_000)


def deployment(
    kind: str = "openai", model: str = "gpt-4o", url: str = "", price: Price | None = None
) -> Deployment:
    """Return a deployment."""
    return Deployment(f"{kind}-{model}", "m", kind, model, base_url=url, price=price)


class Model:
    """A model of a list, whose price is one thing until a moment and another afterwards."""

    def __init__(self, tariff: Tariff | None, later: Tariff | None = None, since: float = 0.0) -> None:
        self.changes = later is not None
        self._tariff, self._later, self._since = tariff, later, since

    def tariff(self, at: float) -> Tariff | None:
        """Return the price of that moment."""
        return self._later if self.changes and at >= self._since else self._tariff


class Book:
    """A list of prices that remembers what it was asked."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self.models = models
        self.asked: list[tuple[str, str, str]] = []

    def find(self, provider: str, url: str, model: str) -> Listed | None:
        """Return a model by its name."""
        self.asked.append((provider, url, model))
        return self.models.get(model)


@pytest.mark.parametrize(
    ("price", "usage", "expected"),
    [
        (GPT, Usage(1_000_000, 0), 2_500_000),
        (GPT, Usage(0, 1_000_000), 10_000_000),
        (GPT, Usage(1000, 100, 400), 1500 + 500 + 1000),
        (GPT, Usage(1, 0), 3),
        (GPT, Usage(0, 0), 0),
        (Price(1, 0), Usage(1, 0), 1),
        (Price(1, 0), Usage(1_000_000, 0), 1),
        (Price(1, 0), Usage(1_000_001, 0), 2),
        (Price(150_000, 600_000), Usage(10, 10), 8),
        (Price(2_000_000, 0, 0), Usage(10, 0, 10), 0),
        (Price(2_000_000, 0, None), Usage(10, 0, 10), 20),
        (Price(0, 0, None, 700), Usage(10, 10), 700),
        (Price(1_000_000, 0, None, 700), Usage(10, 0), 710),
        (Price(10**9, 10**9), Usage(10**8, 10**8), 2 * 10**11),
    ],
)
def test_sums(price: Price, usage: Usage, expected: int) -> None:
    """Whole micro-dollars, rounded up; what was read from a cache costs what the price says of it."""
    assert cost(price, usage) == expected


@given(
    st.builds(Price, *[st.integers(0, 10**9)] * 2, st.none() | st.integers(0, 10**9), st.integers(0, 10**6)),
    st.integers(0, 10**8),
    st.integers(0, 10**8),
    st.integers(0, 10**8),
)
def test_sums_are_exact(price: Price, given_: int, made: int, cached: int) -> None:
    """Never less than the exact sum, and less than one micro-dollar more; no floats are in it."""
    cached = min(cached, given_)
    rate = price.input if price.cached_input is None else price.cached_input
    exact = (
        Fraction((given_ - cached) * price.input + cached * rate + made * price.output, 10**6) + price.request
    )
    assert exact <= cost(price, Usage(given_, made, cached)) < exact + 1


def test_tiers_hold_for_the_whole_call() -> None:
    """With more input than a tier begins at, everything costs its price."""
    low, middle, high = Price(100, 200), Price(1000, 2000), Price(10_000, 20_000)
    tariff = Tariff(low, ((500_000, high), (200_000, middle)))
    assert tariff.cost(Usage(200_000, 100_000)) == 40
    assert tariff.cost(Usage(200_001, 100_000)) == 401
    assert tariff.cost(Usage(500_001, 100_000)) == 7001


def test_what_was_counted_has_to_have_a_rate() -> None:
    """Tokens have none where time is billed, and the other way round; nothing counted costs a request."""
    by_time = Tariff(None, hour=360_000)
    assert by_time.cost(Usage(seconds=9)) == 900
    assert by_time.cost(Usage(seconds=1)) == 100
    assert by_time.cost(Usage(10, 10)) is None
    assert Tariff(GPT).cost(Usage(seconds=9)) is None
    assert Tariff(GPT).cost(Usage()) is None
    assert Tariff(Price(request=40)).cost(Usage()) == 40
    assert Tariff(Price()).cost(Usage()) == 0


def test_transcriptions_read_sound() -> None:
    """Whose tokens cost more than those of text, where the list says so."""
    tariff = Tariff(Price(2_500_000, 10_000_000), audio_input=6_000_000)
    assert tariff.cost(Usage(100, 10), audio=True) == 700
    assert tariff.cost(Usage(100, 10)) == 350


def test_the_configured_price_wins() -> None:
    """Even over a model that the list knows, and for types that nobody lists."""
    book = Book({"gpt-4o": Model(Tariff(GPT))})
    prices = Prices(book)
    own = Price(1, 2)
    assert prices.price(deployment(price=own)) == own
    assert prices.price(deployment("vllm", price=own)) == own
    assert prices.price(deployment(price=Price())) == Price()
    assert book.asked == []


@pytest.mark.parametrize("kind", CLIENT_TYPES)
def test_who_is_looked_up(kind: str) -> None:
    """Those who bill by tokens; what runs on rented machines, or nowhere, never."""
    book = Book({"gpt-4o": Model(Tariff(GPT))})
    found = Prices(book).price(deployment(kind))
    listed = kind in ("openai", "azure", "anthropic", "bedrock", "generic", "huggingface")
    assert (found == GPT, bool(book.asked)) == (listed, listed)


def test_a_model_is_looked_up_once() -> None:
    """Known or not, and whoever asks."""
    book = Book({"gpt-4o": Model(Tariff(GPT))})
    prices = Prices(book)
    prices.learn([deployment(), deployment(model="nobody")])
    for _ in range(3):
        assert prices.price(deployment()) == GPT
        assert prices.price(deployment(model="nobody")) is None
    assert len(book.asked) == 2
    prices.price(deployment(url="https://elsewhere.example/v1"))
    assert len(book.asked) == 3


def test_a_model_without_a_price_by_tokens() -> None:
    """Strategies compare by tokens: one that is billed by time has no price for them."""
    prices = Prices(Book({"whisper-1": Model(Tariff(None, hour=360_000)), "odd": Model(None)}))
    assert prices.price(deployment(model="whisper-1")) is None
    whisper = prices.tariff(deployment(model="whisper-1"))
    assert whisper is not None
    assert whisper.hour == 360_000
    assert prices.tariff(deployment(model="odd")) is None


def test_prices_that_change_with_time() -> None:
    """They are looked at again after a minute, and only they."""
    now = [1000.0]
    changing = Model(Tariff(Price(1)), Tariff(Price(2)), since=1030.0)
    prices = Prices(Book({"a": changing, "b": Model(Tariff(Price(9)))}), now=lambda: now[0])
    a, b = deployment(model="a"), deployment(model="b")
    prices.learn([a, b])
    assert prices.refresh() is False
    now[0] += REFRESH - 1
    assert prices.refresh() is False
    assert prices.price(a) == Price(1)
    now[0] += 1
    assert prices.refresh() is True
    assert (prices.price(a), prices.price(b)) == (Price(2), Price(9))
    now[0] -= 5000  # somebody has set the clock
    assert prices.refresh() is True
    assert prices.price(a) == Price(1)


def test_the_list_is_not_imported_with_the_gateway() -> None:
    """Nor for a deployment with a price of its own, nor for one that is never looked up."""
    code = """
import sys
from router_core.gateway.accounting import ledger
from router_core.gateway.accounting.prices import Prices
from router_core.gateway.values import Deployment, Price
prices = Prices()
prices.learn([Deployment("a", "m", "openai", "gpt-4o", price=Price(1))])
prices.learn([Deployment("b", "m", "vllm", "gpt-4o")])
assert not [name for name in sys.modules if name.startswith(("genai_prices", "httpx"))], sys.modules
assert prices.price(Deployment("c", "m", "openai", "gpt-4o")).input == 2_500_000
assert "genai_prices" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
