"""The JSON of a model and of its endpoints: checked, and brought into the one form in which it is kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, get_args

from router_core.gateway.budgets.parse import limits_json, parse_limits
from router_core.gateway.control.addresses import Addresses
from router_core.gateway.control.providers import MODEL_KINDS, PROVIDERS, provider_of
from router_core.gateway.control.secrets import Secrets
from router_core.gateway.rules.read import members, number, refuse, text, texts, whole
from router_core.gateway.values import STATUSES, StrategyName

__all__ = ["ENDPOINT_TYPES", "MAX_ENDPOINTS", "Bodies", "model_id_of", "slug"]

ENDPOINT_TYPES: Final = ("primary", "canary", "experimental", "secondary", "fallback")
"""``secondary`` is asked when no primary, canary or experimental one can serve, ``fallback`` after that."""
MAX_ENDPOINTS: Final = 100
_MODEL: Final = (
    "name", "version", "provider", "modelType", "capabilities", "parameters", "status", "tags", "description",
    "aliases", "strategy", "fallbacks", "contextFallbacks", "policyFallbacks", "apiKeyRef", "region",
    "compliance", "contextLength", "price", "limits", "ownedBy", "endpoints",
)  # fmt: skip
_ENDPOINT: Final = (
    "id", "url", "type", "weight", "healthCheckUrl", "apiKeyRef", "region", "compliance", "tags",
    "maxConcurrency", "timeout", "model",
)  # fmt: skip
_PARAMETERS: Final[Mapping[str, tuple[float, float, bool]]] = {
    "temperature": (0, 2, False), "maxTokens": (1, 10**7, True), "topP": (0, 1, False),
    "frequencyPenalty": (-2, 2, False), "presencePenalty": (-2, 2, False), "seed": (-(2**53), 2**53, True),
}  # fmt: skip
"""Least, most, and whether it is a whole number."""
_PRICE: Final = ("input", "output", "cachedInput", "request")
_LISTS: Final = ("tags", "aliases", "fallbacks", "contextFallbacks", "policyFallbacks", "compliance")
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}\Z")
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}\Z")
_NUMBERED: Final = re.compile(r"v?[0-9]+(\.[0-9]+)*\Z", re.IGNORECASE)
_MAX_LIST: Final = 100
_DAY: Final = 86_400


def slug(name: str) -> str:
    """Return what an id may look like, made of a name."""
    made = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:100]
    return made or "x" + hashlib.sha256(name.encode()).hexdigest()[:12]


def model_id_of(data: Mapping[str, Any]) -> str:
    """Return the id of a new model: the one that is given, else its version where that is the name of one,
    else its name. Raises ValueError."""
    given = data.get("id")
    if given is not None:
        if not isinstance(given, str) or not _ID.match(given) or given == "batch":
            refuse("id", "has to be up to 128 letters, digits and . _ : @ -, such as gpt-4-turbo")
        return given
    version, name = data.get("version"), data.get("name")
    if isinstance(version, str) and _ID.match(version) and not _NUMBERED.match(version):
        return version
    return slug(text(name, "name")) if name is not None else refuse("name", "is missing")


class Bodies:
    """Reads models and endpoints; what may be said of keys and addresses is the operator's to say."""

    def __init__(self, secrets: Secrets, addresses: Addresses) -> None:
        self._secrets = secrets
        self._addresses = addresses

    def model(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return a model as it is kept. Raises ValueError, beginning with the wrong field."""
        given = members(data, "", _MODEL)
        for name in ("name", "provider"):
            if name not in given:
                refuse(name, "is missing")
        made: dict[str, Any] = {"name": text(given["name"], "name")}
        if "version" in given:
            made["version"] = text(given["version"], "version")
        made["provider"] = _provider(given["provider"])
        made["modelType"] = _choice(given.get("modelType", "chat"), "modelType", tuple(MODEL_KINDS))
        made["capabilities"] = _capabilities(given.get("capabilities", []))
        made["parameters"] = _parameters(given.get("parameters", {}), made["modelType"])
        made["status"] = _choice(given.get("status", "active"), "status", STATUSES)
        made |= {name: _words(given.get(name, []), name) for name in ("tags",)}
        made |= self._more(given)
        made["endpoints"] = self.endpoints(given.get("endpoints", []))
        return made

    def _more(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the seed's models do not have."""
        readers: dict[str, Callable[[Any], Any]] = {
            "description": lambda value: _long(value, "description"),
            "strategy": lambda value: _choice(value, "strategy", get_args(StrategyName)),
            "apiKeyRef": lambda value: self._secrets.check(value, "apiKeyRef"),
            "region": lambda value: _word(value, "region"),
            "contextLength": lambda value: whole(value, "contextLength", least=1),
            "price": _price,
            "limits": lambda value: limits_json(parse_limits(value, "limits")),
            "ownedBy": lambda value: text(value, "ownedBy"),
            **{name: lambda value, name=name: _words(value, name) for name in _LISTS[1:]},  # type: ignore[misc]
        }
        made = {name: read(given[name]) for name, read in readers.items() if name in given}
        return {name: value for name, value in made.items() if value not in ([], {})}

    def endpoints(self, value: object) -> list[dict[str, Any]]:
        """Return the endpoints of a model; each has an id then."""
        if not isinstance(value, (list, tuple)):
            refuse("endpoints", "has to be a list of objects with a url")
        if len(value) > MAX_ENDPOINTS:
            refuse("endpoints", f"has {len(value):,} entries, at most {MAX_ENDPOINTS} are allowed")
        made: list[dict[str, Any]] = []
        for at, one in enumerate(value):
            read = self.endpoint(one, f"endpoints[{at}]")
            if any(other["id"] == read["id"] for other in made):
                refuse(f"endpoints[{at}].id", f"{read['id']!a} stands there a second time")
            made.append(read)
        return made

    def endpoint(self, data: object, path: str = "") -> dict[str, Any]:
        """Return one endpoint as it is kept. Raises ValueError, beginning with the wrong field."""
        given = members(data, path, _ENDPOINT)
        under = f"{path}." if path else ""
        if "url" not in given:
            refuse(f"{under}url", "is missing")
        url = self._addresses.clean(given["url"], f"{under}url")
        kind = _choice(given.get("type", "primary"), f"{under}type", ENDPOINT_TYPES)
        weight = number(given.get("weight", 1.0), f"{under}weight")
        if weight > 1e6:
            refuse(f"{under}weight", "may be 1,000,000 at most")
        key = given.get("id", hashlib.sha256(f"{url}\n{given.get('model', '')}".encode()).hexdigest()[:12])
        if not isinstance(key, str) or not _ID.match(key):
            refuse(f"{under}id", "has to be up to 128 letters, digits and . _ : @ -")
        made: dict[str, Any] = {"id": key, "url": url, "type": kind, "weight": weight}
        readers: dict[str, Callable[[Any], Any]] = {
            "healthCheckUrl": lambda value: self._health(value, url, f"{under}healthCheckUrl"),
            "apiKeyRef": lambda value: self._secrets.check(value, f"{under}apiKeyRef"),
            "region": lambda value: _word(value, f"{under}region"),
            "compliance": lambda value: _words(value, f"{under}compliance"),
            "tags": lambda value: _words(value, f"{under}tags"),
            "maxConcurrency": lambda value: _count(value, f"{under}maxConcurrency", 10**6),
            "timeout": lambda value: _count(value, f"{under}timeout", _DAY * 1000),
            "model": lambda value: text(value, f"{under}model"),
        }
        made |= {name: read(given[name]) for name, read in readers.items() if name in given}
        return made

    def _health(self, value: object, url: str, path: str) -> str:
        """Return the address of a health check: it carries the key, so it has to be on the same server."""
        address = self._addresses.clean(value, path)
        if address.split("/")[:3] != url.split("/")[:3]:
            refuse(path, "has to be on the server of url: the check carries its key")
        return address


def _provider(value: object) -> str:
    written = text(value, "provider")
    name = provider_of(written)
    if not name:
        _choice(written.lower(), "provider", tuple(PROVIDERS))
    return name


def _choice(value: object, path: str, known: tuple[str, ...]) -> str:
    word = text(value, path)
    if word not in known:
        from difflib import get_close_matches

        near = get_close_matches(word.lower(), known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        refuse(path, f"{word[:60]!a} is not known; {hint}")
    return word


def _word(value: object, path: str) -> str:
    word = text(value, path)
    if not _WORD.match(word):
        refuse(path, f"{word[:60]!a} is not one word")
    return word


def _words(value: object, path: str) -> list[str]:
    if value in ([], ()):
        return []
    found = texts(value, path)
    if len(found) > _MAX_LIST:
        refuse(path, f"has {len(found):,} values, at most {_MAX_LIST} are allowed")
    return list(found)


def _long(value: object, path: str) -> str:
    if not isinstance(value, str) or len(value) > 2000:
        refuse(path, "has to be a text of at most 2,000 characters")
    return value


def _count(value: object, path: str, most: int) -> int:
    found = whole(value, path, least=1)
    if found > most:
        refuse(path, f"may be {most:,} at most")
    return found


def _capabilities(value: object) -> list[dict[str, Any]]:
    """Return what a model can do; a word alone is as good as an object with its type."""
    if not isinstance(value, (list, tuple)):
        refuse("capabilities", 'has to be a list, such as [{"type": "text-generation"}]')
    if len(value) > _MAX_LIST:
        refuse("capabilities", f"has {len(value):,} entries, at most {_MAX_LIST} are allowed")
    made: dict[str, dict[str, Any]] = {}
    for at, one in enumerate(value):
        path = f"capabilities[{at}]"
        given = members({"type": one} if isinstance(one, str) else one, path, ("type", "maxTokens"))
        if "type" not in given:
            refuse(f"{path}.type", "is missing")
        read: dict[str, Any] = {"type": _word(given["type"], f"{path}.type")}
        if "maxTokens" in given:
            read["maxTokens"] = whole(given["maxTokens"], f"{path}.maxTokens", least=1)
        made[read["type"]] = read
    return list(made.values())


def _parameters(value: object, model_type: str) -> dict[str, Any]:
    given = members(value, "parameters", (*_PARAMETERS, "stop"))
    if given and model_type not in ("chat", "completion", "multimodal"):
        refuse("parameters", f"are for models that write, and this one is of type {model_type}")
    made: dict[str, Any] = {}
    for name, one in given.items():
        path = f"parameters.{name}"
        if name == "stop":
            made[name] = one if isinstance(one, str) and 0 < len(one) <= 256 else _words(one, path)
            continue
        made[name] = _figure(one, path, *_PARAMETERS[name])
    return made


def _figure(value: object, path: str, least: float, most: float, integral: bool) -> float | int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        refuse(path, "has to be a number")
    if not least <= value <= most:
        refuse(path, f"has to be between {least:,} and {most:,}")
    if integral and value != int(value):
        refuse(path, "has to be a whole number")
    return int(value) if integral else value


def _price(value: object) -> dict[str, float]:
    given = members(value, "price", _PRICE)
    return {name: number(one, f"price.{name}") for name, one in given.items()}
