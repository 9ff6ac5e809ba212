"""What differs between two sets of documents."""

from __future__ import annotations

from typing import Any

from meshproxy.config import fields, schema
from meshproxy.config.load import load
from meshproxy.policy.structure import Difference, differences

DOCUMENTS = load(["deploy/examples/access.yaml"])


def role(name: str, *rules: schema.Rule) -> schema.ModelRole:
    return schema.ModelRole(metadata=schema.Metadata(name=name), spec=schema.RoleSpec(rules=rules))


READ = schema.Rule(models=("a", "b"), verbs=("predict", "metadata"))
STATUS = schema.Rule(models=("c",), verbs=("status",))


def test_nothing_differs_from_itself() -> None:
    whole: list[Any] = [DOCUMENTS.mesh, *DOCUMENTS.roles, *DOCUMENTS.bindings]
    assert differences(whole, whole) == []


def test_order_does_not_matter() -> None:
    other = schema.Rule(models=("b", "a"), verbs=("metadata", "predict"))
    assert differences([role("r", READ, STATUS), role("s", READ)], [role("s", READ), role("r", STATUS, other)]) == []


def test_an_item_of_a_list() -> None:
    assert differences([role("r", READ)], [role("r", READ, STATUS)]) == [
        Difference("ModelRole/r", "spec.rules[]", True, '{"models":["c"],"verbs":["status"]}')
    ]


def test_a_value_that_changes_and_one_that_is_new() -> None:
    subject = fields.BindingSubject(workload=fields.WorkloadSubject(namespace="a"))
    named = schema.Metadata(name="b")
    before = schema.ModelRoleBinding(metadata=named, spec=schema.BindingSpec(role="r", subjects=(subject,)))
    after = schema.ModelRoleBinding(
        metadata=named, spec=schema.BindingSpec(role="s", subjects=(subject,), action="deny")
    )
    assert differences([before], [after]) == [
        Difference("ModelRoleBinding/b", "spec.action", True, '"deny"'),  # allow is the default
        Difference("ModelRoleBinding/b", "spec.role", False, '"r"'),
        Difference("ModelRoleBinding/b", "spec.role", True, '"s"'),
    ]


def test_a_whole_document() -> None:
    found = differences([role("old", READ)], [role("new", READ)])
    assert [(each.document, each.field, each.is_new) for each in found] == [
        ("ModelRole/new", "spec", True),
        ("ModelRole/old", "spec", False),
    ]


def test_numbers_and_booleans_differ() -> None:
    def with_claim(value: int | bool) -> schema.ModelRoleBinding:
        subject = fields.BindingSubject(token=fields.TokenSubject(issuer="corp", claims={"c": value}))
        spec = schema.BindingSpec(role="r", subjects=(subject,))
        return schema.ModelRoleBinding(metadata=schema.Metadata(name="b"), spec=spec)

    assert len(differences([with_claim(1)], [with_claim(True)])) == 2
