"""Tokens of an issuer: whose they are, and what they let their holders do."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from router_core.errors import Misconfigured, Unauthorized
from router_core.http.message import Headers, Request
from router_core.settings import Settings
from tests.security.jwt_parts import AUDIENCE, Desk, Issuer, claims, desk, forged, resigned, token
from tests.security.keys_parts import asking

SECRET = "0123456789abcdef0123456789abcdef-shared"


@pytest.mark.parametrize("name", ["rsa", "ec", "ed"])
async def test_a_token_of_each_kind_of_key(taking: Desk, name: str) -> None:
    """With what its claims say."""
    caller = await taking.authenticator.authenticate(asking(token(name, scope="paint openid", tier="gold")))
    assert (caller.id, caller.kind, caller.tier, caller.workspace) == ("jwt:ann", "jwt", "gold", "ws-1")
    assert caller.roles == {"developer"}
    assert caller.workspaces == {"ws-1"}
    assert caller.may("models:call")
    assert caller.may("paint")
    assert not caller.may("config:manage")


HELD: list[tuple[dict[str, Any], dict[str, Any], set[str], set[str]]] = [
    ({}, {"roles": None}, set(), {"ws-1"}),
    ({}, {"roles": "viewer other"}, {"read"}, {"ws-1"}),
    ({}, {"roles": ["boss", 7, "viewer"]}, {"read"}, {"ws-1"}),
    ({}, {"roles": {"admin": True}}, set(), {"ws-1"}),
    ({}, {"roles": None, "scope": "* admin read"}, {"read"}, {"ws-1"}),
    ({}, {"roles": None, "scp": ["paint"]}, {"paint"}, {"ws-1"}),
    ({}, {"roles": ["admin"], "workspaces": None}, {"*"}, {"*"}),
    ({}, {"roles": ["viewer"], "workspaces": None}, {"read"}, set()),
    ({}, {"roles": ["viewer"], "workspaces": ["../x", "ws-2"]}, {"read"}, {"ws-2"}),
    ({"jwt_workspaces_claim": "*"}, {"roles": ["viewer"]}, {"read"}, {"*"}),
    ({"jwt_roles_claim": "realm_access.roles"}, {"realm_access": {"roles": ["viewer"]}}, {"read"}, {"ws-1"}),
    ({"jwt_roles_claim": "https://x.example/r"}, {"https://x.example/r": ["viewer"]}, {"read"}, {"ws-1"}),
    ({"roles": "painter=paint|read"}, {"roles": ["painter"]}, {"paint", "read"}, {"ws-1"}),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "says", "scopes", "rooms"), HELD, ids=range(len(HELD)))
async def test_what_a_token_lets_its_holder_do(
    issuer: Issuer, settings: dict[str, Any], says: dict[str, Any], scopes: set[str], rooms: set[str]
) -> None:
    """No more than a role or scope says; a scope of a token gives neither everything nor a role."""
    async with desk(issuer, **settings) as taking:
        caller = await taking.authenticator.authenticate(asking(token(**says)))
    assert set(caller.scopes) == scopes
    assert set(caller.workspaces) == rooms


@pytest.mark.parametrize(
    ("rooms", "usual"),
    [(["ws-1", "ws-2"], ""), (["ws-2", "*"], "ws-2"), (["ws-1", "ws-1"], "ws-1"), (["*"], "")],
    ids=["two", "every", "twice", "all"],
)
async def test_a_token_for_several_workspaces_has_no_usual_one(
    taking: Desk, rooms: list[str], usual: str
) -> None:
    """Their order in a claim means nothing, so a call names its workspace."""
    caller = await taking.authenticator.authenticate(asking(token(workspaces=rooms)))
    assert (set(caller.workspaces), caller.workspace) == (set(rooms), usual)


async def test_good_ones_at_the_edge(taking: Desk) -> None:
    """Within the leeway, of several audiences, with an access token's type, without a key id of two keys."""
    now = int(time.time())
    for each in (
        token(exp=now - 20), token(nbf=now + 20), token(aud=["x", AUDIENCE]), token(head={"typ": "at+jwt"}),
        resigned({"alg": "RS256"}), token(exp=now + 600.5),
    ):  # fmt: skip
        assert (await taking.authenticator.authenticate(asking(each))).id == "jwt:ann"


async def test_a_token_is_known_by_all_of_it(taking: Desk) -> None:
    """Two with the same beginning are two; a known one costs no signature, until it expires."""
    first, second = token(sub="ann"), token(sub="bob")
    assert first[:60] == second[:60]
    assert (await taking.authenticator.authenticate(asking(first))).id == "jwt:ann"
    assert (await taking.authenticator.authenticate(asking(second))).id == "jwt:bob"
    found = taking.authenticator.recall(asking(first))
    assert found is not None
    assert found[0].id == "jwt:ann"
    assert taking.authenticator.recall(asking(token(sub="eve"))) is None
    taking.clock.advance(631)
    assert taking.authenticator.recall(asking(first)) is None


async def test_known_tokens_are_bounded(taking: Desk) -> None:
    """The first are forgotten, and verified again."""
    tokens: Any = taking.authenticator._tokens
    tokens._most = 3
    shown = [token("ed", sub=f"user-{number}") for number in range(10)]
    for each in shown:
        await taking.authenticator.authenticate(asking(each))
    assert len(tokens._known) == 3
    assert (await taking.authenticator.authenticate(asking(shown[0]))).id == "jwt:user-0"


async def test_a_token_comes_as_a_bearer_alone(issuer: Issuer) -> None:
    """And beside a key of any kind it is refused."""
    async with desk(issuer, api_keys="bob:0123456789abcdef.with.dots") as taking:
        with pytest.raises(Unauthorized):
            await taking.authenticator.authenticate(asking(x_api_key=token()))
        both = Headers([("authorization", f"Bearer {token()}"), ("x-api-key", "0123456789abcdef.with.dots")])
        twice = Headers([("authorization", f"Bearer {token()}"), ("authorization", f"Bearer {token()}")])
        for headers in (both, twice):
            with pytest.raises(Unauthorized) as caught:
                await taking.authenticator.authenticate(Request("GET", "/", headers=headers))
            assert 'error="invalid_request"' in caught.value.headers["WWW-Authenticate"]
        assert (await taking.authenticator.authenticate(asking("0123456789abcdef.with.dots"))).id == "bob"


async def test_a_shared_secret_takes_hs256_alone() -> None:
    """No key of another kind is asked for, or taken."""
    taking = Desk(jwt_secret=SECRET)
    good = jwt.encode(claims(), SECRET, algorithm="HS256")
    assert (await taking.authenticator.authenticate(asking(good))).id == "jwt:ann"
    for wrong in (
        token(), jwt.encode(claims(), SECRET + "x", algorithm="HS256"),
        jwt.encode(claims(), SECRET * 2, algorithm="HS512"), forged({"alg": "none"}),
    ):  # fmt: skip
        with pytest.raises(Unauthorized):
            await taking.authenticator.authenticate(asking(wrong))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"jwt_audience": ""}, "ROUTER_JWT_AUDIENCE"), ({"jwt_issuer": ""}, "ROUTER_JWT_ISSUER"),
        ({"jwt_jwks": ""}, "ROUTER_JWT_JWKS, or"), ({"jwt_secret": SECRET}, "never both"),
        ({"jwt_jwks": "", "jwt_secret": "short"}, "32 bytes"),
        ({"jwt_jwks": "http://login.example.com/jwks"}, "https"), ({"jwt_jwks": "jwks.json"}, "https"),
        ({"jwt_jwks": "https://user:pw@login.example.com/"}, "https"),
        ({"jwt_jwks": "@/no/such"}, "not there"), ({"jwt_algorithms": "RS256,none"}, "ROUTER_JWT_ALGORITHMS"),
        ({"jwt_algorithms": "HS256"}, "may list"),
        ({"jwt_algorithms": ","}, "ROUTER_JWT_ALGORITHMS"),
    ],
    ids=range(12),
)  # fmt: skip
def test_settings_that_would_let_in_too_many_are_refused(settings: dict[str, Any], told: str) -> None:
    """At the start, and without a secret in the text."""
    with pytest.raises(Misconfigured, match=told) as caught:
        Desk(**{"jwt_jwks": "https://login.example.com/jwks", **settings})
    assert SECRET not in str(caught.value)


def test_half_of_the_settings_never_mean_no_authentication() -> None:
    """Whoever set one wanted callers to say who they are."""
    for settings in (Settings(jwt_issuer="x"), Settings(jwt_jwks="@x"), Settings(jwt_secret="x")):
        assert settings.authenticates
    assert SECRET not in repr(Settings(jwt_secret=SECRET, api_keys=f"ann:{SECRET}"))
