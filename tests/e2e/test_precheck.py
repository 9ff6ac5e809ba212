"""`meshproxy check --pre` before a real API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from meshproxy import __version__
from meshproxy.cli.main import main
from meshproxy.config import crds, schema
from tests.e2e.apiserver import Cluster
from tests.e2e.conftest import TestNamespace

NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "precheck"},
    "status": {"nodeInfo": {"kubeletVersion": "v1.37.2"}},
}


def check(kubeconfig: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """The exit status, and what is found by section and check."""
    arguments = ["check", "--pre", "-o", "json", "--kubeconfig", str(kubeconfig), *options]
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, json.loads(result.stdout)


def bad(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["check"]: (each["level"], each["problem"]) for each in found["checks"] if each["level"] != "well"}


LEFT = ("all documents are in the namespace meshproxy", "meshproxy.dev/inject of pods says enabled or disabled")
"""Checks that find what other tests have left: in this cluster nobody empties namespaces that are deleted."""


def bad_of_cluster(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {check: said for check, said in bad(found).items() if check not in LEFT}


@pytest.fixture
def node(cluster: Cluster) -> Iterator[None]:
    """One whose kubelet is new enough."""
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(NODE))
    status = json.dumps({"status": NODE["status"]})
    cluster.kubectl("patch", "node", "precheck", "--subresource=status", "--type=merge", "-p", status)
    yield
    cluster.kubectl("delete", "node", "precheck")


@pytest.mark.usefixtures("node", "kinds")
@pytest.mark.parametrize("injector", ["webhook", "policy"])
def test_a_cluster_that_lacks_nothing(cluster: Cluster, injector: str) -> None:
    """Our kinds are there already, as the API server keeps them: they are still known for this release's."""
    status, found = check(cluster.kubeconfig, "--injector", injector)
    assert bad_of_cluster(found) == {}
    assert status == (1 if bad(found) else 0)
    assert len(found["checks"]) > 25


@pytest.mark.usefixtures("node")
def test_an_api_that_is_not_there(cluster: Cluster) -> None:
    status, found = check(cluster.kubeconfig, "--cert-manager", "ClusterIssuer/ca")
    missing = ("error", "neither this group nor this version is there")
    assert bad_of_cluster(found) == {"it serves cert-manager.io/v1": missing}
    assert status == 2


async def test_a_user_without_rights(namespace: TestNamespace) -> None:
    """Every service account may discover what is served, and ask what it may do: nothing else is known."""
    status, found = await asyncio.to_thread(check, await namespace.kubeconfig("nobody"))
    assert status == 2
    found_bad = bad(found)
    rights = {check: said for check, said in found_bad.items() if check.startswith("you may apply ")}
    assert set(rights.values()) == {("error", "not allowed: get, create, patch")}
    assert len(rights) == len([each for each in found["checks"] if each["check"].startswith("you may apply ")])
    unknown = {check for check, (level, problem) in found_bad.items() if problem.startswith("not known: ")}
    definitions = {f"{crds.definition_name(kind)} is not there, or is this release's" for kind in schema.KINDS}
    assert unknown == definitions | {
        "it reviews tokens, by which pods get their identities",
        "the namespace meshproxy can be used",
        "meshproxy.dev/inject of namespaces is a label that says enabled or disabled",
        "meshproxy.dev/inject of pods says enabled or disabled",
        "all documents are in the namespace meshproxy",
        "no other mesh injects where we do",
        "the kubelets start native sidecars (1.29 and newer)",
    }
    assert all(found_bad[check][0] == "warning" for check in unknown)
    assert (
        "answered 403: nodes is forbidden: User" in found_bad["the kubelets start native sidecars (1.29 and newer)"][1]
    )


def test_a_token_that_is_none(cluster: Cluster) -> None:
    status, found = check(cluster.write_kubeconfig("stranger", "not-a-token"))
    assert (status, len(found["checks"])) == (2, 1)
    assert bad(found) == {"the API server answers": ("error", "the API server answered 401: Unauthorized")}


@pytest.mark.usefixtures("node", "kinds")
def test_what_is_in_the_way(cluster: Cluster, namespace: TestNamespace) -> None:
    name = namespace.name
    labels = ("meshproxy.dev/inject=enabled", "istio-injection=enabled", "pod-security.kubernetes.io/enforce=baseline")
    cluster.kubectl("label", "namespace", name, *labels)
    crd = "modelroles.meshproxy.dev"
    added = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/owner"
    patch = [{"op": "add", "path": added, "value": {"type": "string"}}]
    cluster.kubectl("patch", "crd", crd, "--type=json", "-p", json.dumps(patch))
    try:
        status, found = check(cluster.kubeconfig, "--capture")
    finally:
        cluster.kubectl("patch", "crd", crd, "--type=json", "-p", json.dumps([{"op": "remove", "path": added}]))
    assert status == 2
    assert bad_of_cluster(found) == {
        f"{crd} is not there, or is this release's": (
            "warning",
            f"these fields would be dropped from objects: spec.owner (it has the label of {__version__})",
        ),
        "no other mesh injects where we do": ("warning", f"pods would get two sidecars: {name} (Istio)"),
        "Pod Security admits pods with traffic capture": (
            *("error", f"its init container needs NET_ADMIN: {name} enforces baseline"),
        ),
    }


@pytest.mark.usefixtures("node")
def test_a_label_as_other_meshes_have_it(cluster: Cluster, namespace: TestNamespace) -> None:
    cluster.kubectl("label", "namespace", namespace.name, "meshproxy.dev/inject=true")
    cluster.kubectl("annotate", "namespace", namespace.name, "meshproxy.dev/inject=enabled")
    _, found = check(cluster.kubeconfig)
    wrong = f'pods get no sidecars: {namespace.name} (label "true"); {namespace.name} (an annotation)'
    named = "meshproxy.dev/inject of namespaces is a label that says enabled or disabled"
    assert bad(found)[named] == ("warning", wrong)


ROLE = {
    "apiVersion": "meshproxy.dev/v1alpha1",
    "kind": "ModelRole",
    "metadata": {"name": "lost"},
    "spec": {"rules": [{"models": ["fraud"], "verbs": ["predict"]}]},
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "plain", "labels": {"meshproxy.dev/inject": "true"}},
    "spec": {"containers": [{"name": "web", "image": "web"}], "serviceAccountName": "web"},
}


@pytest.mark.usefixtures("node", "kinds")
def test_what_nobody_reads(cluster: Cluster, namespace: TestNamespace) -> None:
    name = namespace.name
    # What other tests have left, of which the finding would name the first alone (`LEFT`).
    kinds = ",".join(crds.definition_name(kind) for kind in schema.KINDS)
    cluster.kubectl("delete", f"{kinds},pods", "--all", "--all-namespaces")
    cluster.kubectl("create", "--namespace", name, "serviceaccount", "web")
    for each in (ROLE, POD):
        cluster.kubectl("create", "--namespace", name, "-f", "-", stdin=json.dumps(each))
    _, found = check(cluster.kubeconfig)
    assert (
        bad(found).items()
        >= {
            "all documents are in the namespace meshproxy": (
                *("warning", f"no control plane of meshproxy reads modelroles.meshproxy.dev/lost in {name}"),
            ),
            "meshproxy.dev/inject of pods says enabled or disabled": (
                *("warning", f'they have no sidecars, or keep those that they have: plain in {name} (label "true")'),
            ),
        }.items()
    )
    _, found = check(cluster.kubeconfig, "--control-namespace", name)
    assert "all documents are in the namespace" not in str(bad(found))


def test_nothing_is_written(cluster: Cluster) -> None:
    def there() -> set[str]:
        return set(cluster.kubectl("get", "crd,namespaces,clusterroles", "-o", "name").split())

    before = there()
    check(cluster.kubeconfig)
    assert there() <= before  # the namespace of another test may still be going
