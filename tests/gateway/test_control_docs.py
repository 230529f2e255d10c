"""The page about the API says what is true: its requests are answered, its routes and fields are there."""

from __future__ import annotations

import json
import re

from router_core.gateway.control.model_body import _ENDPOINT, _MODEL, _PARAMETERS, ENDPOINT_TYPES
from router_core.gateway.control.providers import MODEL_KINDS, PROVIDERS
from tests.docs_blocks import ROOT, blocks
from tests.gateway.serving import house

PAGE = ROOT / "docs" / "gateway-control.md"
TEXT = PAGE.read_text(encoding="utf-8")


async def test_every_request_is_answered() -> None:
    """In the order of the page, on one gateway."""
    file = "models: [{id: claude-3-sonnet, type: text-generation, clients: [{type: scripted}]}]"
    found = blocks(PAGE, "http")
    assert len(found) > 9
    async with house(file, {"OPENAI_API_KEY": "not-a-real-one-000"}) as made:
        for block in found:
            head, _, body = block.code.partition("\n\n")
            method, path = head.strip().split(" ")
            reply = await made.ask(path, json.loads(body) if body.strip() else None, method)
            assert reply.status < 300, (block.where, reply.body)
            assert "warnings" not in reply.json() or not reply.json()["warnings"], block.where


async def test_every_route_is_listed() -> None:
    """All that is tagged as the control plane's, with its methods, and nothing else."""
    async with house("") as made:
        document = (await made.ask("/openapi.json")).json()
    served = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if "control" in operation.get("tags", ())
    }
    told = set()
    for row in re.findall(r"^\| (`[A-Z].*?) \|", TEXT, re.MULTILINE):
        for part in row.split("·"):
            words = re.findall(r"`([^`]+)`", part)
            paths = [word for each in words for word in each.split(" ") if word.startswith("/")]
            methods = [word for each in words for word in each.split(" ") if word.isupper()]
            whole = [paths[0], *(paths[0] + path for path in paths[1:])]
            told |= {(method, path) for method in methods for path in whole}
    assert told == served


def test_every_field_and_word_is_told() -> None:
    """Of models, endpoints, providers and types."""
    words = (*_MODEL, *_ENDPOINT, *_PARAMETERS, *ENDPOINT_TYPES, *PROVIDERS, *MODEL_KINDS)
    assert not [word for word in words if f"`{word}`" not in TEXT and f'"{word}"' not in TEXT]
