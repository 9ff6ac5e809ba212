"""Rollouts as objects of a real API server: a control plane with the rights of its installation keeps their status
there and tells of them in events, as people see with kubectl; calls go through the sidecars meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshproxy.control.rollout_objects import FIELD_MANAGER
from meshproxy.devtools.local_mesh import local_mesh
from tests.e2e.conftest import TestNamespace
from tests.e2e.test_mesh import cluster_mesh
from tests.e2e.test_two_control_planes import World
from tests.processes.calls import Load
from tests.processes.rollouts import MISSING, NAME, RolloutMesh
from tests.processes.waiting import until

pytestmark = [
    pytest.mark.usefixtures("kinds"),
    pytest.mark.asyncio(loop_factories=["uvloop"]),
    pytest.mark.timeout(800),
]


class Kubectl:
    """What an operator reads about the rollout."""

    def __init__(self, namespace: TestNamespace) -> None:
        self._namespace = namespace

    async def __call__(self, *arguments: str) -> str:
        where = f"--namespace={self._namespace.name}"
        return await asyncio.to_thread(self._namespace.cluster.kubectl, where, *arguments)

    async def becomes(self, phase: str) -> dict[str, Any]:
        """Waits until it has this phase. Returns the object."""
        wanted = f"--for=jsonpath={{.status.rollout.phase}}={phase}"
        await self("wait", wanted, f"modelrollout/{NAME}", "--timeout=120s")
        shown: dict[str, Any] = json.loads(
            await self("get", f"modelrollout/{NAME}", "-o", "json", "--show-managed-fields")
        )
        return shown

    async def row(self) -> dict[str, str]:
        """Of the table, by the heads of its columns."""
        head, row = (await self("get", "modelrollouts")).splitlines()
        return dict(zip(head.split(), row.split(), strict=True))

    async def events(self) -> list[tuple[str, str]]:
        """Kind and reason, the oldest first."""
        about = f"--field-selector=involvedObject.kind=ModelRollout,involvedObject.name={NAME}"
        found = json.loads(await self("get", "events", about, "--sort-by=.metadata.name", "-o", "json"))["items"]
        return [(each["type"], each["reason"]) for each in found]

    async def tells(self, reason: str) -> None:
        """Waits until there is an event for this reason."""

        async def is_told() -> bool:
            return reason in [each for _, each in await self.events()]

        await until(is_told)


@asynccontextmanager
async def rollout(namespace: TestNamespace, folder: Path, candidate: int, **analysis: Any) -> AsyncIterator[Load]:
    """One that is under way, with calls."""
    kubeconfig = await World(namespace).allow()

    class It(cluster_mesh(namespace, kubeconfig), RolloutMesh):  # type: ignore[misc]
        pass

    async with local_mesh(folder / "mesh") as local:
        model_server = await local.model_server("--model", "half_plus_two=1,2")
        it = await It.under_way(local, model_server, "half_plus_two", candidate, **analysis)
        load = Load(it.application.outbound, None, rest=[True] * 2, grpc=[True] * 2, pause=0.005)
        yield load
        await load.stop()


async def test_a_good_version_is_promoted(namespace: TestNamespace, tmp_path: Path) -> None:
    kubectl = Kubectl(namespace)
    async with rollout(namespace, tmp_path, 2) as load:
        shown = await kubectl.becomes("promoted")
        # Each is told of once the status is kept, and by nobody when the control plane has ended.
        await kubectl.tells("Promoted")
        await load.more(50)
    status = shown["status"]
    assert (status["rollout"]["weight"], status["rollout"]["attempt"]) == (100, 1)
    assert status["rollout"]["evidence"], "what a leader that follows goes on from"
    assert [(each["type"], each["status"]) for each in status["conditions"]] == [("Accepted", "True")]
    managers = {each["manager"]: each for each in shown["metadata"]["managedFields"]}
    assert managers[FIELD_MANAGER]["subresource"] == "status"
    assert set(managers[FIELD_MANAGER]["fieldsV1"]["f:status"]) == {"f:rollout"}
    row = await kubectl.row()
    assert (row["PHASE"], row["WEIGHT"], row["ACCEPTED"]) == ("promoted", "100", "True")
    reasons = await kubectl.events()
    assert reasons == [("Normal", "Started"), ("Normal", "Advanced"), ("Normal", "Promoted")]
    assert "Promoted" in await kubectl("events", f"--for=modelrollout/{NAME}")


async def test_a_version_that_fails_is_rolled_back(namespace: TestNamespace, tmp_path: Path) -> None:
    kubectl = Kubectl(namespace)
    async with rollout(namespace, tmp_path, MISSING, stepWeights=[50], interval="30s") as load:
        shown = await kubectl.becomes("rolled-back")
        await kubectl.tells("RolledBack")
        load.failures.clear()  # a few, until the sidecar had taken it out
        await load.more(50)
    assert shown["status"]["rollout"]["weight"] == 0
    row = await kubectl.row()
    assert (row["PHASE"], row["WEIGHT"]) == ("rolled-back", "0")
    assert (await kubectl.events())[-1] == ("Warning", "RolledBack")
