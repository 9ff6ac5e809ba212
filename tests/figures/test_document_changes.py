"""From a change of one binding in a file of the control plane until the sidecar decides by it, asked by real calls, and
what it costs the control plane among few and among many documents. Printed, and held against docs/behaviour.md. On a
quiet machine."""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import time
from pathlib import Path

import pytest

from meshproxy.config.schema import MeshConfig, ModelRole, ModelRoleBinding, ModelServer
from meshproxy.control.distribution import Group
from meshproxy.control.documents import MeshDocuments
from meshproxy.control.objects import read_object
from meshproxy.control.sources import Files
from meshproxy.control_api import Scope
from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import document, local_mesh, replace_documents
from tests.control.test_documents import Texts
from tests.processes.calls import PATH
from tests.processes.mesh import Mesh

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(300)]

CHANGES = 120
SLOWEST = 0.25
"""Seconds, at the 99th percentile."""
FEW, MANY = 100, 5_000
"""Models, of three documents each."""
IN_A_FILE = 50
"""Models."""
MOST_GROWTH = 1.5
"""Of the CPU time that a change of an object takes, from few to many."""


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_change_of_one_binding(tmp_path: Path, workers: int) -> None:
    async with local_mesh(tmp_path / "mesh") as local:
        mesh = await Mesh.start_with_documents(local, workers)
        async with RestClient(mesh.application.outbound, None) as client:

            async def status() -> str:
                return (await client.call("POST", PATH, {"instances": [2.0]})).status

            assert await status() == "200"
            took = []
            for number in range(CHANGES):
                await asyncio.sleep(random.uniform(0.0, 0.2))  # the control plane looks every 0.05 s
                permits = number % 2 == 1
                begun = time.monotonic()
                mesh.write_documents(permits=permits)
                while await status() != ("200" if permits else "403"):
                    await asyncio.sleep(0.001)
                took.append(time.monotonic() - begun)
    p50, p99 = statistics.median(took), statistics.quantiles(took, n=100)[98]
    milliseconds = ", ".join(
        f"{name} {seconds * 1e3:.0f} ms" for name, seconds in (("p50", p50), ("p99", p99), ("longest", max(took)))
    )
    print(f"workers: {workers}; {CHANGES} changes: {milliseconds}")
    assert p99 <= SLOWEST


def of_model(name: str) -> list[dict[str, object]]:
    return [
        document(ModelServer.__name__, {"endpoints": [{"rest": "127.0.0.1:8501"}]}, name),
        document(ModelRole.__name__, {"rules": [{"models": [name], "verbs": ["predict"]}]}, name),
        binding(name, "m0", "first"),
    ]


def binding(name: str, role: str, caller: str) -> dict[str, object]:
    subject = {"workload": {"namespace": "callers", "serviceAccount": caller}}
    return document(ModelRoleBinding.__name__, {"role": role, "subjects": [subject]}, name)


class InFiles:
    """The documents of many models in each file, and one binding in a file of its own."""

    def __init__(self, folder: Path, models: int) -> None:
        self._folder = folder
        self.source = Files([str(folder)])
        self._write("mesh", document(MeshConfig.__name__, {"trustDomain": "m.example"}, "m"))
        for first in range(0, models, IN_A_FILE):
            names = (f"m{number}" for number in range(first, first + IN_A_FILE))
            self._write(f"{first:05}", *(each for name in names for each in of_model(name)))
        self.change("first")

    def _write(self, name: str, *documents: dict[str, object]) -> None:
        replace_documents(self._folder / f"{name}.yaml", documents)

    def change(self, caller: str) -> None:
        self._write("changed", binding("changed", "m0", caller))


class InObjects:
    """Each document in an object of its own."""

    def __init__(self, folder: Path, models: int) -> None:
        self.source = Texts()
        self.source.is_whole = False
        self._put(document(MeshConfig.__name__, {"trustDomain": "m.example"}, "m"))
        for number in range(models):
            for each in of_model(f"m{number}"):
                self._put(each)
        self.change("first")

    def _put(self, shown: dict[str, object]) -> None:
        self.source.put(read_object(str(shown["kind"]), shown))

    def change(self, caller: str) -> None:
        self._put(binding("changed", "m0", caller))


@pytest.mark.parametrize("kind", [InObjects, InFiles])
async def test_what_a_change_costs(tmp_path: Path, kind: type[InObjects | InFiles]) -> None:
    costs = {}
    for models in (FEW, MANY):
        folder = tmp_path / str(models)
        folder.mkdir()
        texts = kind(folder, models)
        mesh = MeshDocuments(texts.source)
        begun = time.process_time()
        await mesh.first()
        first = time.process_time() - begun
        group = Group(Scope("m0"), mesh, "spiffe://figures.example/ns/models/sa/m0")
        mesh.listeners.append(group.change)
        gc.collect()
        gc.freeze()
        taken = []
        for number in range(30):
            texts.change(f"c{number}")
            version, begun = group.version, time.process_time()
            await mesh.reload()
            group.message(version)
            taken.append(time.process_time() - begun)
        costs[models] = statistics.median(taken)
        milliseconds = costs[models] * 1e3
        print(f"{kind.__name__}: {len(mesh.held):,} documents: {first:.2f} s, a change {milliseconds:.2f} ms of CPU")
        gc.unfreeze()
    if kind is InObjects:  # of files, each is looked at
        assert costs[MANY] <= MOST_GROWTH * costs[FEW]
