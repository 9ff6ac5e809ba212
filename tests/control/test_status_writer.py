"""What became of objects, written to an API server that is made up; tests/e2e has a real one."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshproxy.control import status_writer as module
from meshproxy.control.cluster import connect
from meshproxy.control.endpoints import EndpointTable, NamedServices
from meshproxy.control.slices import SERVICE_NAME, EndpointSlice, SliceEndpoint, SliceMetadata, SlicePort
from meshproxy.control.status_writer import StatusWriter
from tests.background import running
from tests.control.conftest import FakeServer
from tests.control.fake_api_server import NO_CREDENTIALS, Key
from tests.control.keeping import SPEC, Keeping, keeping
from tests.processes.waiting import until


class Leads:
    """An election that is always won, until it is not."""

    def __init__(self) -> None:
        self.leads = True

    def is_leader(self) -> bool:
        return self.leads


class Holders:
    """What sidecars have."""

    def __init__(self) -> None:
        self.concerned: Counter[str] = Counter()
        self.updated: Counter[str] = Counter()

    def holders(self) -> tuple[Counter[str], Counter[str]]:
        return self.concerned, self.updated


class World:
    def __init__(self, server: FakeServer, it: Keeping) -> None:
        self.fake, self.it = server.fake, it
        self.now = 1_800_000_000.0
        self.election, self.sidecars, self.services = Leads(), Holders(), EndpointTable()
        it.documents.listeners.append(NamedServices(self.services).follow)
        self.client = server.client
        self.namespace = server.namespace
        self.writer = self.another()

    def another(self) -> StatusWriter:
        """As another control plane has it."""
        distribution: Any = self.sidecars
        election: Any = self.election
        documents, clock = self.it.documents, lambda: self.now
        return StatusWriter(self.client, documents, distribution, self.services, election, self.it.metrics, clock)

    def key(self, name: str) -> Key:
        kind, _, short = name.partition("/")
        path = f"/apis/meshproxy.dev/v1alpha1/namespaces/{self.namespace}/{kind.lower()}s"
        return path, self.namespace, short

    def shown(self, name: str) -> dict[str, Any]:
        return self.fake.objects[self.key(name)]

    def status(self, name: str) -> tuple[str, str, int]:
        (condition,) = self.shown(name)["status"]["conditions"]
        return condition["status"], condition["reason"], condition["observedGeneration"]

    def writes(self) -> int:
        return sum(request.path.endswith("/status") for request in self.fake.requests)


@pytest.fixture
async def world(server: FakeServer) -> AsyncIterator[World]:
    async with keeping(server) as it:
        await it.write("MeshConfig", "m", {"trustDomain": "m.example"})
        await it.write("ModelServer", "s", SPEC)
        await it.write("ModelRoute", "r", {"models": ["*"], "server": "nobody"})
        await it.become("MeshConfig/m", "ModelServer/s")
        await until(lambda: it.documents.problems)
        yield World(server, it)


async def test_each_object_is_told_what_became_of_it_once(world: World) -> None:
    await world.writer.look()
    assert world.status("ModelServer/s") == ("True", "Accepted", 1)
    assert world.status("ModelRoute/r") == ("False", "Invalid", 1)
    assert "nobody" in world.shown("ModelRoute/r")["status"]["conditions"][0]["message"]
    assert world.writes() == 3
    requests = len(world.fake.requests)
    for _ in range(3):
        await world.writer.look()
    assert [each.path for each in world.fake.requests[requests:]] == []
    assert world.it.metrics.status_writes.labels("ok").value == 3


async def test_whether_the_service_is_there_that_a_server_names(world: World) -> None:
    def said() -> list[tuple[str, str]]:
        return [(each["type"], each["status"]) for each in world.shown("ModelServer/t")["status"]["conditions"]]

    service = {"namespace": "models", "name": "a", "sidecar": "mesh"}
    await world.it.write("ModelServer", "t", {"service": service, "workload": {"spiffeId": "spiffe://m.example/a"}})
    await world.it.become("MeshConfig/m", "ModelServer/s", "ModelServer/t")
    for slices, expected in ((None, "Unknown"), ([], "False"), ([a_slice("mesh")], "True"), ([], "False")):
        if slices is not None:
            world.services.replace({"models/a"}, slices)
        await world.writer.look()
        assert said() == [("Accepted", "True"), ("ResolvedRefs", expected)]
    writes = world.writes()
    await world.writer.look()
    assert world.writes() == writes


def a_slice(port: str) -> EndpointSlice:
    metadata = SliceMetadata("a-1", "models", {SERVICE_NAME: "a"})
    return EndpointSlice(metadata, (SliceEndpoint(("10.0.0.1",)),), (SlicePort(port, 8500),))


async def test_a_status_is_no_change_of_the_documents(world: World) -> None:
    changes = world.it.changes
    await world.writer.look()
    await world.it.write("ModelServer", "t", SPEC)  # after which the watch has told of the statuses, too
    await world.it.become("MeshConfig/m", "ModelServer/s", "ModelServer/t")
    assert world.it.changes == changes + 1


async def test_a_change_is_told_with_its_generation(world: World) -> None:
    await world.writer.look()
    await world.it.write("ModelRoute", "r", {"models": ["*"], "server": "s"})
    await world.it.become("MeshConfig/m", "ModelServer/s", "ModelRoute/r")
    await until(lambda: not world.it.documents.problems)
    world.now += 60.0
    before = world.shown("ModelServer/s")["metadata"]["resourceVersion"]
    await world.writer.look()
    assert world.status("ModelRoute/r") == ("True", "Accepted", 2)
    assert world.shown("ModelServer/s")["metadata"]["resourceVersion"] == before


async def test_an_object_that_comes_again_as_it_was_is_told(world: World) -> None:
    """It may go and come between two looks."""
    await world.writer.look()
    await world.it.delete("ModelServer", "s")
    await world.it.become("MeshConfig/m")
    await world.it.write("ModelServer", "s", SPEC)
    await world.it.become("MeshConfig/m", "ModelServer/s")
    assert not world.shown("ModelServer/s")["status"]
    await world.writer.look()
    assert world.status("ModelServer/s") == ("True", "Accepted", 1)


async def test_an_object_that_is_changed_and_changed_back_is_told_its_generation(world: World) -> None:
    await world.writer.look()
    await world.it.write("ModelServer", "s", {"endpoints": [{"rest": "b:2"}]})
    await world.it.write("ModelServer", "s", SPEC)
    await until(lambda: world.it.documents.newest["ModelServer/s"].edition.endswith("/3"))
    await world.writer.look()
    assert world.status("ModelServer/s") == ("True", "Accepted", 3)


async def test_what_somebody_has_changed_meanwhile_is_not_judged(world: World) -> None:
    """The verdict would be about another generation than the one it was made of."""
    key = world.key("ModelServer/s")
    shown = world.fake.objects[key]
    world.fake.objects[key] = {**shown, "spec": {"endpoints": [{"rest": "b:2"}]}}  # of which no watch tells
    await world.writer.look()
    assert not world.shown("ModelServer/s")["status"]
    world.fake.objects[key] = shown
    await world.writer.look()
    assert world.status("ModelServer/s") == ("True", "Accepted", 1)


async def test_an_object_that_was_deleted_meanwhile(world: World) -> None:
    world.fake.objects.clear()
    await world.writer.look()
    assert world.writes() == 0
    assert world.it.metrics.status_writes.labels("failed").value == 0


async def test_only_the_leader_writes_and_the_next_one_repeats_nothing(world: World) -> None:
    world.election.leads = False
    await world.writer.look()
    assert world.writes() == 0
    world.election.leads = True
    await world.writer.look()
    assert world.writes() == 3
    world.now += 60.0
    await world.another().look()
    assert world.writes() == 3


async def test_counts_of_sidecars_are_told_now_and_then(world: World) -> None:
    await world.writer.look()
    writes = world.writes()
    world.sidecars.concerned["ModelServer/s"] = 5
    world.sidecars.updated["ModelServer/s"] = 4
    await world.writer.look()
    assert world.writes() == writes
    world.now += module.COUNTS_EVERY
    await world.writer.look()
    assert world.writes() == writes + 1
    assert world.shown("ModelServer/s")["status"]["sidecars"] == {"concerned": 5, "updated": 4}


async def test_writes_are_paced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OBJECTS_A_LOOK", 2)
    await world.writer.look()
    assert world.writes() == 2
    was_told = bool(world.shown("ModelRoute/r").get("status"))
    await world.it.write("ModelRoute", "r", {"models": ["*"], "server": "s"})
    await until(lambda: not world.it.documents.problems)
    await world.writer.look()
    await world.writer.look()
    assert world.writes() == (4 if was_told else 3)
    assert world.status("ModelRoute/r") == ("True", "Accepted", 2)


async def test_an_api_server_that_refuses(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.fake.status = 403
    for _ in range(2):
        await world.writer.look()
    said = [record for record in caplog.records if "status of objects" in record.message]
    assert len(said) == 1
    assert "may not get objects and patch their status" in said[0].__dict__["fields"]["problem"]
    assert world.it.metrics.status_writes.labels("failed").value == 3  # each object once: no loop
    world.fake.status = 200
    await world.writer.look()
    assert world.writes() == 0
    world.now += module.AGAIN_AFTER
    await world.writer.look()
    assert world.writes() == 3


async def test_an_api_server_that_is_away(world: World) -> None:
    await world.fake.stop()
    for _ in range(2):
        await world.writer.look()
    assert world.it.metrics.status_writes.labels("failed").value == 2  # one object each time
    await world.fake.start()
    await world.writer.look()
    assert world.writes() == 3


async def test_credentials_that_cannot_be_had(world: World, tmp_path: Path) -> None:
    world.client = connect(world.fake.write_kubeconfig(tmp_path, world.namespace, NO_CREDENTIALS))
    await world.another().look()
    assert world.it.metrics.status_writes.labels("failed").value == 1
    assert world.writes() == 0
    await world.client.close()


async def test_it_looks_again_and_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD", 0.01)
    async with running(world.writer.run()):
        await until(lambda: world.writes() == 3)
