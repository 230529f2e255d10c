"""From a file to a ``GatewayConfig``."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from router_core.errors import Misconfigured
from router_core.gateway.config.checks import Draft, check
from router_core.gateway.config.clients import check_clients
from router_core.gateway.config.document import MAX_BYTES, Items, Table, plain, read
from router_core.gateway.config.endpoints import endpoint
from router_core.gateway.config.models import model
from router_core.gateway.config.named import NAMED, control, line_of, named
from router_core.gateway.config.section import Problems, Section
from router_core.gateway.rules.parse import parse_rule
from router_core.gateway.values import GatewayConfig

__all__ = ["load_config", "parse_config", "read_file"]

_ELSEWHERE: Final = (
    "auth", "databases", "dependencies", "general", "internet", "mcp", "monitoring", "multi_agents_search",
    "playground", "settings", "usages", "web_search",
)  # fmt: skip
"""Sections of Albert's file that are about other things; they are not even looked at."""


def load_config(path: str | Path, environ: Mapping[str, str]) -> GatewayConfig:
    """Read a file, with what the environment says beside it. Raises Misconfigured with all that is wrong."""
    from router_core.gateway.environment import from_environment

    beside = from_environment(environ)
    return parse_config(read_file(path), str(path), environ, beside=beside)


def read_file(path: str | Path) -> bytes:
    """Return what a file holds. Raises Misconfigured when it cannot be read, or is too large."""
    try:
        with open(path, "rb", opener=_opened) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Misconfigured(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise Misconfigured(f"{path}:1: the file has more than {MAX_BYTES} bytes, the most that is allowed")
    return data


def _opened(path: str, flags: int) -> int:
    """Open a file, and nothing that would keep us waiting for ever."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is not a file")
    return descriptor


def parse_config(
    text: str | bytes, source: str, environ: Mapping[str, str], *, beside: GatewayConfig | None = None
) -> GatewayConfig:
    """Return what a text says, merged with ``beside`` (the text wins by name).

    Raises Misconfigured with everything that is wrong, a line ``source:line: what`` for each.
    """
    beside = beside or GatewayConfig()
    problems = Problems(source)
    root = read(text, source)
    if root is not None and not isinstance(root, Table):
        problems.add(root.line, "a configuration is a mapping; begin with models:")
    draft = _draft(root if isinstance(root, Table) else Table({}, 1), problems, environ)
    config = check(draft, beside, problems)
    check_clients(draft.models, problems)
    problems.check()
    return _stamped(config, text if isinstance(text, bytes) else text.encode(), source, beside)


def _stamped(config: GatewayConfig, data: bytes, source: str, beside: GatewayConfig) -> GatewayConfig:
    version = hashlib.sha256(data + beside.version.encode()).hexdigest()[:12]
    return replace(config, version=version, source=source)


def _draft(root: Table, problems: Problems, environ: Mapping[str, str]) -> Draft:
    section = Section(root, "the configuration", problems, environ)
    draft = Draft()
    for entry in section.sections("models", name="model"):
        made = model(entry)
        if made is not None:
            draft.models.append(made)
    for entry in section.sections("endpoints", name="endpoint"):
        draft.endpoints.append((entry.line, endpoint(entry)))
    draft.default_model = (section.line_of("default_model"), section.text("default_model"))
    _rules(section, draft)
    for kind in NAMED:
        draft.named[kind.key] = named(section, kind)
    draft.control = control(section)
    draft.workspaces_required = section.flag("workspaces_required")
    section.ignore(*_ELSEWHERE, *(key for key in root.entries if key.startswith("x-")))
    section.close()
    return draft


def _rules(section: Section, draft: Draft) -> None:
    found = section.find("routing_rules", "routingRules")
    if found is None:
        return
    if not isinstance(found[1], Items):
        section.wrong(found[0], "must be a list of rules")
        return
    for number, node in enumerate(found[1].values, 1):
        value = plain(node)
        if not isinstance(value, dict):
            section.problems.add(node.line, f"rule {number} must be a mapping")
            continue
        try:
            draft.rules.append((node.line, parse_rule(value)))
        except ValueError as error:
            name = value.get("name")
            called = f"rule {name!r}" if isinstance(name, str) and len(name) < 100 else f"rule {number}"
            section.problems.add(line_of(node, str(error)), f"{called}: {error}")
