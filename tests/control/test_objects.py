"""Documents that are objects of a cluster."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.files import Source, Written
from meshproxy.config.parse import Parsed, parse
from meshproxy.control.objects import read_object
from tests.control.keeping import KeepingTests


class TestAgainstTheFake(KeepingTests):
    """What is in them."""


def shown(spec: Any, **metadata: Any) -> dict[str, Any]:
    """A role as the API server has it."""
    return {
        "apiVersion": "meshproxy.dev/v1alpha1",
        "kind": "ModelRole",
        "metadata": {"name": "r", "namespace": "models", "uid": "1", "managedFields": [{"f:spec": {}}], **metadata},
        "spec": spec,
        "status": {"conditions": None},
    }


def read(role: dict[str, Any]) -> Source:
    return read_object("ModelRole", role)


RULES = {"rules": [{"models": ["fraud"], "verbs": ["predict"]}]}


def test_what_others_say_of_an_object_is_not_kept() -> None:
    assert read(shown(RULES)) == read(shown(RULES, resourceVersion="7", annotations={"a": "b"}))
    assert read(shown(RULES)).name == "ModelRole/r"
    assert read(shown(RULES)) != read(shown({"rules": []}))
    # It was deleted and made again, or changed and changed back: its status is another one's.
    assert read(shown(RULES)) != read(shown(RULES, uid="2"))
    assert read(shown(RULES)) != read(shown(RULES, generation=2))


def test_who_changed_an_object_last() -> None:
    managed = [
        {"manager": "helm", "time": "2026-11-30T10:00:00Z"},
        {"manager": "kubectl-edit", "time": "2026-11-30T12:00:00Z"},
        {"manager": "meshproxy", "time": "2026-11-30T13:00:00Z", "subresource": "status"},
    ]
    assert read(shown(RULES, managedFields=managed)).written == Written(
        "kubectl-edit", "2026-11-30T12:00:00Z", is_software=True
    )
    assert read(shown(RULES, managedFields=None)).written is None
    assert read(shown(RULES)).written == Written("unknown", "", is_software=True)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1))
def test_every_text_is_read_as_it_is(text: str) -> None:
    parsed = Parsed()
    parse(read(shown({"rules": [{"models": [text], "verbs": ["predict"]}]})), parsed)
    (each,) = parsed.placed
    (model,) = each.node.value["spec"].value["rules"].value[0].value["models"].value  # type: ignore[index]
    assert model.value == text


def test_an_object_without_a_specification_is_wrong_by_itself() -> None:
    parsed = Parsed()
    parse(read({"metadata": {"name": "r"}}), parsed)
    assert [str(problem) for problem in parsed.problems] == [
        "ModelRole/r:1: ModelRole/r: spec: is missing: expected mapping"
    ]
