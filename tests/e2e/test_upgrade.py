"""`meshproxy upgrade` before a real API server: what it says would be, is so after kubectl has applied it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from meshproxy.cli.main import main
from meshproxy.control.cluster import connect_paths
from meshproxy.control.field_sets import LAST_APPLIED
from meshproxy.control.upgrade_facts import gather
from meshproxy.control.upgrade_plan import Applied
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.installation.choices import Choices, Injection
from meshproxy.installation.kinds import kind_of
from meshproxy.installation.parts import installation
from tests.e2e.apiserver import Cluster
from tests.e2e.conftest import TestNamespace

pytestmark = [pytest.mark.usefixtures("controllers", "kinds"), pytest.mark.timeout(600)]

NAMESPACE = "upgraded"
IMAGE = "registry.example.com/meshproxy:0.1.0"
OPTIONS = ("--image", IMAGE, "--trust-domain", "prod.example", "--control-namespace", NAMESPACE)
DEPLOYMENT = ("deployments.apps", "meshproxy-control")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.stdout


def upgrade(kubeconfig: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """The exit status, and the page."""
    status, page = run("upgrade", "--kubeconfig", str(kubeconfig), "-o", "json", *(options or OPTIONS))
    return status, json.loads(page)


def texts(page: dict[str, Any], action: str) -> dict[tuple[str, str], str]:
    return {(each["kind"], each["name"]): each["text"] for each in page["changes"] if each["action"] == action}


def printed(*options: str) -> str:
    status, page = run("install", *(options or OPTIONS))
    assert status == 0
    return page


@pytest.fixture(scope="module", params=[(), ("--server-side",)], ids=["client", "server"])
def installed(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[tuple[str, ...]]:
    """Applied on the client's side, as deploy/README.md has it, and on the server's; gives how."""
    how: tuple[str, ...] = request.param
    apply(cluster, *how)
    yield how
    for part in ("injector", "control-plane"):
        cluster.kubectl("delete", "-f", "-", stdin=printed(*OPTIONS, "--only", part))


def apply(cluster: Cluster, *how: str) -> None:
    """All but the kinds, which are applied already."""
    force = ("--force-conflicts",) if how else ()
    parts = ("--only", "control-plane", "--only", "injector")
    cluster.kubectl("apply", *how, *force, "-f", "-", stdin=printed(*OPTIONS, *parts))


def test_nothing_is_there_but_the_kinds(cluster: Cluster) -> None:
    status, page = upgrade(cluster.kubeconfig)
    assert status == 1
    assert {each["action"] for each in page["changes"]} == {"create", "unchanged"}
    assert {kind for kind, _ in texts(page, "unchanged")} == {"customresourcedefinitions.apiextensions.k8s.io"}
    assert DEPLOYMENT in texts(page, "create")
    assert page["dangers"] == []
    assert NAMESPACE not in cluster.kubectl("get", "namespaces", "-o", "name")


def test_another_root(cluster: Cluster, tmp_path: Path) -> None:
    """Of a policy, which holds the roots."""
    for name in ("old", "new"):
        (tmp_path / name).write_bytes(DevelopmentCA.create("prod.example").bundle_pem)
    part = (*OPTIONS, "--only", "injector", "--injector", "policy", "--trust-bundle")
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    cluster.kubectl("apply", "-f", "-", stdin=printed(*part, old))
    try:
        assert upgrade(cluster.kubeconfig, *part, old)[0] == 0
        status, page = upgrade(cluster.kubeconfig, *part, new)
        assert status == 2
        assert page["dangers"][0]["text"].startswith("MutatingAdmissionPolicy: roots of trust go (")
    finally:
        cluster.kubectl("delete", "-f", "-", stdin=printed(*part, old))


def test_a_version_that_is_still_stored(cluster: Cluster) -> None:
    crd = "modelroles.meshproxy.dev"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    older = {"name": "v0", "served": True, "storage": False, "schema": schema}
    add = [{"op": "add", "path": "/spec/versions/-", "value": older}]
    cluster.kubectl("patch", "crd", crd, "--type=json", "-p", json.dumps(add))
    stored = {"status": {"storedVersions": ["v1alpha1", "v0"]}}
    cluster.kubectl("patch", "crd", crd, "--subresource=status", "--type=merge", "-p", json.dumps(stored))
    try:
        status, page = upgrade(cluster.kubeconfig, *OPTIONS, "--only", "crds")
    finally:
        only = {"status": {"storedVersions": ["v1alpha1"]}}
        cluster.kubectl("patch", "crd", crd, "--subresource=status", "--type=merge", "-p", json.dumps(only))
        gone = [{"op": "remove", "path": "/spec/versions/1"}]
        cluster.kubectl("patch", "crd", crd, "--type=json", "-p", json.dumps(gone))
    assert status == 2
    assert "storedVersions" in texts(page, "refused")["customresourcedefinitions.apiextensions.k8s.io", crd]
    (danger,) = page["dangers"]
    assert danger["text"] == f"{crd}: objects are stored as v0, which this release does not have"


async def test_a_user_without_rights(namespace: TestNamespace) -> None:
    status, page = await asyncio.to_thread(upgrade, await namespace.kubeconfig("nobody"))
    assert status == 2
    assert {each["action"] for each in page["changes"]} == {"not known"}
    assert all("answered 403: " in each["text"] for each in page["changes"])
    (danger,) = page["dangers"]
    assert danger["text"].startswith("whether there are objects that this release does not have any more is not known:")


@pytest.mark.usefixtures("installed")
def test_nothing_changes(cluster: Cluster) -> None:
    """Also not the authority of the webhook, which the control plane has written."""
    bundle = json.dumps([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": _bundle()}])
    cluster.kubectl("patch", "mutatingwebhookconfiguration", "meshproxy-injector", "--type=json", "-p", bundle)
    status, page = upgrade(cluster.kubeconfig)
    assert texts(page, "change") == {}
    assert status == 0
    assert {each["action"] for each in page["changes"]} == {"unchanged"}


def _bundle() -> str:
    import base64

    return base64.b64encode(DevelopmentCA.create("prod.example").bundle_pem).decode()


def test_what_is_said_is_what_kubectl_does(cluster: Cluster, installed: tuple[str, ...]) -> None:
    """Without the webhook the container has a port and arguments less, and the control plane a rule."""
    choices = Choices(IMAGE.replace("0.1.0", "0.2.0"), "prod.example", Injection.NONE, namespace=NAMESPACE)
    wanted = installation(choices)

    async def ask() -> list[Any]:
        async with connect_paths(cluster.kubeconfig) as client:
            return await gather(client, wanted)

    said = asyncio.run(ask())
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": wanted})
    force = ("--force-conflicts",) if installed else ()
    cluster.kubectl("apply", *installed, *force, "-f", "-", stdin=text)
    changed = set()
    for each, answer in zip(wanted, said, strict=True):
        assert isinstance(answer, Applied), (each["kind"], answer)
        namespace = each["metadata"].get("namespace", "default")
        name = f"{kind_of(each).full_name}/{each['metadata']['name']}"
        now = json.loads(cluster.kubectl("get", name, "--namespace", namespace, "-o", "json"))
        assert _fields(now) == _fields(answer.after), name
        if _fields(answer.live) != _fields(answer.after):
            changed.add(each["kind"])
    assert changed == {"Deployment", "NetworkPolicy"}
    apply(cluster, *installed)


def _fields(content: Any) -> Any:
    metadata = content["metadata"]
    annotations = {
        name: value
        for name, value in (metadata.get("annotations") or {}).items()
        if name not in (LAST_APPLIED, "deployment.kubernetes.io/revision")
    }
    rest = {name: value for name, value in content.items() if name not in ("metadata", "status")}
    return rest, metadata.get("labels"), annotations


def test_what_changes_and_what_is_left_over(cluster: Cluster, installed: tuple[str, ...]) -> None:
    cluster.kubectl("scale", "deployment", "meshproxy-control", "--namespace", NAMESPACE, "--replicas=5")
    status, page = upgrade(cluster.kubeconfig, *OPTIONS, "--injector", "none")
    assert (texts(page, "refused"), texts(page, "not known"), page["dangers"]) == ({}, {}, [])
    assert status == 1
    text = texts(page, "change")[DEPLOYMENT]
    assert "\n-  replicas: 5\n+  replicas: 2\n" in text
    assert "\n-        - --webhook=[::]:18511\n" in text
    assert "\n-          name: webhook\n" in text
    assert "managedFields" not in text
    assert set(texts(page, "left over")) == {
        ("services", "meshproxy-injector"),
        ("mutatingwebhookconfigurations.admissionregistration.k8s.io", "meshproxy-injector"),
        ("clusterroles.rbac.authorization.k8s.io", "meshproxy-injector-configuration"),
        ("clusterrolebindings.rbac.authorization.k8s.io", "meshproxy-injector-configuration"),
    }
    shown = run("upgrade", "--kubeconfig", str(cluster.kubeconfig), *OPTIONS, "--injector", "none")[1]
    assert "kubectl delete services/meshproxy-injector --namespace upgraded\n" in shown
    assert "change: deployments.apps/meshproxy-control --namespace upgraded\n    --- live\n    +++ applied\n" in shown
    replicas = cluster.kubectl(
        "get", "deployment", "meshproxy-control", "-n", NAMESPACE, "-o", "jsonpath={.spec.replicas}"
    )
    assert replicas == "5"
    apply(cluster, *installed)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--trust-domain", "other.example"), "--trust-domain changes from prod.example to other.example"),
        (("--image", IMAGE.replace("0.1.0", "0.4.0")), "the control plane goes from 0.1.0 to 0.4.0"),
    ],
    ids=["another mesh", "skew"],
)
def test_dangers(cluster: Cluster, options: tuple[str, ...], says: str) -> None:
    status, page = upgrade(cluster.kubeconfig, *OPTIONS, *options)
    assert status == 2
    assert any(each["level"] == "error" and each["text"].startswith(says) for each in page["dangers"])
