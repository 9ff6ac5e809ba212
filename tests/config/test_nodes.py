"""YAML text to nodes: lines, the traps of YAML 1.1, and everything that makes other readers fall over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config import nodes
from meshproxy.config.nodes import BROKEN, DEPTH, NODES, Node, Unreadable, read_documents


def plain(node: Node) -> object:
    if isinstance(node.value, list):
        return [plain(item) for item in node.value]
    if isinstance(node.value, dict):
        return {name: plain(item) for name, item in node.value.items()}
    return node.value


def read(text: str) -> tuple[list[object], list[tuple[int, str, str]]]:
    problems: list[tuple[int, str, str]] = []
    documents = [plain(node) for node in read_documents(text, lambda *problem: problems.append(problem[:3]))]
    return documents, problems


@pytest.fixture(params=["libyaml", "pure Python"], autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "LOADER", yaml.CSafeLoader if request.param == "libyaml" else yaml.SafeLoader)


def test_documents_of_a_stream() -> None:
    assert read("a: 1\n---\n---\n# nothing\n---\n[x, 1.5, true, null, ~, 'on']\n...\n") == (
        [{"a": 1}, ["x", 1.5, True, None, None, "on"]],
        [],
    )


def test_json_is_read_too() -> None:
    assert read('{"a": [1, "b\\u00e4", {"c": null}],\n  "d": -0.5}') == ([{"a": [1, "bä", {"c": None}], "d": -0.5}], [])


def test_every_value_knows_its_line() -> None:
    (document,) = read_documents("a:\n  - 1\n  -\n    b: |\n      x\n      y\nc: {d: e}\n", lambda *_: None)
    assert isinstance(document.value, dict)
    items = document.value["a"].value
    assert isinstance(items, list)
    assert [item.line for item in items] == [2, 4]
    assert isinstance(items[1].value, dict)
    assert (items[1].value["b"].line, items[1].value["b"].key_line) == (4, 4)
    assert (document.value["c"].line, document.value["c"].key_line) == (7, 7)
    assert document.value["a"].key_line == 1


@pytest.mark.parametrize("word", ["on", "ON", "Off", "yes", "no", "NO", "y", "N"])
def test_words_that_yaml_1_1_takes_for_booleans(word: str) -> None:
    ((document,), (problem,)) = read(f"a:\n  b: {word}\n")
    assert document == {"a": {"b": BROKEN}}
    assert problem[:2] == (2, "a.b")
    assert f'write "{word}" for the word' in problem[2]
    assert read(f'a: "{word}"') == ([{"a": word}], [])


ODD = "010 0o17 0x1F 0b1 1_000 12:30 1e3 1. .5 +1 -.5 .inf -.Inf .nan 2024-01-31 2024-01-31T10:00:00Z << = " + "9" * 20


@pytest.mark.parametrize("text", ODD.split())
def test_what_readers_disagree_about(text: str) -> None:
    ((document,), (problem,)) = read(f"a: {text}")
    assert document == {"a": BROKEN}
    assert text in problem[2]
    assert read(f"a: '{text}'") == ([{"a": text}], [])


@pytest.mark.parametrize(
    "text", ["5s", "4MiB", "1.2.3", "127.0.0.1:8500", "half_plus_two", "-a", "off-line", "no-roles", "1a"]
)
def test_ordinary_words_are_text(text: str) -> None:
    assert read(f"a: {text}") == ([{"a": text}], [])


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system [id]", "!!str 1", "!mine x", "!!binary aGk=", "!!set {a}"]
)
def test_tags_are_not_taken(text: str) -> None:
    ((document,), problems) = read(f"a: {text}")
    assert document == {"a": BROKEN}
    assert "is not supported" in problems[0][2]


def test_a_key_that_stands_twice() -> None:
    assert read("a:\n  b: 1\n  c: 2\n  b: 3\n") == (
        [{"a": {"b": 1, "c": 2}}],
        [(4, "a.b", "duplicate key, first on line 2")],
    )


@pytest.mark.parametrize(("key", "hint"), [("1", '"1"'), ("true", '"true"'), ("null", '"null"'), ("~", '"~"')])
def test_keys_are_text(key: str, hint: str) -> None:
    assert read(f"{key}: x") == ([{}], [(1, "", f"a key must be text: write it in quotes, as {hint}")])


def test_a_key_may_not_be_a_trap_or_a_mapping() -> None:
    _, ((_, _, message),) = read("on: x")
    assert "YAML 1.1" in message
    assert read("? {a: b}\n: x\n") == ([{}], [(1, "", "a key must be text")])


def test_aliases() -> None:
    assert read("a: &x [1]\nb: *x\n") == ([{"a": [1], "b": [1]}], [])
    assert read("a: &x 1\n---\nb: *x")[1] == [(3, "b", 'the alias "*x" names no anchor before it')]
    assert read("a: &x 1\n---\nb: &x 2") == ([{"a": 1}, {"b": 2}], [])
    twice = 'the anchor "&x" names a value before it: write another name'
    assert read("a: &x 1\nb: &x 2\nc: *x")[1] == [(2, "b", twice)]


def test_an_alias_inside_of_what_it_names() -> None:
    ((document,), problems) = read("a: &x [*x]\nb: &y {c: *y}")
    assert document == {"a": [BROKEN], "b": {"c": BROKEN}}
    assert [problem[:2] for problem in problems] == [(1, "a[0]"), (2, "b.c")]


def test_an_alias_bomb() -> None:
    text = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + level)}: &{chr(98 + level)} [{','.join(['*' + chr(97 + level)] * 10)}]\n" for level in range(15)
    )
    with pytest.raises(Unreadable, match="aliases expanded"):
        read(text)


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 100_000])
def test_depth_is_bounded(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading stops at the bound: what lies deeper is not even parsed."""
    events: list[object] = []

    def parse(*given: Any, **more: Any) -> Iterator[object]:
        for event in parse_all(*given, **more):
            events.append(event)
            yield event

    parse_all = yaml.parse
    monkeypatch.setattr(yaml, "parse", parse)
    # libyaml from 0.2.6 on looks 1,000 brackets ahead, and gives up before we do.
    with pytest.raises(Unreadable, match=f"more than {DEPTH} levels|exceeded maximum nesting depth"):
        read(text)
    assert len(events) <= 2 * DEPTH + 10


def test_depth_that_is_allowed() -> None:
    _, problems = read("[" * (DEPTH - 1) + "]" * (DEPTH - 1))
    assert not problems


def test_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "NODES", 100)
    assert read("[" + "1," * 99 + "]")[1] == []
    with pytest.raises(Unreadable, match="more than 100 values"):
        read("[" + "1," * 100 + "]")
    assert NODES > 150_000


@pytest.mark.parametrize(
    "text", ["a: [", "a: b: c", "\ta: 1\n- b", "'", "a: \x01", "a: \0", "%YAML 9.9\n---\na", "*", "&a &b c"]
)
def test_what_is_no_yaml(text: str) -> None:
    with pytest.raises(Unreadable, match="not YAML"):
        read(text)


def test_what_stands_before_the_mistake_is_handed_out() -> None:
    found = read_documents("a: 1\n---\nb: [\n---\n", lambda *_: None)
    assert plain(next(found)) == {"a": 1}
    with pytest.raises(Unreadable) as raised:
        next(found)
    assert raised.value.line >= 3


@given(st.text(max_size=60) | st.text("ab:-[]{}&*!#|>'\"\n ,?%@", max_size=40))
def test_any_text_is_read_or_unreadable(text: str) -> None:
    lines = [1]
    try:
        lines += [node.line for node in read_documents(text, lambda *_: None)]
    except Unreadable as error:
        lines.append(error.line)
    assert min(lines) >= 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_json_comes_back_as_it_went(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False)
    # YAML takes fewer raw characters than JSON; what is taken must be the same.
    try:
        documents, problems = read(text)
    except Unreadable:
        assert not text.isprintable()
        return
    assert not problems
    assert documents == ([] if value is None else [value])


@given(JSON)
def test_so_does_json_with_every_character_escaped(value: object) -> None:
    text = json.dumps({"a": value})
    if "\x7f" not in text:  # which YAML takes escaped only
        assert read(text) == ([{"a": value}], [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r'{"a": "\ud83d\ude00"}', "\U0001f600"),
        (r'{"a": "\\\ud83d\uDE00"}', "\\\U0001f600"),
        (r'{"a": "\\ud83d\\ude00"}', r"\ud83d\ude00"),
        ("\ufeff\n" + r'{"a": "\uDBFF\uDFFF"}', "\U0010ffff"),
        (r"a: \ud83d\ude00", r"\ud83d\ude00"),
    ],
)
def test_halves_of_a_character_are_joined_in_json(text: str, expected: str) -> None:
    assert read(text) == ([{"a": expected}], [])


@pytest.mark.parametrize("mark", ["\x85", "\u2028", "\u2029"])
def test_line_breaks_of_one_reader_only(mark: str) -> None:
    with pytest.raises(Unreadable) as raised:
        read(f'a: 1\nb: "x{mark}y"\n')
    assert raised.value.line == 2
    assert read(f'a: "\\u{ord(mark):04x}"') == ([{"a": mark}], [])


def test_half_a_character_is_refused() -> None:
    try:
        _, problems = read('a: "\\ud83d"')
    except Unreadable:
        return
    assert problems[0][:2] == (1, "a")


PIECES = [
    "a",
    "b: ",
    "- ",
    "\n",
    "  ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "&x ",
    "*x",
    "'",
    '"',
    "1",
    "0.5",
    "~",
    "true",
    "on",
    "#",
]


@given(st.lists(st.sampled_from([*PIECES, "|\n ", "? ", "---\n", "!!str ", "<<: "]), max_size=14).map("".join))
def test_what_is_taken_means_what_pyyaml_says_it_means(text: str) -> None:
    try:
        documents, problems = read(text)
    except Unreadable:
        return
    if not problems:
        assert documents == [document for document in yaml.safe_load_all(text) if document is not None]
