from __future__ import annotations

import gzip
from pathlib import Path

import click
import pytest

from meshproxy.audit.chain import LINE_BYTES
from meshproxy.cli._audit_files import opened, with_ended
from tests.audit.test_collected import request
from tests.audit.trails import trail


def test_ended_files_come_before_the_one_that_was_begun_after_them(tmp_path: Path) -> None:
    names = [tmp_path / name for name in ("a.000000000020", "a.000000000003", "a", "a.gz", "b")]
    for name in names:
        name.write_bytes(b"")
    found = with_ended([str(tmp_path / "a"), str(tmp_path / "b"), "-"])
    assert [Path(name).name for name in found] == ["a.000000000003", "a.000000000020", "a", "b", "-"]
    names[2].unlink()  # a writer that was killed between two files
    assert len(with_ended([str(tmp_path / "a")])) == 2


def test_what_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"line\n")
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"line\n"))
    (tmp_path / "c.gz").write_bytes(gzip.compress(b"line\n" * 1_000)[:-20])
    for name in ("a", "b.gz"):
        with opened(str(tmp_path / name)) as lines:
            assert list(lines) == [b"line\n"]
    for name in ("c.gz", "nothing"):
        with pytest.raises(click.ClickException, match="cannot read"), opened(str(tmp_path / name)) as lines:
            list(lines)


def test_a_line_without_an_end_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl.gz"
    path.write_bytes(gzip.compress(b"x" * (3 * LINE_BYTES) + b"\ny\n"))
    with opened(str(path)) as lines:
        assert [len(line) for line in lines] == [LINE_BYTES + 1, LINE_BYTES + 1, LINE_BYTES - 1, 2]


def test_a_packed_file_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl.gz"
    packed = gzip.compress(bytes(range(256)) * 64)
    path.write_bytes(packed[:12] + bytes(8) + packed[20:])
    with pytest.raises(click.ClickException, match="cannot read"), opened(str(path)) as lines:
        list(lines)


def test_lines_are_taken_out_of_what_a_collector_has_written(tmp_path: Path) -> None:
    lines = trail(3_000)  # more than a line of a trail may have bytes
    (tmp_path / "logs.json").write_bytes(request(*lines) + request(lines[-1]))
    (tmp_path / "logs.json.gz").write_bytes(gzip.compress(request(*lines)))
    for name in ("logs.json", "logs.json.gz"):
        with opened(str(tmp_path / name)) as found:
            assert tuple(found) == lines
