"""A mesh whose documents are objects of a real API server: the control plane and sidecars as processes, with calls."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import Document, local_mesh, permissive_documents
from tests.e2e.conftest import TestNamespace
from tests.processes.calls import PATH
from tests.processes.mesh import Mesh, control_command
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(900)]


def cluster_mesh(namespace: TestNamespace, kubeconfig: Path | None = None) -> type[Mesh]:
    """A mesh whose documents are objects in this namespace. `kubeconfig`: of its control plane, if not the
    administrator's."""
    account = str(kubeconfig or namespace.cluster.kubeconfig)

    class ClusterMesh(Mesh):
        source = ("--cluster-documents", "--namespace", namespace.name, "--kubeconfig", account)

        def write_documents(self, *, permits: bool) -> None:
            role, binding = permissive_documents()
            apply(namespace, *self.documents, role, *([binding] if permits else []))

    return ClusterMesh


def apply(namespace: TestNamespace, *documents: Document) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    namespace.cluster.kubectl("apply", f"--namespace={namespace.name}", "--validate=strict", "-f", "-", stdin=text)


@pytest.fixture
async def mesh(tmp_path: Path, namespace: TestNamespace, kinds: None) -> AsyncIterator[Mesh]:
    async with local_mesh(tmp_path / "mesh") as local:
        yield await cluster_mesh(namespace).start_with_documents(local)


async def test_kubectl_decides_about_the_next_call(mesh: Mesh, namespace: TestNamespace) -> None:
    _, binding = permissive_documents()
    delete = ("delete", "modelrolebinding", binding["metadata"]["name"], f"--namespace={namespace.name}")
    async with RestClient(mesh.application.outbound, None) as client:

        async def is_(expected: str) -> bool:
            return (await client.call("POST", PATH, {"instances": [2.0]})).status == expected

        assert await is_("200")
        for _ in range(3):
            namespace.cluster.kubectl(*delete)
            began = time.monotonic()
            await until(lambda: is_("403"))
            print(f"{(time.monotonic() - began) * 1e3:.0f} ms from kubectl's end to the first call that is refused")
            apply(namespace, binding)
            await until(lambda: is_("200"))
        # What nobody could use is held back, alone.
        apply(namespace, {**binding, "metadata": {"name": "dangling"}, "spec": {**binding["spec"], "role": "nobody"}})
        await until(lambda: mesh.count("documents_in_sync", 0.0))
        namespace.cluster.kubectl(*delete)
        await until(lambda: is_("403"))
        apply(namespace, binding)
        await until(lambda: is_("200"))


def is_away(mesh: Mesh) -> bool:
    """Whether the control plane says that the API server is."""
    return any("objects cannot be followed; those known are kept" in line for line in mesh.control.output)


async def test_nothing_happens_while_the_api_server_is_away(mesh: Mesh, namespace: TestNamespace) -> None:
    async with RestClient(mesh.application.outbound, None) as client:

        async def status() -> str:
            return (await client.call("POST", PATH, {"instances": [2.0]})).status

        assert await status() == "200"
        namespace.cluster.stop("kube-apiserver")
        try:
            await until(lambda: is_away(mesh))
            assert await mesh.count("documents_in_sync", 1.0)
            before = mesh.control.listening
            await mesh.control.kill()
            assert await status() == "200"
            command = control_command(mesh.local, before["control"], before["web"])
            mesh.control = await mesh.local.start("the control plane again", *command, *mesh.source)
            await until(lambda: is_away(mesh))
            assert await mesh.count("documents_in_sync", 0.0)
            assert await status() == "200"
        finally:
            namespace.cluster.start_apiserver()
        await until(lambda: mesh.count("documents_in_sync", 1.0))
        await until(lambda: mesh.count('sidecars{state="in-sync"}', 2.0))
        assert await status() == "200"
