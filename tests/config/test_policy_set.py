"""Roles and bindings without the rest of a sidecar's documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.config.policy_set import load_policy
from meshproxy.config.problems import ConfigError

BINDING = """apiVersion: meshproxy.dev/v1alpha1
kind: ModelRoleBinding
metadata: {name: b}
spec: {role: r, subjects: [{workload: {namespace: web}}]}
"""
ROLE = """apiVersion: meshproxy.dev/v1alpha1
kind: ModelRole
metadata: {name: r}
spec: {rules: [{models: [m], verbs: [predict]}]}
"""
OTHER = """apiVersion: v1
kind: Service
metadata: {name: s}
"""


def read(tmp_path: Path, *documents: str) -> Path:
    path = tmp_path / "documents.yaml"
    path.write_text("---\n".join(documents))
    return path


def test_a_part_of_a_set(tmp_path: Path) -> None:
    found = load_policy([read(tmp_path, OTHER, BINDING, ROLE)])
    assert found.mesh is None
    assert [found.roles[0].metadata.name, found.bindings[0].metadata.name] == ["r", "b"]


def test_a_whole_set() -> None:
    found = load_policy(["deploy/examples/first.yaml"])
    assert found.mesh is not None
    assert found.mesh.spec.trust_domain == "dev.example"


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([BINDING], "spec.role: no ModelRole named"),
        ([BINDING, ROLE.replace("name: r", "name: x")], "spec.role: no ModelRole named"),
        ([OTHER], "no document of meshproxy"),
        ([ROLE, ROLE], "duplicate name"),
        ([ROLE.replace("models", "model")], "no such field"),
    ],
)
def test_problems(tmp_path: Path, documents: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_policy([read(tmp_path, *documents)])
