"""What a control plane says of itself to others."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.control.plane import SIGNS_ON, TELLS_EVERY, Plane
from meshproxy.control.plane_records import PlaneRecords
from meshproxy.control.presence import FILE, Presence
from meshproxy.control.store import StoreError
from tests.control.shared import Memory

NOW = 1_000_000_000.0


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = Memory()
        self.records = PlaneRecords(self.objects, "authority")

    def presence(self) -> Presence:
        """Of a process that starts."""
        return Presence(self.records, self.folder, 60.0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_what_is_new_is_said_at_once_and_the_rest_now_and_then(world: World) -> None:
    presence = world.presence()
    assert not presence.may_sign(NOW)
    await presence.first("x", NOW, NOW)
    assert world.records.read().entries == [Plane(presence.name, "x", NOW, 60.0)]
    await presence.tell("x", NOW + TELLS_EVERY - 1.0)
    assert world.records.read().entries[0].confirmed == NOW
    await presence.tell("x", NOW + TELLS_EVERY)
    assert world.records.read().entries[0].confirmed == NOW + TELLS_EVERY
    await presence.tell("y", NOW + TELLS_EVERY + 1.0)
    assert world.records.read().entries == [Plane(presence.name, "y", NOW + TELLS_EVERY + 1.0, 60.0)]
    # It has read nothing, or has something that is not recorded: then it says nothing.
    await presence.tell("z", 0.0)
    assert world.records.read().entries[0].signs_by == "y"


async def test_it_signs_for_a_day_after_it_was_heard_of(world: World, caplog: pytest.LogCaptureFixture) -> None:
    presence = world.presence()
    await presence.first("x", NOW, NOW)
    world.objects.is_away = True
    for later in (TELLS_EVERY, SIGNS_ON - 1.0):
        await presence.tell("x", NOW + later)
    assert len(caplog.records) == 1
    assert presence.signs_until == NOW + SIGNS_ON
    assert presence.may_sign(NOW + SIGNS_ON - 1.0)
    assert not presence.may_sign(NOW + SIGNS_ON)
    # So does the next process in its folder, under the same name.
    again = world.presence()
    await again.first("x", 0.0, NOW + SIGNS_ON - 1.0)
    assert again.name == presence.name
    with pytest.raises(StoreError, match="before the API server has said"):
        await world.presence().first("x", 0.0, NOW + SIGNS_ON)
    world.objects.is_away = False
    await again.first("x", NOW + SIGNS_ON, NOW + SIGNS_ON)
    assert [plane.name for plane in world.records.read().entries] == [presence.name]


async def test_a_start_without_the_right_to_say_so(world: World) -> None:
    world.objects.is_away = True
    with pytest.raises(StoreError, match="it is away"):
        await world.presence().first("x", NOW, NOW)


async def test_one_that_stops_is_not_waited_for(world: World) -> None:
    presence = world.presence()
    await presence.first("x", NOW, NOW)
    await presence.end()
    assert world.records.read().entries == []
    assert not world.presence().may_sign(NOW)  # nobody would know of it


async def test_one_that_cannot_say_that_it_stops(world: World) -> None:
    presence = world.presence()
    await presence.first("x", NOW, NOW)
    world.objects.is_away = True
    await presence.end()
    world.objects.is_away = False
    assert len(world.records.read().entries) == 1
    assert world.presence().may_sign(NOW)


async def test_entries_of_those_that_are_over(world: World) -> None:
    presence = world.presence()
    await presence.first("x", NOW, NOW)
    presence.prune(world.records.read().entries[0].over + 1.0)
    assert world.records.read().entries == []


def test_a_record_that_is_none(world: World) -> None:
    (world.folder / FILE).write_text("{")
    with pytest.raises(StoreError, match="remove it"):
        world.presence()
    (world.folder / FILE).unlink()
    (world.folder / FILE).mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        world.presence()


async def test_a_folder_that_cannot_be_written(world: World) -> None:
    presence = Presence(world.records, world.folder / "none", 60.0)
    with pytest.raises(StoreError, match="cannot be written"):
        await presence.first("x", NOW, NOW)
    assert world.records.read().entries == []  # nobody hears of a name that the next start does not know
