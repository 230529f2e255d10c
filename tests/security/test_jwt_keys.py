"""The keys of an issuer of tokens: fetched, kept, missed, and told from those that may not sign."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from router_core.errors import Unauthorized, Unavailable
from tests.security.jwt_parts import Desk, Issuer, desk, public_jwk, token
from tests.security.keys_parts import asking


async def test_keys_are_fetched_once_for_all(issuer: Issuer, taking: Desk) -> None:
    """However many callers come first."""
    issuer.hold = asyncio.Event()
    waiting = [
        asyncio.create_task(taking.authenticator.authenticate(asking(token(sub=f"u{number}"))))
        for number in range(20)
    ]
    await issuer.came.wait()
    issuer.hold.set()
    assert len({caller.id for caller in await asyncio.gather(*waiting)}) == 20
    assert issuer.asked == 1


async def test_unknown_key_ids_cause_no_stampede(issuer: Issuer, taking: Desk) -> None:
    """One look every 30 seconds; then a key that is new is found."""
    await taking.authenticator.authenticate(asking(token()))
    new = token("other", {"kid": "new"})
    taking.clock.advance(31)
    for number in range(50):
        for each in (new, token("other", {"kid": f"guess-{number}"})):
            with pytest.raises(Unauthorized):
                await taking.authenticator.authenticate(asking(each))
    assert issuer.asked == 2
    issuer.keys.append(public_jwk("other", kid="new"))
    with pytest.raises(Unauthorized):
        await taking.authenticator.authenticate(asking(new))
    taking.clock.advance(30)
    assert (await taking.authenticator.authenticate(asking(new))).id == "jwt:ann"
    assert issuer.asked == 3


async def test_a_key_that_is_gone_takes_its_tokens_with_it(issuer: Issuer, taking: Desk) -> None:
    """Those too that were found good before."""
    issuer.cache_control = "max-age=60"
    shown = token()
    await taking.authenticator.authenticate(asking(shown))
    issuer.keys = [public_jwk("ec")]
    taking.clock.advance(61)
    taking.authenticator.recall(asking(shown))  # fetches beside the calls
    tokens: Any = taking.authenticator._tokens
    await tokens._keys._task
    with pytest.raises(Unauthorized):
        await taking.authenticator.authenticate(asking(shown))


async def test_while_the_issuer_is_away_its_keys_go_on_for_a_while(issuer: Issuer) -> None:
    """Then nobody can say whose a token is, so none is called wrong."""
    async with desk(issuer, jwt_stale=120.0) as taking:
        await taking.authenticator.authenticate(asking(token()))
        issuer.answer = b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"
        taking.clock.advance(601)
        for number in range(5):
            caller = await taking.authenticator.authenticate(asking(token(sub=f"u{number}")))
            assert caller.id == f"jwt:u{number}"
        taking.clock.advance(120)
        with pytest.raises(Unavailable) as caught:
            await taking.authenticator.authenticate(asking(token(sub="late")))
        assert caught.value.retry_after == 30
        assert len(taking.notes("jwks_down")) == 1
        issuer.answer = None
        taking.clock.advance(30)
        assert (await taking.authenticator.authenticate(asking(token(sub="late")))).id == "jwt:late"
        assert taking.notes("jwks_up")


BAD_JWKS: dict[str, bytes] = {
    "nothing": b"", "status": b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n",
    "redirect": b"HTTP/1.1 302 Go\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n",
    "huge": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n" + b"[" * 300_000,
    "deep": b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n" + b"[" * 200_000,
    "no JSON": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    "a list": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
    "no keys": b'HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{"keys":[]}',
    "odd keys": b'HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\n{"keys":[1,{},""]}',
}  # fmt: skip


@pytest.mark.parametrize("answer", BAD_JWKS)
async def test_what_is_no_jwks_is_503(issuer: Issuer, taking: Desk, answer: str) -> None:
    """Nobody comes in, and nobody is told that his token is wrong."""
    issuer.answer = BAD_JWKS[answer]
    with pytest.raises(Unavailable):
        await taking.authenticator.authenticate(asking(token()))


@pytest.mark.parametrize(
    "members",
    [{"use": "enc"}, {"key_ops": ["sign"]}, {"alg": "PS256"}, {"alg": "RS512"}, {"kty": "oct", "k": "AAAA"},
     {"d": "AQAB"}, {"n": "AQAB"}, {"e": ""}, {"kid": 7}, {"kty": "EC"}],
    ids=range(10),
)  # fmt: skip
async def test_keys_that_may_not_sign_do_not_count(
    issuer: Issuer, taking: Desk, members: dict[str, Any]
) -> None:
    """Those of other purposes, shared or private ones, weak and broken ones."""
    issuer.keys = [public_jwk("rsa", **members), public_jwk("ec")]
    with pytest.raises(Unauthorized):
        await taking.authenticator.authenticate(asking(token()))


async def test_a_key_of_one_algorithm_signs_with_no_other(issuer: Issuer) -> None:
    """Although both are taken here, and both are RSA."""
    issuer.keys = [public_jwk("rsa", alg="RS512")]
    async with desk(issuer, jwt_algorithms="RS256,RS512") as taking:
        with pytest.raises(Unauthorized):
            await taking.authenticator.authenticate(asking(token()))


async def test_a_weak_key_is_none(issuer: Issuer, taking: Desk) -> None:
    """1,024 bits of RSA have been too few for long."""
    issuer.keys = [public_jwk("weak", kid="rsa"), public_jwk("ec")]
    with pytest.raises(Unauthorized):
        await taking.authenticator.authenticate(asking(token()))


async def test_keys_in_a_file(tmp_path: Path) -> None:
    """For issuers that cannot be reached."""
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [public_jwk("ed")]}))
    taking = Desk(jwt_jwks=f"@{path}")
    assert (await taking.authenticator.authenticate(asking(token("ed")))).id == "jwt:ann"
    await taking.identity.close()
