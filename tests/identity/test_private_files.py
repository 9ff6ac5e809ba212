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
