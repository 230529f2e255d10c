"""Read the sections that take the same JSON as the API: workspaces, agents, rollouts and experiments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from router_core.gateway.budgets.parse import parse_workspace
from router_core.gateway.config.agents import parse_agent
from router_core.gateway.config.document import Items, Node, Table, plain
from router_core.gateway.config.section import Section
from router_core.gateway.trials.parse import parse_experiment, parse_rollout
from router_core.gateway.values import ControlPolicy

__all__ = ["NAMED", "Named", "control", "line_of", "named"]

Parse = Callable[[str, Mapping[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Named:
    """One section whose entries have names."""

    key: str
    """In the file, and in a ``GatewayConfig``."""
    word: str
    id: str
    """The field of an entry of a list that holds its name."""
    parse: Parse


NAMED: Final = (
    Named("workspaces", "workspace", "id", parse_workspace),
    Named("agents", "agent", "agentType", parse_agent),
    Named("rollouts", "rollout", "id", lambda key, data: parse_rollout({**data, "id": key})),
    Named("experiments", "experiment", "id", lambda key, data: parse_experiment({**data, "id": key})),
)


def named(section: Section, kind: Named) -> list[tuple[int, Any]]:
    """Return the values of a section, each with its line; what is wrong is noted."""
    found: list[tuple[int, Any]] = []
    for key, line, node in _entries(section, kind):
        data = plain(node)
        told = f"{kind.word} {key[:60]!r}"
        if not isinstance(data, dict):
            section.problems.add(line, f"{told} must be a mapping")
            continue
        data.pop(kind.id, None)
        try:
            found.append((line, kind.parse(key, data)))
        except ValueError as error:
            section.problems.add(line_of(node, str(error), line), f"{told}: {error}")
    return found


def _entries(section: Section, kind: Named) -> Iterator[tuple[str, int, Node]]:
    """Go through the entries: a mapping by name, or a list of mappings that hold their names."""
    found = section.find(kind.key)
    if found is None:
        return
    node = found[1]
    if isinstance(node, Table):
        yield from ((key, line, each) for key, (line, each) in node.entries.items())
    elif isinstance(node, Items):
        for number, each in enumerate(node.values, 1):
            name = plain(each).get(kind.id) if isinstance(each, Table) else None
            if isinstance(name, str) and name:
                yield name, each.line, each
            else:
                section.problems.add(each.line, f"{kind.word} {number} has no {kind.id}")
    else:
        section.wrong(kind.key, "must be a mapping by name, or a list")


def line_of(node: Node, told: str, line: int = 0) -> int:
    """Return the line of the field that an error begins with (``condition.tags: ...``)."""
    line = line or node.line
    for word in told.partition(":")[0].replace("]", "").replace("[", ".").split("."):
        if isinstance(node, Table) and word in node.entries:
            line, node = node.entries[word]
        elif isinstance(node, Items) and word.isdigit() and int(word) < len(node.values):
            node = node.values[int(word)]
            line = node.line
        else:
            break
    return line


def control(section: Section) -> ControlPolicy:
    """Read ``control``: what the API may do."""
    found = section.section("control", name="control")
    if found is None:
        return ControlPolicy()
    secrets: list[tuple[str, frozenset[str]]] = []
    listed = found.find("secrets")
    for node in listed[1].values if listed is not None and isinstance(listed[1], Items) else ():
        if isinstance(node, Table):
            entry = Section(node, "secret of control", section.problems, section.environ)
            hosts = frozenset(host.lower() for host in entry.words("hosts"))
            secrets.append((entry.text("name", required=True), hosts))
            entry.close()
        else:
            secrets.append((str(plain(node)), frozenset()))
    if listed is not None and not isinstance(listed[1], Items):
        found.wrong("secrets", "must be a list of names of variables")
    for name, _ in secrets:
        if not name.isidentifier() or not name.isascii():
            found.wrong("secrets", "holds what is no name of a variable; write names, not keys")
    private = found.flag("private_urls")
    found.close()
    return ControlPolicy(tuple(secrets), private)
