"""A mesh in a cluster, from `meshproxy install` to a drained node, with calls all the while, none of which may fail.
Before, the quickstart is followed in the same cluster, from nothing to nothing.

The API server, the controllers and kubectl are those of Kubernetes; the nodes are `meshproxy.devtools.node`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from meshproxy.devtools.local_mesh import read_series
from meshproxy.injection.inject import LABEL
from tests.e2e.apiserver import KubectlError
from tests.e2e.quickstart import Reader
from tests.e2e.standing import MESHPROXY, NODES, ROOT, Standing, standing
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module", loop_factories=["uvloop"]), pytest.mark.timeout(1200)]

FOLDER = Path(__file__).parent
INSTALL = ("install", "--image", "registry.example.com/meshproxy:0.1.0", "--trust-domain", "prod.example")
CALLS = 10_000
WRONG = {
    "apiVersion": "meshproxy.dev/v1alpha1",
    "kind": "ModelServer",
    "metadata": {"name": "wrong", "namespace": "meshproxy"},
    "spec": {"dns": {"name": "a.example", "sidecar": 18500}, "endpoints": [{"rest": "a:1"}]},
}


def meshproxy(*arguments: str) -> str:
    return subprocess.run([MESHPROXY, *arguments], capture_output=True, text=True, check=True).stdout


class Story:
    """What is done in the cluster, and what is seen."""

    def __init__(self, cluster: Standing) -> None:
        self.cluster = cluster
        self.kubectl = cluster.kubectl
        self._began = time.monotonic()

    def tell(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", flush=True)

    async def install(self) -> None:
        """As deploy/README.md says."""
        await self.kubectl("apply", "--server-side", "-f", "-", stdin=meshproxy(*INSTALL))
        await self.control_planes()
        await self.kubectl("apply", "-f", "-", stdin=meshproxy(*INSTALL, "--only", "documents"))
        for name in ("serving", "shop"):
            await self.kubectl("create", "namespace", name)
            await self.kubectl("label", "namespace", name, f"{LABEL}=enabled")

    async def control_planes(self) -> None:
        """All of them are ready."""
        await self.kubectl("-n", "meshproxy", "rollout", "status", "deployment/meshproxy-control", "--timeout=180s")

    async def serve(self) -> None:
        """The model server's Deployment is as it is to be, and nothing is left of what was before."""
        await self.kubectl("-n", "serving", "rollout", "status", "deployment/models", "--timeout=180s")
        wanted = json.loads(await self.kubectl("-n", "serving", "get", "deployment", "models", "-o", "json"))

        async def is_alone() -> bool:
            return len(await self.pods()) == int(wanted["spec"]["replicas"])

        await until(is_alone)

    async def pods(self) -> list[Any]:
        """Those of the model server, also those that are ending."""
        found = json.loads(await self.kubectl("-n", "serving", "get", "pods", "-l", "app=models", "-o", "json"))
        return list(found["items"])

    async def check_node(self) -> None:
        """What the nodes did for a pod of anybody's."""

        async def runner() -> Any:
            return json.loads(await self.kubectl("-n", "plain", "get", "pod", "runner", "-o", "json"))["status"]

        async def is_restarted() -> bool:
            status = (await runner()).get("containerStatuses") or [{}]
            return bool(status[0].get("restartCount") == 1 and status[0]["ready"])

        await until(is_restarted)
        line = f"hello sesame red {(await runner())['podIP']}\n"
        assert self.cluster.log("runner", "runner").count(line) == 2
        await self.kubectl("-n", "plain", "delete", "pod", "runner", "--timeout=120s")

    async def servers(self, name: str) -> set[str]:
        """The model servers that the sidecar of a pod of the shop knows."""
        address = await self.kubectl("-n", "shop", "get", "pod", name, "-o", "jsonpath={.status.podIP}")
        metrics = await read_series(f"{address}:18502", "/metrics")
        return set(re.findall(r'meshproxy_endpoints\{server="([^"]*)"', "\n".join(metrics)))

    def called(self) -> Any:
        """What the caller has said last."""
        lines = self.cluster.log("caller", "caller").splitlines()
        return json.loads(next((line for line in reversed(lines) if line.endswith("}")), '{"answered": 0}'))

    async def called_on(self, count: int, what: str) -> None:
        """So many further calls are answered, and none has failed."""
        goal = self.called()["answered"] + count
        await until(lambda: self.called()["answered"] >= goal or self.called()["failed"])
        said = self.called()
        self.tell(f"{what}: {said['answered']} calls were answered")
        assert said["failed"] == 0, said

    async def refused(self, document: Any) -> str:
        """Why the API server does not take a document."""
        with pytest.raises(KubectlError) as caught:
            await self.kubectl("apply", "-f", "-", stdin=json.dumps(document))
        return str(caught.value)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Standing]:
    async with standing(tmp_path_factory.mktemp("story"), Path(os.environ["E2E_BIN"])) as cluster:
        yield cluster


async def test_the_quickstart_is_followed(cluster: Standing, tmp_path: Path) -> None:
    await Reader(cluster, tmp_path).follow((ROOT / "docs" / "quickstart-kubernetes.md").read_text())
    cluster.check_ends()


async def test_a_mesh_in_a_cluster(cluster: Standing) -> None:
    story = Story(cluster)
    kubectl = story.kubectl
    await story.install()
    story.tell("meshproxy is installed")

    said = await story.refused(WRONG)
    assert 'ModelServer "wrong" is invalid' in said
    assert "expected one endpoint or more under endpoints, or dns, or service" in said

    await kubectl("apply", "-f", str(FOLDER / "story.yaml"))
    await story.serve()
    (pod,) = await story.pods()
    assert [each["name"] for each in pod["status"]["initContainerStatuses"]] == ["meshproxy"]
    story.tell("the model server is ready, with a sidecar")

    await kubectl("apply", "-f", str(FOLDER / "story-node.yaml"))
    await kubectl("apply", "-f", str(FOLDER / "story-callers.yaml"))
    await until(lambda: story.called()["answered"])
    await story.called_on(200, "an application calls")
    metrics = await read_series(f"{pod['status']['podIP']}:18502", "/metrics")
    assert metrics['meshproxy_connections_total{direction="inbound",security="mtls"}'] >= 1
    assert await story.servers("caller") == {"models"}

    await kubectl("-n", "shop", "wait", "pod/stranger", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s")
    assert json.loads(cluster.log("stranger", "caller")) == [
        ["403", "permission-denied"],
        ["PERMISSION_DENIED", "permission-denied"],
    ]
    story.tell("another one is refused, and its pod has ended with its sidecar")

    await story.check_node()
    story.tell("a pod without sidecar has its volumes, and was started again")

    await kubectl("-n", "serving", "set", "env", "deployment/models", "RELEASE=2")
    await story.serve()
    await story.called_on(200, "rolling update")
    for replicas in (3, 1):
        await kubectl("-n", "serving", "scale", "deployment/models", f"--replicas={replicas}")
        await story.serve()
        await story.called_on(200, f"{replicas} replicas")

    await kubectl("-n", "meshproxy", "delete", "pods", "--all", "--wait=true")
    await story.called_on(200, "the control planes are deleted")
    await story.control_planes()
    await kubectl("-n", "serving", "scale", "deployment/models", "--replicas=2")
    await story.serve()
    await story.called_on(200, "they were made again, and give a replica its identity")

    await kubectl("drain", NODES[0], "--delete-emptydir-data", "--timeout=120s")
    await story.serve()
    assert {each["spec"]["nodeName"] for each in await story.pods()} == {NODES[1]}
    await story.called_on(200, "a node is drained")
    await story.called_on(max(0, CALLS - story.called()["answered"]), "at the end")
    cluster.check_ends()
