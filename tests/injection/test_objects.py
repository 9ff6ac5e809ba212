from __future__ import annotations

from typing import Any

import pytest

from meshproxy.injection.objects import pods_in

POD: dict[str, Any] = {"spec": {"containers": []}}


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "ReplicaSet"),
        ("batch/v1", "Job"),
        ("v1", "ReplicationController"),
    ],
)
def test_templates(version: str, kind: str) -> None:
    document = {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": "a", "namespace": "b"},
        "spec": {"template": POD},
    }
    (place,) = pods_in(document)
    assert (place.path, place.kind, place.name, place.namespace) == (("spec", "template"), kind, "a", "b")
    assert place.content == POD


def test_other_places() -> None:
    (place,) = pods_in({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "a-"}, **POD})
    assert (place.path, place.name) == ((), "a-")
    cron = {"apiVersion": "batch/v1", "kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": POD}}}}
    (place,) = pods_in(cron)
    assert place.path == ("spec", "jobTemplate", "spec", "template")
    pod = {"apiVersion": "v1", "kind": "Pod", **POD}
    places = list(pods_in({"apiVersion": "v1", "kind": "List", "items": [pod, {"kind": "Service"}, 1, pod]}))
    assert [each.path for each in places] == [("items", 0), ("items", 3)]


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"kind": "Service"},
        {"apiVersion": "serving.knative.dev/v1", "kind": "Deployment", "spec": {"template": POD}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": None}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "spec": []},
        {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "List", "items": [POD]}]},
        {"apiVersion": "v1", "kind": ["Pod"], **POD},
    ],
)
def test_what_has_no_pod(document: Any) -> None:
    assert list(pods_in(document)) == []
