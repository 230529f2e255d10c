"""The README and the pages of docs say what is true: every example runs, every table and link is current."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import docs_tables
from tests.docs_blocks import ROOT, Block, blocks, pages
from tests.served import Served, served

PAGES = pages()
WITH_SERVICE = ("README.md", "calling.md")
"""Pages whose examples speak to the example services."""


def folder_for(tmp_path: Path) -> Path:
    """A working directory such as a reader has it, without what only a clone has."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = folder_for(tmp_path_factory.mktemp("examples"))
    with served("examples.app:router", folder) as service:
        yield service


def at(block: Block, service: Served | None) -> str:
    """Return the code of a block with the port of the running service."""
    return (
        block.code if service is None else block.code.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}")
    )


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in WITH_SERVICE], ids=lambda p: p.name)
def test_python_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block of a page runs by itself, in a new namespace."""
    monkeypatch.chdir(folder_for(tmp_path))
    for block in blocks(page, "python"):
        run_python(block, None)


@pytest.mark.process
@pytest.mark.parametrize("page", [p for p in PAGES if p.name in WITH_SERVICE], ids=lambda p: p.name)
def test_python_examples_run_against_the_examples(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: Served
) -> None:
    """The same for pages that call a running service."""
    monkeypatch.chdir(folder_for(tmp_path))
    for block in blocks(page, "python"):
        run_python(block, examples)


def run_python(block: Block, service: Served | None) -> None:
    if block.not_run:
        return
    code = compile(at(block, service), block.where, "exec")
    try:
        exec(code, {"__name__": f"docs_{block.line}"})  # noqa: S102 - our own pages
    except Exception as error:
        error.add_note(f"in the example at {block.where}")
        raise


@pytest.mark.process
@pytest.mark.timeout(600)  # dozens of commands, each a process of its own
def test_readme_can_be_followed_word_by_word(tmp_path: Path) -> None:
    """From the photograph to a service of one's own."""
    folder = folder_for(tmp_path)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    follow(ROOT / "README.md", folder)
    assert png_size(folder / "cup.png") == (1800, 1200)
    assert png_size(folder / "drawing.png") == (600, 400)


@pytest.mark.process
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["first-service.md", "streaming.md"])
def test_page_can_be_followed(name: str, tmp_path: Path) -> None:
    """The same for pages that build a service of their own."""
    follow(ROOT / "docs" / name, folder_for(tmp_path))


def follow(page: Path, folder: Path) -> None:
    """Run the shell blocks of a page in order; save files and start servers where it says so."""
    with ExitStack() as running:
        service: Served | None = None
        for block in blocks(page, "sh", "python"):
            if block.file:
                (folder / block.file).write_text(block.code, encoding="utf-8")
            if block.language != "sh" or block.not_run:
                continue
            app = "examples.app:router" if "make run" in block.code else served_app(block.code)
            if app:
                running.close()
                service = running.enter_context(served(app, folder))
                continue
            assert service is not None, block.where
            run_shell(block, service, folder)


@pytest.mark.process
def test_shell_examples_of_calling_run(tmp_path: Path, examples: Served) -> None:
    """The same for the page about calling."""
    folder = folder_for(tmp_path)
    for block in blocks(ROOT / "docs" / "calling.md", "sh"):
        run_shell(block, examples, folder)
    assert png_size(folder / "smooth.png") == (600, 400)


def served_app(code: str) -> str:
    """Return the app that a block serves, if that is what it does."""
    match = re.search(r"router-core serve (\S+)", code)
    return match[1] if match else ""


def run_shell(block: Block, service: Served, folder: Path) -> None:
    environ = {
        **os.environ,
        "PORT": str(service.port),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = ["bash", "-euo", "pipefail", "-c", at(block, service)]
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=90, check=False
    )
    told = f"{block.where}\n{done.stdout}\n{done.stderr}\n{service.log[-3000:]}"
    assert done.returncode == 0, told
    assert "urn:router-core:error" not in done.stdout, told


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def test_settings_table_is_current() -> None:
    """The README lists every setting with its default (renew it with ``python -m tests.docs_tables``)."""
    assert docs_tables.settings_table() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_error_table_is_current() -> None:
    """The page of errors lists every class, and every code that is raised anywhere."""
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert docs_tables.error_table() in page
    missing = {code for code in docs_tables.special_codes() if f"`{code}`" not in page}
    assert not missing


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", outside, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links name a file that exists, and a heading in it."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{page.name}: {target}"


def test_every_page_is_listed() -> None:
    """The index names every page of docs."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index


def test_what_the_checklist_rests_on_is_there() -> None:
    """Every test that the page of security names exists, and each of its rows names one."""
    rows = re.findall(
        r"(?m)^\| \d+ \|.*$", (ROOT / "docs" / "security-checklist.md").read_text(encoding="utf-8")
    )
    assert len(rows) == 26
    for row in rows:
        named = re.findall(r"`((?:tests/[\w/]+\.py)|pyproject\.toml)`", row.rpartition(" | ")[2])
        assert named, row
        assert not [name for name in named if not (ROOT / name).is_file()], row
