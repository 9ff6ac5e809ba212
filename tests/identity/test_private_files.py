"""Files that are written as a whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from meshproxy.identity.private_files import replace_file


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
