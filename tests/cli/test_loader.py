"""``module:attribute``, and every way in which it can be wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.loader import load
from router_core.errors import Misconfigured
from router_core.routing.router import Router

SERVICE = """\
from router_core.routing.router import Router
router = Router()
number = 7
class Holder:
    inner = router
def create_app():
    return Router()
def needs(one, two=2):
    return Router()
def broken():
    raise ValueError("no model here")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder with a service of a name that nothing else has."""
    (tmp_path / "loaded_service.py").write_text(SERVICE)
    (tmp_path / "loaded_broken.py").write_text("import json\n\njson.loads('{')\n")
    (tmp_path / "loaded_syntax.py").write_text("x = 1\ndef (:\n")
    (tmp_path / "loaded_needs.py").write_text("import no_such_library\n")
    (tmp_path / "loaded_starts.py").write_text(
        SERVICE + "def make():\n    router.start()\n    return router\nrouter.start()\n"
    )
    (tmp_path / "loaded_exit.py").write_text("raise SystemExit('bye')\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield str(tmp_path)
    for name in [name for name in sys.modules if name.startswith("loaded_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "target",
    [
        "loaded_service:router",
        "loaded_service",
        "loaded_service.py:router",
        "loaded_service:create_app",
        "loaded_service:create_app()",
        "loaded_service:Holder.inner",
    ],
)
def test_every_way_to_name_a_router(folder: str, target: str) -> None:
    """A module, a file, an attribute, a factory."""
    assert isinstance(load(target, folder), Router)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("", "names no app; write module:attribute"),
        (":router", "names no app"),
        ("loaded_servce:router", "no module 'loaded_servce' .* did you mean 'loaded_service'"),
        ("loaded_service:ruoter", "no attribute 'ruoter'; did you mean 'router'"),
        ("loaded_service:number", "is a int; it must be a Router or an App"),
        ("loaded_service:needs", r"needs arguments \(one\)"),
        ("loaded_service:broken", "loaded_service.py:11: ValueError: no model here"),
        ("loaded_broken:router", "loaded_broken.py:3: JSONDecodeError"),
        ("loaded_syntax:router", "loaded_syntax.py:2: SyntaxError"),
        ("loaded_needs:router", "loaded_needs.py:1: ModuleNotFoundError: No module named 'no_such_library'"),
        ("loaded_exit:router", "loaded_exit.py:1: SystemExit: bye"),
    ],
)
def test_every_way_to_get_it_wrong_is_one_line(folder: str, target: str, said: str) -> None:
    """And the line names the place: ours when the name is wrong, the user's own when their code is."""
    with pytest.raises(Misconfigured, match=said) as caught:
        load(target, folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", ["loaded_starts:router", "loaded_starts:make"])
def test_a_start_in_the_module_does_not_start_anything(
    folder: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that serves itself when it is run can be served, or looked at, by name as well."""
    monkeypatch.setenv("EXECUTION_PROVIDER", "nobody")  # what starts here fails, rather than serve for ever
    assert isinstance(load(target, folder), Router)
    with pytest.raises(Misconfigured, match="nobody"):
        Router().start()
