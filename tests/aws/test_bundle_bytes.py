"""Five functions run one bundle, and each has its own copy built: the copies are equal to the byte."""

from __future__ import annotations

import sys
from pathlib import Path

from handlers.deploy.aws_packages import compile_folder


def test_compiled_modules_do_not_tell_where_they_were_built(tmp_path: Path) -> None:
    """Compile one module in two places: the bytes are equal, and name the place that it has on Lambda."""
    compiled = []
    for place in ("a", "elsewhere"):
        package = tmp_path / place / "package"
        package.mkdir(parents=True)
        (package / "module.py").write_text("def work() -> int:\n    return 1\n")
        compile_folder(sys.executable, tmp_path / place)
        (found,) = package.rglob("*.pyc")
        compiled.append(found.read_bytes())
    assert compiled[0] == compiled[1]
    assert b"/var/task/package/module.py" in compiled[0]
    assert str(tmp_path).encode() not in compiled[0]
