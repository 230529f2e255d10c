"""A batch job in a process of its own: find the groups in a table of numbers.

    router-core call batch/segment --file table=@examples/customers.csv groups:=4 --wait

``isolation="process"`` keeps the work off the server's own interpreter, and makes it killable: a cancel or a
timeout ends it at once, whatever it is doing.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Sequence
from functools import partial
from io import StringIO
from typing import Annotated, Any

from pydantic import BaseModel, Field

from router_core import File, JobContext, Router
from router_core.errors import ValidationFailed

__all__ = ["Group", "Segments", "Table", "router", "segment"]

MAX_ROWS = 100_000
MAX_ROUNDS = 100

Point = tuple[float, ...]

router = Router()


class Group(BaseModel):
    """Rows that lie close together."""

    rows: int
    centre: dict[str, float]
    """Mean of each column."""


class Segments(BaseModel):
    """The groups, largest first."""

    rows: int
    skipped: int
    """Rows in which a number was missing."""
    groups: list[Group]
    explained: float
    """Share of the variance that the groups explain, 0..1."""


class Table:
    """The numeric columns of a CSV file with a header, each scaled to mean 0 and deviation 1."""

    def __init__(self, text: str) -> None:
        names, rows = _parse(text)
        self.columns = [name for at, name in enumerate(names) if _is_numeric(rows, at)]
        if not self.columns:
            raise _wrong("table", "no column of this table holds numbers only")
        places = [names.index(name) for name in self.columns]
        complete = [row for row in rows if all(row[at] for at in places)]
        self.skipped = len(rows) - len(complete)
        values = [[float(row[at]) for at in places] for row in complete]
        if not values:
            raise _wrong("table", "every row lacks a number")
        self._means = [math.fsum(column) / len(values) for column in zip(*values, strict=True)]
        self._scales = [
            math.sqrt(math.fsum((value - mean) ** 2 for value in column) / len(values)) or 1.0
            for column, mean in zip(zip(*values, strict=True), self._means, strict=True)
        ]
        self.points: list[Point] = [
            tuple((v - m) / s for v, m, s in zip(row, self._means, self._scales, strict=True))
            for row in values
        ]

    def unscale(self, point: Sequence[float]) -> dict[str, float]:
        """Return a point in the units of the table."""
        triples = zip(self.columns, point, self._means, self._scales, strict=True)
        return {name: round(value * scale + mean, 6) for name, value, mean, scale in triples}


@router.route("/segment", isolation="process", queue_size=20, concurrency=1, timeout=900)
def segment(
    job: JobContext,
    table: File,
    groups: Annotated[int, Field(ge=2, le=20)] = 4,
    restarts: Annotated[int, Field(ge=1, le=200)] = 20,
    seed: int = 0,
) -> Segments:
    """Find groups of similar rows in a CSV table (k-means, best of several starts).

    Each start is a step that is recorded when it is done: after a crash the next attempt goes on from there.
    """
    job.progress.message = "reading the table"
    try:
        data = Table(table.read().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise _wrong("table", "the table is not UTF-8 text") from None
    if len(data.points) < groups:
        raise _wrong("groups", f"{len(data.points)} complete rows cannot make {groups} groups")
    best: dict[str, Any] = {"spread": math.inf}
    for start in range(restarts):
        job.check()
        job.progress.update(start / restarts, f"start {start + 1} of {restarts}")
        outcome = job.once(f"start-{start}", partial(_cluster, data.points, groups, seed + start))
        best = min(best, outcome, key=lambda item: float(item["spread"]))
    total = math.fsum(value * value for point in data.points for value in point)
    found = sorted(zip(best["sizes"], best["centres"], strict=True), reverse=True)
    return Segments(
        rows=len(data.points),
        skipped=data.skipped,
        groups=[Group(rows=size, centre=data.unscale(centre)) for size, centre in found],
        explained=round(1 - best["spread"] / total, 6) if total else 1.0,
    )


def _cluster(points: Sequence[Point], count: int, seed: int) -> dict[str, Any]:
    """Run k-means once, from centres that are drawn far apart (k-means++)."""
    rng = random.Random(seed)  # noqa: S311 - a draw that has to be repeatable
    centres = _first_centres(points, count, rng)
    nearest: list[int] = []
    for _ in range(MAX_ROUNDS):
        before, nearest = nearest, [_nearest(point, centres) for point in points]
        if nearest == before:
            break
        centres = _centres(points, nearest, centres)
    spread = math.fsum(_distance(point, centres[at]) for point, at in zip(points, nearest, strict=True))
    return {"spread": spread, "centres": centres, "sizes": [nearest.count(at) for at in range(count)]}


def _first_centres(points: Sequence[Point], count: int, rng: random.Random) -> list[Point]:
    centres = [rng.choice(points)]
    apart = [_distance(point, centres[0]) for point in points]
    while len(centres) < count:
        # all distances are 0 when the table has fewer different rows than groups are asked for
        chosen = rng.choices(points, weights=apart)[0] if any(apart) else rng.choice(points)
        centres.append(chosen)
        apart = [min(old, _distance(point, chosen)) for old, point in zip(apart, points, strict=True)]
    return centres


def _centres(points: Sequence[Point], nearest: Sequence[int], old: Sequence[Point]) -> list[Point]:
    members: list[list[Point]] = [[] for _ in old]
    for point, at in zip(points, nearest, strict=True):
        members[at].append(point)
    return [
        tuple(math.fsum(axis) / len(group) for axis in zip(*group, strict=True)) if group else stays
        for group, stays in zip(members, old, strict=True)
    ]


def _nearest(point: Point, centres: Sequence[Point]) -> int:
    distances = [_distance(point, centre) for centre in centres]
    return distances.index(min(distances))


def _distance(one: Point, other: Point) -> float:
    """Return the squared distance."""
    return sum((a - b) * (a - b) for a, b in zip(one, other, strict=True))


def _parse(text: str) -> tuple[list[str], list[list[str]]]:
    try:
        rows = [row for row in csv.reader(StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise _wrong("table", f"not a CSV table: {error}") from None
    if len(rows) < 2:
        raise _wrong("table", "a table has a header and at least one row")
    if len(rows) > MAX_ROWS + 1:
        raise _wrong("table", f"{len(rows) - 1:,} rows are too many; {MAX_ROWS:,} are allowed")
    names = [name.strip() for name in rows[0]]
    if len(set(names)) < len(names):
        raise _wrong("table", "two columns have the same name")
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(names):
            raise _wrong("table", f"row {number} has {len(row)} values, the header has {len(names)}")
    return names, [[cell.strip() for cell in row] for row in rows[1:]]


def _is_numeric(rows: Sequence[Sequence[str]], at: int) -> bool:
    """Return whether every value of a column that is there is a finite number."""
    cells = [row[at] for row in rows if row[at]]
    return bool(cells) and all(_is_number(cell) for cell in cells)


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _wrong(name: str, message: str) -> ValidationFailed:
    return ValidationFailed(
        message, errors=[{"loc": ["body", name], "msg": message, "type": "table_unusable"}]
    )
