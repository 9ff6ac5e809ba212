"""Policies compared by what sidecars have reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from meshproxy.control_api import ReportedCaller
from tests.cli.conftest import ServePages
from tests.cli.test__mesh import API, FRAUD, page, run
from tests.view.meshes import calls

MESH = {"apiVersion": "meshproxy.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "m"}}


def policy(folder: Path, name: str, *accounts: str) -> str:
    """Who may predict with the model fraud."""
    mesh = {**MESH, "spec": {"trustDomain": "mesh.test"}}
    rules = [{"models": ["fraud"], "verbs": ["predict"]}]
    role = {**MESH, "kind": "ModelRole", "metadata": {"name": "fraud"}, "spec": {"rules": rules}}
    subjects = [{"workload": {"namespace": "shop", "serviceAccount": account}} for account in accounts]
    spec = {"role": "fraud", "subjects": subjects}
    binding = {**MESH, "kind": "ModelRoleBinding", "metadata": {"name": "readers"}, "spec": spec}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump_all([mesh, role, binding]))
    return str(path)


@pytest.fixture
def address(serve_pages: ServePages) -> str:
    other = calls("spiffe://mesh.test/ns/shop/sa/other", codes={"403": 4}, allowed={}, denied={"default-deny: x": 4})
    unknown = calls(ReportedCaller(workload="_other"), count=2)
    return serve_pages({"/mesh": page((FRAUD, [calls(API, count=10), other, unknown]), seconds=3_600.0)})


def test_who_would_be_cut_off(address: str, tmp_path: Path) -> None:
    old, new = policy(tmp_path, "old", "api"), policy(tmp_path, "new", "other")
    result = run("policy", "diff", old, new, "--control", address, "-o", "json")
    assert result.exit_code == 3, result.output
    found = json.loads(result.stdout)
    assert {name: count for name, count in found["outcomes"].items() if count} == {"loses": 10, "gains": 4}
    table = run("policy", "diff", old, new, "--control", address)
    assert "LOSES" in table.stdout
    assert "2 calls left out whose caller or model" in table.stderr


def test_nothing_changes(address: str, tmp_path: Path) -> None:
    old = policy(tmp_path, "old", "api")
    assert run("policy", "diff", old, old, "--control", address).exit_code == 0


def test_two_sources(address: str, tmp_path: Path) -> None:
    old = policy(tmp_path, "old", "api")
    assert run("policy", "diff", old, old, "--control", address, "--against", "-").exit_code == 2
