"""A text service: words as a stream, from a small language model that is trained when the service starts.

router-core call text/generate prompt="the Queen" seed:=7
"""

from __future__ import annotations

import asyncio
import random
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from itertools import accumulate
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from router_core import Router
from router_core.errors import Unavailable

__all__ = ["Markov", "router"]

CORPUS = Path(__file__).with_name("alice.txt")

router = Router()


class Markov:
    """Predicts the next word from the two before it, as often as it stood there in the training text."""

    def __init__(self, text: str) -> None:
        words = re.findall(r"[A-Za-z]+(?:['-][A-Za-z]+)*|[.,;:!?]", text)
        self._after: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for first, second, third in zip(words, words[1:], words[2:], strict=False):
            self._after[first.lower(), second.lower()][third] += 1
            self._after[(second.lower(),)][third] += 1
        self._starts = [word for word in words if word[0].isupper()]
        self.words = len(words)

    def generate(self, prompt: str, *, count: int, temperature: float, rng: random.Random) -> Iterable[str]:
        """Yield ``count`` words and marks that go on from ``prompt``."""
        recent = re.findall(r"[A-Za-z]+(?:['-][A-Za-z]+)*|[.,;:!?]", prompt)[-2:]
        for _ in range(count):
            choices = self._choices(recent)
            if choices is None:
                word = rng.choice(self._starts)
            else:
                word = _draw(choices, temperature, rng)
            yield word
            recent = [*recent[-1:], word]

    def _choices(self, recent: list[str]) -> Counter[str] | None:
        """Return what may follow; one word of context has to do where two were never seen together."""
        lowered = tuple(word.lower() for word in recent)
        return self._after.get(lowered) or self._after.get(lowered[-1:])


def _draw(choices: Counter[str], temperature: float, rng: random.Random) -> str:
    """Pick a word: the likeliest at temperature 0, as in the text at 1, flatter above."""
    words = sorted(choices)
    if temperature < 0.01:
        return max(words, key=lambda word: choices[word])
    peak = max(choices.values())
    weights = list(accumulate((choices[word] / peak) ** (1 / temperature) for word in words))
    return words[min(bisect_right(weights, rng.random() * weights[-1]), len(words) - 1)]


class _Service:
    """What the hooks load and the functions use."""

    model: Markov | None = None


service = _Service()


@router.on_startup
def load() -> None:
    """Train once, before the first request is let in."""
    service.model = Markov(CORPUS.read_text(encoding="utf-8"))


@router.on_shutdown
def unload() -> None:
    """Let go of the model."""
    service.model = None


@router.route("/generate")
async def generate(
    prompt: Annotated[str, Field(max_length=10_000)] = "",
    max_tokens: Annotated[int, Field(ge=1, le=2_000)] = 60,
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.8,
    seed: int | None = None,
    tokens_per_second: Annotated[float, Field(gt=0, le=100_000)] = 50,
) -> AsyncIterator[str]:
    """Continue a prompt in the manner of Lewis Carroll, word by word.

    The same seed gives the same text.
    """
    if service.model is None:
        raise Unavailable("the model is being loaded")
    rng = random.Random(seed)  # noqa: S311 - prose, not a secret
    for word in service.model.generate(prompt, count=max_tokens, temperature=temperature, rng=rng):
        await asyncio.sleep(1 / tokens_per_second)
        yield word if word in ".,;:!?" else f" {word}"


class Readability(BaseModel):
    """How hard a text is to read."""

    words: int
    sentences: int
    reading_ease: float
    """Flesch reading ease: 90 is easy, 30 is a scientific paper."""
    keywords: list[str]


class Passage(BaseModel):
    """A text to judge."""

    text: Annotated[str, Field(min_length=1, max_length=200_000)]
    keywords: Annotated[int, Field(ge=0, le=50)] = 5


@router.post("/readability")
def readability(passage: Passage) -> Readability:
    """Count words and sentences, judge the reading ease, name the most frequent long words."""
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", passage.text)
    sentences = max(1, len(re.findall(r"[.!?]+(?:\s|$)", passage.text)))
    syllables = sum(_syllables(word) for word in words)
    count = max(1, len(words))
    ease = 206.835 - 1.015 * count / sentences - 84.6 * syllables / count
    frequent = Counter(word.lower() for word in words if len(word) > 4)
    return Readability(
        words=len(words),
        sentences=sentences,
        reading_ease=round(ease, 1) if words else 0.0,
        keywords=sorted(frequent, key=lambda word: (-frequent[word], word))[: passage.keywords],
    )


def _syllables(word: str) -> int:
    """Count groups of vowels; a silent final e does not count."""
    groups = len(re.findall(r"[aeiouy]+", word.lower()))
    silent = word.lower().endswith("e") and not word.lower().endswith("le")
    return max(1, groups - (1 if silent else 0))
