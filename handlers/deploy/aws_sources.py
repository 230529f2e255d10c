"""Which files of an app's folder go into its bundle."""

from __future__ import annotations

import fnmatch
import os
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from handlers.deploy.errors import NotPrepared

__all__ = ["MAX_UNZIPPED", "BundleConfig", "copy_app", "is_ignored", "read_config"]

MAX_UNZIPPED: Final = 250 * 1024 * 1024
"""Bytes: what Lambda takes, layers included."""
_MB: Final = 1024 * 1024

_CACHES: Final = frozenset({"__pycache__", "node_modules", "__pypackages__"})
_TOP_LEVEL: Final = frozenset({"build", "dist", "tests", "htmlcov"})
"""Left out of the app's folder itself, unless ``include`` names them."""
_SUFFIXES: Final = (".pyc", ".pyo", ".egg-info")
_SECRETS: Final = ("*.pem", "*.key", "*.p12", "*.pfx", "*.env", "credentials*.json")
"""Left out of every folder, unless ``include`` names the file itself: whoever may read a function's code
could read them."""
_OURS: Final = ("router_core", "handlers")


@dataclass(frozen=True, slots=True)
class BundleConfig:
    """``[tool.router-core.bundle]`` of the pyproject.toml in the app's folder; all of it may be absent."""

    include: tuple[str, ...] = ()
    """Files and folders to take; empty takes the whole folder."""
    exclude: tuple[str, ...] = ()
    """Patterns (``*``, ``?``) of paths to leave out."""
    requirements: tuple[str, ...] | None = None
    """Packages to install; None asks requirements.txt, then the dependencies in pyproject.toml."""
    project: tuple[str, ...] = ()
    """The dependencies in pyproject.toml."""


def is_ignored(name: str) -> bool:
    """Whether files and folders of that name are never part of a bundle: hidden ones, caches, leftovers."""
    return name.startswith(".") or name in _CACHES or name.endswith(_SUFFIXES)


def read_config(folder: Path) -> BundleConfig:
    """Return what the pyproject.toml of a folder says; raises NotPrepared when it cannot be understood."""
    path = folder / "pyproject.toml"
    if not path.is_file():
        return BundleConfig()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise NotPrepared(f"{path} cannot be read: {error}") from error
    table = document.get("tool", {}).get("router-core", {}).get("bundle", {})
    if not isinstance(table, dict):
        raise NotPrepared(f"{path}: tool.router-core.bundle must be a table")
    known = {field.name for field in fields(BundleConfig)} - {"project"}
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in known:
            raise NotPrepared(
                f"{path}: {name!r} in [tool.router-core.bundle] is none of {', '.join(sorted(known))}"
            )
        values[name] = _words(value, f"{path}: {name} in [tool.router-core.bundle]")
    project = document.get("project", {}).get("dependencies", [])
    return BundleConfig(**values, project=_words(project, f"{path}: dependencies in [project]"))


def _words(value: Any, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise NotPrepared(f"{place} must be a list of strings")
    return tuple(value)


def copy_app(folder: Path, out: Path, config: BundleConfig) -> list[str]:
    """Copy the app's files; returns those that are left out as they look like secrets.

    Raises NotPrepared for a file that would replace a part of router-core, and for more than Lambda takes.
    """
    named = {os.path.normpath(text) for text in config.include}
    chosen = [inside for inside in _chosen(folder, config) if not _is_ours(folder, inside)]
    secrets = [inside for inside in chosen if _is_secret(inside) and str(inside) not in named]
    files = [inside for inside in chosen if inside not in set(secrets)]
    _check_size(folder, files)
    for inside in files:
        goal = out / inside
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(folder / inside, goal)
    return [inside.as_posix() for inside in secrets]


def _is_ours(folder: Path, inside: Path) -> bool:
    """Whether it is a file of a clone of router-core, whose packages are in the bundle already."""
    if inside.parts[0] not in _OURS:
        return False
    if (folder / inside.parts[0]).resolve() == _our_place(inside.parts[0]):
        return True
    raise NotPrepared(
        f"{folder / inside.parts[0]} has the name of a package of router-core; "
        "rename it, or leave it out with `exclude` in [tool.router-core.bundle] of pyproject.toml"
    )


def _is_secret(inside: Path) -> bool:
    return any(fnmatch.fnmatch(inside.name.lower(), pattern) for pattern in _SECRETS)


def _check_size(folder: Path, files: list[Path]) -> None:
    """Look before anything is copied: a folder of models or videos would fill the disk."""
    sizes: dict[str, int] = {}
    for inside in files:
        sizes[inside.parts[0]] = sizes.get(inside.parts[0], 0) + (folder / inside).stat().st_size
    total = sum(sizes.values())
    if total > MAX_UNZIPPED:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        told = ", ".join(f"{name} ({sizes[name] // _MB} MB)" for name in largest)
        raise NotPrepared(
            f"{folder} has {total // _MB} MB, and Lambda takes {MAX_UNZIPPED // _MB} MB: {told}; "
            "leave something out with `exclude` in [tool.router-core.bundle] of pyproject.toml"
        )


def _our_place(package: str) -> Path:
    return Path(__file__).resolve().parent.parent.parent / package


def _chosen(folder: Path, config: BundleConfig) -> Iterator[Path]:
    above = (os.path.realpath(folder),)
    if not config.include:
        for name in sorted(os.listdir(folder)):
            if name not in _TOP_LEVEL:
                yield from _below(folder, Path(name), config, above)
        return
    for text in config.include:
        path = Path(os.path.normpath(text))
        if path.is_absolute() or ".." in path.parts:
            raise NotPrepared(f"{text!r} in `include` lies outside of {folder}")
        if not (folder / path).exists():
            raise NotPrepared(f"{text!r} in `include` is not in {folder}")
        yield from _below(folder, path, config, above)


def _below(folder: Path, path: Path, config: BundleConfig, above: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files at and below a path, relative to the folder; links are followed, but not in circles."""
    here = folder / path
    posix = path.as_posix()
    if is_ignored(path.name) or any(fnmatch.fnmatch(posix, pattern) for pattern in config.exclude):
        return
    if here.is_file():
        yield path
        return
    real = os.path.realpath(here)
    if not here.is_dir() or real in above or (here / "pyvenv.cfg").is_file():
        return
    for name in sorted(os.listdir(here)):
        yield from _below(folder, path / name, config, (*above, real))
