"""Our kinds in a real API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshproxy.config import crds, schema
from meshproxy.config.codes import Severity
from meshproxy.config.examine import examine
from meshproxy.config.fields import API_VERSION
from tests.config.unfit import UNFIT
from tests.e2e.apiserver import Cluster, KubectlError
from tests.e2e.conftest import TestNamespace
from tests.e2e.documents import read_all

DEPLOY = Path(__file__).parents[2] / "deploy"


def documents() -> Iterator[Any]:
    """Every document of ours below deploy/, also those in ConfigMaps, but for templates of the chart."""
    for path in sorted(set(DEPLOY.rglob("*.yaml")) - set(DEPLOY.glob("helm/*/templates/*"))):
        found = read_all(path.read_text())
        for whole in list(found):
            for text in whole["data"].values() if whole.get("kind") == "ConfigMap" else ():
                found += read_all(text)
        for number, each in enumerate(each for each in found if each.get("apiVersion") == API_VERSION):
            each["metadata"].pop("namespace", None)  # which need not exist
            yield pytest.param(each, id=f"{path.relative_to(DEPLOY)}#{number}")


pytestmark = pytest.mark.usefixtures("kinds")


def create(cluster: Cluster, document: dict[str, Any]) -> dict[str, Any]:
    """What the API server would keep of it. Raises KubectlError."""
    command = ("create", "--dry-run=server", "--validate=strict", "-f", "-", "-o", "json")
    made: dict[str, Any] = json.loads(cluster.kubectl(*command, stdin=json.dumps(document)))
    return made


@pytest.mark.parametrize("document", list(documents()))
def test_our_documents_are_accepted_as_they_stand(cluster: Cluster, document: dict[str, Any]) -> None:
    made = create(cluster, document)
    assert made["spec"] == document["spec"]
    assert made["kind"] == document["kind"]


said: set[str] = set()


@pytest.mark.parametrize("what", UNFIT)
def test_what_is_refused_at_once(cluster: Cluster, what: str) -> None:
    document, words = UNFIT[what]
    with pytest.raises(KubectlError) as caught:
        create(cluster, document)
    assert words in str(caught.value)
    said.add(str(caught.value))


def test_each_rule_was_broken_once() -> None:
    rules = {message for rules in crds.RULES.values() for _, message in rules}
    assert {message for message in rules if not any(message in each for each in said)} == set()


def test_what_people_see(cluster: Cluster) -> None:
    role = {
        "apiVersion": API_VERSION,
        "kind": "ModelRole",
        "metadata": {"name": "seen"},
        "spec": {"rules": [{"models": ["fraud"], "verbs": ["predict"]}]},
    }
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(role))
    condition = {
        "type": "Accepted", "status": "False", "reason": "Invalid", "message": "why",
        "lastTransitionTime": "2026-11-29T00:00:00Z", "observedGeneration": 1,
    }  # fmt: skip
    patch = json.dumps({"status": {"conditions": [condition]}})
    cluster.kubectl("patch", "modelrole", "seen", "--subresource=status", "--type=merge", "-p", patch)
    head, row = cluster.kubectl("get", "modelrole", "seen", "-o", "wide").splitlines()
    assert head.split() == ["NAME", "MODELS", "ACCEPTED", "SIDECARS", "MESSAGE", "AGE"]
    assert row.split()[:4] == ["seen", '["fraud"]', "False", "why"]
    assert "modelrole.meshproxy.dev/seen" in cluster.kubectl("get", "meshproxy", "-o", "name")
    assert "one of the" in cluster.kubectl("explain", "modelrole.spec.rules")
    cluster.kubectl("delete", "modelrole", "seen")


@pytest.mark.parametrize("options", [(), ("--show-managed-fields",)], ids=["as it is", "managed fields"])
def test_what_kubectl_prints_is_read(cluster: Cluster, namespace: TestNamespace, options: tuple[str, ...]) -> None:
    where = f"--namespace={namespace.name}"
    documents = str(DEPLOY / "examples" / "traffic.yaml")
    cluster.kubectl("create", where, "-f", documents)
    kinds = ",".join(crds.plural(kind) for kind in schema.KINDS)
    printed = cluster.kubectl("get", kinds, where, "-o", "yaml", *options)
    assert "kind: List" in printed
    found = examine([], printed.encode())
    assert [problem for problem in found.problems if problem.severity is Severity.ERROR] == []
    assert {kind: set(names) for kind, names in found.names.items()} == {
        kind: set(names) for kind, names in examine([documents]).names.items()
    }
