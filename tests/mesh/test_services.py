"""Endpoints of a Kubernetes Service reach the workers of a sidecar. All parts are processes but the API server, a fake
one, which takes loopback addresses; a real one (tests/e2e) refuses them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from lightkube import AsyncClient

from meshproxy.control.cluster import connect
from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import TRUST_DOMAIN, Document, LocalMesh, LocalSidecar, document, local_mesh
from tests.control.fake_api_server import FakeApiServer
from tests.control.watching_services import a_slice
from tests.processes.calls import PATH
from tests.processes.mesh import Mesh, control_command
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

NAMESPACE = "models"


class Cluster:
    """The Service `resnet` of the fake API server."""

    def __init__(self, client: AsyncClient, kubeconfig: Path) -> None:
        self.client = client
        self.kubeconfig = kubeconfig

    async def serve_at(self, *addresses: str) -> None:
        """`HOST:PORT` of each model server, all with one port."""
        ports = {address.rpartition(":")[2] for address in addresses}
        for port in ports:
            made = a_slice(f"resnet-{port}", "resnet", *(each.rpartition(":")[0] for each in addresses), port=int(port))
            made.metadata.namespace = NAMESPACE
            await self.client.apply(made, force=True)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    fake = FakeApiServer()
    await fake.start()
    kubeconfig = fake.write_kubeconfig(tmp_path, NAMESPACE)
    client = connect(kubeconfig)
    yield Cluster(client, kubeconfig)
    await client.close()
    await fake.stop()


async def control_plane(local: LocalMesh, service: Document, kubeconfig: Path) -> Mesh:
    """With documents that name a Service."""
    documents = [
        document("MeshConfig", {"trustDomain": TRUST_DOMAIN}, "mesh"),
        document("ModelServer", {"service": {"rest": "grpc", **service}}, "models"),
    ]
    folder = local.directory / "documents"
    folder.mkdir()
    (folder / "mesh.yaml").write_text(yaml.safe_dump_all(documents))
    command = control_command(local, "127.0.0.1:0", "127.0.0.1:0")
    more = ["--documents", str(folder), "--services", "--kubeconfig", str(kubeconfig)]
    return Mesh(local, await local.start("the control plane", *command, *more))


async def sidecar_of_a_service(local: LocalMesh, service: Document, kubeconfig: Path) -> LocalSidecar:
    """The sidecar of an application that calls that Service, with its control plane."""
    return await (await control_plane(local, service, kubeconfig)).start_application()


async def test_calls_follow_the_endpoints_of_a_service(tmp_path: Path, cluster: Cluster) -> None:
    async with local_mesh(tmp_path / "mesh") as local:
        it = await control_plane(local, {"namespace": NAMESPACE, "name": "resnet"}, cluster.kubeconfig)
        first, second = await local.model_server(), await local.model_server()
        await cluster.serve_at(str(first.listening["rest"]))
        sidecar = await it.start_application(workers=2)
        async with RestClient(str(it.control.listening["web"]), None) as web:
            shown = (await web.call("GET", "/endpoints")).body[f"{NAMESPACE}/resnet"]
        assert (shown["sidecars"], len(shown["endpoints"])) == (1, 1)

        async def status() -> str:
            async with RestClient(sidecar.outbound, None) as client:
                return (await client.call("POST", PATH, {"instances": [2.0]})).status

        assert await status() == "200"
        await cluster.serve_at(str(second.listening["rest"]))
        await first.kill()

        async def is_served_by_the_second() -> bool:
            async with RestClient(sidecar.admin, None) as admin:
                servers = (await admin.call("GET", "/status")).body["servers"]["models"]
            return servers["source"] == "service" and len(servers["endpoints"]) == 2

        async def all_workers_know_it() -> bool:
            return {await status() for _ in range(8)} == {"200"}

        await until(is_served_by_the_second)
        await until(all_workers_know_it)
        # Both are away: what was kept is enough for a start.
        await it.control.kill()
        await sidecar.child.stop()
        sidecar = await local.sidecar("the sidecar again", sidecar.path)
        assert await status() == "200"
