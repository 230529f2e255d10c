"""The batch service, called as a plain function."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from examples import batch as service
from router_core import File, JobCancelled, JobContext, JobProgress
from router_core.errors import ValidationFailed

CUSTOMERS = Path(__file__).parents[2] / "examples" / "customers.csv"


def table(text: str) -> File:
    return File.from_bytes(text.encode(), filename="t.csv")


def test_finds_the_groups_that_are_in_the_table() -> None:
    """The table was drawn around four known kinds of customers."""
    found = service.segment(JobContext(), File.from_path(CUSTOMERS), groups=4, restarts=4)
    assert (found.rows, found.skipped) == (2400, 0)
    assert [group.rows for group in found.groups] == pytest.approx([900, 700, 550, 250], abs=30)
    baskets = [group.centre["basket_eur"] for group in found.groups]
    assert baskets == pytest.approx([23, 41, 29, 310], rel=0.05)
    assert 0.9 < found.explained < 1


def test_finished_steps_are_not_done_again() -> None:
    """A second attempt takes the recorded starts from the first and comes to the same answer."""
    steps: dict[str, bytes] = {}

    class Remember:
        def emit(self, event: object) -> None: ...

        async def step(self, name: str, outcome: bytes) -> None:
            steps[name] = outcome

        def wait(self, work: object) -> object:
            return asyncio.run(work)  # type: ignore[arg-type]

    data = File.from_path(CUSTOMERS)
    first = service.segment(JobContext(port=Remember()), data, restarts=3)  # type: ignore[arg-type]
    assert list(steps) == ["start-0", "start-1", "start-2"]
    again = JobContext(steps=dict(steps), port=Remember())  # type: ignore[arg-type]
    steps.clear()
    assert service.segment(again, data, restarts=3) == first
    assert steps == {}


def test_cancel_stops_before_the_next_start() -> None:
    """The function looks between two starts (and its process can be killed at any time)."""
    progress = JobProgress(lambda: context.mark_cancelled() if progress.progress > 0.1 else None)
    context = JobContext(progress=progress)
    with pytest.raises(JobCancelled):
        service.segment(context, table("a,b\n1,2\n3,4\n5,6\n"), groups=2, restarts=50)
    assert progress.progress < 0.2


def test_text_columns_are_left_out_and_gaps_are_skipped() -> None:
    """Only columns of numbers count; rows with a gap in one of them are counted and left out."""
    text = "name,x,y\na,0,0\nb,0,1\nc,10,10\nd,10,11\ne,,5\n"
    found = service.segment(JobContext(), table(text), groups=2)
    assert (found.rows, found.skipped) == (4, 1)
    assert sorted(group.centre["x"] for group in found.groups) == [0, 10]
    assert set(found.groups[0].centre) == {"x", "y"}


def test_equal_rows_make_no_trouble() -> None:
    """A table without any variance has nothing to explain."""
    found = service.segment(JobContext(), table("x\n" + "7\n" * 10), groups=3)
    assert found.explained == 1.0
    assert sum(group.rows for group in found.groups) == 10


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "header"),
        (b"a,b\n", "header"),
        (b"a,b\n1,2\n3\n", "row 2 has 1 values"),
        (b"a,a\n1,2\n", "same name"),
        (b"name\nx\ny\n", "numbers only"),
        (b"a\nnan\ninf\n", "numbers only"),
        (b"a\n1\n", "cannot make"),
        (b'a\n"1\n', "CSV"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"a\n" + b"1\n" * 100_001, "too many"),
    ],
)
def test_bad_table_is_a_clear_answer(data: bytes, words: str) -> None:
    """Whatever is wrong with the table is the caller's to mend."""
    with pytest.raises(ValidationFailed, match=words):
        service.segment(JobContext(), File.from_bytes(data), groups=2)
