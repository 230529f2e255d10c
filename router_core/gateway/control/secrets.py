"""Which secrets the API may speak of, by name alone, and where each of them may be sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from router_core.errors import RouterError
from router_core.gateway.control.providers import PROVIDERS
from router_core.gateway.values import ControlPolicy, Secret

__all__ = ["PREFIX", "Secrets", "refuse_keys"]

PREFIX: Final = "ROUTER_SECRET_"
"""Variables that begin with it may be named whatever the file says."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_RUN: Final = r"(?:[A-Za-z0-9]{20}|(?=[A-Za-z]{0,15}[0-9])[A-Za-z0-9]{16})"
"""What no word is: ``hf-endpoint-frankfurt`` is a name."""
_KEYS: Final = re.compile(
    rf"\b(?:pk|rk|rpa|hf|gsk|gh[opsu]|xai|whsec|r8|glpat)[-_]{_RUN}"
    r"|\bAKIA[A-Z0-9]{12}|\bAIza[A-Za-z0-9_-]{30}|\bBearer\s{1,3}\S{8}", re.IGNORECASE,
)  # fmt: skip
_DASHED: Final = re.compile(r"\bsk-([A-Za-z0-9_-]{16,200})", re.IGNORECASE)
_TOKEN: Final = re.compile(r"\beyJ[A-Za-z0-9_-]{10,}(\.eyJ)?")
# the last two take what they have looked at, so that texts of any length are looked through once
_LOOKED_AT: Final = 8192
"""Characters: no field may have as many."""
_FIELDS: Final = frozenset({"apikey", "key", "token", "secret", "password", "authorization", "accesstoken"})


def _is_key(text: str) -> bool:
    """Return whether a text holds what looks like a key."""
    if _KEYS.search(text) or any(found[1] for found in _TOKEN.finditer(text)):
        return True
    return any(re.search(_RUN, found[1]) for found in _DASHED.finditer(text))


def refuse_keys(value: Any, path: str = "") -> None:
    """Raise ValueError for what looks like a key, without showing it: here only names of keys belong."""
    waiting: list[tuple[str, Any]] = [(path, value)]
    while waiting:
        place, one = waiting.pop()
        if isinstance(one, str):
            if _is_key(one[:_LOOKED_AT]):
                raise ValueError(f"{place or 'body'}: looks like a key; keys are never values here: put it "
                                 "into a variable, and write the variable's name as apiKeyRef")  # fmt: skip
        elif isinstance(one, Mapping):
            for name, held in one.items():
                waiting.append((_inside(place, str(name)), held))
        elif isinstance(one, (list, tuple)):
            waiting.extend((f"{place}[{at}]", held) for at, held in enumerate(one))


def _inside(place: str, name: str) -> str:
    """Return the path of a member; refuses one whose name is a key's, or says that it holds one."""
    shown = name if len(name) <= 60 and name.isprintable() and not _is_key(name) else "?"
    path = f"{place}.{shown}" if place else shown
    if name.replace("_", "").replace("-", "").lower() in _FIELDS:
        raise ValueError(f"{path}: there is no such field; write apiKeyRef, the name of a variable")
    return path


class Secrets:
    """The secrets of this process, as far as the API may use them."""

    def __init__(self, environ: Mapping[str, str], policy: ControlPolicy) -> None:
        self._environ = environ
        self._allowed = dict(policy.secrets)

    def check(self, name: Any, path: str) -> str:
        """Return the name of a secret that may be used somewhere. Raises ValueError, without showing it."""
        if not isinstance(name, str) or not _NAME.match(name):
            raise ValueError(f"{path}: has to be the name of a variable, such as OPENAI_API_KEY")
        usual = any(name in each.variables for each in PROVIDERS.values())
        if not (name in self._allowed or name.startswith(PREFIX) or usual):
            raise ValueError(
                f"{path}: this name may not be used: the file allows names under control: "
                f"{{secrets: [...]}}, and those that begin with {PREFIX} are allowed always"
            )
        return name

    def misplaced(self, name: str, provider: str, url: str) -> str:
        """Return why a secret may not be sent to an address; empty: it may."""
        if name in self._allowed:
            hosts = self._allowed[name]
            host = (urlsplit(url).hostname or "").lower()
            return "" if not hosts or host in hosts else f"{name} may not be sent to this host"
        if name.startswith(PREFIX):
            return ""
        known = PROVIDERS.get(provider)
        if known is not None and name in known.variables and known.takes(url):
            return ""
        return f"{name} may be sent to its own provider alone; allow it under control: {{secrets: [...]}}"

    def usual(self, provider: str, url: str) -> str:
        """Return the variable with the key of a provider for one of its own addresses; empty: none."""
        known = PROVIDERS[provider]
        if not known.variables or not known.takes(url):
            return ""
        return next((name for name in known.variables if self._value(name)), known.variables[0])

    def reveal(self, name: str) -> Secret:
        """Return a secret; an empty one where the variable is not set here."""
        return Secret(self._value(name))

    def _value(self, name: str) -> str:
        try:
            return self._environ.get(name, "").strip()
        except RouterError:
            return ""  # it stands somewhere else, and that is away
