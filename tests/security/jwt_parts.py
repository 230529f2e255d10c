"""An issuer of tokens: real keys, tokens of any making, and a real server of its JWKS on loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from router_core.identity import Identity
from router_core.settings import Settings
from router_core.stores.state_memory import MemoryStateStore
from router_core.telemetry.events import Events, Note
from router_core.testing.clock import FakeClock

__all__ = [
    "AUDIENCE", "ISSUER", "Desk", "Issuer", "b64", "claims", "desk", "forged", "key_of", "public_jwk",
    "public_pem", "resigned", "token", "with_public_key",
]  # fmt: skip

ISSUER = "https://login.example.com/"
AUDIENCE = "router"
ALGORITHMS = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA", "other": "RS256"}


@cache
def key_of(name: str) -> Any:
    """Return a private key, made once: ``rsa``, ``ec``, ``ed``, ``other`` (of somebody else), ``weak``."""
    if name == "ec":
        return ec.generate_private_key(ec.SECP256R1())
    if name == "ed":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=1024 if name == "weak" else 2048)


def public_pem(name: str) -> bytes:
    """Return a public key as it may lie about anywhere."""
    pem: bytes = (
        key_of(name)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return pem


def public_jwk(name: str, **members: Any) -> dict[str, Any]:
    """Return it as a member of a JWKS."""
    kinds: dict[str, Any] = {"ec": jwt.algorithms.ECAlgorithm, "ed": jwt.algorithms.OKPAlgorithm}
    kind = kinds.get(name, jwt.algorithms.RSAAlgorithm)
    data: dict[str, Any] = kind.to_jwk(key_of(name).public_key(), as_dict=True)
    data.pop("key_ops", None)
    return {**data, "kid": name, "use": "sig", **members}


def b64(data: bytes | str | dict[str, Any]) -> str:
    """Return a part of a token."""
    raw = json.dumps(data) if isinstance(data, dict) else data
    return base64.urlsafe_b64encode(raw.encode() if isinstance(raw, str) else raw).rstrip(b"=").decode()


def claims(**more: Any) -> dict[str, Any]:
    """Return the claims of a good token; None leaves one out."""
    now = int(time.time())
    usual = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 600, "roles": ["developer"],
        "workspaces": ["ws-1"],
    }  # fmt: skip
    return {name: value for name, value in {**usual, **more}.items() if value is not None}


def token(name: str = "rsa", head: dict[str, Any] | None = None, **more: Any) -> str:
    """Return a token signed by one of the keys."""
    headers = {"kid": name, **(head or {})}
    return jwt.encode(claims(**more), key_of(name), algorithm=ALGORITHMS[name], headers=headers)


def forged(head: dict[str, Any] | str, body: Any = None, signature: bytes = b"") -> str:
    """Return a token of any making."""
    return f"{b64(head)}.{b64(body if body is not None else claims())}.{b64(signature)}"


def with_public_key(secret: bytes) -> str:
    """Return an HS256 token whose shared secret is what everybody can read."""
    signed = f"{b64({'alg': 'HS256', 'typ': 'JWT', 'kid': 'rsa'})}.{b64(claims())}"
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def resigned(head: dict[str, Any], body: str | None = None) -> str:
    """Return a token with an odd head and a right signature."""
    signed = f"{b64(head)}.{body or b64(claims())}"
    key: Any = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256)
    return f"{signed}.{b64(key.sign(signed.encode(), key_of('rsa')))}"


class Issuer:
    """The server of a JWKS."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [public_jwk(name) for name in ("rsa", "ec", "ed")]
        self.asked = 0
        self.came = asyncio.Event()
        self.answer: bytes | None = None
        """In place of a right one."""
        self.cache_control = ""
        self.hold: asyncio.Event | None = None
        self.url = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        self.asked += 1
        self.came.set()
        if self.hold is not None:
            await self.hold.wait()
        body = json.dumps({"keys": self.keys}).encode()
        head = (
            f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\ncache-control: {self.cache_control}\r\n\r\n"
        )
        writer.write(head.encode() + body if self.answer is None else self.answer)
        try:
            await writer.drain()
            writer.close()
        except ConnectionError:
            pass

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Issuer]:
        """Serve on a port of its own."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
        try:
            yield self
        finally:
            server.close()


class Desk:
    """A service that takes tokens."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock(time.time())
        self.seen: list[object] = []
        events = Events()
        events.subscribe(self.seen.append)
        given = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, **settings}
        self.identity = Identity(Settings(**given), self.clock, events, lambda: MemoryStateStore(self.clock))
        authenticator = self.identity.authenticator
        assert authenticator is not None
        self.authenticator: Any = authenticator

    def notes(self, name: str) -> list[str]:
        """Return what was said under a name."""
        return [note.message for note in self.seen if isinstance(note, Note) and note.name == name]


@asynccontextmanager
async def desk(issuer: Issuer, **settings: Any) -> AsyncIterator[Desk]:
    """Take tokens of an issuer."""
    made = Desk(jwt_jwks=issuer.url, **settings)
    try:
        yield made
    finally:
        await made.identity.close()
