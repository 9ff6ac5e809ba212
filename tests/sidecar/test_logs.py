from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest

from meshproxy.audit.lines import Kind
from meshproxy.config import schema, sidecars
from meshproxy.refusal import Reason, Refusal
from meshproxy.sidecar import logs as module
from meshproxy.sidecar.logs import Logs
from meshproxy.telemetry.log_encoding import UtcClock
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from tests.processes.waiting import until
from tests.telemetry.conftest import exchange_maker


def logs(*, worker: int | None = None, access: str = "off", audit: str = "off") -> tuple[Logs, SidecarMetrics]:
    spec = sidecars.SidecarSpec(inbound=sidecars.Inbound(server="local"), access_log=access, audit_log=audit)
    metrics = SidecarMetrics()
    clock = UtcClock(0.0)
    clock.expire(1_000.0)
    return Logs(schema.Sidecar(metadata=schema.Metadata("pricing"), spec=spec), worker, clock, metrics), metrics


def log_denial(both: Logs, model: str) -> None:
    refusal = Refusal(Reason.PERMISSION_DENIED, "No rule fits.", rule="default-deny")
    for log in (both.access, both.audit):
        assert log is not None
        log(exchange_maker()(model=model, refusal=refusal, status=403))


def test_both_may_be_off() -> None:
    none, _ = logs()
    assert (none.access, none.audit, none.trail) == (None, None, None)
    none.start()
    none.reopen()
    none.close()


def test_a_denial_is_written_to_both(tmp_path: Path) -> None:
    access, audit = tmp_path / "access.log", tmp_path / "audit.jsonl"
    both, metrics = logs(access=str(access), audit=str(audit))
    both.start()
    log_denial(both, "payroll")
    both.close()
    assert json.loads(access.read_text())["model"] == "payroll"
    assert b'"payroll"' in audit.read_bytes()
    assert metrics.audit_events.labels(Kind.DENIED.value).value == 1


def test_each_worker_has_a_trail_of_its_own(tmp_path: Path) -> None:
    both, _ = logs(worker=3, audit=str(tmp_path / "audit.jsonl"))
    both.start()
    both.close()
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["audit-3.jsonl"]


def test_one_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        logs(access=str(tmp_path / "missing" / "log"))
    with pytest.raises(FileNotFoundError):
        logs(audit=str(tmp_path / "missing" / "log"))


async def test_lines_are_flushed_while_nothing_else_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_PERIOD", 0.01)
    path = tmp_path / "access.log"
    both, _ = logs(access=str(path))
    running = asyncio.create_task(both.run())
    assert both.access is not None
    both.access(exchange_maker()())
    assert path.read_bytes() == b""
    await until(lambda: path.read_bytes().endswith(b"\n"))
    running.cancel()
    both.close()


async def test_files_that_were_rotated_are_opened_again(tmp_path: Path) -> None:
    paths = [tmp_path / "access.log", tmp_path / "audit.jsonl"]
    both, _ = logs(access=str(paths[0]), audit=str(paths[1]))
    both.start()
    log_denial(both, "before")
    await until(lambda: b'"before"' in paths[1].read_bytes())
    for path in paths:
        path.rename(f"{path}.1")
    both.reopen()
    log_denial(both, "after")
    both.close()
    for path in paths:
        assert b'"after"' in path.read_bytes()
        assert b'"before"' in Path(f"{path}.1").read_bytes()


def test_a_file_that_cannot_be_opened_again_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    both, _ = logs(access=str(folder / "access.log"))
    folder.rename(tmp_path / "moved")
    both.reopen()
    assert both.access is not None
    both.access(exchange_maker()())
    both.close()
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "log file could not be reopened")
    assert str(folder) in record.__dict__["fields"]["problem"]
    assert b"half_plus_two" in (tmp_path / "moved" / "access.log").read_bytes()  # nothing is lost meanwhile
