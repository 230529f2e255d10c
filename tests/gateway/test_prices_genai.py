"""The list of genai-prices, with the library's own sums as the judge of ours."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from router_core.gateway.accounting.genai_prices import GenaiModel, open_list
from router_core.gateway.accounting.prices import Prices, cost
from router_core.gateway.call import Usage
from router_core.gateway.values import Deployment, Price

genai_prices = pytest.importorskip("genai_prices", reason="an extra: gateway")

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


def deployment(kind: str, model: str, url: str = "") -> Deployment:
    """Return a deployment."""
    return Deployment("d", "m", kind, model, base_url=url)


@pytest.fixture(scope="module")
def prices() -> Prices:
    """Return prices as of a day in autumn."""
    return Prices(now=AT.timestamp)


MODELS = [
    ("openai", "openai", "gpt-4o"),
    ("openai", "openai", "gpt-4o-mini-2024-07-18"),
    ("openai", "openai", "gpt-5.4"),
    ("openai", "openai", "text-embedding-3-small"),
    ("azure", "azure", "gpt-4o"),
    ("anthropic", "anthropic", "claude-3-5-sonnet-20241022"),
    ("anthropic", "anthropic", "claude-sonnet-4-5-20250929"),
    ("bedrock", "aws", "anthropic.claude-3-5-sonnet-20241022-v2:0"),
    ("bedrock", "aws", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
]
USAGES = [
    (1, 1, 0),
    (1000, 500, 0),
    (1000, 500, 999),
    (199_999, 7, 5),
    (300_000, 1000, 100_000),
    (10**6, 10**6, 0),
]


@pytest.mark.parametrize(("kind", "provider", "model"), MODELS)
def test_sums_are_those_of_the_library(prices: Prices, kind: str, provider: str, model: str) -> None:
    """To the micro-dollar, rounded up: tiers, caches and all."""
    tariff = prices.tariff(deployment(kind, model))
    assert tariff is not None
    for given, made, cached in USAGES:
        usage = genai_prices.Usage(input_tokens=given, output_tokens=made, cache_read_tokens=cached)
        oracle = genai_prices.calc_price(usage, model, provider_id=provider, genai_request_timestamp=AT)
        assert tariff.cost(Usage(given, made, cached)) == math.ceil(oracle.total_price * 1_000_000)


def test_the_whole_list_of_two_providers(prices: Prices) -> None:
    """Every model that is billed by tokens costs what the library says, for a small and a large call."""
    from genai_prices.data_snapshot import get_snapshot

    compared = 0
    for kind, provider in (("openai", "openai"), ("anthropic", "anthropic")):
        for model in get_snapshot().find_provider(None, provider, None).models:
            tariff = prices.tariff(deployment(kind, model.id))
            if tariff is None or tariff.price is None:
                continue
            for given, made in ((100, 100), (400_000, 100)):
                usage = genai_prices.Usage(input_tokens=given, output_tokens=made)
                oracle = genai_prices.calc_price(
                    usage, model.id, provider_id=provider, genai_request_timestamp=AT
                )
                ours = tariff.cost(Usage(given, made))
                assert ours is not None
                assert abs(Decimal(ours) - oracle.total_price * 1_000_000) <= 1, model.id
                compared += 1
    assert compared > 100


def test_a_price_by_hand(prices: Prices) -> None:
    """So that the library is not the only judge."""
    assert prices.price(deployment("openai", "gpt-4o-2024-08-06")) == Price(2_500_000, 10_000_000, 1_250_000)
    tiered = prices.tariff(deployment("openai", "gpt-5.4"))
    assert tiered is not None
    assert tiered.price == Price(2_500_000, 15_000_000, 250_000)
    assert tiered.tiers == ((272_000, Price(5_000_000, 22_500_000, 500_000)),)
    assert cost(tiered.price, Usage(272_000, 0)) == 680_000
    assert tiered.cost(Usage(272_001, 0)) == 1_360_005


def test_several_tiers() -> None:
    """The highest that is reached holds, for each kind of token; they need not begin at the same number."""
    from genai_prices.types import ClauseEquals, ModelInfo, ModelPrice, Provider, Tier, TieredPrices

    def tiers(base: int, *steps: tuple[int, int]) -> TieredPrices:
        return TieredPrices(base=Decimal(base), tiers=[Tier(start, Decimal(price)) for start, price in steps])

    price = ModelPrice(input_mtok=tiers(1, (1000, 2), (5000, 4)), output_mtok=tiers(10, (3000, 20)))
    model = ModelInfo(id="m", match=ClauseEquals("m"), prices=price)
    provider = Provider(id="p", name="p", api_pattern="p", models=[model])
    tariff = GenaiModel(model).tariff(AT.timestamp())
    assert tariff is not None
    for given in (1, 1000, 1001, 3000, 3001, 5000, 5001):
        usage = genai_prices.Usage(input_tokens=given, output_tokens=100)
        oracle = model.calc_price(usage, provider)
        assert tariff.cost(Usage(given, 100)) == math.ceil(oracle.total_price * 1_000_000)


def test_speech_is_billed_by_the_hour(prices: Prices) -> None:
    """Whisper: 0.36 dollars for an hour."""
    tariff = prices.tariff(deployment("openai", "whisper-1"))
    assert tariff is not None
    assert (tariff.price, tariff.hour) == (None, 360_000)
    assert tariff.cost(Usage(seconds=60)) == 6000


def test_speech_by_tokens(prices: Prices) -> None:
    """What a transcription reads is sound, and sound costs more."""
    tariff = prices.tariff(deployment("openai", "gpt-4o-transcribe"))
    assert tariff is not None
    assert tariff.cost(Usage(1_000_000, 0), audio=True) == 6_000_000
    assert tariff.cost(Usage(1_000_000, 0)) == 2_500_000


@pytest.mark.parametrize(
    ("kind", "model", "url", "same_as"),
    [
        ("generic", "deepseek-chat", "https://api.deepseek.com/v1", "deepseek"),
        ("openai", "deepseek-chat", "https://api.deepseek.com/v1", "deepseek"),
        ("generic", "gpt-4o", "https://api.openai.com/v1", "openai"),
        ("openai", "gpt-4o", "http://127.0.0.1:9000/v1", "openai"),
        ("azure", "gpt-4o", "https://mine.openai.azure.com", "azure"),
    ],
)
def test_the_address_tells_whose_price(prices: Prices, kind: str, model: str, url: str, same_as: str) -> None:
    """An address that the list knows decides; with another one the client's type does."""
    tariff = prices.tariff(deployment(kind, model, url))
    usage = genai_prices.Usage(input_tokens=1000, output_tokens=1000)
    oracle = genai_prices.calc_price(usage, model, provider_id=same_as, genai_request_timestamp=AT)
    assert tariff is not None
    assert tariff.cost(Usage(1000, 1000)) == math.ceil(oracle.total_price * 1_000_000)


@pytest.mark.parametrize(
    ("kind", "model", "url"),
    [
        ("openai", "nobody-knows-this", ""),
        ("openai", "", ""),
        ("openai", "x" * 10_000, ""),
        ("openai", "gpt-4o", "https://api.deepseek.com/v1"),
        ("generic", "gpt-4o", ""),
        ("generic", "gpt-4o", "http://127.0.0.1:8000/v1"),
        (
            "huggingface",
            "meta-llama/Llama-3.3-70B-Instruct",
            "https://abc.eu-west-1.aws.endpoints.huggingface.cloud",
        ),
        ("azure", "the-name-of-my-deployment", "https://mine.openai.azure.com"),
        ("vllm", "gpt-4o", ""),
    ],
)
def test_what_nobody_knows_is_unpriced(prices: Prices, kind: str, model: str, url: str) -> None:
    """None, and never a price of 0, nor that of somebody else."""
    assert prices.tariff(deployment(kind, model, url)) is None
    assert prices.price(deployment(kind, model, url)) is None


def test_prices_of_the_time_of_day() -> None:
    """A provider that is cheaper at night is looked at again."""
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import TimeOfDateConstraint

    name = next(
        model.id
        for model in get_snapshot().find_provider(None, "deepseek", None).models
        if isinstance(model.prices, list)
        and any(isinstance(p.constraint, TimeOfDateConstraint) for p in model.prices)
    )
    url = "https://api.deepseek.com"
    found = set()
    for hour in range(24):
        at = AT.replace(hour=hour).timestamp()
        tariff = Prices(now=lambda at=at: at).tariff(deployment("generic", name, url))  # type: ignore[misc]
        usage = genai_prices.Usage(input_tokens=1000, output_tokens=1000)
        stamp = AT.replace(hour=hour)
        oracle = genai_prices.calc_price(usage, name, provider_id="deepseek", genai_request_timestamp=stamp)
        assert tariff is not None
        assert tariff.cost(Usage(1000, 1000)) == math.ceil(oracle.total_price * 1_000_000)
        found.add(tariff)
    assert len(found) > 1


def test_without_the_package_everything_is_unpriced(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra; the gateway serves without it."""
    monkeypatch.setitem(sys.modules, "genai_prices.data_snapshot", None)
    assert open_list().find("openai", "", "gpt-4o") is None
    assert Prices().price(deployment("openai", "gpt-4o")) is None
