"""Answers of a running model that change: the sidecar reads a share of them, the control plane says how far off they
are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import local_mesh, read_series
from tests.processes.calls import PATH
from tests.processes.mesh import Mesh

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(240)]

LEVEL = "meshproxy_control_drift_level"
CLASSES = 'signal="classes"'


class Watching(Mesh):
    """Its control plane makes a reading of each report that has enough."""

    source: Sequence[str] = (*Mesh.source, "--drift-interval", "2s")


async def test_answers_that_change_are_seen_from_one_reading_to_the_next(tmp_path: Path) -> None:
    async with local_mesh(tmp_path) as local:
        mesh = await Watching.start_with_documents(local, mesh={"telemetry": {"answers": {"ratio": 0.2}}})
        rows = [[3.0, 1.0, 2.0]]
        calls = 0

        async def call() -> None:
            nonlocal calls
            async with RestClient(mesh.application.outbound, None) as client:
                while True:
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
        calling.cancel()
        with suppress(asyncio.CancelledError):
            await calling

        page = await read_series(str(mesh.replica.admin), "/metrics")
        read = page['meshproxy_answers_read_total{result="read"}']
        assert 0.1 < read / calls < 0.22  # reading pauses after an answer, so that it takes a twentieth of the time
        assert sum(value for series, value in page.items() if series.startswith("meshproxy_answers_read_total")) == read
