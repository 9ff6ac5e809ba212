"""A real API server for all tests, and a namespace of its own for each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lightkube import AsyncClient
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.models.rbac_v1 import PolicyRule, RoleRef, Subject
from lightkube.resources.core_v1 import Namespace, ServiceAccount
from lightkube.resources.rbac_authorization_v1 import Role, RoleBinding

from meshproxy.config import crds, schema
from meshproxy.control.cluster import connect
from meshproxy.devtools.node.tokens import request_token
from tests.e2e.apiserver import Cluster

CRDS = Path(__file__).parents[2] / "deploy" / "kubernetes" / "crds.yaml"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The files whose tests are given most time begin first, then those with most tests: none is left for the end that
    goes on when all other workers are done."""
    longest: dict[Path, float] = {}
    for item in items:
        mark = item.get_closest_marker("timeout")
        longest[item.path] = max(longest.get(item.path, 0.0), mark.args[0] if mark is not None else 0.0)
    counts = Counter(item.path for item in items)
    items.sort(key=lambda item: (-longest[item.path], -counts[item.path], item.path))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """etcd and the API server, started once."""
    binaries = os.environ.get("E2E_BIN")
    if binaries is None:
        pytest.exit("the API server is started from E2E_BIN: run `make e2e`, E2E_ARGS selects tests", returncode=4)
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), Path(binaries))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def controllers(cluster: Cluster) -> None:
    """The controllers of Deployments, Services and so on, for tests that need them. They run on, until a test takes the
    API server away."""
    cluster.start_controllers()


@pytest.fixture(scope="session")
def kinds(cluster: Cluster) -> None:
    """Our definitions, as an operator applies them."""
    cluster.kubectl("apply", "--server-side", "-f", str(CRDS))
    names = [crds.definition_name(kind) for kind in schema.KINDS]
    cluster.kubectl("wait", "--for=condition=Established", "crd", *names)


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[AsyncClient]:
    """The administrator's."""
    client = connect(cluster.kubeconfig)
    yield client
    await client.close()


@dataclass(frozen=True, slots=True)
class TestNamespace:
    """A namespace that one test has for itself."""

    __test__ = False
    name: str
    client: AsyncClient
    """The administrator's."""
    cluster: Cluster

    async def token(self, account: str, audience: str = "", seconds: int = 600) -> str:
        """A token of a service account in this namespace, which is made if it does not exist.

        Args:
            audience: empty: the API server's own.
        """
        await self.client.apply(
            ServiceAccount(metadata=ObjectMeta(name=account, namespace=self.name)), field_manager="e2e"
        )
        return await request_token(self.client, self.name, account, audience=audience, seconds=seconds)

    async def kubeconfig(self, account: str) -> Path:
        """A file with which a service account calls the API server."""
        return self.cluster.write_kubeconfig(f"{self.name}-{account}", await self.token(account), self.name)


@pytest.fixture
async def namespace(client: AsyncClient, cluster: Cluster) -> AsyncIterator[TestNamespace]:
    made = await client.create(Namespace(metadata=ObjectMeta(generateName="test-")))
    assert made.metadata is not None
    assert made.metadata.name is not None
    yield TestNamespace(made.metadata.name, client, cluster)
    await client.delete(Namespace, made.metadata.name)


class RealServer:
    """`following.Server`."""

    def __init__(self, namespace: TestNamespace) -> None:
        self.client = namespace.client
        self.namespace = namespace.name
        self._namespace = namespace

    async def stop(self) -> None:
        self._namespace.cluster.stop("kube-apiserver")

    async def start(self) -> None:
        self._namespace.cluster.start_apiserver()

    async def forget_history(self) -> None:
        """The API server keeps events in memory for a while, whether etcd has been compacted or not."""
        self._namespace.cluster.compact()
        await self.stop()
        await self.start()

    async def forbid(self) -> AsyncClient:
        return connect(await self._namespace.kubeconfig("reader"))

    async def allow(self) -> None:
        metadata = ObjectMeta(name="reader", namespace=self.namespace)
        rules = [PolicyRule(apiGroups=["tests.example"], resources=["widgets"], verbs=["list", "watch"])]
        await self.client.create(Role(metadata=metadata, rules=rules))
        subject = Subject(kind="ServiceAccount", name="reader", namespace=self.namespace)
        role = RoleRef(apiGroup="rbac.authorization.k8s.io", kind="Role", name="reader")
        await self.client.create(RoleBinding(metadata=metadata, roleRef=role, subjects=[subject]))
