"""deploy/kubernetes, rendered by the real kustomize, is what `meshproxy install` prints."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshproxy.installation.parts import Part, installation
from tests.e2e.apiserver import Cluster
from tests.e2e.documents import read_all
from tests.test_manifests import CHOICES, FOLDER, OVERLAYS

Objects = dict[tuple[str, str], Any]
PARTS = [Part.CONTROL_PLANE, Part.INJECTOR, Part.DOCUMENTS]


def by_name(objects: Any) -> Objects:
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


def rendered(cluster: Cluster, folder: Path) -> Objects:
    return by_name(read_all(cluster.kubectl("kustomize", str(folder))))


def test_the_same_objects(cluster: Cluster) -> None:
    assert rendered(cluster, FOLDER / "overlays" / "prod") == by_name(installation(CHOICES, PARTS))


def test_an_environment_with_a_login(cluster: Cluster, tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "kubernetes") / "overlays" / "prod"
    (overlay,) = read_all((folder / "kustomization.yaml").read_text())
    overlay["components"].append("../../login")
    (folder / "kustomization.yaml").write_text(json.dumps(overlay))
    found = rendered(cluster, folder)
    expected = by_name(installation(replace(CHOICES, login_secret="page-login"), PARTS))
    for objects in (found, expected):
        (container,) = objects["Deployment", "meshproxy-control"]["spec"]["template"]["spec"]["containers"]
        container["args"].sort()  # the component appends its own
    assert found == expected


@pytest.mark.parametrize("name", OVERLAYS)
def test_environments_differ_in_their_mesh_alone(cluster: Cluster, name: str) -> None:
    """The control plane is told the trust domain of the mesh; with that, nothing else does."""
    text = cluster.kubectl("kustomize", str(FOLDER / "overlays" / name))
    assert text.count(f"{name}.example") == 3
    found = by_name(read_all(text.replace(f"{name}.example", CHOICES.trust_domain)))
    prod = rendered(cluster, FOLDER / "overlays" / "prod")
    assert found.keys() == prod.keys()
    assert {key for key in prod if found[key] != prod[key]} <= {("MeshConfig", "mesh")}


def test_an_image_is_named_once(cluster: Cluster, tmp_path: Path) -> None:
    for file in (FOLDER / "base").iterdir():
        text = file.read_text()
        if file.name == "kustomization.yaml":
            text = text.replace("newName: registry.example.com/meshproxy", "newName: other.example/m")
        (tmp_path / file.name).write_text(text)
    (deployment,) = (each for (kind, _), each in rendered(cluster, tmp_path).items() if kind == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    tag = CHOICES.image.rpartition(":")[2]
    assert container["image"] == f"other.example/m:{tag}"
    assert f"--sidecar-image=other.example/m:{tag}" in container["args"]
