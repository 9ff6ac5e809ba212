"""Files that change, and those that do not. The clock is the loop's, and looks are made by hand."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from meshproxy.config import file_watch
from meshproxy.config.file_watch import FileWatch


class Counted:
    """How often a watch has called back."""

    def __init__(self, *files: Path) -> None:
        self.count = 0
        self.watch = FileWatch(lambda: files)

    async def look(self) -> int:
        """Look once, as the timer does; calls so far."""
        if self.watch._changed is None:
            self.watch.start(self.changed)
        self.watch._look()
        return self.count

    def changed(self) -> None:
        self.count += 1


async def test_a_change_is_told_once(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("1")
    watched = Counted(file, tmp_path / "b")
    assert await watched.look() == 0
    file.write_text("22")
    assert await watched.look() == 1
    assert await watched.look() == 1
    (tmp_path / "b").write_text("")  # it appears
    assert await watched.look() == 2
    file.unlink()
    assert await watched.look() == 3
    watched.watch.stop()


async def test_a_change_before_the_start_is_told_and_a_known_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("1")
    watched = Counted(file)
    file.write_text("22")
    assert await watched.look() == 1
    file.write_text("333")
    watched.watch.mark()
    assert await watched.look() == 1
    watched.watch.stop()


async def test_who_may_read_it_is_a_change(tmp_path: Path) -> None:
    """A key of another user that is mended with chmod: nothing of it is written."""
    file = tmp_path / "a"
    file.write_text("1")
    file.chmod(0o400)
    watched = Counted(file)
    file.chmod(0o440)
    assert await watched.look() == 1
    watched.watch.stop()


async def test_what_is_stale_has_changed_and_is_not_known_yet(tmp_path: Path) -> None:
    file = tmp_path / "a"
    watched = Counted(file)
    assert not watched.watch.is_stale
    file.write_text("1")
    assert watched.watch.is_stale
    assert await watched.look() == 1
    assert not watched.watch.is_stale
    watched.watch.stop()


async def test_a_swapped_link_is_a_change(tmp_path: Path) -> None:
    """As the kubelet updates a mounted volume: contents of the same size and time, behind another link."""
    for version in ("..1", "..2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "tls.crt").write_text("same")
        os.utime(tmp_path / version / "tls.crt", (1, 1))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "tls.crt").symlink_to("..data/tls.crt")
    watched = Counted(tmp_path / "tls.crt")
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert await watched.look() == 1
    watched.watch.stop()


async def test_a_file_that_loses_its_name_has_changed(tmp_path: Path) -> None:
    """As when another one is renamed to its name, behind a mount of it."""
    (removed := tmp_path / "removed").write_text("1")
    with removed.open() as file:
        watched = Counted(Path(f"/proc/self/fd/{file.fileno()}"))
        removed.unlink()
        assert await watched.look() == 1
        assert await watched.look() == 1
    watched.watch.stop()


async def test_it_looks_by_itself_until_it_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "PERIOD", 0.001)
    looks = 0
    looked = asyncio.Event()

    def files() -> list[Path]:
        nonlocal looks
        looks += 1
        if looks == 4:
            looked.set()
        return [tmp_path]

    watch = FileWatch(files)
    watch.start(lambda: pytest.fail("nothing has changed"))
    await asyncio.wait_for(looked.wait(), 60)
    watch.stop()
    assert watch._timer is None
    watch.stop()


async def test_looks_that_take_long_are_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = FileWatch(lambda: [tmp_path], 0.001)
    watch.start(lambda: None)
    times = iter((1.0, 3.0))
    monkeypatch.setattr(time, "thread_time", lambda: next(times))
    watch.stop()
    watch._look()
    assert watch._timer is not None
    assert watch._timer.when() - asyncio.get_running_loop().time() == pytest.approx(2.0 / file_watch.SHARE, abs=1)
    watch.stop()


async def test_what_could_not_be_used_is_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, without a change; not before it is time, and not if it is read before."""
    (tmp_path / "a").write_text("1")
    watched = Counted(tmp_path / "a")
    watched.watch.again()
    assert await watched.look() == 0
    monkeypatch.setattr(file_watch, "AGAIN", 0.0)
    watched.watch.again()
    assert await watched.look() == 1
    assert await watched.look() == 1
    watched.watch.again()
    watched.watch.mark()
    assert await watched.look() == 1
    watched.watch.stop()
