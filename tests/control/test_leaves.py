"""The certificates that are out, in a folder."""

from __future__ import annotations

import asyncio
import logging
import stat
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from meshproxy.control import leaves as module
from meshproxy.control.leaf import Leaf
from meshproxy.control.leaves import FolderLeaves, Roll
from meshproxy.control.store import LEAVES, StoreError
from meshproxy.control_api import leaf_name
from meshproxy.identity.private_files import replace_file

NOW = 1_000_000_000.0
ID = "spiffe://m.example/ns/models/sa/resnet"


def leaf(number: int, life: float = 60.0, **more: object) -> Leaf:
    return Leaf(leaf_name(bytes([number]), NOW + life), ID, "a1", **more)  # type: ignore[arg-type]


@pytest.fixture
def kept(tmp_path: Path) -> FolderLeaves:
    return FolderLeaves(tmp_path)


def test_they_are_kept_until_they_expire(kept: FolderLeaves) -> None:
    assert kept.valid(NOW) == []
    kept.prune(NOW)
    short, long = leaf(1, 10.0, sidecar="replica"), leaf(2, 20.0)
    for each in (long, short):
        kept.write([each])
    assert kept.valid(NOW) == [short, long]
    assert kept.read(short.name) == short
    assert kept.read(leaf(3).name) is None
    # To the end of the second in which it expires: names have no fractions.
    assert kept.valid(NOW + 10.9) == [short, long]
    assert kept.valid(NOW + 11.0) == [long]
    kept.prune(NOW + 11.0)
    assert [path.name for path in kept.folder.iterdir()] == [long.name]
    assert stat.S_IMODE((kept.folder / long.name).stat().st_mode) == 0o600


def test_other_files_are_left_alone(kept: FolderLeaves) -> None:
    kept.write([leaf(1)])
    (kept.folder / f".{leaf(2).name}.7.new").write_text("half")
    assert kept.valid(NOW) == [leaf(1)]
    kept.prune(NOW + 1_000.0)
    assert len(list(kept.folder.iterdir())) == 1
    (kept.folder / leaf(2).name).write_text("half")
    with pytest.raises(StoreError, match="not the record of a certificate: remove it"):
        kept.valid(NOW)


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / LEAVES).touch()
    kept = FolderLeaves(tmp_path)
    for action in (lambda: kept.write([leaf(1)]), lambda: kept.valid(NOW), lambda: kept.prune(NOW)):
        with pytest.raises(StoreError, match="cannot be"):
            action()
    with pytest.raises(StoreError, match="cannot be read: Not a directory"):
        kept.read(leaf(1).name)


# What a control plane tells


async def test_what_a_sidecar_says_of_its_certificate(kept: FolderLeaves) -> None:
    roll = Roll(kept)
    await roll.issued(leaf(1, roots="old"))
    roll.seen(leaf(1).name, leaf(1, roots="new", sidecar="replica", peer="10.0.0.1:1"))
    assert kept.valid(NOW) == [leaf(1, roots="old")]
    await roll.flush()
    assert kept.valid(NOW) == [leaf(1, roots="new", sidecar="replica", peer="10.0.0.1:1")]
    await roll.flush()


async def test_a_sidecar_that_connects_again_costs_no_write(
    kept: FolderLeaves, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand do so when a control plane is started again."""
    roll = Roll(kept)
    await roll.issued(leaf(1, roots="old", sidecar="replica"))
    with monkeypatch.context() as patched:
        patched.setattr(module, "replace_file", lambda *arguments: pytest.fail("it is known"))
        roll.seen(leaf(1).name, leaf(1, roots="old", sidecar="replica", peer="10.0.0.1:2"))
        await roll.flush()
    assert kept.valid(NOW) == [leaf(1, roots="old", sidecar="replica")]


async def test_the_next_certificate_replaces_one_when_it_is_in_use(kept: FolderLeaves) -> None:
    roll = Roll(kept)
    await roll.issued(leaf(1, 10.0))
    await roll.issued(leaf(2, 20.0, replaces=leaf(1, 10.0).name))
    assert [each.is_replaced for each in kept.valid(NOW)] == [False, False]
    roll.seen(leaf(1, 10.0).name, leaf(2, 20.0, roots="new"))  # on a connection that was made with the first one
    await roll.flush()
    first, second = kept.valid(NOW)
    assert (first.is_replaced, second.is_replaced, second.replaces, second.roots) == (True, False, "", "new")
    # It was not stored: the sidecar goes on with the first one.
    roll.seen(leaf(1, 10.0).name, leaf(1, 10.0))
    await roll.flush()
    assert not kept.valid(NOW)[0].is_replaced


async def test_what_is_not_known_is_believed_of_the_certificate_that_is_shown(kept: FolderLeaves) -> None:
    roll = Roll(kept)
    roll.seen(leaf(1).name, leaf(2))
    await roll.flush()
    assert kept.valid(NOW) == []
    roll.seen(leaf(1).name, leaf(1))
    await roll.flush()
    assert kept.valid(NOW) == [leaf(1)]


async def test_a_sidecar_speaks_for_its_own_identity_only(kept: FolderLeaves) -> None:
    roll = Roll(kept)
    await roll.issued(leaf(1, roots="old"))
    other = Leaf(leaf(1).name, "spiffe://m.example/ns/models/sa/other", "a1", roots="new")
    roll.seen(leaf(2).name, other)
    await roll.flush()
    assert kept.valid(NOW) == [leaf(1, roots="old")]


async def test_a_full_disk_keeps_nobody_from_a_certificate(
    kept: FolderLeaves, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    roll = Roll(kept)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "replace_file", full)
    monkeypatch.setattr(module, "UNWRITTEN", 2)
    for number in (1, 2, 3):
        await roll.issued(leaf(number))
    roll.seen(leaf(3).name, leaf(3, roots="new"))
    await roll.flush()
    assert [record.message for record in caplog.records] == [
        "what certificates are out cannot be written; trying again"
    ]
    monkeypatch.setattr(module, "replace_file", replace_file)
    await roll.flush()
    assert {each.name: each.roots for each in kept.valid(NOW)} == {leaf(2).name: "", leaf(3).name: "new"}


async def test_certificates_that_are_asked_for_meanwhile_are_written_together(kept: FolderLeaves) -> None:
    """In a cluster each write is a call of the API server."""
    batches: list[int] = []

    class Counting(FolderLeaves):
        def write(self, leaves: Iterable[Leaf]) -> None:
            found = list(leaves)
            batches.append(len(found))
            super().write(found)

    roll = Roll(Counting(kept.folder.parent))
    await asyncio.gather(*(roll.issued(leaf(number)) for number in range(20)))
    assert sum(batches) == 20
    assert len(batches) <= 2
    assert len(kept.valid(NOW)) == 20


async def test_whoever_leaves_meanwhile_takes_no_record_along(kept: FolderLeaves) -> None:
    """A client ends its call while its certificate is written together with another."""
    begun: asyncio.Queue[set[str]] = asyncio.Queue()
    go_on = threading.Semaphore(0)
    loop = asyncio.get_running_loop()

    class Slow(FolderLeaves):
        def write(self, leaves: Iterable[Leaf]) -> None:
            loop.call_soon_threadsafe(begun.put_nowait, {leaf.name for leaf in leaves})
            go_on.acquire(timeout=10)
            raise StoreError("it is away")

    roll = Roll(Slow(kept.folder.parent))
    first = asyncio.ensure_future(roll.issued(leaf(1)))
    assert await begun.get() == {leaf(1).name}
    leaves_early, stays = (asyncio.ensure_future(roll.issued(leaf(number))) for number in (2, 3))
    await asyncio.sleep(0)
    go_on.release()
    await first
    assert await begun.get() == {leaf(2).name, leaf(3).name}
    failures = roll.failures
    leaves_early.cancel()
    await asyncio.wait([leaves_early])
    for _ in range(10):  # turns of the loop in which it could go on
        await asyncio.sleep(0)
    assert not stays.done()
    go_on.release()
    await stays
    assert leaves_early.cancelled()
    assert roll.failures == failures + 1
