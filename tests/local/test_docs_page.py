"""The docs page: complete, offline, and unable to run what is not its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from handlers.local import docs
from handlers.local.docs import CONTENT_SECURITY_POLICY, docs_routes
from router_core.http.message import Headers, Request, Response
from router_core.routing.route import Route

WEB = Path(docs.__file__).parent / "web"


async def get(route: Route, **headers: str) -> Response:
    """Call one route."""
    fields = Headers([(name.replace("_", "-"), value) for name, value in headers.items()])
    answer: Response = await route.func(Request("GET", route.path, headers=fields))
    return answer


def routes() -> dict[str, Route]:
    """Return the routes by path."""
    return {route.path: route for route in docs_routes()}


async def test_every_file_is_served_with_its_type() -> None:
    """Open to everybody, outside the description of the service."""
    types = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    found = routes()
    assert set(found) == {"/docs"} | {
        f"/docs/{path.name}" for path in WEB.iterdir() if path.name != "index.html"
    }
    for route in found.values():
        answer = await get(route)
        suffix = Path(route.path).suffix or ".html"
        assert (answer.header("content-type") or "").startswith(types[suffix])
        assert answer.header("content-security-policy") == CONTENT_SECURITY_POLICY
        assert route.public
        assert not route.include_in_schema


async def test_an_unchanged_file_is_304() -> None:
    """By its etag; a new version of the package is seen at once."""
    route = routes()["/docs/app.js"]
    etag = (await get(route)).header("etag")
    assert etag
    answer = await get(route, if_none_match=etag)
    assert (answer.status, answer.body) == (304, b"")
    assert (await get(route, if_none_match='"other"')).status == 200


@pytest.mark.parametrize("name", sorted(path.name for path in WEB.iterdir()))
def test_nothing_comes_from_elsewhere(name: str) -> None:
    """No address of another host, and nothing that the policy would refuse."""
    text = (WEB / name).read_text()
    assert not re.findall(r"(?:src|href|url|import|fetch)\W{0,3}(?:https?:)?//", text)
    assert set(re.findall(r"https?://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in text
    assert "eval(" not in text
    if name.endswith(".html"):
        assert not re.search(r"\son\w+=|style=|<style|<script(?![^>]*\ssrc=)", text)


def test_every_import_and_id_exists() -> None:
    """A page that breaks would only be seen in a browser."""
    page = (WEB / "index.html").read_text()
    ids = set(re.findall(r'id="([^"]+)"', page))
    for path in WEB.glob("*.js"):
        text = path.read_text()
        for names, module in re.findall(r"import \{([^}]*)\} from \"\./([^\"]+)\"", text):
            exported = set(
                re.findall(r"export (?:async )?(?:function\*?|const) (\w+)", (WEB / module).read_text())
            )
            assert {part.strip() for part in names.split(",")} <= exported, (path.name, module)
        assert set(re.findall(r'byId\("([^"]+)"\)', text)) <= ids


def test_policy_allows_no_inline_code_and_no_frames() -> None:
    """Only files of this origin."""
    for part in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert part in CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "*" not in CONTENT_SECURITY_POLICY
