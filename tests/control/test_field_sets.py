"""What becomes of fields that were applied, and are applied no more. The forms are those of a real API server, which
tests/e2e/test_upgrade.py asks."""

from __future__ import annotations

from typing import Any

import pytest

from meshproxy.control.field_sets import dropped, without

PORT = 'k:{"containerPort":8500,"protocol":"TCP"}'
CONTAINER = 'k:{"name":"control"}'


def entry(fields: Any, manager: str = "kubectl-client-side-apply", operation: str = "Update", **more: str) -> Any:
    return {"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": fields, **more}


def ours(fields: Any) -> Any:
    return entry(fields, "us", "Apply")


def test_what_is_wanted_stays() -> None:
    fields: Any = {"f:spec": {"f:replicas": {}}}
    assert dropped([entry(fields)], [ours(fields)], "us") == []


@pytest.mark.parametrize(
    "before",
    [entry({"f:spec": {"f:a": {}, "f:b": {}}}), entry({"f:spec": {"f:a": {}, "f:b": {}}}, "helm-4", "Apply")],
    ids=["on the client's side", "on the server's side"],
)
def test_what_was_applied_goes(before: Any) -> None:
    assert dropped([before], [ours({"f:spec": {"f:a": {}}})], "us") == [("f:spec", "f:b")]


@pytest.mark.parametrize(
    "other",
    [
        entry({"f:spec": {"f:b": {}}}, "meshproxy"),
        entry({"f:spec": {"f:b": {"f:c": {}}}}, "kube-controller-manager"),
    ],
    ids=["it too", "something in it"],
)
def test_what_somebody_else_has_written_stays(other: Any) -> None:
    assert dropped([entry({"f:spec": {"f:b": {}}}), other], [ours({})], "us") == []


def test_statuses_are_nobodys_to_apply() -> None:
    status = entry({"f:status": {"f:a": {}}}, "meshproxy", "Apply", subresource="status")
    assert dropped([status], [ours({})], "us") == []


def test_what_kubectl_remembers_is_no_field() -> None:
    annotations: Any = {".": {}, "f:kubectl.kubernetes.io/last-applied-configuration": {}, "f:a": {}}
    before = entry({"f:metadata": {"f:annotations": annotations}})
    assert dropped([before], [ours({})], "us") == [("f:metadata", "f:annotations", "f:a")]


def test_neither_is_what_helm_adds() -> None:
    annotations: Any = {"f:meta.helm.sh/release-name": {}, "f:meta.helm.sh/release-namespace": {}}
    labels: Any = {"f:app.kubernetes.io/managed-by": {}, "f:app.kubernetes.io/part-of": {}}
    before = entry({"f:metadata": {"f:annotations": annotations, "f:labels": labels}}, "helm", "Apply")
    wanted = ours({"f:metadata": {"f:labels": {"f:app.kubernetes.io/part-of": {}}}})
    assert dropped([before], [wanted], "us") == []


def test_an_element_goes_as_a_whole() -> None:
    before: Any = {"f:ports": {".": {}, PORT: {".": {}, "f:containerPort": {}, "f:name": {}}}}
    assert dropped([entry(before)], [ours({"f:ports": {'k:{"x":1}': {"f:x": {}}}})], "us") == [("f:ports", PORT)]
    assert dropped([entry(before)], [ours({})], "us") == [("f:ports",)]


def test_fields_are_taken_out() -> None:
    content: Any = {
        "metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x", "y"]},
        "spec": {
            "containers": [
                {"name": "control", "image": "i", "ports": [{"containerPort": 8500, "protocol": "TCP", "name": "p"}]},
                {"name": "other", "image": "j"},
            ]
        },
    }
    paths = [
        ("f:metadata", "f:labels", "f:b"),
        ("f:metadata", "f:finalizers", 'v:"x"'),
        ("f:spec", "f:containers", CONTAINER, "f:ports", PORT),
        ("f:spec", "f:containers", 'k:{"name":"other"}', "f:image"),
        ("f:spec", "f:none", "f:there"),
        ("f:metadata", "f:labels", "f:a", "f:text"),
    ]
    assert without(content, paths) == {
        "metadata": {"labels": {"a": "1"}, "finalizers": ["y"]},
        "spec": {"containers": [{"name": "control", "image": "i", "ports": []}, {"name": "other"}]},
    }
    assert content["metadata"]["labels"] == {"a": "1", "b": "2"}
