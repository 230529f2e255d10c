"""The page about keys says what is true: settings, defaults, fields, limits."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from router_core.security.jwks import ALGORITHMS
from router_core.security.key_openapi import describe
from router_core.security.key_records import KeyRecord
from router_core.security.key_wishes import LIMIT_KINDS
from router_core.settings import VARIABLES, Settings

PAGE = (Path(__file__).parent.parent.parent / "docs" / "keys.md").read_text(encoding="utf-8")
OURS = [field for field in fields(Settings) if field.name.startswith(("keys", "jwt_", "client_cert", "tls_"))]


@pytest.mark.parametrize("field", OURS, ids=lambda field: field.name)
def test_every_setting_is_told(field: object) -> None:
    """With its default, where it has one and stands in a table."""
    name, default = field.name, field.default  # type: ignore[attr-defined]
    variable = VARIABLES[name][0]
    assert f"`{variable}" in PAGE or f"{variable}=" in PAGE
    row = re.search(rf"^\| `{variable}` \|(.*?)\|", PAGE, flags=re.MULTILINE)
    if row is not None:
        shown = f"{default:g}" if isinstance(default, float) else str(default)
        assert row[1].strip("` ") == shown


def test_every_algorithm_and_kind_of_limit_is_told() -> None:
    """And no other."""
    for name in (*ALGORITHMS, *LIMIT_KINDS):
        assert f"`{name}`" in PAGE or name in str(Settings().jwt_algorithms)


def test_what_is_shown_is_what_the_document_says() -> None:
    """Field by field."""
    shown = KeyRecord("abcdefghijkl", "ann", bytes(32)).shown(0.0)
    document = describe("GET", "/api/keys/{id}")["responses"]["200"]["content"]["application/json"]
    assert shown.keys() == document["schema"]["properties"].keys()
    wishes = describe("POST", "/api/keys")["requestBody"]["content"]["application/json"]["schema"]
    for name in wishes["properties"]:
        assert f"`{name}`" in PAGE
