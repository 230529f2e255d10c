"""The page on upstreams says what the clients do."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent

from router_core.gateway.clients.factory import make_client
from router_core.gateway.clients.headers import PASSED_ON
from router_core.gateway.config import parse_config
from router_core.gateway.values import ENDPOINTS
from tests.gateway.client_parts import Recorder, client_of

PAGE = Path(__file__).parents[2] / "docs" / "gateway-upstreams.md"


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading, its first line first."""
    section = re.split(r"^#+ ", PAGE.read_text(), flags=re.MULTILINE)
    text = next(each for each in section if each.startswith(heading))
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_endpoints_is_that_of_the_types() -> None:
    """Each cell says yes where the endpoint can be called."""
    head, *lines = rows("Endpoints")
    kinds = head[1:]
    assert {line[0].strip("`") for line in lines} == set(ENDPOINTS)
    for name, *cells in lines:
        for kind, cell in zip(kinds, cells, strict=True):
            known = name.strip("`") in client_of(Recorder(), kind).ENDPOINT_TABLE
            assert (cell == "yes") is known, f"{kind} {name}"


def test_the_addresses_are_those_of_the_types() -> None:
    """What is used where none is given."""
    for kind, _, url, _ in rows("What the gateway speaks to")[1:]:
        made = client_of(Recorder(), kind.strip("`"))
        assert url.strip("`") == made.BASE_URL


def test_the_headers_that_go_on_can() -> None:
    """No client holds back what the page promises."""
    match = re.search(r"Of the caller's headers only (.*?) go on", PAGE.read_text(), re.DOTALL)
    assert match is not None
    names = set(re.findall(r"`(.*?)`", match[1]))
    assert names
    assert names <= PASSED_ON


def test_the_example_is_a_configuration() -> None:
    """It can be pasted under ``clients``, and makes the client that it speaks of."""
    match = re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert match is not None
    text = "models:\n  - id: m\n    type: text-generation\n    clients:\n" + indent(match[1], "      ")
    config = parse_config(text, "page.yaml", {"PERPLEXITY_API_KEY": "pplx-123456789"})
    client = make_client(config.models[0].deployments[0], Recorder())
    assert "embeddings" not in client.ENDPOINT_TABLE
    assert client.ENDPOINT_TABLE["chat/completions"] == "/chat/completions"


def test_the_types_that_translate_are_as_their_table_says() -> None:
    """The second example loads as a whole, and each type answers the endpoints that stand beside it."""
    example = re.findall(r"```yaml\n(models:.*?)```", PAGE.read_text(), re.DOTALL)[0]
    config = parse_config(
        example, "page.yaml", dict.fromkeys(("ANTHROPIC_API_KEY", "RUNPOD_API_KEY"), "k-123456")
    )
    made = {each.type: make_client(each, Recorder()) for model in config.models for each in model.deployments}
    lines = rows("Types that translate")[1:5]
    assert [line[0].strip("`") for line in lines] == ["anthropic", "bedrock", "runpod", "scripted"]
    for kind, _, endpoints, *_ in lines:
        known = set(ENDPOINTS) & set(made[kind.strip("`")].ENDPOINT_TABLE)
        assert (
            known
            == {
                "`chat/completions`": {"chat/completions"},
                "all but `audio/transcriptions`": set(ENDPOINTS) - {"audio/transcriptions"},
                "all": set(ENDPOINTS),
            }[endpoints]
        )
