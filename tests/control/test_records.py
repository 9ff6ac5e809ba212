"""What a control plane records, and what it says of itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshproxy.control import records as module
from meshproxy.control.authority import Authority, RequestRefused
from meshproxy.control.leaf import Leaf
from meshproxy.control.leaves import FolderLeaves, Roll
from meshproxy.control.plane import SIGNS_ON, TELLS_EVERY
from meshproxy.control.plane_records import PlaneRecords
from meshproxy.control.presence import Presence
from meshproxy.control.records import PRUNE_SECONDS, Records
from meshproxy.control.root_rotation import in_force
from meshproxy.control.shared_leaves import SharedLeaves
from meshproxy.control.store import StoreError
from meshproxy.control_api import leaf_name
from tests.background import running
from tests.control.shared import Memory
from tests.processes.waiting import until

NOW = 1_000_000_000.0


def leaf(number: int, life: float = 60.0) -> Leaf:
    return Leaf(leaf_name(bytes([number]), NOW + life), "spiffe://m.example/ns/models/sa/resnet", "a1")


class World:
    """A control plane that shares its authority with others."""

    def __init__(self, folder: Path) -> None:
        self.now = self.read_at = NOW
        self.objects = Memory()
        self.authority = Authority.create("m.example", NOW)
        self.leaves = SharedLeaves(self.objects, "authority")
        self.roll = Roll(self.leaves, FolderLeaves(folder), NOW)
        self.planes = PlaneRecords(self.objects, "authority")
        presence = Presence(self.planes, folder, 60.0)
        self.records = Records(
            lambda: self.authority, self.leaves, self.roll, presence, lambda: self.read_at, lambda: self.now
        )

    @contextmanager
    def is_full(self) -> Iterator[None]:
        """No certificate can be recorded meanwhile."""

        def refuse(*what: object) -> None:
            raise StoreError("the ConfigMap is full")

        with pytest.MonkeyPatch.context() as full:
            full.setattr(self.leaves, "write", refuse)
            full.setattr(self.leaves, "note", refuse)
            yield

    def said(self) -> list[tuple[str, float]]:
        return [(plane.signs_by, plane.confirmed) for plane in self.planes.read().entries]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.0)
    return World(tmp_path)


async def test_it_signs_once_others_know_of_it_and_for_a_day(world: World) -> None:
    with pytest.raises(RequestRefused, match="cut off"):
        world.records.signer()
    await world.records.begin()
    assert world.said() == [(in_force(world.authority), NOW)]
    assert world.records.signer() is world.authority
    world.now += SIGNS_ON
    with pytest.raises(RequestRefused, match="cut off from the API server for a day"):
        world.records.signer()


async def test_nothing_is_issued_before_others_could_know_of_it(world: World) -> None:
    world.objects.is_away = True
    with pytest.raises(StoreError, match="it is away"):
        await world.records.begin()


async def test_it_says_nothing_while_a_certificate_has_no_record(world: World) -> None:
    await world.records.begin()
    before = world.said()
    with world.is_full():
        await world.roll.issued(leaf(1))
        failures = world.roll.failures
        world.authority, world.read_at = Authority.create("m.example", NOW), NOW + TELLS_EVERY
        async with running(world.records.follow()):
            await until(lambda: world.roll.failures > failures + 2)
    assert world.said() == before
    async with running(world.records.follow()):
        await until(lambda: world.said() != before)
    assert world.leaves.valid(NOW) == [leaf(1)]
    assert world.said() == [(in_force(world.authority), NOW + TELLS_EVERY)]


async def test_the_end_is_said_once_all_is_recorded(world: World) -> None:
    await world.records.begin()
    with world.is_full():
        await world.roll.issued(leaf(1))
        await world.records.end()
    assert len(world.said()) == 1
    await world.records.end()
    assert world.said() == []
    assert world.leaves.valid(NOW) == [leaf(1)]


async def test_what_has_expired_is_forgotten_now_and_then(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.leaves.write([leaf(1), leaf(2, PRUNE_SECONDS * 2)])
    async with running(world.records.follow()):
        world.now += PRUNE_SECONDS + 2.0
        await until(lambda: world.leaves.valid(NOW) == [leaf(2, PRUNE_SECONDS * 2)])
        world.objects.is_away = True
        world.now += PRUNE_SECONDS
        with caplog.at_level(logging.ERROR):
            await until(lambda: "expired certificates are not removed" in caplog.messages)


async def test_one_that_shares_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.0)
    leaves, authority = FolderLeaves(tmp_path), Authority.create("m.example", NOW)
    roll = Roll(leaves)
    records = Records(lambda: authority, leaves, roll, clock=lambda: NOW)
    await records.begin()
    assert records.signer() is authority
    roll.seen(leaf(1).name, leaf(1))
    async with running(records.follow()):
        await until(lambda: leaves.valid(NOW) == [leaf(1)])
    await records.end()
