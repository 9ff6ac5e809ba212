from __future__ import annotations

import errno
import logging
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshproxy.telemetry import line_writer as module
from meshproxy.telemetry.line_writer import GATHER_BYTES, LineWriter


class Pipe:
    """A reader, and a writer at the other end."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe2(os.O_NONBLOCK)
        self.writer = LineWriter(writer)

    def read(self) -> bytes:
        found = b""
        try:
            while data := os.read(self.reader, 1 << 20):
                found += data
        except BlockingIOError:
            pass
        return found


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.writer.close()
    os.close(pipe.reader)


def line(number: int, size: int = 1_000) -> bytes:
    return b"%0*d\n" % (size - 1, number)


def test_lines_are_gathered(pipe: Pipe) -> None:
    for number in range(32):
        pipe.writer.write(line(number))
    assert pipe.read() == b""
    pipe.writer.flush()
    assert pipe.read() == b"".join(line(number) for number in range(32))


def test_a_full_buffer_flushes_itself(pipe: Pipe) -> None:
    for number in range(GATHER_BYTES // 1_000 + 1):
        pipe.writer.write(line(number))
    assert pipe.read().count(b"\n") == GATHER_BYTES // 1_000 + 1


def test_writes_to_a_pipe_are_whole_lines_that_nothing_can_be_mixed_into(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[bytes] = []

    def write(descriptor: int, data: bytes) -> int:
        writes.append(bytes(data))
        return len(data)

    monkeypatch.setattr(os, "write", write)
    for number in range(30):
        pipe.writer.write(line(number, 900))
    pipe.writer.flush()
    assert b"".join(writes) == b"".join(line(number, 900) for number in range(30))
    assert all(len(data) <= select.PIPE_BUF and data.endswith(b"\n") for data in writes)
    assert len(writes) == 8
    # What is longer than that cannot be whole.
    pipe.writer.write(line(30, 10_000))
    pipe.writer.flush()
    assert [len(data) for data in writes[8:]] == [4_096, 4_096, 1_808]


def test_a_reader_that_does_not_read_costs_no_time_and_what_is_lost_is_counted(
    pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    count = 5_000
    took = []
    with caplog.at_level(logging.WARNING):
        for number in range(count):
            began = time.thread_time()
            pipe.writer.write(line(number))
            took.append(time.thread_time() - began)
        # Not a word yet: the application's log may go to the same reader.
        assert caplog.text == ""
        assert sorted(took)[-5] < 0.01  # a collection of garbage, or of the hypervisor's, may fall upon some
        assert pipe.writer.dropped > 0
        received = b""
        while data := pipe.read():
            received += data
            pipe.writer.flush()
    numbers = [int(text) for text in received.splitlines()]
    assert numbers == list(range(len(numbers)))  # the oldest, in order, none torn
    assert len(numbers) + pipe.writer.dropped == count
    assert f"{pipe.writer.dropped} log lines were dropped" in caplog.text


def test_after_a_stall_lines_are_taken_again(pipe: Pipe) -> None:
    for number in range(3_000):
        pipe.writer.write(line(number))
    dropped = pipe.writer.dropped
    assert dropped > 0
    while pipe.read():
        pipe.writer.flush()
    pipe.writer.write(line(1_000))
    pipe.writer.flush()
    assert pipe.read() == line(1_000)
    assert pipe.writer.dropped == dropped


def test_a_prompt_reader_loses_nothing_however_much_comes(pipe: Pipe) -> None:
    received = []
    for number in range(20_000):
        pipe.writer.write(line(number, 900))
        received.append(pipe.read())
    pipe.writer.flush()
    received.append(pipe.read())
    assert b"".join(received) == b"".join(line(number, 900) for number in range(20_000))
    assert pipe.writer.dropped == 0


def test_a_descriptor_that_would_wait_is_asked_first() -> None:
    reader, descriptor = os.pipe()
    writer = LineWriter(descriptor, polls=True)
    for number in range(2_000):  # would hang here: nobody reads, and the descriptor is a blocking one
        writer.write(line(number))
    assert writer.dropped > 0
    os.set_blocking(reader, False)
    received = b""
    while len(received) < 1_000 * (2_000 - writer.dropped):
        received += os.read(reader, 1 << 20)
        writer.flush()
    writer.close()
    os.close(reader)
    assert received.startswith(line(0) + line(1))


def test_a_reader_that_is_gone_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    pipe = Pipe()
    os.close(pipe.reader)
    with caplog.at_level(logging.ERROR):
        for number in range(3):
            pipe.writer.write(line(number))
            pipe.writer.flush()
    assert caplog.text.count("cannot write to standard output: Broken pipe") == 1
    pipe.writer.close()
    assert pipe.writer.dropped == 3


def test_closing_waits_for_a_slow_reader_but_not_for_one_that_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.2)
    pipe = Pipe()
    for number in range(200):
        pipe.writer.write(line(number))
    began = time.monotonic()
    pipe.writer.close()
    assert time.monotonic() - began > 0.15
    received = pipe.read()
    assert received.count(b"\n") + pipe.writer.dropped == 200
    os.close(pipe.reader)


def test_closing_writes_what_waits(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    writer = LineWriter.file(path)
    writer.write(b"one\n")
    writer.close()
    assert path.read_bytes() == b"one\n"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(b"before\n")
    writer = LineWriter.file(path)
    writer.write(b"after\n")
    writer.close()
    assert path.read_bytes() == b"before\nafter\n"


def test_rotation(tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    writer = LineWriter.file(path)
    writer.write(b"one\n")
    path.rename(old)
    writer.reopen()
    writer.write(b"two\n")
    writer.close()
    assert old.read_bytes() == b"one\n"
    assert path.read_bytes() == b"two\n"


def test_a_rotation_that_fails_leaves_the_old_file_in_use(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    writer = LineWriter.file(folder / "access.log")
    folder.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        writer.reopen()
    writer.write(b"one\n")
    writer.close()
    assert (tmp_path / "moved" / "access.log").read_bytes() == b"one\n"


def test_a_pipe_without_a_reader_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="nobody reads this pipe yet"):
        LineWriter.file(tmp_path / "pipe")


def test_standard_output_is_not_reopened(capfd: pytest.CaptureFixture[str]) -> None:
    writer = LineWriter.stdout()
    writer.reopen()
    writer.write(b"one\n")
    writer.close()
    assert capfd.readouterr().out == "one\n"


def test_a_full_disk_holds_lines_and_tears_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "access.log"
    writer = LineWriter.file(path)
    real_write = os.write
    room = 7

    def write(descriptor: int, data: bytes) -> int:
        nonlocal room
        taken = data[:room]
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        room -= len(taken)
        return real_write(descriptor, taken)

    monkeypatch.setattr(os, "write", write)
    with caplog.at_level(logging.ERROR):
        for text in (b"one\n", b"two\n", b"three\n"):
            writer.write(text)
            writer.flush()
    assert path.read_bytes() == b"one\ntwo"
    assert caplog.text.count("No space left on device") == 1
    room = 100
    writer.flush()
    assert path.read_bytes() == b"one\ntwo\nthree\n"
    writer.close()
    assert writer.dropped == 0


def test_half_a_line_does_not_begin_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "access.log"
    writer = LineWriter.file(path)
    real_write = os.write
    room = 6

    def write(descriptor: int, data: bytes) -> int:
        nonlocal room
        taken = data[:room]
        room -= len(taken)
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(descriptor, taken)

    monkeypatch.setattr(os, "write", write)
    for text in (b"one\n", b"two\n", b"three\n"):
        writer.write(text)
    writer.flush()
    path.rename(tmp_path / "old")
    writer.reopen()
    room = 100
    writer.close()
    assert path.read_bytes() == b"three\n"
    assert writer.dropped == 1


def test_a_file_that_was_not_rotated_gets_the_rest_of_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal may come for another reason: SIGHUP reloads."""
    path = tmp_path / "access.log"
    writer = LineWriter.file(path)
    real_write = os.write
    room = 6

    def write(descriptor: int, data: bytes) -> int:
        nonlocal room
        taken = data[:room]
        room -= len(taken)
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(descriptor, taken)

    monkeypatch.setattr(os, "write", write)
    for text in (b"one\n", b"two\n", b"three\n"):
        writer.write(text)
    writer.flush()
    writer.reopen()
    room = 100
    writer.close()
    assert path.read_bytes() == b"one\ntwo\nthree\n"
    assert writer.dropped == 0


@pytest.mark.parametrize("kind", ["pipe", "socket", "file"])
def test_standard_output_of_every_kind(kind: str, tmp_path: Path) -> None:
    # Lines arrive, and what others do with the same description is left as it was: not non-blocking.
    program = (
        "import os\n"
        "from meshproxy.telemetry.line_writer import LineWriter\n"
        "writer = LineWriter.stdout()\n"
        "for number in range(2000): writer.write(b'%d\\n' % number)\n"
        "writer.close()\n"
        "os.write(1, b'blocking %d\\n' % os.get_blocking(1))\n"
    )
    command = [sys.executable, "-c", program]
    if kind == "pipe":
        output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    elif kind == "file":
        path = tmp_path / "out"
        with path.open("wb") as file:
            subprocess.run(command, stdout=file, check=True)
        output = path.read_bytes()
    else:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                subprocess.run(command, stdout=theirs.fileno(), check=True)
            output = b"".join(iter(lambda: ours.recv(65_536), b""))
    assert output == b"".join(b"%d\n" % number for number in range(2_000)) + b"blocking 1\n"
