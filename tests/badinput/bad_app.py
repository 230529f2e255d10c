"""A service with a route of every kind, for tests that send it what it must refuse."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from router_core import Body, Cookie, File, Form, Header, JobProgress, Path, Query, Router

router = Router()


class Colour(Enum):
    """What may be chosen."""

    RED = "red"
    BLUE = "blue"


class Size(BaseModel):
    """Inside of another model."""

    width: int = Field(gt=0, le=10_000)
    height: int = Field(gt=0, le=10_000)


class Order(BaseModel):
    """Takes nothing beside its fields."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=50)
    size: Size
    colour: Colour = Colour.RED
    tags: list[Annotated[str, Field(max_length=10)]] = Field(default=[], max_length=5)


@router.get("/hello")
def hello(name: str = "world") -> str:
    """Greet."""
    return f"hello {name[:100]}"


@router.post("/scalars")
def scalars(
    n: Annotated[int, Field(ge=0, le=100)],
    x: Annotated[float, Field(gt=-1000, lt=1000)] = 0.5,
    flag: bool = False,
    name: Annotated[str, Field(min_length=1, max_length=20, pattern="^[a-z]+$")] = "abc",
) -> dict[str, Any]:
    """Take scalars with constraints."""
    return {"n": n, "x": x, "flag": flag, "name": name}


@router.post("/kinds")
def kinds(
    when: datetime | None = None,
    day: date | None = None,
    span: timedelta | None = None,
    key: UUID | None = None,
    amount: Decimal | None = None,
    whole: int | None = None,
) -> int:
    """Take what JSON has no word for."""
    return sum(value is not None for value in (when, day, span, key, amount, whole))


@router.post("/model")
def model(order: Order) -> dict[str, Any]:
    """Take a model as the body."""
    return {"name": order.name, "area": order.size.width * order.size.height}


@router.post("/anything")
def anything(value: Annotated[Any, Body(embed=False)]) -> str:
    """Take any JSON."""
    return type(value).__name__


@router.post("/numbers")
def numbers(values: list[int]) -> int:
    """Take a list."""
    return len(values)


@router.post("/sizes")
def sizes(sizes: list[Size]) -> int:
    """Take a list of models."""
    return len(sizes)


@router.get("/find")
def find(
    ids: Annotated[list[int], Query()],
    colour: Colour = Colour.RED,
    limit: Annotated[int, Query(ge=1, le=50)] = 10,
) -> dict[str, Any]:
    """Take a list and an enum from the query."""
    return {"ids": ids, "colour": colour.value, "limit": limit}


@router.get("/items/{item_id}")
def item(item_id: Annotated[int, Path(ge=1, le=1000)]) -> int:
    """Take a number from the path."""
    return item_id


@router.get("/pages/{number:int}")
def page(number: int) -> int:
    """Match digits alone."""
    return number


@router.get("/files/{rest:path}")
def files(rest: str) -> str:
    """Take all that remains of a path."""
    return rest


@router.get("/who")
def who(x_level: Annotated[int, Header(ge=0, le=9)], visits: Annotated[int, Cookie()] = 0) -> list[int]:
    """Take a header and a cookie."""
    return [x_level, visits]


@router.post("/form")
def form(name: Annotated[str, Form(max_length=20)], age: Annotated[int, Form(ge=0, le=150)]) -> str:
    """Take a form."""
    return f"{name} {age}"


@router.post("/upload")
def upload(image: File, scale: Annotated[float, Field(gt=0, le=8)] = 1.0) -> dict[str, Any]:
    """Take a file and a number."""
    return {"size": image.size, "filename": image.filename, "type": image.content_type, "scale": scale}


@router.post("/gallery")
def gallery(images: Annotated[list[File], Field(max_length=10)]) -> list[int]:
    """Take files."""
    return [image.size for image in images]


@router.route("/tokens")
def tokens(
    prompt: Annotated[str, Field(max_length=100)], n: Annotated[int, Field(ge=0, le=20)] = 3
) -> Iterator[str]:
    """Stream."""
    for at in range(n):
        yield f"{prompt} {at}"


@router.route("/predict", queue_size=100_000)
async def predict(
    job_progress: JobProgress,
    prompt: Annotated[str, Field(max_length=100)],
    n: Annotated[int, Field(ge=0, le=20)] = 1,
) -> str:
    """Be a job."""
    job_progress.update(0.5, "half way")
    return prompt * n


@router.route("/total", queue_size=100_000)
async def total(values: list[int]) -> int:
    """Be a job with a list."""
    return sum(values)


@router.route("/describe", queue_size=100_000)
def describe(image: File) -> int:
    """Be a job with a file."""
    return image.size


@router.route("/crunch", isolation="process", queue_size=100_000)
def crunch(n: Annotated[int, Field(ge=0, le=1000)]) -> int:
    """Be a job in a process of its own."""
    return n * n


@router.route("/fragile", queue_size=100_000)
async def fragile(text: str = "") -> None:
    """Be a job that fails."""
    raise ValueError("this job always fails")
