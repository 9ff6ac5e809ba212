"""Paths into nodes: what is not there, or is of another form, is none."""

from __future__ import annotations

from meshproxy.config.nodes import read_documents
from meshproxy.config.places import find, items, value_at, version_at

(NODE,) = read_documents("spec: {version: 07x, list: [1, 2], number: 3, text: '3'}", lambda *_: None)


def test_a_path() -> None:
    assert value_at(find(NODE, "spec", "number")) == 3
    assert find(NODE, "spec", "number", "deeper") is None
    assert find(NODE, "spec", "missing") is None


def test_items_of_a_list_only() -> None:
    assert [item.value for item in items(find(NODE, "spec", "list"))] == [1, 2]
    assert items(find(NODE, "spec", "number")) == items(None) == []


def test_versions_have_one_form() -> None:
    assert version_at(find(NODE, "spec", "number")) == version_at(find(NODE, "spec", "text")) == "3"
    assert version_at(None) is None
