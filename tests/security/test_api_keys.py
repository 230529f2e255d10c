"""API keys: forms, files, scopes, and what a wrong one learns."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from router_core.errors import Misconfigured, Unauthorized
from router_core.http.message import Headers, Request
from router_core.security.api_keys import ApiKeys, generate_key

KEY = "0123456789abcdef-alice"


def asking(**headers: str) -> Request:
    """Return a request with headers."""
    return Request(
        "GET", "/", headers=Headers([(name.replace("_", "-"), value) for name, value in headers.items()])
    )


async def who(keys: ApiKeys, **headers: str) -> str:
    """Return who is recognised."""
    return (await keys.authenticate(asking(**headers))).id


async def test_both_headers_are_read() -> None:
    """Bearer in any case, and X-API-Key."""
    keys = ApiKeys.from_setting(f"alice:{KEY}")
    assert await who(keys, authorization=f"Bearer {KEY}") == "alice"
    assert await who(keys, Authorization=f"bearer   {KEY} ") == "alice"
    assert await who(keys, x_api_key=KEY) == "alice"
    assert await who(keys, authorization="Basic abc", x_api_key=KEY) == "alice"


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": "Bearer "},
        {"authorization": KEY}, {"authorization": f"Basic {KEY}"}, {"x_api_key": ""},
        {"x_api_key": KEY[:-1]}, {"x_api_key": KEY + "x"}, {"x_api_key": KEY.upper()},
        {"x_api_key": "ké" * 10}, {"x_api_key": "\u20ac" * 20}, {"authorization": "Bearer \xff\xfe"},
        {"x_api_key": "' OR '1'='1"}, {"x_api_key": "a" * 100_000},
        {"x_api_key": "rk_abcdefghijkl_" + "A" * 43},
        {"authorization": "Bearer wrong-wrong-wrong", "x_api_key": KEY},
        {"x_api_key": hashlib.sha256(KEY.encode()).hexdigest()},
        {"x_api_key": f"sha256={hashlib.sha256(KEY.encode()).hexdigest()}"},
    ],
)  # fmt: skip
async def test_everything_else_is_401(headers: dict[str, str]) -> None:
    """With a challenge, and without a word about which part was wrong."""
    keys = ApiKeys.from_setting(f"alice:{KEY}")
    with pytest.raises(Unauthorized) as caught:
        await keys.authenticate(asking(**headers))
    assert caught.value.headers["WWW-Authenticate"].startswith('Bearer realm="router-core"')
    assert KEY not in str(caught.value)


async def test_scopes() -> None:
    """Everything unless they are listed."""
    keys = ApiKeys.from_setting(f"root:{KEY},reader:{KEY}2:jobs| metrics |")
    assert (await keys.authenticate(asking(x_api_key=KEY))).scopes == {"*"}
    reader = await keys.authenticate(asking(x_api_key=f"{KEY}2"))
    assert reader.scopes == {"jobs", "metrics"}
    assert reader.kind == "api_key"


async def test_a_key_without_a_name_is_named_after_its_hash() -> None:
    """Stable, and not the key."""
    name = await who(ApiKeys.from_setting(KEY), x_api_key=KEY)
    assert name.startswith("key-")
    assert name == await who(ApiKeys.from_setting(KEY), x_api_key=KEY)
    assert KEY[:8] not in name


async def test_a_generated_key_works_in_full_and_hashed() -> None:
    """The hash may stand in the setting; the hash itself opens nothing."""
    new = generate_key()
    assert new.key.startswith(f"rk_{new.id}_")
    assert new.key not in repr(new)
    for setting in (f"bob:{new.key}", f"bob:{new.hashed()}", f"bob:{new.hashed()}:a|b"):
        keys = ApiKeys.from_setting(setting)
        assert await who(keys, x_api_key=new.key) == "bob"
        with pytest.raises(Unauthorized):
            await keys.authenticate(asking(x_api_key=new.hashed()))
        with pytest.raises(Unauthorized):
            await keys.authenticate(asking(x_api_key=new.key[:-1] + ("A" if new.key[-1] != "A" else "B")))


def test_generated_keys_differ() -> None:
    """In both parts."""
    keys = [generate_key() for _ in range(50)]
    assert len({key.id for key in keys}) == len({key.key for key in keys}) == 50
    assert all(len(key.key.split("_", 2)[2]) >= 43 for key in keys)


async def test_a_file_of_keys(tmp_path: Path) -> None:
    """One a line, with comments and empty lines."""
    path = tmp_path / "keys"
    path.write_text(f"# ours\n\nalice:{KEY}  # the first\nbob:{KEY}b:read\n")
    keys = ApiKeys.from_setting(f"@{path}")
    assert await who(keys, x_api_key=f"{KEY}b") == "bob"


@pytest.mark.parametrize(
    "setting",
    ["", " , ,", "alice:short", "alice:", f"al ice:{KEY}", f":\n{KEY}", f"a:{KEY},b:{KEY}", "@/no/such/file",
     "alice:kéyéyéyéyéyéyéyéyé", f"alice:{'a' * 600}", "alice:sha256=abc"],
)  # fmt: skip
def test_a_bad_setting_is_refused_without_showing_keys(setting: str) -> None:
    """At the start, not with the first request."""
    with pytest.raises(Misconfigured) as caught:
        ApiKeys.from_setting(setting)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("scopes", ["", " ", "|", " | |"])
def test_an_empty_list_of_scopes_is_refused(scopes: str) -> None:
    """It gives neither everything nor nothing by accident."""
    for key in (KEY, generate_key().hashed()):
        with pytest.raises(Misconfigured, match=r"entry 2 .* the list of scopes is empty; name some"):
            ApiKeys.from_setting(f"bob:{KEY}b:read,alice:{key}:{scopes}")


def test_no_key_is_named_like_a_caller_without_one() -> None:
    """It would own what everybody made before there were keys."""
    with pytest.raises(Misconfigured, match=r"'anonymous' is that of callers without a key"):
        ApiKeys.from_setting(f"anonymous:{KEY}")
