"""A cluster with nodes: pods of these images run, as processes in namespaces of their own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from meshproxy.control.cluster import connect
from meshproxy.devtools.node.network import ADDRESS, Machine
from meshproxy.devtools.node.node import Nodes, nodes
from meshproxy.devtools.node.worker import Image, Site
from tests.e2e.apiserver import OWN_SERVICE, Cluster

ROOT = Path(__file__).parents[2]
NODES = ("node-1", "node-2")
MESHPROXY = str(Path(sys.executable).with_name("meshproxy"))
"""The command, installed."""
PATH = "/usr/local/bin:/usr/bin:/bin"
LAST_LINES = 30
"""Of the log of a container that was killed."""

IMAGES = {
    "registry.example.com/meshproxy": Image((MESHPROXY,), {"PATH": f"{Path(MESHPROXY).parent}:{PATH}"}),
    # As in TensorFlow Serving's image, the first process is a shell that forwards no signals.
    "tensorflow/serving": Image(
        ("/bin/bash", "-c", f'{MESHPROXY} model-server --host 0.0.0.0 --model half_plus_two=1 "$@"; exit $?', "serving")
    ),
    "curlimages/curl": Image(("/usr/bin/curl",)),
    "registry.example.com/caller": Image((sys.executable, "-m", "tests.e2e.caller"), {"PYTHONPATH": str(ROOT)}),
}


class Standing:
    """The cluster and its nodes."""

    def __init__(self, cluster: Cluster, site: Site, nodes: Nodes) -> None:
        self.cluster = cluster
        self.site = site
        self.nodes = nodes

    async def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """As `Cluster.kubectl`, while the nodes go on. Raises KubectlError."""
        return await asyncio.to_thread(self.cluster.kubectl, *arguments, stdin=stdin)

    def log(self, pod: str, container: str) -> str:
        """What a container of a pod has written; nothing while neither is there."""
        log = self.nodes.log(pod, container)
        return log.read_text() if log is not None and log.exists() else ""

    def check_ends(self) -> None:
        """Every container ended by itself, since this was asked last. Raises AssertionError, which says how the pods
        of the others came to their ends, and what their containers wrote last."""
        killed = self.site.journal.take_killed()
        assert not killed, "\n".join(("they did not end by themselves", *map(self._end_of, killed)))

    def _end_of(self, pod: str) -> str:
        logs = sorted(self.site.folder.glob(f"{pod.replace('/', '-')}-*/*.log"))
        last = (f"{log.name}\n" + "\n".join(log.read_text().splitlines()[-LAST_LINES:]) for log in logs)
        return "\n".join((self.site.journal.of(pod), *last))


@asynccontextmanager
async def standing(folder: Path, binaries: Path) -> AsyncIterator[Standing]:
    """Start all of it, in a network namespace, and remove it at the end. Only root can."""
    with Machine().stand() as machine:
        cluster = Cluster(folder, binaries, ADDRESS)
        client = None
        try:
            cluster.start()
            cluster.start_controllers()
            client = connect(cluster.kubeconfig)
            (folder / "pods").mkdir()
            site = Site(
                client,
                machine,
                IMAGES,
                folder / "pods",
                [Path(sys.base_prefix), Path(sys.prefix), ROOT],
                {
                    "PATH": PATH,
                    "PYTHONUNBUFFERED": "1",
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "KUBERNETES_SERVICE_HOST": str(OWN_SERVICE),
                    "KUBERNETES_SERVICE_PORT": "443",
                },
            )
            async with nodes(site, NODES) as running:
                yield Standing(cluster, site, running)
        finally:
            if client is not None:
                await client.close()
            cluster.stop()
