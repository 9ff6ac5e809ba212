"""The words of other meshes."""

from __future__ import annotations

from typing import get_args

import pytest
from msgspec import inspect

from meshproxy.config import hints, schema
from meshproxy.config.fields import VerbWord
from tests.config.conftest import Check, document, said


def fields_of(kind: inspect.Type) -> set[str]:
    """The names of all fields below a type."""
    match kind:
        case inspect.StructType():
            inner = (fields_of(field.type) for field in kind.fields)
            return {field.encode_name for field in kind.fields}.union(*inner)
        case inspect.UnionType():
            return set().union(*(fields_of(each) for each in kind.types))
        case inspect.VarTupleType():
            return fields_of(kind.item_type)
        case inspect.DictType():
            return fields_of(kind.value_type)
        case inspect.Metadata():
            return fields_of(kind.type)
        case _:
            return set()


def test_what_they_point_at_is_there() -> None:
    """Words in backquotes are fields, or begin one written out; the kinds are ours."""
    ours = set().union(*(fields_of(inspect.type_info(kind)) for kind in schema.KINDS))
    ours |= {"apiVersion", "strict", "permissive", "disabled", "authorization", "x-forwarded-for"}
    for where, (_, here) in {**hints.FIELDS, **hints.IN_SUBJECTS, **hints.KINDS}.items():
        for quoted in here.split("`")[1::2]:
            assert quoted.partition(":")[0] in ours, where


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "AuthorizationPolicy",
            "a kind of Istio and Linkerd; here it is ModelRole (which calls) with ModelRoleBinding",
        ),
        ("VirtualService", "a kind of Istio; here it is ModelRoute"),
        ("ServiceProfile", "a kind of Linkerd; here it is ModelRoute"),
        ("Modelrole", '(did you mean "ModelRole"?)'),
    ],
)
def test_kinds(check: Check, kind: str, words: str) -> None:
    (found,) = said(check(document(kind, "x", "{}"), document("ModelRole", "r", "{rules: []}")), "MP0201")
    assert words in found


@pytest.mark.parametrize(
    ("kind", "spec", "field", "words"),
    [
        ("ModelRoleBinding", "{role: r, subjects: [{principals: [x]}]}", "spec.subjects[0].principals", "`workload: {"),
        ("ModelRoleBinding", "{roleRef: {name: r}}", "spec.roleRef", "a word of Kubernetes; here it is `role: NAME`"),
        (
            "ModelRoleBinding",
            "{role: r, subjects: [{kind: User}]}",
            "spec.subjects[0].kind",
            "`token: {issuer: ..., cl",
        ),
        ("ModelRole", "{rules: [{methods: [GET]}]}", "spec.rules[0].methods", "`models` and `verbs`"),
        ("ModelRoute", "{perTryTimeout: 1s}", "spec.perTryTimeout", "a word of Istio; here it is `tryTimeout`"),
        ("ModelRoute", "{timeouts: {request: 1s}}", "spec.timeouts", "`timeout` (the whole call)"),
        ("ModelRoute", "{timeOut: 1s}", "spec.timeOut", '(did you mean "timeout"?)'),
        ("ModelServer", "{outlierDetection: {}}", "spec.outlierDetection", "`ejection`"),
    ],
)
def test_fields(check: Check, kind: str, spec: str, field: str, words: str) -> None:
    (found,) = [line for line in said(check(document(kind, "x", spec)), "MP0202") if f": {field}: " in line]
    assert "no such field" in found
    assert words in found


@pytest.mark.parametrize(
    ("kind", "spec"),
    [("ModelServer", "{service: {kind: Service}}"), ("ModelServer", "{kind: x}"), ("ModelRoute", "{kind: HTTPRoute}")],
)
def test_a_kind_that_is_no_subjects_is_no_word_of_rbac(check: Check, kind: str, spec: str) -> None:
    (found,) = [line for line in said(check(document(kind, "x", spec)), "MP0202") if "kind" in line]
    assert found.endswith("no such field")


@pytest.mark.parametrize("word", ["GET", '"*"', "get"])
def test_values(check: Check, word: str) -> None:
    found = said(check(document("ModelRole", "r", f"{{rules: [{{models: [m], verbs: [{word}]}}]}}")), "MP0204")
    assert hints.VALUES[word.strip('"')] in found[0]
    assert word.strip('"') not in get_args(VerbWord)


def test_whose_documents_are_of_another_mesh() -> None:
    assert hints.is_of_another_mesh("security.istio.io/v1", "AuthorizationPolicy")
    assert hints.is_of_another_mesh("networking.istio.io/v1", "Sidecar")
    assert hints.is_of_another_mesh("policy.linkerd.io/v1beta3", "Server")
    assert hints.is_of_another_mesh("gateway.envoyproxy.io/v1alpha1", "SecurityPolicy")
    assert not hints.is_of_another_mesh("rbac.authorization.k8s.io/v1", "Role")
    assert not hints.is_of_another_mesh("apps/v1", "Deployment")
