"""The page about the configuration says what is true: its examples load, its tables are complete."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from typing import Any

import pytest

from router_core.gateway.config import load_config, parse_config
from router_core.gateway.config.section import Section
from router_core.gateway.values import (
    CLIENT_TYPES,
    MODEL_TYPES,
    BreakerPolicy,
    EjectionPolicy,
    HealthPolicy,
    HedgePolicy,
    RetryPolicy,
    Timeouts,
)
from tests.docs_blocks import ROOT, Block, blocks

PAGE = ROOT / "docs" / "gateway-configuration.md"
EXAMPLES = blocks(PAGE, "yaml")
SECRETS = ("OPENAI_API_KEY", "ALBERT_API_KEY", "HUGGINGFACE_API_KEY", "AZURE_OPENAI_KEY", "ANTHROPIC_API_KEY")


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: str(block.line))
def test_examples_load(block: Block) -> None:
    """Each as a whole file, with the variables that it names and no others."""
    config = parse_config(block.code, block.where, dict.fromkeys(SECRETS, "sk-x"))
    assert config.models


def test_the_file_of_the_examples_loads() -> None:
    """The one that `make run` serves."""
    assert load_config(ROOT / "examples" / "gateway.yaml", {}).models


def tables() -> dict[str, list[list[str]]]:
    """The rows of the tables of the page, by the heading above them."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| `"):
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


def keys(rows: list[list[str]]) -> set[str]:
    """The keys of a table: the words in the first column."""
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row[0])}


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("Timeouts", Timeouts), ("Health", HealthPolicy), ("Retry", RetryPolicy), ("Breaker", BreakerPolicy),
        ("Ejection", EjectionPolicy), ("Hedging", HedgePolicy),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_policies_are_listed_with_their_defaults(heading: str, kind: Any) -> None:
    """Every field, in order, with the default that it has."""
    told = [(row[0].strip("`"), row[1]) for row in tables()[heading]]
    wanted = []
    for each in fields(kind):
        default = each.default
        shown = f"{default:g}" if isinstance(default, int | float) else "by type"
        shown = str(default).lower() if isinstance(default, bool) else shown
        wanted.append((each.name, "required" if default is MISSING else shown))
    assert told == wanted


def test_every_key_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a section takes stands on the page, in the table of its kind or in the text."""
    asked: dict[str, set[str]] = {}
    close = Section.close

    def noted(section: Section) -> None:
        asked.setdefault(section.name.split(" ")[0], set()).update(section._asked)
        close(section)

    monkeypatch.setattr(Section, "close", noted)
    for block in EXAMPLES:
        parse_config(block.code, "x", dict.fromkeys(SECRETS, "x"))
    page = set(re.findall(r"`([^`\s:]+)(?:: [^`]+)?`", PAGE.read_text(encoding="utf-8")))
    elsewhere = {"internet", "mcp", "monitoring", "multi_agents_search", "playground", "usages", "web_search"}
    asked["the"] = {key for key in asked["the"] if not key.startswith("x-")} - elsewhere
    for name in ("model", "deployment", "endpoint", "the"):
        assert not asked[name] - page, name
    listed = tables()
    assert keys(listed["A model"]) <= asked["model"]
    assert keys(listed["A deployment"]) <= asked["deployment"]
    assert keys(listed["An endpoint"]) == asked["endpoint"]
    assert {"api_key", "base_url", "api_url", "args"} <= keys(listed["A deployment"])


def test_types_are_listed() -> None:
    """Of models and of clients."""
    page = PAGE.read_text(encoding="utf-8")
    assert not [word for word in (*CLIENT_TYPES, *MODEL_TYPES) if f"`{word}`" not in page]
