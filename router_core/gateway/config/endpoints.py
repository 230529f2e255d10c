"""Read ``endpoints``: the places that can be asleep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, cast

from router_core.gateway.config.deployments import name_of
from router_core.gateway.config.section import Section
from router_core.gateway.config.urls import cleaned
from router_core.gateway.lifecycle.huggingface import names_of
from router_core.gateway.values import EndpointSpec

__all__ = ["AUTO_SLEEP", "DRIVERS", "WAKE_TIMEOUT", "endpoint", "seconds"]

DRIVERS: Final = ("huggingface", "runpod", "none")
WAKE_TIMEOUT: Final = "ENDPOINT_WAKE_TIMEOUT"
AUTO_SLEEP: Final = "ENDPOINT_AUTO_SLEEP"
_LONGEST_WAKE: Final = 3600.0
_LONGEST_SLEEP: Final = 30 * 86400.0

Driver = Literal["huggingface", "runpod", "none"]


def seconds(environ: Mapping[str, str], variable: str) -> float:
    """Read a number of seconds from the environment. Raises ValueError with a sentence."""
    most = _LONGEST_WAKE if variable == WAKE_TIMEOUT else _LONGEST_SLEEP
    usual = 300.0 if variable == WAKE_TIMEOUT else 900.0
    text = environ.get(variable, "").strip()
    if not text:
        return usual
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise ValueError(f"{variable} is {text[:40]!r}; it must be a number of seconds from 0 to {most:g}")
    return value


def endpoint(section: Section) -> EndpointSpec:
    """Read one endpoint."""
    name = name_of(section, "name", "id")
    if name:
        section.name = f"endpoint {name!r}"
        if "/" in name:
            section.wrong("name", "holds a /; it becomes part of a path")
    url = _address(section, "url", "base_url")
    driver = section.choice("driver", "type", known=DRIVERS, default=_guessed(url))
    if not driver and section.find("driver", "type") is None:
        section.problems.add(section.line, f"{section.name} needs a driver: {', '.join(DRIVERS)}")
    page = names_of(url)
    spec = EndpointSpec(
        name=name, driver=cast("Driver", driver or "none"), url=url,
        namespace=section.text("namespace", default=page[0]), remote=section.text("remote", default=page[1]),
        token=section.secret("token", "key", "api_key"), api_url=_address(section, "api_url"),
        wake_timeout=section.number("wake_timeout", default=_told(section, WAKE_TIMEOUT), most=_LONGEST_WAKE),
        auto_sleep=section.number("auto_sleep", default=_told(section, AUTO_SLEEP), most=_LONGEST_SLEEP),
    )  # fmt: skip
    _complete(section, spec, driver)
    section.close()
    return _with_token(spec, section)


def _told(section: Section, variable: str) -> float:
    try:
        return seconds(section.environ, variable)
    except ValueError as error:
        section.problems.add(section.line, str(error))
        return 0.0


def _address(section: Section, *keys: str) -> str:
    found = section.find(*keys)
    text = section.text(*keys)
    if found is None or not text:
        return ""
    url, wrong = cleaned(text)
    if wrong:
        section.wrong(found[0], wrong)
    return url


def _guessed(url: str) -> str:
    """Return the driver that an address gives away."""
    return "huggingface" if names_of(url)[1] else ""


def _complete(section: Section, spec: EndpointSpec, driver: str) -> None:
    """Refuse what the driver could not find its endpoint with."""
    if driver == "huggingface" and not (spec.namespace and spec.remote):
        section.problems.add(
            section.line, f"{section.name} needs a namespace and a remote (its name there), or the url of "
            "its page: https://endpoints.huggingface.co/{namespace}/endpoints/{name}",
        )  # fmt: skip
    if driver == "runpod" and not (spec.remote or spec.url):
        section.problems.add(section.line, f"{section.name} needs a remote: the id of the endpoint at RunPod")
    if driver == "none" and not spec.url:
        section.problems.add(section.line, f"{section.name} needs a url")


def _with_token(spec: EndpointSpec, section: Section) -> EndpointSpec:
    """Refuse a provider's endpoint without the token that its management asks for."""
    if spec.driver != "none" and not spec.token and section.find("token", "key", "api_key") is None:
        variable = "HUGGINGFACE_API_KEY" if spec.driver == "huggingface" else "RUNPOD_API_KEY"
        section.problems.add(section.line, f"{section.name} needs a token: write token: ${{{variable}}}")
    return spec
