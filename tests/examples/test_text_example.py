"""The text service, called as plain functions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from examples import text as service
from router_core.errors import Unavailable


@pytest.fixture
def loaded() -> Iterator[None]:
    service.load()
    yield
    service.unload()


async def told(prompt: str = "", **options: float) -> str:
    seed = int(options.pop("seed", 1))
    count = int(options.pop("max_tokens", 40))
    words = service.generate(prompt, count, options.get("temperature", 0.8), seed, 100_000)
    return "".join([word async for word in words])


@pytest.mark.usefixtures("loaded")
async def test_same_seed_same_text() -> None:
    """A seed decides the text; another one tells another story."""
    assert await told("the Queen", seed=7) == await told("the Queen", seed=7)
    assert await told("the Queen", seed=7) != await told("the Queen", seed=8)


@pytest.mark.usefixtures("loaded")
async def test_temperature_zero_always_takes_the_likeliest_word() -> None:
    """Without chance the seed does not matter."""
    assert await told("said the", seed=1, temperature=0) == await told("said the", seed=2, temperature=0)


@pytest.mark.usefixtures("loaded")
async def test_every_step_stood_in_the_book() -> None:
    """Each pair of neighbours in the text occurs in what the model has read."""
    model = service.service.model
    assert model is not None
    told_words = (await told("the White Rabbit", max_tokens=200)).replace(",", " ,").replace(".", " .")
    book = " ".join(service.CORPUS.read_text().split())
    pairs = [f"{a} {b}" for a, b in zip(told_words.split(), told_words.split()[1:], strict=False)]
    plain = [pair for pair in pairs if pair.replace(" ", "").isalpha()]
    assert len(plain) > 60
    assert sum(pair.lower() in book.lower() for pair in plain) / len(plain) > 0.9


@pytest.mark.usefixtures("loaded")
async def test_count_and_odd_prompts() -> None:
    """As many tokens as asked for, whatever the prompt is."""
    for prompt in ("", "   ", "zzz qqq", "\N{HOT BEVERAGE}\ufe0f", "the " * 2_000):
        words = [word async for word in service.generate(prompt, 17, 1.0, 3, 100_000)]
        assert len(words) == 17
        assert all(words)


async def test_not_loaded_is_said() -> None:
    """Without its model the service is unavailable, not broken."""
    with pytest.raises(Unavailable):
        await told("the")


def test_readability_of_known_texts() -> None:
    """An easy text scores higher than a hard one; keywords are counted."""
    easy = service.readability(service.Passage(text="The cat sat. The dog ran. We had fun."))
    hard = "Institutional considerations necessitate comprehensive organisational reconfiguration."
    difficult = service.readability(service.Passage(text=f"{hard} {hard}", keywords=2))
    assert (easy.words, easy.sentences) == (9, 3)
    assert easy.reading_ease > 90 > 30 > difficult.reading_ease
    assert difficult.keywords == ["comprehensive", "considerations"]
    assert service.readability(service.Passage(text="...")).words == 0
