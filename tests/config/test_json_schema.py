"""The JSON Schema against `config check`: what one takes the other takes, and what has the wrong shape both refuse."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.config.examine import examine
from meshproxy.config.json_schema import DIALECT, json_schema

EXAMPLES = sorted(
    path
    for path in Path("deploy").rglob("*.yaml")
    if "meshproxy.dev/v1alpha1" in path.read_text() and "helm" not in path.parts and path.name != "crds.yaml"
)


@cache
def validator() -> Any:
    made = json_schema()
    assert made["$schema"] == DIALECT
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


@cache
def documents() -> list[Any]:
    found = [each for path in EXAMPLES for each in yaml.safe_load_all(path.read_text()) if each]
    return [each for each in found if str(each.get("apiVersion")).startswith("meshproxy.dev/")]


def test_every_example_is_valid() -> None:
    assert len(documents()) > 30
    for document in documents():
        assert [error.message for error in validator().iter_errors(document)] == [], document


def test_a_list_and_what_the_api_server_adds() -> None:
    role = next(each for each in documents() if each["kind"] == "ModelRole")
    stored = role | {"metadata": role["metadata"] | {"uid": "x", "generation": 1}, "status": {"conditions": []}}
    assert validator().is_valid({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": [stored]})
    assert not validator().is_valid({"apiVersion": "v1", "kind": "List", "items": [stored | {"x": 1}]})


def errors(document: Any) -> bool:
    """Whether `config check` refuses the shape of a document."""
    found = examine([], json.dumps(document).encode(), is_partial=True)
    return any(problem.code in ("MP0201", "MP0202", "MP0203") for problem in found.problems)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "ModelRool"},
        {"spec": {}},
        {"spec": {"rules": []}},
        {"spec": {"rules": [{"models": ["m"]}]}},
        {"spec": {"rules": [{"models": "m", "verbs": ["predict"]}]}},
        {"spec": {"rules": [{"models": ["m"], "verbs": ["predit"]}]}},
        {"spec": {"rules": [{"models": ["m"], "verbs": ["predict"], "version": [1]}]}},
        {"extra": 1},
        {"metadata": {"name": "r", "nam": 1}},
        {"metadata": {}},
    ],
)
def test_wrong_shapes_are_refused_by_both(change: dict[str, Any]) -> None:
    good = {
        "apiVersion": "meshproxy.dev/v1alpha1",
        "kind": "ModelRole",
        "metadata": {"name": "r"},
        "spec": {"rules": [{"models": ["m"], "verbs": ["predict"], "versions": [3, "4"]}]},
    }
    assert validator().is_valid(good)
    assert not validator().is_valid(good | change)
    found = examine([], json.dumps(good | change).encode(), is_partial=True)
    assert found.count(found.problems[0].severity)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_unknown_and_missing_fields_are_refused_by_both(data: st.DataObject) -> None:
    """Of any mapping in any example."""
    document = copy.deepcopy(data.draw(st.sampled_from(documents())))
    mappings = [each for each in _mappings(document) if each]
    mapping = data.draw(st.sampled_from(mappings))
    if data.draw(st.booleans()):
        mapping["noSuchField"] = {"a": 1}
    else:
        del mapping[data.draw(st.sampled_from(sorted(mapping)))]
    if errors(document):
        assert not validator().is_valid(document)


def _mappings(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value, *(found for each in value.values() for found in _mappings(each))]
    return [found for each in value for found in _mappings(each)] if isinstance(value, list) else []
