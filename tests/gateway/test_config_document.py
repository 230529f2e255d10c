"""YAML becomes a tree that knows its lines; what is hostile or ambiguous is refused, with the line."""

from __future__ import annotations

import pytest

from router_core.errors import Misconfigured
from router_core.gateway.config import document
from router_core.gateway.config.document import Items, Scalar, Table, plain, read


def values(text: str | bytes) -> object:
    """What a text stands for."""
    root = read(text, "gw.yaml")
    assert root is not None
    return plain(root)


def refusal(text: str | bytes) -> str:
    """What is said about a text that is refused."""
    with pytest.raises(Misconfigured) as caught:
        read(text, "gw.yaml")
    return caught.value.detail


def test_scalars_mean_what_yaml_1_2_says() -> None:
    """Numbers, true, false and nothing; countries, dates and times stay text."""
    text = (
        "{a: 1, b: -2.5, c: true, d: null, e: NO, f: 2024-10-21, g: 12:30:45, h: '7', i: !!str 8, j: 0x1f,"
        " k: ~, l: , m: 1e3, n: .5, o: .inf, p: !!int 9, q: on}"
    )
    assert values(text) == {
        "a": 1, "b": -2.5, "c": True, "d": None, "e": "NO", "f": "2024-10-21", "g": "12:30:45", "h": "7",
        "i": "8", "j": "0x1f", "k": None, "l": None, "m": 1000.0, "n": 0.5, "o": ".inf", "p": 9, "q": "on",
    }  # fmt: skip


def test_json_is_read_too() -> None:
    """With tabs, escapes and everything on one line."""
    assert values('{"a": ["b\\/c", 1.5],\n\t"d": {"e": null, "f": "\\u00e9"}}') == {
        "a": ["b/c", 1.5], "d": {"e": None, "f": "é"},
    }  # fmt: skip


def test_every_node_knows_its_line() -> None:
    """Lines count from 1, of keys and of values."""
    root = read("a:\n  - x\n  - k: v\n", "gw.yaml")
    assert isinstance(root, Table)
    line, node = root.entries["a"]
    assert (line, node.line) == (1, 2)
    assert isinstance(node, Items)
    assert [each.line for each in node.values] == [2, 3]


@pytest.mark.parametrize("text", ["", "  \n# nothing\n", "---\n", "~", b"\xef\xbb\xbf"], ids=range(5))
def test_nothing_is_none(text: str | bytes) -> None:
    """An empty file, a comment, a null."""
    assert read(text, "gw.yaml") is None


def test_anchors_and_merges() -> None:
    """Aliases stand for what they name; with << what is written out wins, the first of several too."""
    text = "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz: {<<: [*x, *y], a: 5}\nw: {b: 9, <<: *x}\nv: *x\n"
    tree = values(text)
    assert isinstance(tree, dict)
    assert tree["z"] == {"a": 5, "b": 2, "c": 4}
    assert tree["w"] == {"b": 9, "a": 1}
    assert tree["v"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", "gw.yaml:3: 'a' stands here a second time (first in line 1)"),
        ("a: [1,\nb: 2", "gw.yaml:2: this is not YAML"),
        ("a: b: sk-secret", "gw.yaml:1: this is not YAML: mapping values are not allowed"),
        ("a: 1\n---\nb: 2", "gw.yaml:2: a second document begins here"),
        ("a: *nobody", "gw.yaml:1: *nobody names no anchor"),
        ("a: &a [*a]", "gw.yaml:1: *a names no anchor that ends before it"),
        ("a: !!python/object:os.system x", "gw.yaml:1: the tag !!python/object:os.system is not taken"),
        ("a: !!binary eA==", "gw.yaml:1: the tag !!binary is not taken"),
        ("a: !env X", "gw.yaml:1: the tag !env is not taken"),
        ("a: !!set {x}", "gw.yaml:1: the tag !!set is not taken"),
        ("? [a]\n: 1", "gw.yaml:1: a key must be a text"),
        ("? {a: 1}\n: 1", "gw.yaml:1: a key must be a text"),
        ("x: &x 1\n*x : 2\n<<: *x", "gw.yaml:1: << takes a mapping"),
        ("a: \x07", "gw.yaml:1: this is not YAML: control characters"),
        (b"a: 1\nb: \xff", "gw.yaml:2: this is not UTF-8"),
        ("[" * 100, "gw.yaml:1: this is nested more than 32 deep"),
        ("- " * 100_000, "gw.yaml:1: this is nested more than 32 deep"),
        ("a: 'x\n\n", "gw.yaml:3: this is not YAML: found unexpected end of stream"),
    ],
    ids=[
        "key twice", "open list", "two colons", "two documents", "alias of nothing", "endless alias",
        "object tag", "binary tag", "own tag", "set tag", "list as key", "mapping as key", "merged text",
        "control", "not utf-8", "deep flow", "deep block", "open quote",
    ],
)  # fmt: skip
def test_what_is_refused(text: str | bytes, told: str) -> None:
    """Each with the line, and without a piece of the file, which may hold a secret."""
    said = refusal(text)
    assert said.startswith(told)
    assert "secret" not in said


def test_references_in_flow_style_need_quotes() -> None:
    """What everybody stumbles over once is told."""
    assert refusal("a: {b: ${C}}").endswith("inside { } and [ ] put what holds ${NAME} into quotes")


def test_aliases_cannot_stand_for_billions() -> None:
    """A bomb of nine lines is refused before anything is made of it."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "use fewer aliases" in refusal("\n".join(lines))


def test_huge_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its bytes, and by its values."""
    assert "are allowed" in refusal(b"#" * (document.MAX_BYTES + 1))
    monkeypatch.setattr(document, "MAX_NODES", 50)
    assert "use fewer" in refusal("[" + "1," * 60 + "]")
    assert values("[" + "1," * 40 + "]") == [1] * 40


def test_the_python_parser_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some builds of PyYAML come without libyaml."""
    import yaml

    monkeypatch.delattr(yaml, "CSafeLoader")
    assert values("a: [1, {b: c}]") == {"a": [1, {"b": "c"}]}
    assert refusal("a: \x07").startswith("gw.yaml:1: this is not YAML")


def test_a_scalar_says_when_it_is_empty() -> None:
    """Quotes make the difference."""
    assert Scalar("null", True, 1).empty
    assert not Scalar("null", False, 1).empty
