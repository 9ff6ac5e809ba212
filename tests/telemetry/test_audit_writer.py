from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshproxy.audit.chain import CHECKPOINT_LINES, Head, read_head
from meshproxy.audit.lines import Kind
from meshproxy.audit.verify import Verifier
from meshproxy.telemetry import audit_writer
from meshproxy.telemetry.audit_sink import AuditFile
from meshproxy.telemetry.audit_writer import QUEUE_BYTES, AuditWriter
from tests.audit.ocsf import check_ocsf

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()


def body(number: int, size: int = 0) -> bytes:
    text = "x" * size
    return (
        f'","kind":"denied","reason":"{text}"}},"time":{number},"class_uid":6003,"category_uid":6,"activity_id":2,'
        f'"type_uid":600302,"severity_id":1,"actor":{{"user":{{"name":"a"}}}},"api":{{"operation":"predict"}},'
        '"src_endpoint":{"ip":"10.0.0.1"}}\n'
    ).encode()


class FakeSink:
    """Takes lines into memory, as far as `takes` says."""

    is_unsettled = False
    lost = 0

    def __init__(self) -> None:
        self.lines = b""
        self.error: OSError | None = None
        self.asked = threading.Event()
        self.free = threading.Event()
        self.free.set()
        self.reopened = threading.Event()

    def write(self, lines: bytes) -> int:
        self.asked.set()
        self.free.wait(10)
        if self.error is not None:
            raise self.error
        taken = max(1, len(lines) // 2)
        self.lines += lines[:taken]
        return taken

    def settle(self, last: int) -> None:
        head = read_head(self.lines.splitlines(keepends=True)[-1])
        assert head is not None
        assert head.sequence == last

    def reopen(self) -> None:
        self.reopened.set()

    def close(self) -> None:
        pass

    def heads(self) -> list[Head]:
        heads = [read_head(line) for line in self.lines.splitlines(keepends=True)]
        return [head for head in heads if head is not None]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_writer, "GATHER_SECONDS", 0.0)
    monkeypatch.setattr(audit_writer, "RETRY_SECONDS", 0.01)


def verified(*lines: bytes) -> Verifier:
    verifier = Verifier()
    for number, each in enumerate(lines):
        verifier.read(f"file-{number}", each.splitlines(keepends=True))
    verifier.finish()
    return verifier


@pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed"])
def test_lines_are_a_chain_from_start_to_stop(key: Ed25519PrivateKey | None) -> None:
    sink = FakeSink()
    writer = AuditWriter(sink, "w@h", key=key, clock=lambda: 1.5)
    writer.start()
    for number in range(3):
        writer.write(body(number))
    writer.close()
    lines = sink.lines.splitlines(keepends=True)
    for line in lines:
        check_ocsf(line)
    assert [head.sequence for head in sink.heads()] == [1, 2, 3, 4, 5]
    assert [head.kind for head in sink.heads()] == ["started", "denied", "denied", "denied", "stopped"]
    verifier = verified(sink.lines)
    assert verifier.problems == []
    (chain,) = verifier.chains.values()
    assert (chain.is_closed, chain.writer, chain.lines) == (True, "w@h", 5)
    assert (chain.signatures, chain.uncovered, chain.key) == ((2, 0, PUBLIC) if key else (0, 5, b""))


def test_checkpoints_come_after_so_many_lines_and_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = FakeSink()
    writer = AuditWriter(sink, "w", key=KEY)
    for number in range(2 * CHECKPOINT_LINES):
        writer.write(body(number))
    writer.start()
    writer.close()
    kinds = [head.kind for head in sink.heads()]
    assert kinds.count("checkpoint") == 2
    (chain,) = (verifier := verified(sink.lines)).chains.values()
    assert (verifier.problems, chain.signatures) == ([], 4)
    monkeypatch.setattr(audit_writer, "CHECKPOINT_SECONDS", 0.01)
    sink = FakeSink()
    writer = AuditWriter(sink, "w", key=KEY)
    writer.write(body(1))
    writer.start()
    until(lambda: [head.kind for head in sink.heads()] == ["started", "denied", "checkpoint"])
    writer.close()


def until(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2_000):
        if holds():
            return
        pause.wait(0.005)
    raise AssertionError("it never came to it")


def test_a_sink_that_takes_nothing_costs_bounded_memory_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = FakeSink()
    sink.free.clear()
    writer = AuditWriter(sink, "w")
    writer.start()
    assert sink.asked.wait(10)
    event = body(1, 10_000)
    for _ in range(2 * QUEUE_BYTES // len(event)):
        writer.write(event)
    dropped = writer.dropped
    assert dropped >= QUEUE_BYTES // len(event) - 1
    assert "more events than the output takes" in writer.problem  # before it is known to be stuck
    sink.free.set()
    writer.close()
    assert writer.problem == ""
    assert writer.dropped == dropped
    told = [json.loads(line) for line in sink.lines.splitlines() if b'"kind":"dropped"' in line]
    assert [line["count"] for line in told] == [dropped]
    verifier = verified(sink.lines)
    assert verifier.problems == []
    (chain,) = verifier.chains.values()
    assert chain.dropped == dropped


def test_a_disk_that_is_full_is_a_problem_until_it_is_not(caplog: pytest.LogCaptureFixture) -> None:
    sink = FakeSink()
    sink.error = OSError(errno.ENOSPC, "No space left on device")
    writer = AuditWriter(sink, "w")
    assert writer.problem == ""
    writer.start()
    until(lambda: writer.problem == "No space left on device")
    writer.write(body(1))
    sink.error = None
    until(lambda: len(sink.heads()) == 2)
    assert writer.problem == ""
    assert [record.message for record in caplog.records] == [
        "audit log cannot be written",
        "audit log is written again",
    ]
    writer.close()
    assert verified(sink.lines).problems == []


def test_a_stuck_reader_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(FakeSink):
        def write(self, lines: bytes) -> int:
            self.asked.set()
            return 0

    monkeypatch.setattr(audit_writer, "STUCK_SECONDS", 0.0)
    sink = Stuck()
    writer = AuditWriter(sink, "w")
    writer.start()
    until(lambda: "has taken nothing" in writer.problem)
    writer.write(body(1))
    writer.close()  # does not wait for it
    assert writer.dropped >= 1


def test_nothing_is_written_behind_half_a_line_in_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """Room comes when it is too late: what was lost is told once, and what is there is a trail."""

    class Full(FakeSink):
        writes = 0

        def write(self, lines: bytes) -> int:
            self.writes += 1
            if self.writes == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(lines[:1_000] if self.writes == 1 else lines)

    sink = Full()
    writer = AuditWriter(sink, "w")
    for number in range(1_000):
        writer.write(body(number))
    writer.start()
    writer.close()
    verifier = verified(sink.lines)
    assert verifier.problems == []
    assert len(verifier.torn) == 1
    assert [record.message for record in caplog.records] == [
        "audit log cannot be written",
        "the audit log is not complete: its output did not take 1001 lines",
    ]
    assert writer.dropped == 1_001  # that it started, too


def test_reopening_is_left_to_the_thread() -> None:
    sink = FakeSink()
    writer = AuditWriter(sink, "w")
    writer.start()
    writer.reopen()
    assert sink.reopened.wait(10)
    writer.close()


def test_a_writer_that_was_never_started_is_closed() -> None:
    AuditWriter(FakeSink(), "w").close()


@pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed"])
def test_killed_at_any_byte_the_chain_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: Ed25519PrivateKey | None
) -> None:
    """The file as it is when the process was killed at this byte, and what the next process makes of it."""
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)
    path = tmp_path / "audit.jsonl"

    def run() -> None:
        file = AuditFile(path)
        writer = AuditWriter(file, "w", key=key, file=file)
        writer.start()
        writer.write(body(1))
        writer.close()

    run()
    whole = path.read_bytes()
    step = int(os.environ.get("MESHPROXY_KILL_STEP", "29"))
    for size in range(1, len(whole), step):
        path.write_bytes(whole[:size])
        run()
        lines = path.read_bytes()
        verifier = verified(lines)
        assert verifier.problems == [], size
        kept = whole[:size].count(b"\n")
        (chain,) = verifier.chains.values()
        assert (chain.lines, chain.is_closed, verifier.torn) == (kept + 3, True, []), size
        kinds = [head.kind for head in map(read_head, lines.splitlines(keepends=True)) if head is not None]
        assert kinds[kept] == (Kind.CONTINUED if kept else Kind.STARTED).value
        torn = size - whole[:size].rfind(b"\n") - 1
        said = json.loads(lines.splitlines()[kept])["message"]
        assert (f"has been cut off: {torn} bytes" in said) is (torn > 0)
        assert len(chain.killed) == (1 if kept else 0)
