"""The root of a mesh is replaced whose authority is in a Secret of a real API server, with two control planes that
share no folder and certificates that live for 20 s: no call fails, though sidecars go from one to the other."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from lightkube.resources.core_v1 import ConfigMap, Secret

from meshproxy.control.store import FolderStore
from meshproxy.devtools.local_mesh import CLIENT, SERVER, TRUST_DOMAIN, Document, LocalMesh, local_mesh
from meshproxy.installation.rights import SECRET, control_planes_name, join_tokens_name
from tests.e2e.conftest import TestNamespace
from tests.e2e.test_two_control_planes import World
from tests.processes.balancer import Balancer
from tests.processes.calls import Load
from tests.processes.mesh import Mesh, control_command, spiffe_id
from tests.processes.waiting import until

LIFETIME = "20s"

pytestmark = [pytest.mark.timeout(1000), pytest.mark.asyncio(loop_factories=["uvloop"])]


class SharedMesh(Mesh):
    """Its sidecars are given join tokens beforehand."""

    def settings(self, name: str, account: tuple[str, str], **more: object) -> Document:
        control = f"spiffe://{TRUST_DOMAIN}/ns/meshproxy/sa/control"
        return {
            "address": self.address or self.control.listening["control"],
            "spiffeId": control,
            "trustBundle": "control/authority.pem",
            "folder": name,
            "joinToken": f"{name}.token",
            **more,
        }


async def run(module: str, namespace: TestNamespace, *arguments: str) -> asyncio.subprocess.Process:
    """A command on the authority in the cluster, as the administrator."""
    kubeconfig = str(namespace.cluster.kubeconfig)
    where = ("--authority-secret", SECRET, "--control-namespace", namespace.name, "--kubeconfig", kubeconfig)
    command = (sys.executable, "-m", module, *arguments, *where)
    return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)


async def rotate(namespace: TestNamespace, *arguments: str) -> asyncio.subprocess.Process:
    return await run("meshproxy.cli.ca", namespace, *arguments)


async def invite(local: LocalMesh, namespace: TestNamespace, name: str, account: tuple[str, str]) -> None:
    """Make a join token for a sidecar."""
    token = await run("meshproxy.cli.control", namespace, "join-token", "--identity", spiffe_id(account))
    (local.directory / f"{name}.token").write_text(await said(token))


def command(local: LocalMesh, folder: str, namespace: TestNamespace, kubeconfig: Path) -> Sequence[str]:
    started = control_command(local, "127.0.0.1:0", "127.0.0.1:0", LIFETIME)
    started[started.index("--folder") + 1] = str(local.directory / folder)
    where = ["--authority-secret", SECRET, "--namespace", namespace.name, "--kubeconfig", str(kubeconfig)]
    return [*started, *where]


async def said(process: asyncio.subprocess.Process) -> str:
    out, _ = await process.communicate()
    return out.decode()


async def test_the_root_is_replaced_under_load(namespace: TestNamespace, tmp_path: Path) -> None:
    kubeconfig = await World(namespace).allow()
    async with local_mesh(tmp_path / "mesh") as local:
        # As an installation that moves into the cluster.
        FolderStore(local.directory / "control").authority(TRUST_DOMAIN, time.time())
        it = SharedMesh(local, await local.model_server())
        a = it.control = await local.start("a", *command(local, "control", namespace, kubeconfig))
        b = await local.start("b", *command(local, "other", namespace, kubeconfig))
        # Whichever control plane a token is shown to takes it from the Secret, where nobody finds it again.
        for name, account in (("replica", SERVER), ("application", CLIENT)):
            await invite(local, namespace, name, account)
        tokens = await namespace.client.get(Secret, join_tokens_name(SECRET), namespace=namespace.name)
        assert len(tokens.data or {}) == 2
        balancer = Balancer(b.listening["control"])
        async with await balancer.start():
            it.address = balancer.address
            await it.start_sidecars()
            tokens = await namespace.client.get(Secret, join_tokens_name(SECRET), namespace=namespace.name)
            assert not tokens.data
            balancer.backends.append(a.listening["control"])
            load = Load(it.application.outbound, None, rest=[True, False], grpc=[True, False], pause=0.02)
            await load.more(100)
            before = (local.directory / "control/authority.pem").read_text()

            begun = time.monotonic()
            first = await rotate(namespace, "rotate", "--wait")
            assert first.stdout is not None
            async for line in first.stdout:
                if b"step 2" in line:
                    first.kill()
                    break
            await first.wait()
            again = await rotate(namespace, "rotate", "--wait")
            assert "no rotation is under way" in await said(again)
            assert again.returncode == 0
            took = time.monotonic() - begun
            bundle = await said(await rotate(namespace, "bundle"))
            assert bundle.count("BEGIN") == 1
            assert bundle != before
            # The old root is out of the bundle before the sidecars hear that it is.
            roots = [local.directory / folder / "roots.pem" for folder in ("replica", "application")]
            await until(lambda: {each.read_text() for each in roots} == {bundle})
            secret = await namespace.client.get(Secret, SECRET, namespace=namespace.name)
            assert sorted(secret.data or {}) == ["ca.crt", "tls.crt", "tls.key"]
            await load.more(100)
            answered = load.answered

            # One that is gone without a word may still sign, for all that anybody knows: the step waits for it.
            records = await namespace.client.get(ConfigMap, control_planes_name(SECRET), namespace=namespace.name)
            assert len(records.data or {}) == 2
            await b.kill()
            balancer.backends = [a.listening["control"]]
            assert (await said(await rotate(namespace, "rotate"))).startswith("step 1 of 3")

            async def waits_for_it() -> bool:
                status = await rotate(namespace, "status")
                text = await said(status)
                return status.returncode == 3 and "may still sign as before" in text and "\n  control plane " in text

            await until(waits_for_it)
            refused = await rotate(namespace, "rotate")
            await refused.wait()
            assert refused.returncode == 3
            b = await local.start("b again", *command(local, "other", namespace, kubeconfig))

            async def is_safe() -> bool:
                status = await rotate(namespace, "status")
                return "next, and safe now: the new root signs" in await said(status)

            await until(is_safe)
            undone = await rotate(namespace, "rotate", "--undo")
            assert "no rotation is under way" in await said(undone)
            await load.stop()
            # Whoever stops takes its entry along.
            await b.stop()
            records = await namespace.client.get(ConfigMap, control_planes_name(SECRET), namespace=namespace.name)
            assert len(records.data or {}) == 1
        rotations = it.rotations()
        print(
            f"{took:.0f} s for a whole rotation, certificates of {LIFETIME}: {answered} calls meanwhile,"
            f" {load.answered} in all, 0 failed; at least {rotations} rotations of certificates in each sidecar"
        )
        assert rotations >= 3
