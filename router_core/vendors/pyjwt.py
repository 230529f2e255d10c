"""Signatures and times of JSON Web Tokens: PyJWT, with cryptography beneath it; imported when first used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from router_core.errors import Misconfigured

__all__ = ["PyJwt", "load_key"]

_SMALLEST_RSA: Final = 2048
_LATEST: Final = 1e11
_LARGEST_RSA: Final = 8192
"""A larger one would make each token cost as much as a denial of service."""


class PyJwt:
    """A ``security.jwt.Verifier``."""

    __slots__ = ()

    def __init__(self) -> None:
        """Raises Misconfigured where the packages are not installed."""
        _library()

    def claims(
        self, token: str, key: Any, algorithm: str, issuer: str, audience: Sequence[str], leeway: float
    ) -> Mapping[str, Any]:
        """Return the claims of a token that is right in every respect; raises ValueError with the reason."""
        library = _library()
        try:
            claims: Mapping[str, Any] = library.decode(
                token, key, algorithms=[algorithm], issuer=issuer, audience=list(audience), leeway=leeway,
                options={"require": ["exp", "iss", "aud", "sub"], "strict_aud": False},
            )  # fmt: skip
        except library.PyJWTError as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        except (TypeError, ArithmeticError) as error:
            raise ValueError(f"it cannot be verified: {type(error).__name__}") from None
        if not isinstance(claims["exp"], (int, float)) or not 0 < claims["exp"] < _LATEST:
            raise ValueError("its end is no time")
        return claims


def load_key(data: Mapping[str, Any]) -> Any:
    """Return a public key of a JWKS; raises ValueError for one that is none, or is too weak or too large."""
    library = _library()
    try:
        key = library.PyJWK(dict(data)).key
    except (library.PyJWTError, TypeError, KeyError, ArithmeticError, json.JSONDecodeError) as error:
        raise ValueError(f"it is no key: {type(error).__name__}") from None
    size = getattr(key, "key_size", 0)
    if data.get("kty") == "RSA" and not _SMALLEST_RSA <= size <= _LARGEST_RSA:
        raise ValueError(f"an RSA key may have {_SMALLEST_RSA} to {_LARGEST_RSA} bits")
    return key


def _library() -> Any:
    try:
        import cryptography  # noqa: F401
        import jwt
    except ImportError:
        raise Misconfigured(
            "ROUTER_JWT_ISSUER needs packages that are not installed: pip install 'router-core[jwt]'"
        ) from None
    return jwt
