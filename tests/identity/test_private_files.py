"""Files that are written as a whole."""

from __future__ import annotations

import os
import stat
from errno import EACCES, EDQUOT, ENOSPC
from pathlib import Path

import pytest

from meshproxy.identity import private_files as module
from meshproxy.identity.private_files import replace_file, replace_or_overwrite


def test_content_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("old")
    path.chmod(0o644)
    replace_file(path, b"new", 0o600)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_left_behind_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / f".key.pem.{os.getpid()}.new").write_text("half")
    replace_file(tmp_path / "key.pem", b"new", 0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "no/key.pem", b"", 0o600)


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt may be another thread's: it has another name, and would not come across the file with a key."""
    path = tmp_path / "key.pem"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"new", 0o600)
    assert (list(tmp_path.iterdir()), path.read_text()) == ([path], "old")


@pytest.mark.parametrize("survives", [True, False])
def test_the_disk_is_waited_for_only_if_the_file_is_to_survive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survives: bool
) -> None:
    synced: list[bytes] = []
    new = tmp_path / f".a.{os.getpid()}.new"
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(new.read_bytes()))
    replace_file(tmp_path / "a", b"content", 0o600, survives=survives)
    assert synced == ([b"content"] if survives else [])
    assert (tmp_path / "a").read_bytes() == b"content"


def fail(monkeypatch: pytest.MonkeyPatch, where: object, name: str, number: int) -> None:
    def failing(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(where, name, failing)


class TestFullDisk:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "key.pem"
        assert not replace_or_overwrite(path, b"the one before", 0o600)
        return path

    @pytest.mark.parametrize("number", [ENOSPC, EDQUOT])
    @pytest.mark.parametrize("content", [b"shorter", b"longer than the one before"])
    def test_it_is_written_over_the_one_before(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, number: int, content: bytes
    ) -> None:
        before = path.stat().st_ino
        fail(monkeypatch, module, "replace_file", number)
        assert replace_or_overwrite(path, content, 0o600)
        assert (path.read_bytes(), path.stat().st_ino) == (content, before)

    def test_without_room_for_more_the_one_before_stays(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fill(descriptor: int, offset: int, length: int) -> None:
            os.ftruncate(descriptor, length - 1)  # as ext4 does
            raise OSError(ENOSPC, os.strerror(ENOSPC))

        fail(monkeypatch, module, "replace_file", ENOSPC)
        monkeypatch.setattr(os, "posix_fallocate", fill)
        with pytest.raises(OSError, match="No space"):
            replace_or_overwrite(path, b"longer than the one before", 0o600)
        assert path.read_bytes() == b"the one before"

    def test_one_that_others_may_have_open_is_left_alone(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fail(monkeypatch, module, "replace_file", ENOSPC)
        path.chmod(0o644)
        with pytest.raises(PermissionError):
            replace_or_overwrite(path, b"secret", 0o600)
        assert path.read_bytes() == b"the one before"

    def test_there_is_none_yet(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fail(monkeypatch, module, "replace_file", ENOSPC)
        with pytest.raises(OSError, match="No space"):
            replace_or_overwrite(tmp_path / "key.pem", b"", 0o600)

    def test_another_reason(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fail(monkeypatch, module, "replace_file", EACCES)
        with pytest.raises(PermissionError):
            replace_or_overwrite(path, b"content", 0o600)
        assert path.read_bytes() == b"the one before"
