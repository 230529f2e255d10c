"""What is no token of the issuer, however much it looks like one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from router_core.errors import Unauthorized
from router_core.security.credentials import MAX_CREDENTIAL
from tests.security.jwt_parts import (
    ISSUER,
    Desk,
    b64,
    claims,
    forged,
    public_jwk,
    public_pem,
    resigned,
    token,
    with_public_key,
)
from tests.security.keys_parts import asking

GOOD_HEAD = {"alg": "RS256", "typ": "JWT", "kid": "rsa"}
ATTACKS: dict[str, Callable[[], str]] = {
    "none": lambda: forged({"alg": "none"}), "none in capitals": lambda: forged({"alg": "NONE"}, None, b"x"),
    "no signature": lambda: token().rpartition(".")[0] + ".",
    "two parts": lambda: token().rpartition(".")[0],
    "signature of another": lambda: token()[:-20] + token(sub="bob")[-20:],
    "claims of another": lambda: ".".join((b64(GOOD_HEAD), b64(claims(sub="x")), token().split(".")[2])),
    "HS256 with the public key": lambda: with_public_key(public_pem("rsa")),
    "HS256 with the JWK": lambda: with_public_key(json.dumps(public_jwk("rsa")).encode()),
    "HS256 with nothing": lambda: with_public_key(b""),
    "RS256 by the key of EC": lambda: token("rsa", {"kid": "ec"}),
    "ES256 by the key of RSA": lambda: token("ec", {"kid": "rsa"}),
    "ES256 of zeros": lambda: forged({"alg": "ES256", "kid": "ec"}, None, bytes(64)),
    "ES256 as DER": lambda: forged({"alg": "ES256", "kid": "ec"}, None, bytes.fromhex("3006020100020100")),
    "EdDSA of zeros": lambda: forged({"alg": "EdDSA", "kid": "ed"}, None, bytes(64)),
    "PS256, which is not listed": lambda: forged({"alg": "PS256", "kid": "rsa"}, None, b"x" * 256),
    "crit": lambda: resigned({**GOOD_HEAD, "crit": ["exp"], "exp": 1}),
    "crit of nothing": lambda: resigned({**GOOD_HEAD, "crit": []}),
    "b64 false": lambda: resigned({**GOOD_HEAD, "b64": False}),
    "jku": lambda: resigned({**GOOD_HEAD, "jku": "https://evil.example/jwks"}),
    "jwk": lambda: resigned({**GOOD_HEAD, "jwk": {"kty": "RSA"}}),
    "x5u": lambda: resigned({**GOOD_HEAD, "x5u": "https://evil.example/cert"}),
    "x5c": lambda: resigned({**GOOD_HEAD, "x5c": ["MIIB"]}),
    "zip": lambda: resigned({**GOOD_HEAD, "zip": "DEF"}),
    "nested": lambda: resigned({**GOOD_HEAD, "cty": "JWT"}, b64(token())),
    "encrypted": lambda: ".".join(["eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0", "", "AAAA", "AAAA", "AAAA"]),
    "another type": lambda: resigned({**GOOD_HEAD, "typ": "logout+jwt"}),
    "type is a number": lambda: resigned({**GOOD_HEAD, "typ": 1}),
    "algorithm is a list": lambda: forged({"alg": ["RS256"]}),
    "key id is a path": lambda: token("rsa", {"kid": "../../../../dev/null"}),
    "key id is SQL": lambda: token("rsa", {"kid": "x' UNION SELECT 'key"}),
    "key id is a command": lambda: token("rsa", {"kid": "rsa|/bin/sh"}),
    "key id is a number": lambda: resigned({**GOOD_HEAD, "kid": 1}),
    "key id is huge": lambda: resigned({**GOOD_HEAD, "kid": "k" * 1000}),
    "no key id, and the algorithm of another": lambda: resigned({"alg": "ES256"}),
    "key of somebody else": lambda: token("other", {"kid": "rsa"}),
    "key id of somebody else": lambda: token("other"),
    "head twice": lambda: forged('{"alg":"RS256","kid":"rsa","alg":"none"}', None, b"x"),
    "claim twice": lambda: resigned(GOOD_HEAD, b64(json.dumps(claims())[:-1] + ',"sub":"root"}')),
    "NaN": lambda: resigned(GOOD_HEAD, b64(json.dumps({**claims(), "exp": float("nan")}))),
    "endless": lambda: resigned(GOOD_HEAD, b64(json.dumps({**claims(), "exp": float("inf")}))),
    "no JSON": lambda: resigned(GOOD_HEAD, b64("nothing")), "a list": lambda: resigned(GOOD_HEAD, b64("[]")),
    "deep": lambda: resigned(GOOD_HEAD, b64("[" * 3000)),
    "padded": lambda: token() + "=", "inner space": lambda: token().replace(".", " .", 1),
    "line feed at the end": lambda: token() + "\x0b",
    "expired": lambda: token(exp=int(time.time()) - 31), "no end": lambda: token(exp=None),
    "end is text": lambda: token(exp=str(int(time.time()) + 600)), "end is true": lambda: token(exp=True),
    "end is huge": lambda: token(exp=10**300), "end is negative": lambda: token(exp=-1),
    "not yet": lambda: token(nbf=int(time.time()) + 60),
    "of tomorrow": lambda: token(iat=int(time.time()) + 86400),
    "another issuer": lambda: token(iss="https://login.example.com"), "no issuer": lambda: token(iss=None),
    "issuer is a list": lambda: resigned(GOOD_HEAD, b64(claims(iss=[ISSUER]))),
    "another audience": lambda: token(aud="router2"), "no audience": lambda: token(aud=None),
    "audience is a number": lambda: token(aud=7), "no subject": lambda: token(sub=None),
    "subject is a number": lambda: resigned(GOOD_HEAD, b64({**claims(), "sub": 7})),
    "subject with a line feed": lambda: token(sub="ann\nroot"), "subject is empty": lambda: token(sub=""),
    "subject is huge": lambda: token(sub="a" * 300), "not ASCII": lambda: token() + "é",
    "surrogates": lambda: token() + "\udcff", "large": lambda: token(more="x" * MAX_CREDENTIAL),
    "ten megabytes": lambda: "eyJ" + "A" * 10_000_000 + ".e.e",
    "ten megabytes of dots": lambda: "." * 10_000_000,
    "its beginning": lambda: token()[:20], "words": lambda: "not.a.token", "dots": lambda: "..",
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
async def test_what_is_no_token_of_the_issuer_is_401(taking: Desk, attack: str) -> None:
    """With a challenge, the same words whatever was wrong, and although a good one was seen before."""
    good = token()
    await taking.authenticator.authenticate(asking(good))
    shown = ATTACKS[attack]()
    for _ in range(2):
        with pytest.raises(Unauthorized) as caught:
            await taking.authenticator.authenticate(asking(shown))
        assert caught.value.headers["WWW-Authenticate"] == 'Bearer realm="router-core", error="invalid_token"'
        assert str(caught.value) in ("the token is not valid", "the API key or token is not valid")
        assert caught.value.__cause__ is None
    assert not any(shown[:200] in text for text in taking.notes("token_refused"))
