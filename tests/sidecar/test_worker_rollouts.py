"""The rollouts of one of several workers: a stream and a file of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from meshproxy.config.fields import Metadata
from meshproxy.config.sidecars import ControlPlane, Inbound, Sidecar, SidecarSpec
from meshproxy.config.values import Address
from meshproxy.routing.carried_state import CarriedState
from meshproxy.sidecar.rollouts import Rollouts
from meshproxy.sidecar.worker_rollouts import WorkerRollouts
from tests.processes.waiting import until
from tests.sidecar.test_rollouts import DOCUMENT, state


def worker(folder: Path, number: int) -> tuple[WorkerRollouts, Rollouts, CarriedState]:
    """A process: what it has on disk outlives it."""
    settings = ControlPlane(
        address=Address("127.0.0.1", 1),
        spiffe_id="spiffe://example.org/control",
        trust_bundle="/bundle",
        folder=str(folder),
    )
    own = Sidecar(metadata=Metadata("s"), spec=SidecarSpec(inbound=Inbound(server="local"), workers=2))
    live = CarriedState()
    it = WorkerRollouts(own, settings, number)
    rollouts = it.rollouts(live, lambda rollout: None)
    live.live_split(DOCUMENT)
    live.adopt()
    rollouts.adopt(SimpleNamespace(rollouts=(DOCUMENT,)))  # type: ignore[arg-type]
    return it, rollouts, live


async def test_each_has_a_state_of_its_own(tmp_path: Path) -> None:
    for number, weight in enumerate((20.0, 40.0)):
        worker(tmp_path, number)[1].take([state(weight)])
    for number, weight in enumerate((20.0, 40.0)):
        _, _, live = worker(tmp_path, number)
        assert [split.weight for split in live.splits()] == [weight]


async def test_while_the_control_plane_is_away_weights_stay_and_it_ends_when_it_is_told_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    it, rollouts, live = worker(tmp_path, 0)
    rollouts.take([state(20.0)])
    following = asyncio.create_task(it.run())
    await until(lambda: "weights stay as they are" in caplog.text)
    following.cancel()
    await asyncio.wait([following])
    assert following.cancelled()
    assert [split.weight for split in live.splits()] == [20.0]
