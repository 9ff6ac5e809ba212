"""The figures of 0021: what documents cost that the control plane sends parsed, on both sides.

`python docs/decisions/figures/sent_documents.py` (needs the extra `dev`): for meshes of several sizes, the CPU time of
the control plane for the first set and for a change of one binding, and for how long the event loop of a sidecar stands
still: to decode, and to compile, the first set and a change.
"""
# ruff: noqa: T201

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from pathlib import Path

import msgspec
import yaml

from meshproxy.config.fields import Metadata
from meshproxy.config.sidecars import Inbound, Sidecar, SidecarSpec
from meshproxy.control.distribution import Group
from meshproxy.control.documents import MeshDocuments as Mesh
from meshproxy.control.sources import Files
from meshproxy.control_api import DocumentSet, Scope
from meshproxy.policy.compile import compile_policy
from meshproxy.routing.carried_state import CarriedState
from meshproxy.routing.routes import compile_routes
from meshproxy.sidecar.mesh_documents import SLICE, MeshDocuments

MODELS = (10, 100, 1_000, 5_000)
IN_FILES = 50
"""Models in one file."""
OWN = Sidecar(metadata=Metadata("own"), spec=SidecarSpec(inbound=Inbound(server="m0")))


def document(kind: str, name: str, spec: object) -> dict[str, object]:
    return {"apiVersion": "meshproxy.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def binding(name: str, caller: str) -> dict[str, object]:
    subject = {"workload": {"namespace": "callers", "serviceAccount": caller}}
    return document("ModelRoleBinding", name, {"role": "m0", "subjects": [subject]})


def write(folder: Path, models: int) -> None:
    (folder / "mesh.yaml").write_text(yaml.safe_dump(document("MeshConfig", "m", {"trustDomain": "m.example"})))
    for first in range(0, models, IN_FILES):
        found = []
        for name in (f"m{number}" for number in range(first, min(first + IN_FILES, models))):
            found += [
                document("ModelServer", name, {"endpoints": [{"rest": "127.0.0.1:8501"}]}),
                document("ModelRole", name, {"rules": [{"models": [name], "verbs": ["predict"]}]}),
                binding(name, "first"),
            ]
        (folder / f"{first:05}.yaml").write_text(yaml.safe_dump_all(found))
    change(folder, "first")


def change(folder: Path, caller: str) -> None:
    (folder / "changed.yaml").write_text(yaml.safe_dump(binding("changed", caller)))


class Pauses:
    """Takes the longest time that the event loop stands still, in CPU seconds: others use the machine."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        while True:
            before = time.process_time()
            await asyncio.sleep(0)
            self.longest = max(self.longest, time.process_time() - before)


async def taken(message: bytes, base: MeshDocuments | None) -> tuple[MeshDocuments, float, float]:
    """The set, and the longest pauses for decoding and for compiling it."""
    pauses = Pauses()
    watching = asyncio.create_task(pauses.watch())
    await asyncio.sleep(0)
    mesh = await MeshDocuments.received(msgspec.json.decode(message[5:], type=DocumentSet), base, Path("/"))
    watching.cancel()
    before = time.process_time()
    documents = mesh.together_with(OWN, mesh.version)
    compile_policy(documents.roles, documents.bindings, "m.example")
    compile_routes("inbound", "m0", None, documents.routes, "m.example", CarriedState())
    return mesh, pauses.longest, time.process_time() - before


async def measure(models: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), models)
        mesh = Mesh(Files([folder]))
        before = time.process_time()
        await mesh.first()
        first = time.process_time() - before
        group = Group(Scope("m0"), mesh)
        mesh.listeners.append(group.change)
        whole = group.message("")
        gc.collect()
        gc.freeze()  # a sidecar has none of what the control plane has read
        received, decoding, compiling = await taken(whole, None)
        times = []
        for number in range(5):
            change(Path(folder), f"c{number}")
            version, before = group.version, time.process_time()
            await mesh.reload()
            delta = group.message(version)
            times.append(time.process_time() - before)
        _, decoding_change, compiling_change = await taken(group.message(received.version), received)
    print(
        f"{models:6} models, {len(mesh.held):6} documents: control plane {first:.2f} s, a change "
        f"{min(times) * 1e3:.1f} ms; set {len(whole) >> 10} KB, change {len(delta)} B; sidecar decodes "
        f"{decoding * 1e3:.1f} ms, compiles {compiling * 1e3:.1f} ms, a change {decoding_change * 1e3:.2f} and "
        f"{compiling_change * 1e3:.1f} ms"
    )


async def main() -> None:
    print(f"{SLICE} documents are decoded at a time")
    for models in MODELS:
        await measure(models)


if __name__ == "__main__":
    asyncio.run(main())
