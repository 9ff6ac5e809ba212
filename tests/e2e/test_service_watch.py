"""Endpoints of Services as Kubernetes makes them: pods, which are bound and reported ready as a scheduler and a kubelet
would, a Service that selects them, and the EndpointSlice controller."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from statistics import median

import pytest
from lightkube.models.core_v1 import Container, ContainerPort, PodSpec, ServicePort, ServiceSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Node, Pod, Service

from meshproxy.control.reflector import identify
from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import document, local_mesh
from meshproxy.installation.rights import rights
from tests.control.watching_services import Slice, Watching, WatchingTests, a_slice, watching
from tests.e2e.conftest import RealServer, TestNamespace
from tests.e2e.planes import control_plane
from tests.mesh.test_services import sidecar_of_a_service

pytestmark = [
    pytest.mark.usefixtures("controllers"),
    pytest.mark.asyncio(loop_factories=["uvloop"]),  # the control plane runs on no other
    pytest.mark.timeout(600),
]

ZONE = "topology.kubernetes.io/zone"
GRACE = 30
CHANGES = 40


class Pods:
    """Pods of one Service, in a namespace without nodes."""

    def __init__(self, namespace: TestNamespace) -> None:
        self.client = namespace.client
        self.namespace = namespace.name
        self.node = f"{namespace.name}-node"

    async def create_service(self, **spec: object) -> None:
        ports = [ServicePort(name="grpc", port=80, targetPort="grpc")]
        settings = {"selector": {"app": "resnet"}, "ports": ports, "clusterIP": "None", **spec}
        metadata = ObjectMeta(name="resnet", namespace=self.namespace)
        await self.client.create(Service(metadata=metadata, spec=ServiceSpec(**settings)))  # type: ignore[arg-type]

    async def create_node(self) -> None:
        """In zone `z1`."""
        await self.client.create(Node(metadata=ObjectMeta(name=self.node, labels={ZONE: "z1"})))

    async def start(self, name: str, address: str, *, is_ready: bool = True) -> None:
        container = Container(name="serving", image="i", ports=[ContainerPort(containerPort=8500, name="grpc")])
        spec = PodSpec(containers=[container], nodeName=self.node, terminationGracePeriodSeconds=GRACE)
        metadata = ObjectMeta(name=name, namespace=self.namespace, labels={"app": "resnet"})
        await self.client.create(Pod(metadata=metadata, spec=spec))
        await self.report(name, address, is_ready=is_ready)

    async def report(self, name: str, address: str, *, is_ready: bool) -> None:
        """What a kubelet says."""
        conditions = [{"type": "Ready", "status": str(is_ready)}]
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": conditions}
        await self.client.patch(Pod.Status, name, {"status": status}, namespace=self.namespace)

    async def stop(self, name: str) -> None:
        """It begins to terminate, and ends with `remove`."""
        await self.client.delete(Pod, name, namespace=self.namespace)

    async def remove(self, name: str) -> None:
        await self.client.delete(Pod, name, namespace=self.namespace, grace_period=0)


@pytest.fixture
async def pods(namespace: TestNamespace) -> AsyncIterator[Pods]:
    await namespace.token("default")  # the service account, which the controllers may not have made yet
    pods = Pods(namespace)
    await pods.create_node()
    yield pods
    await pods.client.delete(Node, pods.node)


@pytest.fixture
async def watched(pods: Pods) -> AsyncIterator[Watching]:
    async with watching(pods.client, pods.namespace) as it:
        it.name("resnet")
        yield it


class TestAgainstTheRealOne(WatchingTests):
    """What is in them."""

    @pytest.fixture
    def server(self, namespace: TestNamespace) -> RealServer:
        return RealServer(namespace)


async def test_pods_of_a_service(pods: Pods, watched: Watching) -> None:
    await pods.create_service()
    await watched.become("resnet")  # the controller makes a slice with null for endpoints and ports
    await pods.start("a", "10.1.0.1", is_ready=False)
    await pods.start("b", "10.1.0.2")
    await watched.become("resnet", "10.1.0.2")
    (found,) = watched.table.current(f"{pods.namespace}/resnet").endpoints.endpoints
    assert (found.ports, found.zone) == ({"grpc": 8500}, "z1")
    await pods.report("a", "10.1.0.1", is_ready=True)
    await watched.become("resnet", "10.1.0.1", "10.1.0.2")
    await pods.stop("a")
    await watched.become("resnet", "10.1.0.2")
    await pods.stop("b")  # serving and terminating, and all that there is
    await watched.become("resnet", "10.1.0.1", "10.1.0.2")
    await pods.remove("a")
    await watched.become("resnet", "10.1.0.2")
    await pods.remove("b")
    await watched.become("resnet")


async def test_a_slice_by_hand_beside_the_controllers(pods: Pods, watched: Watching) -> None:
    await pods.create_service()
    await pods.start("a", "10.1.0.1")
    await watched.write(a_slice("by-hand", "resnet", "10.9.0.1"))
    await watched.become("resnet", "10.1.0.1", "10.9.0.1")
    listed = [identify(each)[0][1] async for each in pods.client.list(Slice, namespace=pods.namespace)]
    for name in listed:
        if name != "by-hand":
            await watched.delete(name)
    await watched.become("resnet", "10.1.0.1", "10.9.0.1")  # the controller makes it again
    await watched.write(a_slice("by-hand", "another", "10.9.0.1"))  # its label changes
    await watched.become("resnet", "10.1.0.1")


async def test_a_service_that_vanishes_and_comes_back(pods: Pods, watched: Watching) -> None:
    service = f"{pods.namespace}/resnet"
    await pods.create_service()
    await pods.start("a", "10.1.0.1")
    await watched.become("resnet", "10.1.0.1")
    await pods.client.delete(Service, "resnet", namespace=pods.namespace)
    async with asyncio.timeout(60):
        while watched.hosts("resnet") is not None:
            await asyncio.sleep(0.01)
    assert watched.table.current(service).endpoints.problem.endswith("there is none, or it has no EndpointSlice")
    await pods.create_service()
    await watched.become("resnet", "10.1.0.1")


@pytest.fixture
async def kubeconfig(namespace: TestNamespace) -> AsyncIterator[Path]:
    """Of a control plane with the rights that the installation gives it."""
    allowed = json.dumps({"apiVersion": "v1", "kind": "List", "items": rights(namespace.name, "control")})
    namespace.cluster.kubectl("apply", "-f", "-", stdin=allowed)
    yield await namespace.kubeconfig("control")
    namespace.cluster.kubectl("delete", "-f", "-", stdin=allowed)


@pytest.mark.usefixtures("kinds")
async def test_a_model_server_says_whether_its_service_is_there(
    namespace: TestNamespace, kubeconfig: Path, tmp_path: Path
) -> None:
    """From slices alone, with the rights of the installation, as people see it with kubectl."""
    kubectl = partial(asyncio.to_thread, namespace.cluster.kubectl, f"--namespace={namespace.name}")

    async def becomes(status: str, reason: str) -> None:
        await kubectl("wait", f"--for=condition=ResolvedRefs={status}", "modelserver/models", "--timeout=120s")
        path = "jsonpath={.status.conditions[*].type} {.status.conditions[?(@.type=='ResolvedRefs')].reason}"
        assert await kubectl("get", "modelserver", "models", "-o", path) == f"Accepted ResolvedRefs {reason}"

    service = {"namespace": namespace.name, "name": "resnet", "sidecar": "grpc"}
    server = {"service": service, "workload": {"spiffeId": "spiffe://m.example/models"}}
    documents = [document("MeshConfig", {"trustDomain": "m.example"}), document("ModelServer", server, "models")]
    await kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))
    options = ("--trust-domain", "m.example", "--namespace", namespace.name, "--cluster-documents")
    with control_plane(tmp_path / "control", kubeconfig, *options):
        await becomes("False", "BackendNotFound")
        made = a_slice("by-hand", "resnet", "10.1.0.1")
        made.metadata.namespace = namespace.name
        await namespace.client.apply(made, force=True)
        await becomes("True", "ResolvedRefs")
        head, row = (await kubectl("get", "modelservers")).splitlines()
        assert dict(zip(head.split(), row.split(), strict=True))["RESOLVED"] == "True"
        await namespace.client.delete(Slice, "by-hand", namespace=namespace.name)
        await becomes("False", "BackendNotFound")


async def test_how_long_a_change_takes_to_a_sidecar(namespace: TestNamespace, kubeconfig: Path, tmp_path: Path) -> None:
    """From the request that changes a slice, through the API server and a control plane, to a sidecar."""

    async def change(address: str) -> None:
        made = a_slice("by-hand", "resnet", address)
        made.metadata.namespace = namespace.name
        await namespace.client.apply(made, force=True)

    await change("10.1.0.0")
    async with local_mesh(tmp_path / "mesh") as local:
        sidecar = await sidecar_of_a_service(local, {"namespace": namespace.name, "name": "resnet"}, kubeconfig)
        seconds = []
        async with RestClient(sidecar.admin, None) as admin:

            async def shown() -> list[str]:
                endpoints = (await admin.call("GET", "/config")).body["servers"]["models"]["endpoints"]
                return [each["endpoint"] for each in endpoints]

            assert await shown() == ["10.1.0.0:8500"]
            for number in range(1, CHANGES + 1):
                began = time.monotonic()
                await change(f"10.1.0.{number}")
                async with asyncio.timeout(60):
                    while await shown() != [f"10.1.0.{number}:8500"]:
                        await asyncio.sleep(0.002)
                seconds.append(time.monotonic() - began)
    print(
        f"a slice changes until the sidecar has the endpoint, {CHANGES} times: "
        f"median {1_000 * median(seconds):.0f} ms, longest {1_000 * max(seconds):.0f} ms"
    )
