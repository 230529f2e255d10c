"""The docs page: complete, offline, and unable to run what is not its own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
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


_STAND_IN = """
class Node {
  constructor(tag) { this.tag = tag; this.children = []; this.attributes = {}; }
  setAttribute(name, value) { this.attributes[name] = value; }
  addEventListener() {}
  append(...children) { this.children.push(...children); }
  querySelector(id) {
    for (const child of this.children.filter((item) => item instanceof Node)) {
      const found = `#${child.attributes.id}` === id ? child : child.querySelector(id);
      if (found) return found;
    }
    return null;
  }
  get text() { return this.children.map((child) => child.text ?? child).join(""); }
}
globalThis.document = { createElement: (tag) => new Node(tag) };
const { makeForm } = await import(process.argv[1]);
const { fields } = makeForm(JSON.parse(process.argv[2]), {});
console.log(JSON.stringify(fields.map((field) => {
  field.fill("x");
  const label = field.node.children.find((child) => child.tag === "label");
  const control = field.node.querySelector("#" + label.attributes.for);
  return [field.name, control.disabled === true, field.read() ?? null, /browser/.test(field.node.text)];
})));
"""
"""Just enough of a browser to make a form in it."""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the page's own code")
def test_a_cookie_cannot_be_typed_in() -> None:
    """Browsers send their own and forbid pages to set any: the field says so, and is not asked for."""
    schema = {"type": "string"}
    operation = {
        "parameters": [
            {"name": "session", "in": "cookie", "required": True, "schema": schema},
            {"name": "page", "in": "query", "schema": schema},
        ]
    }
    command = [
        "node",
        "--input-type=module",
        "-e",
        _STAND_IN,
        (WEB / "form.js").as_uri(),
        json.dumps(operation),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["session", True, None, True], ["page", False, "x", False]]


def test_policy_allows_no_inline_code_and_no_frames() -> None:
    """Only files of this origin."""
    for part in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert part in CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "*" not in CONTENT_SECURITY_POLICY
