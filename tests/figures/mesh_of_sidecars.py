"""A control plane in a process of its own, on one core, and as many simulated sidecars as one likes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.processes import cpu_seconds, status_bytes
from meshproxy.devtools.child import CONTROL, Child
from meshproxy.devtools.local_mesh import document, read_series, replace_documents

ROOT = Path(__file__).parent.parent.parent
DOMAIN = "figures.example"
EACH = 5_000
"""Simulated sidecars in one process."""
REPLICAS = 100
"""Sidecars of one model server."""
PATIENCE = 300.0
"""Seconds, for anything."""


class Reach(NamedTuple):
    """How a change has come to the sidecars."""

    seconds: float
    """Until it had reached the share of them that was asked for."""
    cpu: float
    """Seconds of CPU that the control plane had taken by then: with a core of its own, it takes no longer."""
    cpu_in_all: float
    """The same, until it knew that all had it."""


class Simulated:
    """A process of simulated sidecars."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, folder: Path, control: str, first: int, count: int) -> Simulated:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.figures.simulated_sidecars", str(folder), control, str(first), str(count),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT, limit=64 << 20,
        )  # fmt: skip
        it = cls(process)
        await it._answer()
        return it

    async def ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            found: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return found

    async def stop(self) -> None:
        self._process.kill()
        await self._process.wait()


class Mesh:
    """The control plane and the sidecars.

    Attributes:
        count: how many sidecars.
        documents: the folder.
    """

    def __init__(self, folder: Path, count: int, core: int) -> None:
        self.folder = folder
        self.count = count
        self.documents = folder / "documents"
        self.documents.mkdir()
        self._core = core
        self.control: Child
        self.simulated: list[Simulated] = []

    async def start(self) -> None:
        """Start the control plane, where it was before if there was one."""
        listening = self.control.listening if hasattr(self, "control") else {}
        listen, web = (listening.get(port, "127.0.0.1:0") for port in ("control", "web"))
        command = (*CONTROL, "run", "--folder", "control", "--trust-domain", DOMAIN, "--documents", "documents")
        arguments = (*command, "--listen", listen, "--web", web)
        self.control = await Child.start("the control plane", *arguments, directory=self.folder)
        os.sched_setaffinity(self.pid, {self._core})

    @property
    def pid(self) -> int:
        return int(self.control.listening["pid"])

    async def simulate(self) -> None:
        """Make the sidecars; they do not connect yet."""
        folder, address = self.folder / "control", self.control.listening["control"]
        starts = range(0, self.count, EACH)
        self.simulated = await asyncio.gather(
            *(Simulated.start(folder, address, first, min(EACH, self.count - first)) for first in starts)
        )

    async def ask(self, command: str) -> list[dict[str, Any]]:
        return await asyncio.gather(*(each.ask(command) for each in self.simulated))

    async def until_in_sync(self) -> None:
        """Return when the control plane says that all have what concerns them."""
        async with asyncio.timeout(PATIENCE):
            while (await self.series()).get('meshproxy_control_sidecars{state="in-sync"}') != self.count:
                await asyncio.sleep(0.25)

    async def series(self) -> dict[str, float]:
        try:
            return dict(await read_series(self.control.listening["web"], "/metrics"))
        except OSError:
            return {}

    def memory(self) -> int:
        """RSS of the control plane, in KB."""
        return status_bytes(self.pid, "VmRSS") // 1024

    def cpu(self) -> float:
        """Seconds of CPU that the control plane has taken."""
        return cpu_seconds(self.pid)

    def write(self, name: str, *documents: Any) -> None:
        replace_documents(self.documents / name, documents)

    def write_models(self, models: int) -> None:
        """A server, a role, a binding and a route of each model, in a file of its own."""
        self.write("mesh.yaml", document("MeshConfig", {"trustDomain": DOMAIN}, "mesh"))
        for number in range(models):
            name = f"m{number}"
            server = {
                "endpoints": [{"rest": "127.0.0.1:8501", "grpc": "127.0.0.1:8500"}],
                "workload": {"namespace": "models", "serviceAccount": name},
            }
            self.write(
                f"{name}.yaml",
                document("ModelServer", server, name),
                document("ModelRole", {"rules": [{"models": [name], "verbs": ["predict"]}]}, name),
                document("ModelRoute", {"models": [name], "timeout": "5s", "directions": ["outbound"]}, name),
                binding(name, "first"),
            )

    def change(self, caller: str) -> None:
        """Change one binding: that of a model of its own file."""
        self.write("changed.yaml", {**binding("m0", caller), "metadata": {"name": "changed"}})

    async def changed(self, caller: str, share: float = 0.99) -> Reach:
        """Change one binding, and wait until all have it. `share`: of the sidecars, see `Reach`."""
        await self.ask("forget")
        cpu, begun = self.cpu(), time.monotonic()
        taken: list[tuple[float, float]] = []
        watching = asyncio.get_running_loop().create_task(self._watch_cpu(taken))
        self.change(caller)
        async with asyncio.timeout(PATIENCE):
            while sum(sum(each["versions"].values()) for each in await self.ask("state")) < self.count:
                await asyncio.sleep(0.1)
        await self.until_in_sync()
        watching.cancel()
        taken.append((time.monotonic(), self.cpu()))
        times = sorted(moment for each in await self.ask("times") for moment in each["times"])
        reached = times[int(share * len(times)) - 1]
        by_then = next(used for moment, used in taken if moment >= reached)
        return Reach(reached - begun, by_then - cpu, taken[-1][1] - cpu)

    async def _watch_cpu(self, taken: list[tuple[float, float]]) -> None:
        """What the control plane has taken, and when, until cancelled."""
        while True:
            cpu = self.cpu()
            taken.append((time.monotonic(), cpu))
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        await asyncio.gather(*(each.stop() for each in self.simulated))
        await self.control.stop()


def binding(name: str, caller: str) -> Any:
    subject = {"workload": {"namespace": "callers", "serviceAccount": caller}}
    return document("ModelRoleBinding", {"role": name, "subjects": [subject]}, name)


@asynccontextmanager
async def mesh_of(folder: Path, count: int, models: int) -> AsyncIterator[Mesh]:
    """A mesh whose sidecars are not connected yet."""
    mesh = Mesh(folder, count, core=0)
    mesh.write_models(models)
    mesh.change("first")
    await mesh.start()
    try:
        await mesh.simulate()
        yield mesh
    finally:
        await mesh.stop()
