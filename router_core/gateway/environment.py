"""What the gateway is configured with by variables alone: Hugging Face endpoints, and lists of Craft AI.

HF_BASE_URL_120B=https://endpoints.huggingface.co/{owner}/endpoints/{name}   the model "120b"
HF_BASE_URL_20B=https://xyz.endpoints.huggingface.cloud                      the model "20b"
HUGGINGFACE_API_KEY=hf_...      ENDPOINT_WAKE_TIMEOUT=300      ENDPOINT_AUTO_SLEEP=900
ENDPOINT_LIST={"1": {"endpoint_url": "https://...", "endpoint_token": "..."}}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

from router_core.errors import Misconfigured
from router_core.gateway.config.endpoints import AUTO_SLEEP, WAKE_TIMEOUT, seconds
from router_core.gateway.config.merge import merge
from router_core.gateway.config.urls import cleaned
from router_core.gateway.lifecycle.huggingface import names_of
from router_core.gateway.values import Deployment, EndpointSpec, GatewayConfig, Model, Secret, Timeouts

__all__ = ["from_environment", "merge"]

_PREFIX: Final = "HF_BASE_URL_"
_MODEL: Final = "HF_MODEL_"
_KEYS: Final = ("HUGGINGFACE_API_KEY", "HF_TOKEN")
_LIST: Final = "ENDPOINT_LIST"
_TGI: Final = "tgi"
"""The name that the servers of Hugging Face take for whatever model they run."""
_SIZE: Final = re.compile(r"(?:.*[^0-9.])?([0-9]+(?:\.[0-9]+)?)([mbt])\Z")
_UNITS: Final = {"m": 1e6, "b": 1e9, "t": 1e12}
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_MAX_LIST: Final = 1024 * 1024
_MAX_ENTRIES: Final = 1000


def from_environment(environ: Mapping[str, str]) -> GatewayConfig:
    """Return the models, endpoints and selector that variables define; nothing where there are none.

    Raises Misconfigured with a line for each variable that is wrong; what tokens hold is not told.
    """
    problems: list[str] = []
    specs = _endpoints(environ, problems)
    selector = _selector(environ.get(_LIST, "").strip(), problems)
    if problems:
        raise Misconfigured("\n".join(problems))
    told = "\n".join([*(f"{each.name} {each.url}" for each in specs), *(each.base_url for each in selector)])
    return GatewayConfig(
        models=_models(specs, environ), endpoints=tuple(specs), selector=selector, source="the environment",
        version=hashlib.sha256(told.encode()).hexdigest()[:12] if told else "",
    )  # fmt: skip


# --- Hugging Face ---------------------------------------------------------------------------------


def _endpoints(environ: Mapping[str, str], problems: list[str]) -> list[EndpointSpec]:
    variables = sorted(name for name in environ if name.startswith(_PREFIX) and environ[name].strip())
    if not variables:
        return []
    token = next((environ[name].strip() for name in _KEYS if environ.get(name, "").strip()), "")
    if not token:
        problems.append(f"{_KEYS[0]} is not set, and {variables[0]} needs it")
    elif not token.isascii() or not token.isprintable() or " " in token:
        problems.append(f"{_KEYS[0]} holds a sign that no key has")
    wake, sleep = _seconds(environ, WAKE_TIMEOUT, problems), _seconds(environ, AUTO_SLEEP, problems)
    made = [_endpoint(name, environ[name].strip(), Secret(token), problems) for name in variables]
    return [replace(each, wake_timeout=wake, auto_sleep=sleep) for each in made if each is not None]


def _seconds(environ: Mapping[str, str], variable: str, problems: list[str]) -> float:
    try:
        return seconds(environ, variable)
    except ValueError as error:
        problems.append(str(error))
        return 0.0


def _endpoint(variable: str, text: str, token: Secret, problems: list[str]) -> EndpointSpec | None:
    name = variable.removeprefix(_PREFIX).lower()
    url, wrong = cleaned(text)
    if not _NAME.match(name):
        wrong = f"needs a name after {_PREFIX}, such as {_PREFIX}120B"
    namespace, remote = names_of(url) if url else ("", "")
    if not wrong and not remote and ".huggingface.co/" in f"{url}/":
        wrong = "must be https://endpoints.huggingface.co/{username}/endpoints/{endpoint-name}"
    if wrong:
        problems.append(f"{variable} {wrong}")
        return None
    # Where inference goes is known, and nothing that could be managed: it wakes when it is called.
    driver: Any = "huggingface" if remote else "none"
    return EndpointSpec(name, driver, url, namespace, remote, token)


def _models(specs: list[EndpointSpec], environ: Mapping[str, str]) -> tuple[Model, ...]:
    sized = sorted((size, each.name) for each in specs if (size := _size(each.name)) is not None)
    smaller = {bigger[1]: less[1] for less, bigger in pairwise(sized)}
    return tuple(_model(each, smaller.get(each.name, ""), environ) for each in specs)


def _size(name: str) -> float | None:
    match = _SIZE.match(name)
    return float(match[1]) * _UNITS[match[2]] if match else None


def _model(spec: EndpointSpec, smaller: str, environ: Mapping[str, str]) -> Model:
    upstream = environ.get(f"{_MODEL}{spec.name.upper()}", "").strip() or _TGI
    deployment = Deployment(
        id=f"{spec.name}/huggingface", model_id=spec.name, type="huggingface", model=upstream,
        base_url="" if spec.driver == "huggingface" else spec.url, key=spec.token, endpoint=spec.name,
    )  # fmt: skip
    return Model(
        spec.name, "text-generation", (deployment,), owned_by=spec.namespace or "huggingface",
        fallbacks=(smaller,) if smaller else (), wake_fallback=smaller,
    )  # fmt: skip


# --- Craft AI -------------------------------------------------------------------------------------


def _selector(text: str, problems: list[str]) -> tuple[Deployment, ...]:
    if not text:
        return ()
    try:
        listed = _parsed(text)
    except ValueError as error:
        problems.append(f"{_LIST} {error}")
        return ()
    made = []
    for name, entry in listed.items():
        deployment = _candidate(name, entry, problems)
        if deployment is not None:
            made.append(deployment)
    return tuple(made)


def _parsed(text: str) -> Mapping[str, Any]:
    if len(text) > _MAX_LIST:
        raise ValueError(f"has more than {_MAX_LIST} characters")
    try:
        listed = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg}, line {error.lineno})") from None
    except RecursionError:
        raise ValueError("is nested too deep") from None
    if not isinstance(listed, dict):
        raise ValueError('must be {"1": {"endpoint_url": "...", "endpoint_token": "..."}}')
    if len(listed) > _MAX_ENTRIES:
        raise ValueError(f"has more than {_MAX_ENTRIES} entries")
    return listed


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the key {twice[:40]!r} twice")
    return made


def _candidate(name: str, entry: Any, problems: list[str]) -> Deployment | None:
    where = f"{_LIST}: entry {name[:40]!r}"
    if not isinstance(entry, dict):
        problems.append(f"{where} must be an object with endpoint_url and endpoint_token")
        return None
    for key in entry:
        if key not in ("endpoint_url", "endpoint_token"):
            problems.append(f"{where} takes no key {key[:40]!r}; it takes endpoint_url and endpoint_token")
    url, token = entry.get("endpoint_url"), entry.get("endpoint_token")
    if not isinstance(url, str) or not isinstance(token, str) or not token:
        problems.append(f"{where} needs an endpoint_url and an endpoint_token")
        return None
    address, wrong = cleaned(url.strip())
    if not wrong and not (token.isascii() and token.isprintable()):
        wrong = "has a token with a sign that no token has"
    if wrong or not name.isprintable() or not name:
        problems.append(f"{where}: endpoint_url {wrong or 'needs a name'}")
        return None
    return Deployment(
        id=f"selector/{name}", model_id="", type="craftai", model="", base_url=address,
        key=Secret(token.strip()), timeouts=Timeouts(),
    )  # fmt: skip
