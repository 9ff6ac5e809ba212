"""Two control planes on a real API server, as processes: one leads and writes, and the other one follows it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.models.rbac_v1 import PolicyRule, RoleRef, Subject
from lightkube.resources.core_v1 import Secret
from lightkube.resources.rbac_authorization_v1 import Role, RoleBinding

from meshproxy.config import schema
from meshproxy.control.election import NAME, Resource
from meshproxy.control.lease import DURATION
from meshproxy.control.objects import resource
from meshproxy.installation.rights import SECRET, namespace_rules
from tests.e2e import planes
from tests.e2e.conftest import TestNamespace
from tests.e2e.planes import Plane
from tests.processes.waiting import until

pytestmark = [
    pytest.mark.usefixtures("kinds"),
    pytest.mark.timeout(800),
    pytest.mark.asyncio(loop_factories=["uvloop"]),
]

KINDS = {kind.__name__: kind for kind in schema.KINDS}


def control_plane(folder: Path, namespace: TestNamespace, kubeconfig: Path) -> AbstractContextManager[Plane]:
    options = ("--trust-domain", "m.example", "--authority-secret", SECRET, "--namespace", namespace.name)
    return planes.control_plane(folder, kubeconfig, *options, "--cluster-documents")


class World:
    """What the cluster has."""

    def __init__(self, namespace: TestNamespace) -> None:
        self._namespace = namespace

    async def allow(self) -> Path:
        """A control plane's account in this namespace, with the rights of the installation."""
        name = self._namespace.name
        metadata = ObjectMeta(name="control", namespace=name)
        kubeconfig = await self._namespace.kubeconfig("control")
        subject = Subject(kind="ServiceAccount", name="control", namespace=name)
        role = RoleRef(apiGroup="rbac.authorization.k8s.io", kind="Role", name="control")
        client = self._namespace.client
        rules = [PolicyRule(**rule) for rule in namespace_rules()]
        await client.apply(Role(metadata=metadata, rules=rules), field_manager="e2e")
        await client.apply(RoleBinding(metadata=metadata, roleRef=role, subjects=[subject]), field_manager="e2e")
        return kubeconfig

    async def write(self, kind: str, name: str, spec: Any) -> None:
        made: Any = resource(KINDS[kind])
        metadata = ObjectMeta(name=name, namespace=self._namespace.name)
        await self._namespace.client.apply(made(metadata=metadata, spec=spec), field_manager="e2e", force=True)

    async def shown(self, kind: str, name: str) -> dict[str, Any]:
        made: Any = resource(KINDS[kind])
        return dict(await self._namespace.client.get(made, name, namespace=self._namespace.name))

    async def verdict(self, kind: str, name: str) -> tuple[str, str, int] | None:
        status = (await self.shown(kind, name)).get("status") or {}
        for each in status.get("conditions") or ():
            return each["status"], each["reason"], each["observedGeneration"]
        return None

    async def leader(self) -> int:
        """The process that has the Lease; 0: none has."""
        lease = dict(await self._namespace.client.get(Resource, NAME, namespace=self._namespace.name))
        return int((lease["spec"].get("holderIdentity") or "_0_").split("_")[-2])


async def test_one_leads_and_writes_and_the_other_takes_over(namespace: TestNamespace, tmp_path: Path) -> None:
    world = World(namespace)
    kubeconfig = await world.allow()
    await world.write("MeshConfig", "m", {"trustDomain": "m.example"})
    await world.write("ModelServer", "s", {"endpoints": [{"rest": "a:1"}]})
    await world.write("ModelRoute", "r", {"models": ["*"], "server": "nobody"})

    async def told(kind: str, name: str, *expected: object) -> None:
        async def is_told() -> bool:
            return await world.verdict(kind, name) == expected

        await until(is_told)

    with (
        control_plane(tmp_path / "a", namespace, kubeconfig) as a,
        control_plane(tmp_path / "b", namespace, kubeconfig) as b,
    ):
        both = {plane.process.pid: plane for plane in (a, b)}
        await told("ModelServer", "s", "True", "Accepted", 1)
        await told("ModelRoute", "r", "False", "Invalid", 1)
        leader = both[await world.leader()]
        (other,) = (plane for plane in both.values() if plane is not leader)
        assert [len(plane.said("leader")) for plane in (leader, other)] == [1, 0]
        await until(lambda: other.said("documents changed"))  # it has read them, before they change
        # They agree about the authority, which one of them has made.
        assert sum(plane.log.read_text().count("made a new root") for plane in both.values()) == 1
        await namespace.client.get(Secret, SECRET, namespace=namespace.name)
        # Nothing is written again.
        before = {name: (await world.shown(*name))["metadata"]["resourceVersion"] for name in (("ModelServer", "s"),)}
        await world.write("ModelRoute", "r", {"models": ["*"], "server": "s"})
        await told("ModelRoute", "r", "True", "Accepted", 2)
        os.kill(leader.process.pid, signal.SIGKILL)
        leader.process.wait()
        killed = time.monotonic()
        await world.write("ModelRoute", "r", {"models": ["*"], "server": "nobody"})
        await told("ModelRoute", "r", "False", "Invalid", 3)
        took = time.monotonic() - killed
        print(f"the other one wrote {took:.1f} s after the leader was killed; the Lease lasts {DURATION} s")
        assert await world.leader() == other.process.pid
        assert len(other.said("documents changed")) == 2  # statuses are none
        for (kind, name), version in before.items():
            assert (await world.shown(kind, name))["metadata"]["resourceVersion"] == version
        # One that is stopped hands over: a third one need not wait.
        with control_plane(tmp_path / "c", namespace, kubeconfig) as c:
            await until(lambda: c.said("listening"))
            other.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(other.process.wait)
            assert await world.leader() != other.process.pid
            await until(lambda: c.said("leader"))
