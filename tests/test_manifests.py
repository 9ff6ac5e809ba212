"""deploy/kubernetes against `meshproxy install`, as far as that can be said without kubectl; tests/e2e has the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import meshproxy
from meshproxy.cli.install import command
from meshproxy.config.load import load
from meshproxy.installation.choices import Choices
from meshproxy.installation.control_plane import arguments
from meshproxy.installation.parts import Part, installation

FOLDER = Path(__file__).parents[1] / "deploy" / "kubernetes"
CHOICES = Choices(f"registry.example.com/meshproxy:{meshproxy.__version__}", "prod.example")
OVERLAYS = ("dev", "staging", "prod")


def read(path: str) -> list[Any]:
    return list(yaml.safe_load_all((FOLDER / path).read_text()))


def test_the_base_is_what_is_installed() -> None:
    options = f"--image {CHOICES.image} --trust-domain prod.example --only control-plane --only injector"
    result = CliRunner().invoke(command, options.split())
    message = f"run meshproxy install {options} > deploy/kubernetes/base/installation.yaml"
    assert (FOLDER / "base" / "installation.yaml").read_text() == result.stdout, message
    mesh, server = installation(CHOICES, [Part.DOCUMENTS])
    assert read("base/server.yaml") == [server]
    assert read("overlays/prod/mesh.yaml") == [mesh]


def test_what_is_written_once_goes_to_arguments_of_the_control_plane() -> None:
    """Targets go by their position."""
    (base,), (component,) = read("base/kustomization.yaml"), read("trust-domain/kustomization.yaml")
    targets = [target for file in (base, component) for each in file["replacements"] for target in each["targets"]]
    found = {}
    for target in targets:
        (path,) = target["fieldPaths"]
        argument = arguments(CHOICES)[int(path.rpartition(".args.")[2])]
        options = target["options"]
        found[argument.partition("=")[0]] = argument.split(options["delimiter"])[options["index"]]
    assert found == {
        "--sidecar-image": CHOICES.image,
        "--trust-domain": CHOICES.trust_domain,
        "--spiffe-id": CHOICES.trust_domain,
    }
    (image,) = base["images"]
    assert CHOICES.image == f"{image['name']}:{image['newTag']}" == f"{image['newName']}:{image['newTag']}"


def test_the_login_is_what_is_installed_with_its_secret() -> None:
    """What the component appends, `meshproxy install --login-secret page-login` has more than the base."""

    def pod(choices: Choices) -> Any:
        (found,) = (each for each in installation(choices, [Part.CONTROL_PLANE]) if each["kind"] == "Deployment")
        return found["spec"]["template"]["spec"]

    (component,) = read("login/kustomization.yaml")
    (patch,) = component["patches"]
    appended = {
        operation["path"].removeprefix("/spec/template/spec/"): operation["value"]
        for operation in yaml.safe_load(patch["patch"])
    }
    base, other = pod(CHOICES), pod(replace(CHOICES, login_secret="page-login"))
    expected = {"volumes/-": (base["volumes"], other["volumes"])}
    for name in ("volumeMounts", "args"):
        expected[f"containers/0/{name}/-"] = base["containers"][0][name], other["containers"][0][name]
    assert appended == {
        path: next(each for each in more if each not in fewer) for path, (fewer, more) in expected.items()
    }
    assert all(len(more) == len(fewer) + 1 for fewer, more in expected.values())


@pytest.mark.parametrize("name", OVERLAYS)
def test_environments_differ_in_their_mesh_alone(name: str) -> None:
    (overlay,) = read(f"overlays/{name}/kustomization.yaml")
    del overlay["apiVersion"], overlay["kind"]
    assert overlay == {"resources": ["../../base", "mesh.yaml"], "components": ["../../trust-domain"]}
    ((mesh,), (other,)) = read(f"overlays/{name}/mesh.yaml"), read("overlays/prod/mesh.yaml")
    assert {**mesh, "spec": None} == {**other, "spec": None}


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_documents_of_an_environment_load(name: str, tmp_path: Path) -> None:
    """Beside the Sidecar that an injected pod has."""
    (tmp_path / "sidecar.yaml").write_text("""
apiVersion: meshproxy.dev/v1alpha1
kind: Sidecar
metadata: {name: s}
spec:
  identity: {files: {certificate: c.pem, key: k.pem, trustBundle: b.pem}}
  inbound: {listen: "127.0.0.1:18500", server: local}
""")
    documents = load([str(tmp_path), FOLDER / "base" / "server.yaml", FOLDER / "overlays" / name / "mesh.yaml"])
    assert documents.mesh.spec.trust_domain == f"{name}.example"
    assert [server.metadata.name for server in documents.servers] == ["local"]
