from __future__ import annotations

from typing import Any

import pytest

from meshproxy.injection.draft import Draft
from tests.injection.pods import apply_patch


def changed(before: Any, *changes: tuple[str, tuple[str, ...], Any]) -> Draft:
    draft = Draft(before)
    for verb, path, value in changes:
        {"insert": draft.insert, "put": draft.put}[verb](path, value)
    assert apply_patch(before, draft.patch) == draft.pod
    return draft


def test_a_pod_that_nobody_else_has_is_changed_itself() -> None:
    for in_place in (True, False):
        content: dict[str, object] = {"spec": {}}
        draft = Draft(content, in_place=in_place)
        draft.put(("spec", "a"), 1)
        assert draft.pod == {"spec": {"a": 1}}
        assert (draft.pod is content) is in_place
        assert content == ({"spec": {"a": 1}} if in_place else {"spec": {}})


def test_members_are_added_and_replaced() -> None:
    draft = changed({"a": {"b/c": 1}}, ("put", ("a", "b/c"), 2), ("put", ("a", "d~"), 3))
    assert draft.patch == [
        {"op": "replace", "path": "/a/b~1c", "value": 2},
        {"op": "add", "path": "/a/d~0", "value": 3},
    ]
    assert draft.undo.was == {("a", "b/c"): "1", ("a", "d~"): None}


@pytest.mark.parametrize("nothing", [None, {}])
def test_what_is_needed_is_made(nothing: Any) -> None:
    draft = changed({"a": nothing, "z": 1}, ("put", ("a", "b", "c"), 1), ("put", ("a", "b", "d"), 2))
    assert draft.pod == {"a": {"b": {"c": 1, "d": 2}}, "z": 1}
    assert draft.patch[0]["op"] == "replace"
    assert changed({"z": 1}, ("insert", ("x", "y"), {"name": "n"})).undo.made == [("x",)]


def test_elements_are_found_by_name() -> None:
    draft = changed(
        {"list": [{"name": "a"}, {"name": "b", "x": 1}]},
        ("insert", ("list",), {"name": "c"}),
        ("put", ("list", "b", "x"), 2),
    )
    assert draft.patch[1]["path"] == "/list/2/x"
    assert draft.find(("list", "b", "x")) == 2
    assert draft.find(("list", "d", "x")) is None


def test_what_is_removed() -> None:
    before = {"list": [{"name": "a"}, {"name": "b"}], "x": 1}
    draft = Draft(before)
    draft.remove(("list", "b"))
    draft.remove(("x",))
    assert draft.pod == {"list": [{"name": "a"}]} == apply_patch(before, draft.patch)


def test_a_later_change_does_not_change_an_earlier_operation() -> None:
    item = {"name": "c", "x": 1}
    draft = changed({"list": [{"name": "a"}]}, ("insert", ("list",), item), ("put", ("list", "c", "x"), 2))
    assert draft.patch[0]["value"]["x"] == 1
