"""template.yaml: where it is, what it may be told, and the folder that `sam build` works in."""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from handlers.deploy.errors import NotPrepared

__all__ = ["check_keys", "check_parameters", "parameter_names", "quoted", "stage_template"]

_HERE: Final = Path(__file__).resolve().parent
_PLACES: Final = (_HERE / "files", _HERE.parent.parent)
"""In an installed package, and in a clone."""
_MAKEFILE: Final = Path("infra") / "aws" / "Makefile"


def stage_template(place: Path) -> Path:
    """Copy router-core's template to ``place``, with the Makefile that it is built by; returns its path."""
    for source in _PLACES:
        if (source / "template.yaml").is_file():
            (place / _MAKEFILE).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / _MAKEFILE, place / _MAKEFILE)
            return Path(shutil.copyfile(source / "template.yaml", place / "template.yaml"))
    raise NotPrepared("this installation of router-core lacks its template.yaml: install it again")


def parameter_names(template: Path) -> list[str]:
    """Return the parameters of a template that is written as YAML in block style; [] where that fails."""
    try:
        text = template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotPrepared(f"{template} cannot be read: {error}") from error
    found = re.search(r"^Parameters:[ \t]*\n((?:[ \t]+.*\n|[ \t]*#.*\n|\s*\n)*)", text, re.MULTILINE)
    if found is None:
        return []
    indent = re.search(r"^([ \t]+)\w", found[1], re.MULTILINE)
    return re.findall(rf"^{indent[1]}([A-Za-z0-9]+):", found[1], re.MULTILINE) if indent else []


def check_parameters(given: Mapping[str, str], known: list[str], template: Path) -> None:
    """Raise NotPrepared for a parameter that the template does not have: SAM would pass over it."""
    for name, value in given.items():
        if known and name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
            raise NotPrepared(f"{template.name} has no parameter {name}{hint}")
        if "\n" in value or value.endswith("\\"):
            raise NotPrepared(
                f"the value of {name} cannot be handed to SAM: it has several lines, or ends with \\"
            )


def check_keys(given: Mapping[str, str]) -> None:
    """Raise NotPrepared for keys that no function would start with: what was there cannot be read back."""
    from router_core.errors import RouterError
    from router_core.security.api_keys import WORKERS, ApiKeys
    from router_core.security.signing import parse_secrets

    checks: Mapping[str, Callable[[str], object]] = {
        "ApiKeys": ApiKeys.from_setting,
        "WorkerKeys": lambda text: ApiKeys.from_setting(text, WORKERS),
        "WebhookSecret": parse_secrets,
    }
    for name, check in checks.items():
        if given.get(name):
            try:
                check(given[name])
            except (RouterError, ValueError) as error:
                raise NotPrepared(f"the parameter {name} cannot be used: {error}") from None


def quoted(name: str, value: str) -> str:
    """Write a parameter as SAM reads it."""
    escaped = value.replace('"', '\\"')
    return f'{name}="{escaped}"'
