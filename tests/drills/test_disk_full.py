"""Disks without room for a byte or a file, under load: the sidecar's, and the control plane's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshproxy.devtools.local_mesh import local_mesh, read_series
from tests.drills.small_disk import SmallDisk, small_disk
from tests.processes.calls import Load
from tests.processes.mesh import Mesh
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

LIFETIME = "40s"
KINDS = ("certificate", "key")
"""Of what the control plane writes down."""
OVERWRITTEN = "the disk is full: the certificate was written over the one before"
TRYING = "no certificate from the control plane; trying again"


@asynccontextmanager
async def mesh_on_a_small_disk(tmp_path: Path, folder: str) -> AsyncIterator[tuple[SmallDisk, Mesh, Load]]:
    """A mesh under load whose certificates rotate; one of its folders is a disk of its own."""
    with small_disk(tmp_path / "mesh" / folder) as disk:
        async with local_mesh(tmp_path / "mesh") as local:
            it = await Mesh.start(local, LIFETIME)
            await it.start_sidecars()
            load = Load(it.application.outbound, None, rest=[True] * 2, grpc=[True] * 2)
            await until(lambda: it.rotations() >= 1)
            yield disk, it, load


async def test_the_sidecars_disk(tmp_path: Path) -> None:
    """Its certificates are written over the ones before until there is room."""
    async with mesh_on_a_small_disk(tmp_path, "replica") as (disk, it, load):
        disk.fill()
        await until(lambda: len(it.replica.said(OVERWRITTEN)) >= 2)
        over = len(it.replica.said(OVERWRITTEN))
        disk.free()
        rotations = len(it.replica.said("certificate rotated"))
        await until(lambda: len(it.replica.said("certificate rotated")) >= rotations + 2)
        await load.more(50)
        await load.stop()
        print(f"{load.answered} calls, 0 failed; {over} certificates on a full disk")
        assert rotations >= over
        assert it.replica.said(TRYING) == []
        assert await it.replica.total("meshproxy_identity_rotations_total", 'result="failed"') == 0


async def test_the_control_planes_disk(tmp_path: Path) -> None:
    """Certificates are issued all the same."""
    async with mesh_on_a_small_disk(tmp_path, "control") as (disk, it, load):
        disk.fill()
        rotations = it.rotations()
        await until(lambda: it.rotations() > rotations)
        await load.more(50)

        def said(what: str) -> list[str]:
            return [line for line in it.control.output if "No space left on device" in line and what in line]

        await until(lambda: said("keys that get certificates") and said("what certificates are out"))
        page = await read_series(str(it.control.listening["web"]), "/metrics")
        failures = {kind: page[f'meshproxy_control_store_failures_total{{record="{kind}"}}'] for kind in KINDS}
        assert min(failures.values()) >= 1
        lines = said("")
        print(f"records that could not be written: {failures}; the log has {len(lines)} lines about it: {lines[0]}")
        disk.free()
        await until(lambda: list((disk.folder / "leaves").iterdir()))
        rotations = it.rotations()
        await until(lambda: it.rotations() > rotations)
        await load.stop()
        print(f"{load.answered} calls, 0 failed")
        assert it.replica.said(TRYING) == it.application.said(TRYING) == []
