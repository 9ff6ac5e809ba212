"""Rollouts under load, with real processes: two versions in one model server, the sidecar beside it chooses.

No call is lost by a change of the weight, whoever makes it; and a candidate that fails is out after a few calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshproxy.devtools.local_mesh import local_mesh
from tests.processes.calls import Load
from tests.processes.rollouts import MISSING, RolloutMesh
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

LOST = 7 + 8
"""Calls that a failing candidate may cost: seven in a row are enough, and each of eight callers may be waiting."""


@asynccontextmanager
async def rollout(tmp_path: Path, candidate: int, workers: int = 1, **analysis: Any) -> AsyncIterator[RolloutMesh]:
    async with local_mesh(tmp_path / "mesh") as local:
        model_server = await local.model_server("--model", "half_plus_two=1,2")
        yield await RolloutMesh.under_way(local, model_server, "half_plus_two", candidate, workers, **analysis)


def load_of(it: RolloutMesh) -> Load:
    return Load(it.application.outbound, None, rest=[True] * 4, grpc=[True] * 4, pause=0.002)


async def test_a_good_version_is_promoted_and_no_call_is_lost(tmp_path: Path) -> None:
    async with rollout(tmp_path, 2) as it:
        load = load_of(it)
        await it.becomes("promoted")
        await it.has(100.0)
        await load.more(200)
        await load.stop()
        print(f"promoted; {load.answered} calls, 0 failed")


async def test_an_abort_loses_no_call(tmp_path: Path) -> None:
    async with rollout(tmp_path, 2, stepWeights=[50], interval="30s") as it:
        load = load_of(it)
        await it.has(50.0)
        await load.more(100)
        await asyncio.to_thread(it.order, "abort")
        await it.has(0.0)
        await load.more(200)
        await load.stop()
        assert (await it.status())["phase"] == "rolled-back"
        print(f"aborted; {load.answered} calls, 0 failed")


async def test_a_version_that_fails_is_out_at_once(tmp_path: Path) -> None:
    async with rollout(tmp_path, MISSING, stepWeights=[50], interval="30s") as it:
        await it.has(50.0)
        load = load_of(it)
        await it.has(0.0)
        lost = await rest_of(load)
        await load.stop()
        await it.becomes("rolled-back")
        print(f"out after {lost} failed calls of both surfaces; {load.answered} went well")


async def test_a_version_that_is_not_available_gets_no_call(tmp_path: Path) -> None:
    async with rollout(tmp_path, MISSING, is_checked=True, stepWeights=[50], interval="1s") as it:
        load = load_of(it)

        async def is_held() -> bool:
            verdict: dict[str, Any] = (await it.status()).get("verdict") or {}
            return verdict.get("outcome") == "insufficient"

        await until(is_held)
        await load.more(200)
        await load.stop()
        assert await it.weight() == 0.0
        assert (await it.status())["phase"] == "progressing"
        print(f"held at 0; {load.answered} calls, 0 failed")


async def test_several_workers_move_together(tmp_path: Path) -> None:
    async with rollout(tmp_path, 2, workers=2) as it:
        load = load_of(it)
        await it.becomes("promoted")
        await it.has(100.0)
        await load.more(200)
        await load.stop()
        print(f"promoted by two workers; {load.answered} calls, 0 failed")
        await it.control.kill()
        await it.restart_replica()
        await it.has(100.0)


async def test_what_one_of_several_workers_sees_all_of_them_heed(tmp_path: Path) -> None:
    """At once: the end of an interval is further off than anybody waits here."""
    async with rollout(tmp_path, MISSING, workers=2, stepWeights=[50], interval="10m") as it:
        await it.has(50.0)
        # One caller over gRPC: one connection between the sidecars, and one worker that has all calls.
        load = Load(it.application.outbound, None, rest=[], grpc=[True], pause=0.002)
        await it.has(0.0)
        await rest_of(load)
        await load.stop()
        await it.becomes("rolled-back")


async def test_the_control_plane_is_away_at_the_moment_of_the_rollback(tmp_path: Path) -> None:
    async with rollout(tmp_path, MISSING, stepWeights=[50], interval="30s") as it:
        await it.has(50.0)
        await it.control.kill()
        load = load_of(it)
        await it.has(0.0)
        await rest_of(load)
        await load.stop()
        # A sidecar that starts anew meanwhile remembers: no call of it goes to what has failed.
        await it.restart_replica()
        assert await it.weight() == 0.0
        load = load_of(it)
        await load.more(200)
        await load.stop()
        await it.restart_control()
        await it.becomes("rolled-back")
        assert await it.weight() == 0.0


async def rest_of(load: Load) -> int:
    """The candidate is out: how many calls have failed until all that were under way are over, and none from then
    on."""
    under_way = load.answered + len(load.failures) + 16
    await until(lambda: load.answered + len(load.failures) >= under_way)
    lost = len(load.failures)
    load.failures.clear()
    await load.more(200)
    assert 0 < lost <= LOST
    return lost


async def test_the_control_plane_is_killed_in_the_middle_of_a_step(tmp_path: Path) -> None:
    async with rollout(tmp_path, 2, interval="2s") as it:
        load = load_of(it)

        async def is_under_way() -> bool:
            return await it.weight() in (20.0, 60.0)

        await until(is_under_way)
        await it.control.kill()
        weight = await it.weight()
        await load.more(200)
        assert 0.0 < await it.weight() == weight < 100.0
        await it.restart_control()
        await it.becomes("promoted")
        await it.has(100.0)
        await load.more(100)
        await load.stop()
        print(f"promoted after a restart; {load.answered} calls, 0 failed")
