"""The OpenAPI document says what the routes do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import jsonschema_rs
import pytest
from pydantic import BaseModel, Field

from router_core.binding.depends import Depends
from router_core.binding.openapi import openapi_document
from router_core.binding.params import Header, Query
from router_core.http.media import File
from router_core.routing.router import Router


class Job(BaseModel):
    """Called like a component of ours."""

    title: str


class Item(BaseModel):
    name: str
    parent: Item | None = None


def other_item() -> type[BaseModel]:
    """Return another model of the same name."""

    class Item(BaseModel):
        size: int

    return Item


OtherItem: Any = other_item()


def service() -> Router:
    """Return a router with something of everything."""
    router = Router(title="t")

    def page(limit: int = 10, x_token: Annotated[str, Header()] = "") -> int:
        """Read from the request."""
        return limit

    @router.get("/items/{item_id:int}", tags=["items"])
    def read(
        item_id: int,
        page: Annotated[int, Depends(page)],
        q: Annotated[list[str], Query(description="Words")] = [],  # noqa: B006 - what authors write
    ) -> Item:
        """Read one.

        In full.
        """
        return Item(name="")

    @router.put("/items/{item_id:int}")
    def write(item_id: int, item: Item) -> Item:
        """Write one."""
        return item

    @router.post("/pair", name="read", scopes=["write"])
    def pair(
        item: Item, other: OtherItem, note: Annotated[str, Field(max_length=9)] = "n"
    ) -> dict[str, OtherItem]:
        """Take two models of one name."""
        return {}

    @router.route("/predict")
    def predict(job_progress, image: File, strength: float = 0.5) -> File:  # type: ignore[no-untyped-def]
        """Work on an image."""
        return image

    @router.post("/job")
    def make(job: Job) -> Job:
        """Take a model called Job."""
        return job

    add_more(router)
    return router


def add_more(router: Router) -> None:
    """Add routes without models."""

    @router.get("/words")
    async def words(prompt: str) -> AsyncIterator[str]:
        """Yield words."""
        yield prompt

    @router.get("/open", public=True, deprecated=True)
    def free() -> None:
        """Serve everybody."""

    @router.get("/hidden", include_in_schema=False)
    def hidden() -> None:
        """Stay out."""

    @router.post("/login", meta={"openapi": {"summary": "Overridden"}})
    def login(user: str, age: int | None = None) -> str:
        """Take a flat form."""
        return user


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The document of the service."""
    return openapi_document(
        service().routes, title="t", version="2", description="d", servers=["https://x"],
        security_schemes={"key": {"type": "http", "scheme": "bearer"}},
        info_extra={"apipod": {"compute": "serverless", "version": "2"}},
    )  # fmt: skip


def test_every_schema_and_reference_is_valid(document: dict[str, Any]) -> None:
    """Each schema is JSON Schema 2020-12, each reference leads somewhere, and all of it is JSON."""
    text = json.dumps(document)
    for ref in {part.split('"')[0] for part in text.split('"$ref": "#/')[1:]}:
        node = document
        for name in ref.split("/"):
            node = node[name]
    for schema in schemas_in(document):
        jsonschema_rs.meta.validate({**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"})


def schemas_in(node: Any) -> list[Any]:
    """Return every schema of the document."""
    if isinstance(node, list):
        return [schema for item in node for schema in schemas_in(item)]
    if not isinstance(node, dict):
        return []
    here = [node["schema"]] if isinstance(node.get("schema"), dict) else []
    named = [*node["schemas"].values()] if isinstance(node.get("schemas"), dict) else []
    return here + named + [schema for value in node.values() for schema in schemas_in(value)]


def test_the_official_validator_agrees() -> None:
    """Without ``info.apipod``, which the standard does not know and a client of others needs."""
    validator = pytest.importorskip("openapi_spec_validator", reason="not among the development tools")
    validator.validate(openapi_document(service().routes))


def test_two_models_of_one_name_have_two_schemas(document: dict[str, Any]) -> None:
    """Ours keep their names; each reference leads to the right one."""
    schemas = document["components"]["schemas"]
    assert "job_id" in schemas["Job"]["properties"]
    body = document["paths"]["/job"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "title" in schemas[body["$ref"].rpartition("/")[2]]["properties"]
    pair = document["paths"]["/pair"]["post"]["requestBody"]["content"]["application/json"]["schema"][
        "properties"
    ]
    fields = [
        list(schemas[pair[name]["$ref"].rpartition("/")[2]]["properties"]) for name in ("item", "other")
    ]
    assert fields == [["name", "parent"], ["size"]]


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    """Also where two functions have one name."""
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(set(ids)) == len(ids) == 8
    assert {"read", "read_post"} <= set(ids)


def test_parameters_name_place_and_order(document: dict[str, Any]) -> None:
    """Those of dependencies are there, but not in the order of the function's own."""
    operation = document["paths"]["/items/{item_id}"]["get"]
    places = {
        parameter["name"]: (parameter["in"], parameter["required"]) for parameter in operation["parameters"]
    }
    assert places == {
        "item_id": ("path", True), "limit": ("query", False), "x-token": ("header", False),
        "q": ("query", False),
    }  # fmt: skip
    assert operation["x-parameter-order"] == ["item_id", "q"]
    assert (operation["summary"], operation["description"], operation["tags"]) == (
        "Read one.",
        "In full.",
        ["items"],
    )
    limit = next(p for p in operation["parameters"] if p["name"] == "limit")
    assert limit["schema"] == {"type": "integer", "default": 10}


def test_bodies_say_how_they_may_be_written(document: dict[str, Any]) -> None:
    """JSON always; a flat form as a form; files as multipart; one model as itself."""

    def content(path: str, method: str = "post") -> dict[str, Any]:
        found: dict[str, Any] = document["paths"][path][method]["requestBody"]["content"]
        return found

    assert list(content("/predict")) == ["application/json; charset=utf-8", "multipart/form-data"]
    upload = content("/predict")["multipart/form-data"]["schema"]
    assert upload["properties"]["image"]["format"] == "binary"
    assert upload["required"] == ["image"]
    assert list(content("/login")) == ["application/json", "application/x-www-form-urlencoded"]
    form = content("/login")["application/x-www-form-urlencoded"]["schema"]["properties"]["age"]
    assert form["anyOf"] == [{"type": "integer"}]
    assert content("/items/{item_id}", "put")["application/json"]["schema"] == {
        "$ref": "#/components/schemas/" + item_name(document)
    }
    assert document["paths"]["/items/{item_id}"]["put"]["x-body-parameter"] == "item"
    assert document["paths"]["/login"]["post"]["summary"] == "Overridden"


def item_name(document: dict[str, Any]) -> str:
    """Return the name that the model with a parent was given."""
    schemas = document["components"]["schemas"]
    return next(str(name) for name, schema in schemas.items() if "parent" in schema.get("properties", {}))


def test_answers_say_what_to_expect(document: dict[str, Any]) -> None:
    """A job answers 202; a stream has two framings; anything may be a problem."""
    paths = document["paths"]
    predict = paths["/predict"]["post"]
    assert predict["responses"]["202"]["content"]["application/json"]["schema"]["$ref"].endswith("/Job")
    assert {"Location", "Retry-After"} <= set(predict["responses"]["202"]["headers"])
    assert predict["x-router-kind"] == "job"
    assert [p["name"] for p in predict["parameters"] if p["x-builtin"]] == ["sync"]
    assert list(paths["/words"]["get"]["responses"]["200"]["content"]) == [
        "application/x-ndjson",
        "text/event-stream",
    ]
    for item in paths.values():
        for operation in item.values():
            for kind in ("4XX", "5XX"):
                assert operation["responses"][kind] == {"$ref": "#/components/responses/Problem"}


def test_security_and_info_are_passed_in(document: dict[str, Any]) -> None:
    """Public routes have none; hidden routes are not there."""
    assert document["info"] == {
        "title": "t", "version": "2", "description": "d", "apipod": {"compute": "serverless", "version": "2"},
    }  # fmt: skip
    assert document["servers"] == [{"url": "https://x"}]
    assert "security" not in document["paths"]["/open"]["get"]
    assert document["paths"]["/open"]["get"]["deprecated"] is True
    assert document["paths"]["/pair"]["post"]["security"] == [{"key": ["write"]}]
    assert "/hidden" not in document["paths"]
