"""The API server of a cluster is away for long: calls go on, certificates rotate, the control plane is killed and
starts again meanwhile, and when the API server is back, its history forgotten, all is as if it had been there.

`OUTAGE=3600 make e2e E2E_ARGS='-k outage'` for an hour. By default it is longer than anything here waits: three
lives of a certificate, twice the longest pause between two attempts (`reflector.LAST_PAUSE`), five times the Lease.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meshproxy.control.cluster import connect_blocking
from meshproxy.control.leaves import FolderLeaves
from meshproxy.control.reflector import LAST_PAUSE
from meshproxy.control.shared_leaves import SharedLeaves
from meshproxy.control.shared_objects import SharedObjects
from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import TRUST_DOMAIN, Document, local_mesh, permissive_documents
from meshproxy.installation.rights import SECRET
from tests.e2e.conftest import TestNamespace
from tests.e2e.test_mesh import apply, cluster_mesh
from tests.e2e.test_two_control_planes import World
from tests.processes.calls import PATH, Load
from tests.processes.mesh import Mesh, control_command, spiffe_id
from tests.processes.waiting import until

OUTAGE = float(os.environ.get("OUTAGE", "120"))
"""Seconds."""
LIFETIME = 40.0
"""Of a certificate, in seconds. The control plane is killed at any moment of it; the last three tenths must do for a
start, and for a sidecar that makes a key: several seconds of a processor that the rest of this suite has, too."""
RENEWED = LIFETIME * 0.7
"""Seconds after which a certificate has been replaced, at the latest (`meshproxy.sidecar.enrollment`)."""

pytestmark = [
    pytest.mark.usefixtures("kinds"),
    pytest.mark.timeout(OUTAGE + 900.0),
    pytest.mark.asyncio(loop_factories=["uvloop"]),
]


def mesh_in(namespace: TestNamespace, kubeconfig: Path) -> type[Mesh]:
    """A mesh that has its documents, its authority and its records in this namespace."""

    class It(cluster_mesh(namespace)):  # type: ignore[misc]
        source = (
            "--cluster-documents", "--authority-secret", SECRET, "--lifetime", f"{LIFETIME:g}s",
            "--namespace", namespace.name, "--kubeconfig", str(kubeconfig),
        )  # fmt: skip

        def settings(self, name: str, account: tuple[str, str], **more: object) -> Document:
            where = ("--authority-secret", SECRET, "--control-namespace", namespace.name)
            (self.local.directory / "roots.pem").write_text(meshproxy("ca", "bundle", *where))
            token = meshproxy("control", "join-token", "--identity", spiffe_id(account), *where)
            (self.local.directory / f"{name}.token").write_text(token)
            return {
                "address": self.control.listening["control"],
                "spiffeId": f"spiffe://{TRUST_DOMAIN}/ns/meshproxy/sa/control",
                "trustBundle": "roots.pem",
                "folder": name,
                "joinToken": f"{name}.token",
                **more,
            }

    def meshproxy(group: str, *arguments: str) -> str:
        command = [sys.executable, "-m", f"meshproxy.cli.{group}", *arguments]
        admin = ["--kubeconfig", str(namespace.cluster.kubeconfig)]
        return subprocess.run([*command, *admin], capture_output=True, text=True, check=True).stdout

    return It


async def test_an_api_server_that_is_away_for_long(namespace: TestNamespace, tmp_path: Path) -> None:
    await World(namespace).allow()
    # In a pod the kubelet replaces it; nobody does here.
    token = await namespace.token("control", seconds=int(OUTAGE) + 3_600)
    kubeconfig = namespace.cluster.write_kubeconfig(f"{namespace.name}-long", token, namespace.name)
    objects = SharedObjects(connect_blocking(namespace.cluster.kubeconfig), namespace.name)
    async with local_mesh(tmp_path / "mesh") as local:
        it = await mesh_in(namespace, kubeconfig).start_with_documents(local)
        spare = FolderLeaves(local.directory / "control")
        load = Load(it.application.outbound, None, rest=[True, False], grpc=[True, False], pause=0.05)
        await load.more(50)
        namespace.cluster.stop("kube-apiserver")
        begun, rotations = time.monotonic(), it.rotations()
        try:
            await asyncio.sleep(OUTAGE / 2)
            # It starts again with the copy of the authority in its folder, and has no documents to give.
            before = it.control.listening
            await it.control.kill()
            command = control_command(local, before["control"], before["web"])
            it.control = await local.start("the control plane again", *command, *it.source)
            await asyncio.sleep(OUTAGE / 2)
            assert spare.valid(time.time())  # what was issued meanwhile, and has no record in the cluster
            await load.more(50)
        finally:
            namespace.cluster.compact()
            namespace.cluster.start_apiserver()
        away, rotations = time.monotonic() - begun, it.rotations() - rotations
        assert rotations >= int(away / RENEWED) - 1
        back = time.monotonic()
        await until(lambda: it.count("documents_in_sync", 1.0), LAST_PAUSE + 30.0)
        await until(lambda: it.count('sidecars{state="in-sync"}', 2.0))
        known = time.monotonic() - back
        await load.more(50)
        await load.stop()

        # A change is decided by, the leader says so, and every certificate that is out has a record.
        _, binding = permissive_documents()
        name = binding["metadata"]["name"]
        async with RestClient(it.application.outbound, None) as client:

            async def status() -> str:
                return (await client.call("POST", PATH, {"instances": [2.0]})).status

            async def is_(expected: str) -> bool:
                return await status() == expected

            namespace.cluster.kubectl("delete", "modelrolebinding", name, f"--namespace={namespace.name}")
            await until(lambda: is_("403"))
            apply(namespace, binding)
            await until(lambda: is_("200"))

        def is_accepted() -> bool:
            shown = namespace.cluster.kubectl(
                "get", "modelrolebinding", name, f"--namespace={namespace.name}", "-o", "json"
            )
            conditions = json.loads(shown).get("status", {}).get("conditions", [])
            return [each["status"] for each in conditions] == ["True"]

        await until(is_accepted)

        async def is_recorded() -> bool:
            now = time.time()
            leaves = await asyncio.to_thread(SharedLeaves(objects, SECRET).valid, now)
            holders = {leaf.sidecar for leaf in leaves if not leaf.is_replaced}
            return holders == {"replica", "app"} and not spare.valid(now)

        await until(is_recorded)
    objects.close()
    print(
        f"away for {away:.0f} s, certificates of {LIFETIME:g} s: {load.answered} calls, 0 failed; {rotations} "
        f"rotations of certificates in each sidecar; documents known {known:.1f} s after it was back"
    )
