"""What a function sees of a request is all that its adapter has said."""

from __future__ import annotations

from dataclasses import fields, replace

from router_core import Request as RequestParameter
from router_core import Router, Settings, build_app
from router_core.http.message import Headers, Request


async def _gone() -> None:
    return None


async def test_nothing_that_an_adapter_says_is_lost_on_the_way() -> None:
    """Every member is that of the adapter, but for the values of the path."""
    router, seen = Router(), []

    @router.get("/items/{name}")
    async def item(request: RequestParameter, name: str) -> str:
        seen.append(request)
        return name

    app = build_app(router, Settings(jobs="memory://", blobs="memory://", trusted_hosts="*"))
    sent = Request(
        "GET", "/items/a", "q=1", Headers([("x", "y")]), b"body", "id-1", "192.0.2.1", "https",
        native={"k": "v"}, root="/dev", disconnected=_gone, max_reply_bytes=7, answer_by=1e12,
    )  # fmt: skip
    unset = [f.name for f in fields(Request) if getattr(sent, f.name) == getattr(Request("", ""), f.name)]
    assert unset == ["principal", "path_params"]
    assert (await app.handle(sent)).status == 200
    assert seen == [replace(sent, path_params={"name": "a"})]
