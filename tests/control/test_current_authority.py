"""The authority in force, while an operator rotates it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from meshproxy.control import current_authority as module
from meshproxy.control.authority import Authority
from meshproxy.control.current_authority import CurrentAuthority
from meshproxy.control.leaves import FolderLeaves
from meshproxy.control.rotator import Rotator
from meshproxy.control.store import CERTIFICATE, KEY, ROTATION, FolderStore
from meshproxy.control_api import roots_digest

NOW = 1_000_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


async def test_it_is_what_the_store_has_at_this_moment(store: FolderStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    current = CurrentAuthority(store, "m.example", NOW)
    seen: list[Authority] = []
    current.changed = seen.append
    first = current()
    assert current() is first
    Rotator(store, FolderLeaves(store.folder), lambda: NOW).forward()
    second = current()
    assert (second.id, seen) == (first.id, [second])
    assert second.bundle_pem != first.bundle_pem
    assert caplog.records[-1].__dict__["fields"] == {
        "signs": first.id,
        "trust_bundle": roots_digest(second.bundle_pem),
    }
    Rotator(store, FolderLeaves(store.folder), lambda: NOW + 60.0).forward()
    assert current().id != first.id


async def test_files_that_are_only_touched(store: FolderStore) -> None:
    current = CurrentAuthority(store, "m.example", NOW)
    first = current()
    current.changed = lambda authority: pytest.fail("it is the same")
    (store.folder / CERTIFICATE).touch()
    assert current() is first


async def test_the_last_good_one_stays(store: FolderStore, caplog: pytest.LogCaptureFixture) -> None:
    current = CurrentAuthority(store, "m.example", NOW)
    first = current()
    caplog.clear()
    (store.folder / ROTATION).write_text("{")
    (store.folder / ROTATION).chmod(0o600)
    assert current() is first
    assert current() is first
    assert [record.message for record in caplog.records] == ["authority rejected; keeping the previous one"]
    (store.folder / ROTATION).unlink()
    for file in store.folder.iterdir():
        if file.is_file():
            file.unlink()
    assert current() is first  # and no new one is made
    assert "has no authority of m.example any more" in str(caplog.records[-1].__dict__["fields"])
    assert "before the next start, which would be refused, or make a new root" in current.problem
    assert not (store.folder / CERTIFICATE).exists()


async def test_files_that_were_away_and_are_back_as_they_were(
    store: FolderStore, caplog: pytest.LogCaptureFixture
) -> None:
    current = CurrentAuthority(store, "m.example", NOW)
    first = current()
    caplog.clear()
    for _ in range(2):
        for name in (CERTIFICATE, KEY):
            (store.folder / name).rename(store.folder / f"{name}.away")
        assert current() is first
        assert current.problem
        for name in (CERTIFICATE, KEY):
            (store.folder / f"{name}.away").rename(store.folder / name)
        assert current() is first
        assert not current.problem
    assert len(caplog.records) == 2  # told each time


async def test_it_is_looked_at_without_being_asked(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD", 0.01)
    current = CurrentAuthority(store, "m.example", NOW)
    seen = asyncio.Queue[Authority]()
    current.changed = seen.put_nowait
    following = asyncio.create_task(current.follow())
    Rotator(store, FolderLeaves(store.folder), lambda: NOW).forward()
    async with asyncio.timeout(60):
        assert await seen.get() is current()
    following.cancel()
