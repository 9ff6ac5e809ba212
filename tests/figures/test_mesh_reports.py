"""What the reports of sidecars cost their control plane: seconds of CPU for a minute of them, and memory. Ten thousand
report every ten seconds: a thousand reports a second. `SIDECARS=1000` for fewer, which then report as often in all.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from tests.figures.mesh_of_sidecars import EACH, mesh_of
from tests.figures.simulated_sidecars import CALLERS

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(900)]

SIDECARS = int(os.environ.get("SIDECARS", "10000"))
RATE = 1_000.0
"""Reports a second, of all."""
SECONDS = float(os.environ.get("SECONDS", "60"))
TAKEN = 'meshproxy_control_mesh_reports_total{result="taken"}'
MOST_CPU = 60.0
"""Seconds a minute: one core."""


async def test_the_reports_of_ten_thousand_sidecars(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, SIDECARS, 100) as mesh:
        await mesh.ask("start")
        await mesh.until_in_sync()
        await asyncio.sleep(10)
        memory, cpu, begun = mesh.memory(), mesh.cpu(), time.monotonic()
        await mesh.ask(f"report {SIDECARS / RATE}")
        await asyncio.sleep(SECONDS)
        await mesh.ask("quiet")
        taken, series = -1.0, await mesh.series()
        while taken != (taken := series[TAKEN]):  # the last ones are on their way
            await asyncio.sleep(5)
            series = await mesh.series()
        used, took = mesh.cpu() - cpu, time.monotonic() - begun
        print(
            f"{SIDECARS} sidecars in processes of {EACH}, {CALLERS} rows each: {taken:.0f} reports in {took:.0f} s, "
            f"{used / taken * 1e6:.0f} us of CPU for a report, {used / taken * RATE * 60:.1f} s for a minute "
            f"of {RATE:.0f} a second, "
            f"{(mesh.memory() - memory) / 1024:.1f} MB more"
        )
        for name in sorted(series):
            if "mesh_" in name:
                print(name, series[name])
    assert taken > 0.5 * RATE * SECONDS
    # A minute of as many reports as were asked for: a machine that is busy otherwise gets fewer through.
    assert used / taken * RATE * 60 <= MOST_CPU
