"""The chart, rendered by the real Helm, is what `meshproxy install` prints for the same choices, and is taken."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from meshproxy.cli.upgrade import command as upgrade
from meshproxy.installation.choices import MEMORY_REQUEST, CertManager, Choices, Injection
from meshproxy.installation.parts import Part, installation
from tests.e2e.apiserver import Cluster
from tests.e2e.documents import read_all
from tests.e2e.test_installation import CHOICES, NAMESPACE
from tests.e2e.test_kustomize import by_name
from tests.installation.test_chart import CHART

Helm = Callable[..., str]

OPTIONS = {"image": CHOICES.image, "trustDomain": CHOICES.trust_domain}


class HelmError(Exception):
    """Helm has failed. The text is what it says."""


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm with files of its own; gives its output."""
    binaries = os.environ.get("HELM_BIN")
    if binaries is None:
        pytest.exit("Helm is started from HELM_BIN: run `make e2e`, E2E_ARGS selects tests", returncode=4)
    folder = tmp_path_factory.mktemp("helm")
    own = {f"HELM_{name}_HOME": str(folder / name) for name in ("CACHE", "CONFIG", "DATA")}

    def run(*arguments: str) -> str:
        command = [str(Path(binaries) / "helm"), *arguments]
        done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)
        if done.returncode:
            raise HelmError(done.stderr)
        return done.stdout

    return run


def values(path: Path, **given: Any) -> tuple[str, str]:
    """Options of Helm."""
    path.write_text(json.dumps(OPTIONS | given))
    return "--values", str(path)


@pytest.mark.parametrize(
    ("choices", "given"),
    [
        (CHOICES, {}),
        (
            replace(CHOICES, cert_manager=CertManager("Issuer", "ca")),
            {"certManager": {"kind": "Issuer", "name": "ca"}},
        ),
        (replace(CHOICES, injection=Injection.NONE), {"injector": "none"}),
        (
            replace(CHOICES, login_secret="page-login", memory_limit="1Gi"),
            {"loginSecret": "page-login", "memoryLimit": "1Gi"},
        ),
        (
            replace(CHOICES, injection=Injection.NONE, login_secret="1"),
            {"injector": "none", "loginSecret": "1"},
        ),
        (
            replace(CHOICES, cert_manager=CertManager("Issuer", "ca"), login_secret="page-login"),
            {"certManager": {"kind": "Issuer", "name": "ca"}, "loginSecret": "page-login"},
        ),
        (
            replace(CHOICES, namespace="1", service_account="true", server="0.5", listen="0.0.0.0", kubernetes=(1, 37)),
            {"serviceAccount": "true", "server": "0.5", "listen": "0.0.0.0", "kubernetes": "1.37"},
        ),
    ],
    ids=[
        *("webhook", "cert-manager", "none", "login", "login without webhook", "login and cert-manager"),
        "names that YAML would read as something else",
    ],
)
def test_the_same_objects(helm: Helm, tmp_path: Path, choices: Choices, given: dict[str, Any]) -> None:
    """But for the Namespace, which Helm needs before."""
    options = ("--namespace", choices.namespace, "--include-crds", *values(tmp_path / "values.json", **given))
    text = helm("template", "mesh", str(CHART), *options)
    found = read_all(text)
    expected = by_name(installation(choices, list(Part)))
    del expected["Namespace", choices.namespace]
    assert len(found) == len(expected)
    assert by_name(found) == expected


def test_what_an_environment_has_of_its_own(helm: Helm, tmp_path: Path) -> None:
    own = {"meshConfig": {"mtls": "permissive"}, "endpoints": [{"rest": "127.0.0.1:9"}]}
    text = helm("template", "mesh", str(CHART), *values(tmp_path / "values.json", **own))
    found = by_name(read_all(text))
    assert found["MeshConfig", "mesh"]["spec"] == {"trustDomain": CHOICES.trust_domain, "mtls": "permissive"}
    assert found["ModelServer", "local"]["spec"]["endpoints"] == own["endpoints"]


@pytest.mark.parametrize("limit", ["63.999Mi", "65535Ki", "67.108M", "0.062Gi", "67000000"])
def test_a_memory_limit_below_what_is_requested(helm: Helm, tmp_path: Path, limit: str) -> None:
    with pytest.raises(ValueError, match="below what is requested"):
        replace(CHOICES, memory_limit=limit)
    with pytest.raises(HelmError, match=f"memoryLimit: {limit} is below what is requested, {MEMORY_REQUEST}"):
        helm("template", "mesh", str(CHART), *values(tmp_path / "values.json", memoryLimit=limit))


@pytest.mark.parametrize("limit", ["64Mi", "65536Ki", "67.109M", "0.063Gi", "67108864", "1T"])
def test_a_memory_limit_that_is_large_enough(helm: Helm, tmp_path: Path, limit: str) -> None:
    replace(CHOICES, memory_limit=limit)
    helm("template", "mesh", str(CHART), *values(tmp_path / "values.json", memoryLimit=limit))


@pytest.mark.parametrize(
    "given",
    [
        {"image": ""},
        {"trustDomain": "A"},
        {"injector": "policy"},
        {"injector": "none", "certManager": {"name": "ca"}},
        {"serviceAccount": "a b"},
        {"loginSecret": "Page login"},
        {"listen": "127.0.0.1"},
        {"kubernetes": 1.29},
        {"meshConfig": {"trustDomain": "a"}},
        {"replicas": 3},
        *({name: None} for name in ("injector", "certManager", "memoryLimit", "server", "kubernetes", "endpoints")),
    ],
    ids=str,
)
def test_values_that_are_refused(helm: Helm, tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(HelmError, match="values don't meet the specifications of the schema"):
        helm("template", "mesh", str(CHART), *values(tmp_path / "values.json", **given))


def test_the_chart_is_well_made(helm: Helm, tmp_path: Path) -> None:
    helm("lint", "--strict", str(CHART), *values(tmp_path / "values.json"))


@pytest.fixture
def ready_namespace(cluster: Cluster) -> Iterator[str]:
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    yield NAMESPACE
    cluster.kubectl("delete", "namespace", NAMESPACE)


@pytest.mark.usefixtures("controllers")
def test_it_is_installed_and_removed(helm: Helm, cluster: Cluster, tmp_path: Path, ready_namespace: str) -> None:
    """In one go: Helm makes the kinds first."""
    where = ("--namespace", ready_namespace, "--kubeconfig", str(cluster.kubeconfig))
    helm("install", "mesh", str(CHART), *where, *values(tmp_path / "values.json"))
    assert "mesh" in cluster.kubectl("get", "meshconfig", "--namespace", ready_namespace)
    helm("upgrade", "mesh", str(CHART), *where, *values(tmp_path / "values.json", meshConfig={"mtls": "permissive"}))
    shown = json.loads(cluster.kubectl("get", "meshconfig", "mesh", "--namespace", ready_namespace, "-o", "json"))
    assert shown["spec"]["mtls"] == "permissive"
    helm("uninstall", "mesh", *where)
    assert "meshproxy" not in cluster.kubectl("get", "clusterroles,mutatingwebhookconfigurations", "-o", "name")


@pytest.mark.usefixtures("controllers")
def test_an_upgrade_knows_what_helm_adds(helm: Helm, cluster: Cluster, tmp_path: Path, ready_namespace: str) -> None:
    """`meshproxy upgrade` finds the namespace alone, which somebody else has made."""
    where = ("--namespace", ready_namespace, "--kubeconfig", str(cluster.kubeconfig))
    helm("install", "mesh", str(CHART), *where, *values(tmp_path / "values.json"))
    try:
        options = ("--image", CHOICES.image, "--trust-domain", CHOICES.trust_domain, "-o", "json")
        found = CliRunner().invoke(upgrade, ["--kubeconfig", str(cluster.kubeconfig), *options])
        changes = [each for each in json.loads(found.stdout)["changes"] if each["action"] != "unchanged"]
        assert [(each["action"], each["kind"]) for each in changes] == [("change", "namespaces")]
        assert found.exit_code == 1
    finally:
        helm("uninstall", "mesh", *where)
