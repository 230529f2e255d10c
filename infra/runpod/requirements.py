"""Print what the package needs to be installed with some of its extras: ``requirements.py FILE EXTRA,EXTRA``.

An image installs these before it copies the code, so that a change of code does not install them again.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: str, extras: str) -> list[str]:
    """Return the requirements of the base and of the named extras; raises SystemExit for an unknown one."""
    project = tomllib.loads(pyproject)["project"]
    known = project["optional-dependencies"]
    wanted = [name for name in (each.strip() for each in extras.split(",")) if name]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SystemExit(f"unknown extras: {', '.join(unknown)}; there are {', '.join(known)}")
    lines = [*project["dependencies"], *(line for name in wanted for line in known[name])]
    return list(dict.fromkeys(lines))


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[2])))
