from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.injection.inject import Injected, Refused, Skipped, inject
from meshproxy.injection.manifests import inject_text, uninject_text
from meshproxy.injection.yaml_edit import CannotEdit
from tests.injection.pods import SETTINGS, pods

MANIFEST = """\
# Ours
%YAML 1.1
---
apiVersion: v1
kind:   Service   # with spaces
metadata: {name: "web", }
spec:
    ports: [ {port: 8500,   targetPort: mesh} ]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    metadata:
      labels: {app: web}
    spec:
        # The model server.
        containers:
          # It is the only one.
          - image: "tensorflow/serving:2.19.0"  # pinned
            name: server
            # Sees the sidecar's port.
            readinessProbe:
                httpGet: {port: mesh, path: "/v1/models/fraud"}   # REST
                # often
                periodSeconds:   2
            args: ["--model_name=fraud",
              "--port=8500"]
        terminationGracePeriodSeconds: 010  # octal
...
# The end
"""


def round_trip(text: str) -> str:
    after, outcomes = inject_text(text, "serving", SETTINGS)
    assert any(isinstance(outcome.result, Injected) for outcome in outcomes)
    assert inject_text(after, "serving", SETTINGS)[0] == after
    assert uninject_text(after)[0] == text
    return after


def test_everything_else_stays_byte_for_byte() -> None:
    after = round_trip(MANIFEST)
    _, _, *changes = difflib.unified_diff(MANIFEST.splitlines(), after.splitlines(), n=0)
    assert [line[1:] for line in changes if line.startswith("-")] == [
        '          - image: "tensorflow/serving:2.19.0"  # pinned',  # the hook goes before it, after the dash
        '                httpGet: {port: mesh, path: "/v1/models/fraud"}   # REST',
        "                # often",
        "                periodSeconds:   2",
        "        terminationGracePeriodSeconds: 010  # octal",
    ]
    assert 'image: "tensorflow/serving:2.19.0"  # pinned\n' in after
    assert "        terminationGracePeriodSeconds: 40  # octal\n" in after
    (_, deployment) = yaml.safe_load_all(after)
    server = deployment["spec"]["template"]["spec"]["containers"][0]
    assert server["readinessProbe"] == {"httpGet": {"path": "/readyz", "port": 18502}, "periodSeconds": 2}
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 40


@pytest.mark.parametrize("newline", ["\r\n", "\n"])
@pytest.mark.parametrize("mark", ["\ufeff", ""])
def test_line_ends_and_byte_order_mark(newline: str, mark: str) -> None:
    after = round_trip(mark + MANIFEST.replace("\n", newline))
    assert after.startswith(mark + "# Ours")
    assert after.count("\n") == after.count(newline)


def test_json_stays_json() -> None:
    pod: dict[str, Any] = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "s", "image": "tensorflow/serving"}], "volumes": []},
    }  # fmt: skip
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [pod, {"kind": "Service"}, pod]}, indent=4)
    document = json.loads(round_trip(text))
    assert document["items"][2]["spec"]["initContainers"][0]["name"] == "meshproxy"


def test_what_becomes_of_each() -> None:
    text = MANIFEST.replace("kind: Deployment", "kind: DaemonSet") + "---\n" + MANIFEST.partition("---\n")[2]
    text = text.replace("labels: {app: web}", "annotations: {config.meshproxy.dev/workers: none}", 1)
    text = text.replace("metadata: {name: web}", "metadata: {name: web, namespace: kube-system}", 2)
    text = text.replace("namespace: kube-system", "namespace: other", 1)
    after, outcomes = inject_text(text, "serving", SETTINGS)
    assert after == text
    assert [outcome.where for outcome in outcomes] == ["DaemonSet/web", "Deployment/web"]
    assert [type(outcome.result) for outcome in outcomes] == [Refused, Skipped]


def test_sidecars_are_taken_out_where_they_are() -> None:
    text, changed = uninject_text(MANIFEST)
    assert (text, changed) == (MANIFEST, [])
    after = round_trip(MANIFEST)
    assert uninject_text(after + "---\n" + MANIFEST.partition("---\n")[2])[1] == ["Deployment/web"]
    damaged = after.replace('terminationGracePeriodSeconds\\"', 'hostNetwork\\"')
    with pytest.raises(CannotEdit, match="Deployment/web: the annotation"):
        uninject_text(damaged)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "while parsing"),
        (MANIFEST.replace("        # The model server.\n", "        <<: {x: 1}\n"), "Deployment/web: .* is merged"),
        (MANIFEST.replace("    spec:\n", "    spec: &s\n", 1).replace("labels: {app: web}", "labels: *l").replace(
            "metadata: {name: web}", "metadata: {name: web, labels: &l {app: web}}"), ""),
    ],
)  # fmt: skip
def test_what_cannot_be_changed(text: str, message: str) -> None:
    if message:
        with pytest.raises(CannotEdit, match=message):
            inject_text(text, "serving", SETTINGS)
    else:
        round_trip(text)


def test_the_manifest_of_deploy_without_its_sidecar() -> None:
    text = (Path(__file__).parents[2] / "deploy" / "kubernetes" / "tensorflow-serving.yaml").read_text()
    assert inject_text(text, "default", SETTINGS)[0] == text  # it has one


@given(
    content=pods(),
    is_flow=st.sampled_from([True, False, None]),
    indent=st.sampled_from([2, 3]),
    is_json=st.booleans(),
)
@settings(max_examples=25)
def test_offline_is_the_same_as_in_the_cluster(content: Any, is_flow: bool | None, indent: int, is_json: bool) -> None:
    content = json.loads(json.dumps(content))  # PyYAML writes what is the same object as an alias
    text = (
        json.dumps(content, indent=indent, ensure_ascii=False)
        if is_json
        else yaml.safe_dump(content, default_flow_style=is_flow, indent=indent, sort_keys=False)
    )
    expected = inject(content, "serving", SETTINGS)
    after, (outcome,) = inject_text(text, "serving", SETTINGS)
    assert type(outcome.result) is type(expected)
    if isinstance(expected, Injected):
        found = json.loads(after) if is_json else yaml.safe_load(after)
        for each in (found, expected.pod):  # what was replaced is noted down as it was written
            each["metadata"]["annotations"].pop("sidecar.meshproxy.dev/status")
        assert found == expected.pod
    assert uninject_text(after)[0] == text
