"""The Lease in an API server that is made up; tests/e2e has a real one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshproxy.control import election as module
from meshproxy.control.cluster import connect
from meshproxy.control.election import Election
from meshproxy.control.lease import DURATION, LEADS
from tests.control.fake_api_server import NO_CREDENTIALS, FakeApiServer
from tests.processes.waiting import until

KEY = ("/apis/coordination.k8s.io/v1/namespaces/mesh/leases", "mesh", "meshproxy-control")


class World:
    """A cluster, and a clock that tests set."""

    def __init__(self, server: FakeApiServer, folder: Path) -> None:
        self.server = server
        self.now = 1_000.0
        self.client = connect(server.write_kubeconfig(folder, "mesh"))

    def election(self, identity: str) -> Election:
        # A whole second: the API server refuses a time without its six digits.
        return Election(self.client, identity, clock=lambda: self.now, wall_clock=lambda: 1_800_000_000.0)


@pytest.fixture
async def world(fake: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(module, "RETRY", 0.01)
    world = World(fake, tmp_path)
    yield world
    await world.client.close()


async def stop(running: asyncio.Task[None]) -> None:
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_one_of_several_leads_and_hands_over_when_it_stops(world: World) -> None:
    elections = {name: world.election(name) for name in "abc"}
    tasks = {name: asyncio.create_task(each.run()) for name, each in elections.items()}

    def leaders() -> list[str]:
        return [name for name in tasks if elections[name].is_leader()]

    await until(leaders)
    (first,) = leaders()
    await until(lambda: all(each.holder == first for each in elections.values()))
    spec = world.server.objects[KEY]["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"], spec["leaseDurationSeconds"]) == (first, 0, DURATION)
    assert spec["renewTime"] == "2027-01-15T08:00:00.000000Z"
    await stop(tasks.pop(first))
    assert not elections[first].is_leader()
    await until(leaders)
    assert world.now == 1_000.0  # nobody waited for the end of the Lease
    spec = world.server.objects[KEY]["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == (leaders()[0], 1)
    for name in sorted(tasks, key=lambda name: elections[name].is_leader()):
        await stop(tasks[name])
    assert "holderIdentity" not in world.server.objects[KEY]["spec"]


async def test_a_leader_that_is_gone_is_followed_by_another(world: World) -> None:
    a, b = world.election("a"), world.election("b")
    await a._attempt()
    assert a.is_leader()
    await b._attempt()
    world.now += LEADS
    assert not a.is_leader()  # by itself, without having heard of anything
    await b._attempt()
    assert not b.is_leader()
    world.now += DURATION - LEADS
    await b._attempt()
    assert b.is_leader()
    await a._attempt()
    assert not a.is_leader()
    assert a.holder == "b"


async def test_an_api_server_that_is_away_for_a_moment(world: World, caplog: pytest.LogCaptureFixture) -> None:
    a = world.election("a")
    await a._attempt()
    world.server.status = 500
    for _ in range(3):
        await a._attempt()
    assert a.is_leader()
    assert a.problem == "the API server answered 500"
    assert [record.message for record in caplog.records] == ["the Lease cannot be kept; trying again"]  # said once
    world.now += LEADS
    assert not a.is_leader()
    world.server.status = 200
    await a._attempt()
    assert (a.is_leader(), a.problem) == (True, "")
    world.server.status = 403
    await a._attempt()
    assert a.problem == "the API server answered 403: this control plane may not get, create and update the Lease"
    await world.server.stop()
    await a._attempt()
    assert re.fullmatch(r"no answer from http://[\d.:]+ \(\w+: .+\)", a.problem)


async def test_credentials_that_cannot_be_had(world: World, tmp_path: Path) -> None:
    client = connect(world.server.write_kubeconfig(tmp_path, "mesh", NO_CREDENTIALS))
    a = Election(client, "a")
    await a._attempt()
    assert a.problem == "no answer (ConfigError)"
    await client.close()


async def test_of_two_that_write_at_once_one_leads(world: World) -> None:
    a, b = world.election("a"), world.election("b")
    await asyncio.gather(a._read(), b._read())
    for each in (a, b):
        proposal = each._candidate.proposal(world.now)
        assert proposal is not None
        await each._write(proposal)
    assert (a.is_leader(), b.is_leader()) == (True, False)


async def test_a_lease_that_somebody_has_emptied(world: World) -> None:
    a = world.election("a")
    await a._attempt()
    world.server._put(KEY, {"metadata": {"name": KEY[2]}}, "MODIFIED")
    await a._attempt()
    assert a.is_leader()


def test_the_clock_goes_on() -> None:
    assert module.seconds_since_boot() <= module.seconds_since_boot()
