"""Tables of the documentation that are computed from the code.

`python -m tests.docs_tables` prints them, for whoever has to renew a page.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

from router_core import errors
from router_core.errors import RouterError
from router_core.settings import VARIABLES, Settings

__all__ = ["error_table", "settings_table", "special_codes"]

_ROOT = Path(__file__).parent.parent
_CODE = re.compile(r"\bcode ?= ?\"([a-z_0-9]+)\"")


def error_table() -> str:
    """Return one row for each class of the error tree, by status."""
    kinds = [getattr(errors, name) for name in errors.__all__]
    rows = ["| status | code | class | meaning | try again |", "|---|---|---|---|---|"]
    for kind in sorted(kinds, key=lambda kind: (kind.status, kind.code)):
        if kind in (RouterError, errors.HTTPError):
            continue
        meaning = inspect.getdoc(kind) or ""
        first = " ".join(meaning.split("\n\n")[0].split()).rstrip(".").replace("``", "`")
        again = "yes, after `Retry-After`" if kind.retryable else ""
        rows.append(f"| {kind.status} | `{kind.code}` | `{kind.__name__}` | {first} | {again} |")
    return "\n".join(rows)


def special_codes() -> set[str]:
    """Return the codes that are given where an error is raised, and those of classes that mean nothing."""
    own = {getattr(errors, name).code for name in errors.__all__}
    found: set[str] = set()
    for folder in ("router_core", "handlers"):
        for path in sorted((_ROOT / folder).rglob("*.py")):
            if path.name != "errors.py" or path.parent.name == "client":
                found.update(_CODE.findall(path.read_text(encoding="utf-8")))
    return (found - own) | {RouterError.code, errors.HTTPError.code}


def settings_table() -> str:
    """Return one row for each setting: variable, default, meaning."""
    notes = _field_notes()
    rows = ["| variable | default | |", "|---|---|---|"]
    for field in fields(Settings):
        variable = VARIABLES[field.name][0]
        default = "" if field.default == "" else f"`{_shown(field.default)}`"
        rows.append(f"| `{variable}` | {default} | {notes.get(field.name, '')} |")
    return "\n".join(rows)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _field_notes() -> dict[str, str]:
    """Return the text under each field of Settings."""
    source = inspect.getsource(Settings)
    notes = re.findall(r"^    (\w+): [^\n]+\n    \"\"\"(.+?)\"\"\"", source, flags=re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.replace("``", "`").split()).rstrip(".") for name, text in notes}


if __name__ == "__main__":
    print(error_table(), settings_table(), *sorted(special_codes()), sep="\n\n")
