from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from meshproxy.cli import _log_files

LINES = b'{"a": 1}\n' * 1_000
ZSTD = bytes.fromhex("28b52ffd")


@pytest.mark.parametrize("packed", [LINES, gzip.compress(LINES), b"", b"x"])
@pytest.mark.parametrize("name", ["access.log", "access.log.gz", "-"])
def test_what_is_packed_is_told_by_how_it_begins(
    packed: bytes, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("access.log").write_bytes(packed)
    Path("access.log.gz").write_bytes(packed)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(packed)))
    with _log_files.opened(name) as file:
        assert file.read() == (LINES if len(packed) > 1 else packed)


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (lzma.compress(LINES), "it is packed by xz: unpack it, or use gzip"),
        (bz2.compress(LINES), "it is packed by bzip2"),
        (ZSTD + LINES, "it is packed by zstd"),
        (gzip.compress(LINES)[:-20], "ended before"),
        (gzip.compress(LINES)[:10] + b"\xff" * 20, "while decompressing"),
    ],
)
def test_what_cannot_be_unpacked_is_not_read_as_lines(packed: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "access.log.1"
    path.write_bytes(packed)
    with pytest.raises(click.ClickException, match=rf"cannot read .*: .*{why}"), _log_files.opened(str(path)) as file:
        file.read()


def test_no_file(tmp_path: Path) -> None:
    with (
        pytest.raises(click.ClickException, match=r"cannot read .*: No such file or directory"),
        _log_files.opened(str(tmp_path / "nothing")),
    ):
        pass
