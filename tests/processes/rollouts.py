"""A mesh with a rollout: a control plane, a replica's sidecar, which chooses the version, and one of an application."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aiohttp

from meshproxy.devtools.local_mesh import CONNECT_TIMEOUT, SERVER, document, environment, read_series
from tests.processes.mesh import Mesh, control_command, reserved
from tests.processes.waiting import PATIENCE

if TYPE_CHECKING:
    from meshproxy.devtools.child import Child
    from meshproxy.devtools.local_mesh import Document, LocalMesh, LocalSidecar

NAME = "two"
MISSING = 9
"""A version that the model server does not have: over gRPC its calls fail with HTTP status 200."""
COMMAND = (sys.executable, "-c", "from meshproxy.cli.main import main; main()", "rollout")


class RolloutMesh(Mesh):
    """A mesh whose control plane has a rollout of a model, from version 1 to another one."""

    own: Document

    @classmethod
    async def under_way(
        cls,
        local: LocalMesh,
        model_server: Child,
        model: str,
        candidate: int,
        workers: int = 1,
        *,
        is_checked: bool = False,
        **analysis: Any,
    ) -> RolloutMesh:
        """`workers`: of the replica's sidecar. `is_checked`: it asks which versions are AVAILABLE. `analysis`: more
        than the defaults of these tests."""
        (local.directory / "documents").mkdir()
        it = cls(local, model_server)
        rest, grpc = model_server.listening.get("rest"), str(model_server.listening["grpc"])
        own = environment(grpc=grpc) if rest is None else environment(str(rest), grpc)
        if is_checked:
            own[1]["spec"]["health"] = {"models": [model]}
        rollout = {
            "model": model,
            "stable": {"version": 1},
            "candidate": {"version": candidate},
            "warmUp": {"calls": 0, "duration": "0s"},
            "analysis": {"interval": "1s", "stepWeights": [20, 60], "minCalls": 20, **analysis},
        }
        address = reserved()
        workload = {"namespace": SERVER[0], "serviceAccount": SERVER[1]}
        models = {
            "endpoints": [{"sidecar": address}],
            "workload": workload,
            "connectTimeout": CONNECT_TIMEOUT,
        }
        it.documents = [*own[:2], document("ModelServer", models, "models"), document("ModelRollout", rollout, NAME)]
        it.write_documents(permits=True)
        it.control = await local.start("the control plane", *it.command(reserved(), reserved()))
        inbound = {"listen": address, "server": "local"}
        spec = {**own[2]["spec"], "inbound": inbound, "controlPlane": it.settings("replica", SERVER, documents=True)}
        del spec["identity"]
        if workers > 1:
            spec["workers"] = workers
        it.own = document("Sidecar", spec, "replica")
        it.replica = await local.sidecar("the replica's sidecar", [it.own])
        it.application = await it.start_application()
        return it

    def command(self, listen: str, web: str) -> list[str]:
        return [*control_command(self.local, listen, web), *self.source]

    async def restart_control(self) -> None:
        before = self.control.listening
        command = self.command(before["control"], before["web"])
        self.control = await self.local.start("the control plane again", *command)

    async def restart_replica(self) -> LocalSidecar:
        """Its sidecar: what it has on disk is all that it remembers."""
        await self.replica.child.stop()
        self.replica = await self.local.sidecar("the replica's sidecar, again", [self.own])
        return self.replica

    async def weight(self) -> float:
        """At the sidecar that chooses; of several workers that have not all the same one, -1."""
        admins = self.replica.child.listening.get("worker_admin") or [self.replica.admin]
        weights = set()
        for admin in admins:
            page = await read_series(str(admin), "/metrics")
            weights.add(page.get(f'meshproxy_rollout_weight{{rollout="{NAME}"}}', -1.0))
        return weights.pop() if len(weights) == 1 else -1.0

    async def status(self) -> dict[str, Any]:
        """What the control plane says; waits for one that has just started to know of the rollout."""
        web = self.control.listening["web"]
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"http://{web}/rollouts") as answer:
                    for found in await answer.json(content_type=None):
                        return dict(found["status"])
                await asyncio.sleep(0.05)

    async def becomes(self, *phases: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """Returns the status as soon as it has one of these phases."""
        async with asyncio.timeout(seconds):
            while (status := await self.status())["phase"] not in phases:
                await asyncio.sleep(0.1)
        return status

    async def has(self, weight: float, seconds: float = PATIENCE) -> None:
        async with asyncio.timeout(seconds):
            while await self.weight() != weight:
                await asyncio.sleep(0.05)

    def order(self, word: str) -> None:
        """Give an order as an operator does."""
        options = ["--control", str(self.control.listening["web"])]
        subprocess.run([*COMMAND, word, NAME, *options], check=True, capture_output=True)
