"""The certificates that are out, as control planes without a common folder keep them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshproxy.control.leaf import Leaf
from meshproxy.control.leaves import FolderLeaves, Roll, Sighting
from meshproxy.control.shared_leaves import SharedLeaves
from meshproxy.control.shared_objects import MOST_BYTES, Full
from meshproxy.control.store import Changed, StoreError
from meshproxy.control_api import leaf_name
from meshproxy.installation.rights import record_names
from tests.control.shared import Memory

NOW = 1_000_000_000.0
ID = "spiffe://m.example/ns/models/sa/resnet"


def leaf(number: int, life: float = 60.0, **more: object) -> Leaf:
    return Leaf(leaf_name(bytes([number]), NOW + life), ID, "a1", **more)  # type: ignore[arg-type]


@pytest.fixture
def objects() -> Memory:
    return Memory()


@pytest.fixture
def kept(objects: Memory) -> SharedLeaves:
    return SharedLeaves(objects, "authority")


def test_they_are_kept_until_they_expire(kept: SharedLeaves, objects: Memory) -> None:
    assert kept.valid(NOW) == []
    leaves = [leaf(number, 10.0 + number) for number in range(40)]
    kept.write(leaves)
    assert kept.valid(NOW) == leaves
    assert len(objects.writes) == len(set(objects.writes)) > 8
    assert {name for _, name in objects.writes} <= set(record_names("authority"))
    kept.prune(NOW + 20.0)
    assert kept.valid(NOW) == leaves[10:]


def test_what_sidecars_say_of_certificates_in_several_objects(kept: SharedLeaves) -> None:
    """The one that is replaced has its record elsewhere, and another control plane has written it."""
    first, second = leaf(1, 10.0), leaf(2, 20.0, replaces=leaf(1, 10.0).name)
    kept.write([first])
    kept.write([second])
    kept.note([], [Sighting(leaf(2, 20.0, roots="new", sidecar="replica"), False)])
    one, two = kept.valid(NOW)
    assert (one.is_replaced, two.is_replaced, two.roots, two.sidecar) == (True, False, "new", "replica")
    kept.note([], [Sighting(leaf(3, 30.0), False)])
    assert kept.valid(NOW) == [one, two]
    kept.note([], [Sighting(leaf(3, 30.0), True)])
    assert kept.valid(NOW) == [one, two, leaf(3, 30.0)]


def test_a_late_record_takes_nothing_back(kept: SharedLeaves) -> None:
    kept.note([], [Sighting(leaf(1, roots="new"), True)])
    kept.note([leaf(1, roots="old"), leaf(2, roots="old")], [])
    assert {each.roots for each in kept.valid(NOW)} == {"new", "old"}


def test_what_others_write_meanwhile_is_not_overwritten(kept: SharedLeaves, objects: Memory) -> None:
    kept.write([leaf(1, roots="a")])
    turns = iter(range(2))

    def somebody() -> None:
        if next(turns, None) is not None:
            before, objects.before_write = objects.before_write, lambda: None
            kept.note([], [Sighting(leaf(1, roots="b", sidecar="other"), False), Sighting(leaf(9), True)])
            kept.prune(NOW)
            objects.write("configmaps", f"authority-certificates-{leaf(1).name.partition('-')[2][0]}", {})
            objects.before_write = before

    objects.before_write = somebody
    kept.note([], [Sighting(leaf(1, roots="c", sidecar="mine"), False)])
    assert [(each.roots, each.sidecar) for each in kept.valid(NOW) if each.name == leaf(1).name] == [("c", "mine")]
    assert leaf(9) in kept.valid(NOW)
    objects.before_write = objects.touch
    with pytest.raises(Changed, match="all the time"):
        kept.note([], [Sighting(leaf(1, roots="d"), False)])


def test_a_record_that_is_none(kept: SharedLeaves, objects: Memory) -> None:
    objects.write("configmaps", "authority-certificates-0", {"x": "half"})
    for action in (lambda: kept.valid(NOW), lambda: kept.prune(NOW)):
        with pytest.raises(StoreError, match="mesh/authority-certificates-0 is not the record of a certificate"):
            action()


async def test_what_cannot_be_recorded_is_written_when_it_can_be(
    kept: SharedLeaves, objects: Memory, tmp_path: Path
) -> None:
    """Also by the next process in the same folder: until then, no step of a rotation is safe (`presence`)."""
    spare = FolderLeaves(tmp_path)
    roll = Roll(kept, spare, NOW)
    assert roll.is_written
    objects.is_away = True
    await roll.issued(leaf(1))
    await roll.flush()
    assert not roll.is_written
    assert spare.valid(NOW) == [leaf(1)]
    again = Roll(kept, spare, NOW)
    assert not again.is_written
    objects.is_away = False
    await again.flush()
    assert again.is_written
    assert kept.valid(NOW) == [leaf(1)]
    assert spare.valid(NOW) == []


def test_how_full_the_records_are(kept: SharedLeaves, objects: Memory) -> None:
    assert kept.used == 0.0
    kept.write([leaf(1), leaf(2)])
    kept.prune(NOW)
    most = max(sum(map(len, data.values())) for data in objects.data.values())
    assert kept.used == most / MOST_BYTES


def test_one_that_is_full_does_not_keep_the_others_out(
    kept: SharedLeaves, objects: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves = [leaf(number) for number in range(40)]
    names = record_names("authority")
    full = next(name for name in names if name.endswith(leaves[0].name.partition("-")[2][0]))
    write = objects.write

    def refuse(kind: str, name: str, *more: Any) -> None:
        if name == full:
            raise Full(f"the ConfigMap mesh/{name} is full: an object takes 1 MiB")
        write(kind, name, *more)

    monkeypatch.setattr(objects, "write", refuse)
    with pytest.raises(StoreError, match=r"is full: .* Restart "):
        kept.write(leaves[:30])
    with pytest.raises(StoreError, match=r"is full: .* Restart "):
        kept.note([*leaves[:2], *leaves[30:]], [])
    found = kept.valid(NOW)
    assert set(found) < set(leaves)
    assert {each.name.partition("-")[2][0] for each in set(leaves) - set(found)} == {full[-1]}


def test_records_that_are_full(kept: SharedLeaves, objects: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads the log knows what to do, and until when."""

    def refuse(*_: object) -> None:
        raise Full("the ConfigMap mesh/x is full: an object takes 1 MiB")

    monkeypatch.setattr(objects, "write", refuse)
    with pytest.raises(StoreError, match=r"MiB\. Restart .* --lifetime: .* within a day, nothing is issued"):
        kept.write([leaf(1)])
    with pytest.raises(StoreError, match=r"MiB\. Restart "):
        kept.note([leaf(1)], [])
