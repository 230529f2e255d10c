"""How a secret is named: ``${file:/run/secrets/key}``, ``${aws-sm:name#field}``, ``${vault:path#field}``."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final, Protocol

from router_core.errors import Misconfigured

__all__ = ["MAX_SECRET", "SCHEMES", "Reference", "SecretStore", "find", "member"]

SCHEMES: Final = ("file", "aws-sm", "aws-ssm", "vault")
MAX_SECRET: Final = 64 * 1024
"""Characters of one secret: more is a wrong file."""
_REFERENCE: Final = re.compile(r"\$\{([a-z][a-z0-9-]*):([^{}\s#]+)(?:#([^{}\s#]+))?\}")


@dataclass(frozen=True, slots=True)
class Reference:
    """The name of a secret."""

    scheme: str
    """One of SCHEMES."""
    name: str
    field: str = ""
    """A member of the secret, where that is a JSON object; empty: all of it."""

    def __str__(self) -> str:
        return f"${{{self.scheme}:{self.name}{'#' + self.field if self.field else ''}}}"


class SecretStore(Protocol):
    """Where secrets of one scheme are."""

    def fetch(self, name: str, field: str) -> str:
        """Return a secret; may block for some seconds.

        Raises Misconfigured for one that is not there or may not be read, Unavailable where the store does
        not answer. Neither says anything of a secret.
        """


def find(text: str) -> list[tuple[str, Reference]]:
    """Return what a text refers to: as it is written, and what it names. Other schemes are left alone."""
    return [
        (match[0], Reference(match[1], match[2], match[3] or ""))
        for match in _REFERENCE.finditer(text)
        if match[1] in SCHEMES
    ]


def member(text: str, field: str, what: str) -> str:
    """Return a member of a secret that is a JSON object. Raises Misconfigured; ``what`` names the secret."""
    try:
        found = json.loads(text)
    except ValueError:
        raise Misconfigured(f"{what} is no JSON object, so it has no {field!r}") from None
    if not isinstance(found, dict) or field not in found:
        raise Misconfigured(f"{what} has no {field!r}")
    value = found[field]
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise Misconfigured(f"{field!r} of {what} is not a text")
    return str(value)
