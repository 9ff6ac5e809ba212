"""Answers of a running model that change: the sidecar reads a share of them, the control plane says how far off they
are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import pytest

from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import local_mesh, read_series
from tests.processes.calls import PATH
from tests.processes.mesh import Mesh

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

LEVEL = "meshproxy_control_drift_level"
CLASSES = 'signal="classes"'
RATIO = 0.2


class Watching(Mesh):
    """Its control plane makes a reading of each report that has enough."""

    source: Sequence[str] = (*Mesh.source, "--drift-interval", "2s")


async def test_answers_that_change_are_seen_from_one_reading_to_the_next(tmp_path: Path) -> None:
    async with local_mesh(tmp_path) as local:
        mesh = await Watching.start_with_documents(local, mesh={"telemetry": {"answers": {"ratio": RATIO}}})
        rows = [[3.0, 1.0, 2.0]]
        calls = 0
        is_over = asyncio.Event()

        async def call() -> None:
            nonlocal calls
            async with RestClient(mesh.application.outbound, None) as client:
                while not is_over.is_set():
                    assert (await client.call("POST", PATH, {"instances": rows})).status == "200"
                    calls += 1

        async def level(least: float) -> float:
            """The first one that is not below `least`."""
            while True:
                page = await read_series(str(mesh.control.listening["web"]), "/metrics")
                for series, value in page.items():
                    if series.startswith(LEVEL) and CLASSES in series and value >= least:
                        assert 'direction="inbound",model="half_plus_two"' in series
                        return value
                await asyncio.sleep(0.5)
                if calling.done():
                    calling.result()  # says what is wrong with the calls

        calling = asyncio.create_task(call())
        assert await level(0.0) == 0.0  # three readings were alike, and so is the fourth
        rows[0] = [1.0, 3.0, 2.0]
        assert await level(1.0) > 1.0
        is_over.set()  # a call that is broken off would be chosen, too, and not read
        await calling

        page = await read_series(str(mesh.replica.admin), "/metrics")
        read = page['meshproxy_answers_read_total{result="read"}']
        print(f"{read:.0f} of {calls} answers were read")
        # Binomial, or less, because reading pauses after an answer: it takes a twentieth of the time. Six standard
        # deviations are one run in a billion.
        assert RATIO / 4 * calls < read < RATIO * calls + 6 * sqrt(RATIO * (1 - RATIO) * calls)
        assert sum(value for series, value in page.items() if series.startswith("meshproxy_answers_read_total")) == read
