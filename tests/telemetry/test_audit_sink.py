from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from meshproxy.audit.chain import LINE_BYTES, NOTHING_BEFORE, constant_part, join, line_hash
from meshproxy.telemetry import audit_sink as module
from meshproxy.telemetry.audit_sink import AuditFile, AuditStream, ended_files, is_stream

CONSTANT = constant_part("w", "00" * 8)


def line(sequence: int, size: int = 10) -> bytes:
    return join(sequence, CONSTANT, NOTHING_BEFORE, b'","kind":"denied","reason":"%b"}}\n' % (b"x" * size))


def test_what_an_earlier_writer_left_is_found(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    first = AuditFile(path)
    assert (first.tail, first.torn, first.set_aside) == (None, b"", None)
    assert first.write(line(1) + line(2, 200_000)) == len(line(1) + line(2, 200_000))
    first.close()
    second = AuditFile(path)
    assert second.tail is not None
    assert (second.tail.head.sequence, second.tail.hash) == (2, line_hash(line(2, 200_000)))
    second.write(line(3))
    second.close()
    assert path.read_bytes() == line(1) + line(2, 200_000) + line(3)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("rotated", [False, True])
def test_a_line_that_was_never_whole_is_cut_off_at_any_byte(tmp_path: Path, rotated: bool) -> None:
    """Also where it is the first one of its file."""
    path = tmp_path / "audit.jsonl"
    before = b"" if rotated else line(1)
    if rotated:
        (tmp_path / "audit.jsonl.000000000001").write_bytes(line(1))
    for size in range(0, len(line(2)), 9):
        path.write_bytes(before + line(2)[:size])
        file = AuditFile(path, fsync="never")
        assert file.torn == line(2)[:size]
        assert file.tail is not None
        assert file.tail.hash == line_hash(line(1))
        file.close()
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b'{"sequence":1}\n', b"text", b"x" * (2 * LINE_BYTES), line(1) + b"other\n"], ids=[*"abcd"]
)
def test_a_file_that_is_no_trail_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(content)
    file = AuditFile(path)
    file.write(line(1))
    file.close()
    assert file.tail is None
    assert file.set_aside is not None
    assert file.set_aside.read_bytes() == content
    assert path.read_bytes() == line(1)


def test_a_file_before_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl.000000000001").write_bytes(line(1))
    ended = tmp_path / "audit.jsonl.000000000002"
    ended.write_bytes(b"damaged\n")
    file = AuditFile(tmp_path / "audit.jsonl")
    assert (file.tail, file.unreadable) == (None, ended)
    file.close()
    ended.unlink()
    file = AuditFile(tmp_path / "audit.jsonl")
    assert file.unreadable is None
    assert file.tail is not None
    file.close()


def test_what_a_lost_machine_left_behind_whole_lines_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(line(1) + b"\0" * 5_000)
    file = AuditFile(path)
    assert len(file.torn) == 5_000
    file.close()
    assert path.read_bytes() == line(1)


def test_only_one_process_writes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path)
    with pytest.raises(OSError, match="another process writes "):
        AuditFile(path)
    file.close()
    AuditFile(path).close()


def test_rotation(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path, rotate_bytes=1, keep=2)
    for sequence in range(1, 6):
        file.write(line(sequence))
        file.settle(sequence)
    file.close()
    assert [each.name for each in ended_files(path)] == ["audit.jsonl.000000000004", "audit.jsonl.000000000005"]
    assert path.read_bytes() == b""
    again = AuditFile(path)
    assert again.tail is not None
    assert again.tail.head.sequence == 5
    again.close()


def test_a_file_that_was_ended_when_the_next_one_could_not_be_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, same_as: int | None = None) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "Too many open files")

    path = tmp_path / "audit.jsonl"
    file = AuditFile(path, rotate_bytes=1)
    file.write(line(1))
    with monkeypatch.context() as patch:
        patch.setattr(module, "_open", fails)
        with pytest.raises(OSError, match="Too many"):
            file.settle(1)
    for sequence in (2, 3):
        file.write(line(sequence))
        file.settle(sequence)
    file.close()
    assert [each.read_bytes() for each in ended_files(path)] == [line(1) + line(2), line(3)]


def test_a_file_that_was_renamed_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path)
    file.write(line(1))
    file.reopen()  # nothing has happened
    path.rename(tmp_path / "old")
    file.write(line(2))
    file.reopen()
    file.write(line(3))
    file.close()
    assert (tmp_path / "old").read_bytes() == line(1) + line(2)
    assert path.read_bytes() == line(3)


def test_when_lines_are_forced_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    clock = [100.0]
    monkeypatch.setattr("meshproxy.telemetry.audit_sink.time.monotonic", lambda: clock[0])
    counts = {}
    for fsync in ("always", "interval", "never"):
        synced.clear()
        file = AuditFile(tmp_path / fsync, fsync=fsync)
        for _ in range(4):
            file.write(line(1))
            file.settle(1)
            clock[0] += 0.3
        assert file.is_unsettled is (fsync == "interval")
        clock[0] += 1.0
        file.settle(1)
        assert not file.is_unsettled
        counts[fsync] = len(synced)
        file.close()
    assert counts == {"always": 5, "interval": 2, "never": 0}


def test_a_pipe_gets_whole_lines_and_does_not_block_for_ever() -> None:
    reading, writing = os.pipe()
    stream = AuditStream(writing)
    lines = b"".join([line(number, 1_000) for number in range(1, 20)])
    taken = stream.write(lines)
    assert 0 < taken <= 4_096
    assert lines[:taken].endswith(b"\n")
    os.set_blocking(writing, False)
    while taken:
        taken = stream.write(lines)
    assert os.read(reading, 1 << 20).endswith(b"\n")
    stream.close()
    os.close(reading)


def test_what_is_a_stream(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    assert [is_stream(tmp_path / name) for name in ("pipe", "file", "nothing")] == [True, False, False]
