from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.injection.yaml_edit import CannotEdit, YamlDocument


def edited(text: str, verb: str, path: tuple[str | int, ...], *arguments: Any) -> str:
    document = YamlDocument(text)
    getattr(document, verb)(path, *arguments)
    assert yaml.safe_load(document.text) == document.content()
    return document.text


def test_a_member_is_put_in_with_the_indentation_of_its_neighbours() -> None:
    before = "a:\n    # about b\n    b: 1   # one\n\n    c:   'x'\n"
    after = edited(before, "put", ("a", "new"), {"x": [1, {"y": "z\nz\n"}]})
    assert after == (
        "a:\n    new:\n      x:\n      - 1\n      - y: |\n          z\n          z\n"
        "    # about b\n    b: 1   # one\n\n    c:   'x'\n"
    )
    assert edited(after, "remove", ("a", "new")) == before


def test_an_element_is_put_in_first() -> None:
    before = "a:\n# all of them\n- {name: b}\n-   name: c\n"
    after = edited(before, "insert", ("a",), {"name": "n", "x": 1})
    assert after == "a:\n- name: n\n  x: 1\n# all of them\n- {name: b}\n-   name: c\n"
    assert edited(after, "remove", ("a", 0)) == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{a: {b: 1}, c: [2]}", '{a: {"n": {"x": null}, b: 1}, c: [2]}'),
        ('{\n  "a": {\n    "b": 1\n  }\n}\n', '{\n  "a": {\n    "n": {"x": null}, "b": 1\n  }\n}\n'),
    ],
)
def test_inside_of_braces_it_is_json(before: str, after: str) -> None:
    assert edited(before, "put", ("a", "n"), {"x": None}) == after
    assert edited(after, "remove", ("a", "n")) == before


def test_elements_inside_of_brackets() -> None:
    assert edited("a: [1, 2]", "insert", ("a",), {"x": 1}) == 'a: [{"x": 1}, 1, 2]'
    assert edited("a: [0, 1, 2]", "remove", ("a", 0)) == "a: [1, 2]"
    assert edited("a: [0, 1, 2]", "remove", ("a", 2)) == "a: [0, 1]"
    assert edited("a: [0]", "remove", ("a", 0)) == "a: []"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a:\n  b: 30 # thirty\n  c: 1\n", "a:\n  b: 40 # thirty\n  c: 1\n"),
        ("a: {b: 30}", "a: {b: 40}"),
        ("a:\n  b: # nothing\n", "a:\n  b: 40 # nothing\n"),
        ("a:\n  b: |\n    x\n\n  c: 1\n", "a:\n  b: 40\n\n  c: 1\n"),
        ("a:\r\n  b: x\r\n", "a:\r\n  b: 40\r\n"),
    ],
)
def test_a_value_is_replaced_and_put_back(before: str, after: str) -> None:
    document = YamlDocument(before)
    was = document.slice(("a", "b"))
    document.put(("a", "b"), 40)
    assert document.text == after
    document.put(("a", "b"), None, was)
    assert document.text == before


def test_a_block_is_replaced_by_a_block_and_put_back_where_it_stands_now() -> None:
    before = "a:\n    b:\n        x: 1 # one\n\n        y: [2,\n          3]\n    # end\n    c: 1\n"
    document = YamlDocument(before)
    was = document.slice(("a", "b"))
    assert was == "x: 1 # one\n\ny: [2,\n  3]"
    document.put(("a", "b"), {"z": {"w": 1}})
    assert document.text == "a:\n    b:\n        z:\n          w: 1\n    # end\n    c: 1\n"
    document.put(("a", "b"), None, was)
    assert document.text == before


def test_a_block_with_a_comment_to_its_left_is_noted_down_as_json() -> None:
    document = YamlDocument("a:\n  x: 1\n# left\n  y: 2\n")
    assert document.slice(("a",)) == '{"x": 1, "y": 2}'


def test_line_ends_stay() -> None:
    after = edited("a:\r\n- b: 1\r\n", "insert", ("a",), {"x": 1, "y": 2})
    assert after == "a:\r\n- x: 1\r\n  y: 2\r\n- b: 1\r\n"
    assert edited(after, "remove", ("a", 0)) == "a:\r\n- b: 1\r\n"


def test_the_last_of_a_block_takes_its_line_with_it() -> None:
    assert edited("a:\n  b: 1\n  c: 2\nd: 3\n", "remove", ("a", "c")) == "a:\n  b: 1\nd: 3\n"
    assert edited("a:\n- 1\n- 2", "remove", ("a", 1)) == "a:\n- 1"


@pytest.mark.parametrize(
    ("text", "verb", "path", "message"),
    [
        ("a: &x {b: 1}\nc: *x\n", "put", ("c", "b"), "c is an alias"),
        ("x: &x {b: 1}\nc:\n  <<: *x\n  d: {e: 1}\n", "put", ("c", "d", "e"), "merged"),
        ("a: {b: 1}\na: {b: 2}\n", "put", ("a", "b"), "a is there twice"),
        ("a: 1\n", "put", ("a", "b"), "a is no mapping"),
        ("a: 1\n", "put", ("b", "c"), "b is not there"),
        ("a: []\n", "insert", ("a",), "no list with something in it"),
        ("a:\n- 1\n", "remove", ("a", 0), "the only one"),
        ("a:\n- {b: 1} # about b\n- 2\n", "remove", ("a", 0), "by hand"),
        ("# nothing\n", "put", ("a",), "nothing in it"),
    ],
)
def test_what_it_does_not_change(text: str, verb: str, path: tuple[str | int, ...], message: str) -> None:
    with pytest.raises(CannotEdit, match=message):
        edited(text, verb, path, *([{}] if verb != "remove" else []))


@pytest.mark.parametrize("text", ["a: [", "a: !!python/object:os.system x", "\x00", "[" * 400, "2024-13-45"])
def test_what_is_no_yaml(text: str) -> None:
    with pytest.raises(CannotEdit):
        YamlDocument(text).content()


@pytest.mark.parametrize("text", ["\n", "\na", " \n", "a\n\n", "a\n \n", "a\nb", "a\nb\n", "a\n\nb", "a\n", "\n a"])
def test_line_breaks_of_a_text_are_kept(text: str) -> None:
    document = YamlDocument("a:\n  b: 1\n")
    document.put(("a", "new"), [text])
    assert document.content() == {"a": {"new": [text], "b": 1}}
    document.remove(("a", "new"))
    assert document.text == "a:\n  b: 1\n"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(st.characters(codec="ascii"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("pqrs"), inner, max_size=3),
    max_leaves=6,
)


@given(
    content=st.dictionaries(st.sampled_from("abcd"), _VALUES, min_size=1),
    value=_VALUES,
    is_flow=st.sampled_from([True, False, None]),
    indent=st.sampled_from([2, 4]),
    newline=st.sampled_from(["\n", "\r\n"]),
)
@settings(max_examples=25)
def test_put_in_and_taken_out_is_as_before(
    content: dict[str, Any], value: Any, is_flow: bool | None, indent: int, newline: str
) -> None:
    text = yaml.safe_dump({"top": content, "end": 1}, default_flow_style=is_flow, indent=indent, sort_keys=False)
    document = YamlDocument(text.replace("\n", newline))
    before = document.text
    document.put(("top", "new"), value)
    assert document.content() == {"top": {"new": value, **content}, "end": 1}
    document.remove(("top", "new"))
    assert document.text == before
    for name, inside in content.items():
        if isinstance(inside, list) or inside == {}:
            continue
        was = document.slice(("top", name))
        other = {"x": {"y": 1}} if isinstance(inside, dict) else 7
        document.put(("top", name), other)
        assert document.content()["top"][name] == other
        document.put(("top", name), None, was)
        assert document.content()["top"][name] == inside
        assert document.text == before
