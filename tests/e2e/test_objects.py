"""Documents that are objects of a real API server: the tests of tests/control/keeping.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightkube import AsyncClient

from meshproxy.control.cluster import connect
from tests.control.keeping import KeepingTests, keeping
from tests.e2e.apiserver import Cluster, KubectlError
from tests.e2e.conftest import RealServer, TestNamespace

MANIFEST = Path(__file__).parents[2] / "deploy" / "kubernetes" / "control-plane.yaml"


@pytest.fixture
def server(namespace: TestNamespace, kinds: None) -> RealServer:
    return RealServer(namespace)


class TestAgainstTheRealOne(KeepingTests):
    """What is in them."""


class TestServiceAccount:
    """What the manifest lets the control plane do."""

    @pytest.fixture
    async def ours(self, cluster: Cluster, client: AsyncClient, kinds: None) -> TestNamespace:
        cluster.kubectl("apply", "-f", str(MANIFEST))
        return TestNamespace("meshproxy", client, cluster)

    async def test_it_may_follow_the_documents(self, ours: TestNamespace) -> None:
        server = RealServer(ours)
        server.client = connect(await ours.kubeconfig("control"))
        async with keeping(server) as it:
            await it.read()
            assert [str(problem) for problem in it.documents.problems] == [
                "namespace meshproxy: there is no MeshConfig"
            ]
        await server.client.close()

    @pytest.mark.parametrize(
        ("what", "may"),
        [
            (("list", "modelroles.meshproxy.dev", "--namespace=meshproxy"), True),
            (("watch", "meshconfigs.meshproxy.dev", "--namespace=meshproxy"), True),
            (("create", "secrets", "--namespace=meshproxy"), True),
            (("get", "secret/meshproxy-authority", "--namespace=meshproxy"), True),
            (("get", "secret/another", "--namespace=meshproxy"), False),
            (("list", "secrets", "--namespace=meshproxy"), False),
            (("create", "modelrolebindings.meshproxy.dev", "--namespace=meshproxy"), False),
            (("patch", "modelroles.meshproxy.dev", "--namespace=meshproxy"), False),
            (("patch", "modelroles.meshproxy.dev", "--subresource=status", "--namespace=meshproxy"), True),
            (("update", "lease/meshproxy-control", "--namespace=meshproxy"), True),
            (("update", "lease/another", "--namespace=meshproxy"), False),
            (("list", "modelroles.meshproxy.dev", "--namespace=default"), False),
            (("create", "tokenreviews.authentication.k8s.io"), True),
            (("get", "pods", "--namespace=default"), True),
            (("list", "pods", "--namespace=default"), False),
            (("watch", "endpointslices.discovery.k8s.io", "--namespace=default"), True),
            (("update", "endpointslices.discovery.k8s.io", "--namespace=default"), False),
        ],
        ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
    )
    def test_it_may_do_no_more(self, cluster: Cluster, ours: TestNamespace, what: tuple[str, ...], may: bool) -> None:
        try:
            said = cluster.kubectl("auth", "can-i", *what, "--as=system:serviceaccount:meshproxy:control")
        except KubectlError:  # its status says no
            said = "no"
        assert said.strip() == ("yes" if may else "no")
