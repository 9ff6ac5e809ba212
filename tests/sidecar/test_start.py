from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.config.codes import Code
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.identity.certificates import CertificateError
from meshproxy.sidecar import start as module
from meshproxy.sidecar.worker import WorkersFailed, WorkerSlot

DOCUMENTS = object()
WATCH = object()


@pytest.fixture
def level(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The log's level, instead of a log on standard error."""
    levels: list[int] = []
    monkeypatch.setattr(module, "open_process_log", levels.append)
    return levels


def run(monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None) -> tuple[int, list[list[str]]]:
    asked: list[list[str]] = []

    async def run_sidecar(paths: list[str], own: object, watch: object) -> None:
        assert (own, watch) == (DOCUMENTS, WATCH)
        asked.append(paths)
        await asyncio.sleep(0)
        if error is not None:
            raise error

    monkeypatch.setattr(module, "run_sidecar", run_sidecar)
    loading: Any = SimpleNamespace(result=lambda: DOCUMENTS, watch=WATCH)
    return module.run(["a.yaml", "b.yaml"], loading), asked


def test_it_runs_until_it_is_told_to_stop(monkeypatch: pytest.MonkeyPatch, level: list[int]) -> None:
    assert run(monkeypatch) == (0, [["a.yaml", "b.yaml"]])


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            ConfigError((Problem("a.yaml", 3, "Sidecar/x", "spec", "is missing", Code.MISSING_FIELD),)),
            3,
            "configuration rejected; not starting",
        ),
        (CertificateError("expired", "our own certificate: it has expired"), 1, "certificate rejected; not starting"),
        (WorkersFailed("worker 0 died 5 times in a row"), 1, "stopped: worker 0 died 5 times in a row"),
        (
            OSError(98, "Address already in use"),
            1,
            "cannot listen, or cannot open a file: [Errno 98] Address already in use",
        ),
    ],
    ids=["documents", "identity", "workers", "system"],
)
def test_why_it_cannot_run_is_said_and_told_by_the_status(
    monkeypatch: pytest.MonkeyPatch,
    level: list[int],
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
    said: str,
) -> None:
    assert run(monkeypatch, error)[0] == status
    (record,) = caplog.records
    assert said in record.getMessage()


def test_every_problem_is_listed(
    monkeypatch: pytest.MonkeyPatch, level: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    problems = (
        Problem("a.yaml", 3, "Sidecar/x", "spec", "is missing", Code.MISSING_FIELD),
        Problem("b.yaml", 0, "", "", "not UTF-8", Code.UNREADABLE),
    )
    run(monkeypatch, ConfigError(problems))
    fields: Any = caplog.records[0].__dict__["fields"]
    assert fields == {"problems": ["a.yaml:3: Sidecar/x: spec: is missing", "b.yaml: not UTF-8"]}


@pytest.mark.parametrize(
    ("word", "expected"),
    [(None, logging.INFO), ("debug", logging.DEBUG), ("ERROR", logging.ERROR), ("nonsense", logging.INFO)],
)
def test_the_environment_says_how_much_the_log_says(
    monkeypatch: pytest.MonkeyPatch, level: list[int], word: str | None, expected: int
) -> None:
    monkeypatch.delenv("MESHPROXY_LOG_LEVEL", raising=False)
    if word is not None:
        monkeypatch.setenv("MESHPROXY_LOG_LEVEL", word)
    run(monkeypatch)
    assert level == [expected]


def test_a_worker_gets_its_seat_and_says_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    async def run_worker(paths: list[str], slot: WorkerSlot) -> None:
        asked.append((paths, slot))

    def open_process_log(level: int, **fields: object) -> None:
        asked.append(fields)

    monkeypatch.setattr(module, "run_worker", run_worker)
    monkeypatch.setattr(module, "open_process_log", open_process_log)
    slot = WorkerSlot(3, 18500, 0, 18506, Path("/tmp/x"))
    assert module.run([slot.option(), "a.yaml"], None) == 0
    assert asked == [{"worker": 3}, (["a.yaml"], slot)]


@pytest.mark.parametrize(("limit", "status"), [(10, 1), (63, 1), (64, 0), (-1, 0)])
def test_too_few_open_files_are_told_before_anything_fails(
    monkeypatch: pytest.MonkeyPatch, level: list[int], caplog: pytest.LogCaptureFixture, limit: int, status: int
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda what: (limit, limit))
    found, asked = run(monkeypatch)
    assert (found, len(asked)) == (status, 1 - status)
    assert [f"(RLIMIT_NOFILE, ulimit -n) is {limit}," in record.getMessage() for record in caplog.records] == (
        [True] * status
    )


def test_as_a_process(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("kind: Nothing\n")
    done = subprocess.run(
        [sys.executable, "-m", "meshproxy.sidecar", str(tmp_path / "bad.yaml")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MESHPROXY_LOG_LEVEL": "info"},
    )
    assert done.returncode == 3
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    said = json.loads(line)
    assert said["event"] == "configuration rejected; not starting"
    assert any("bad.yaml:1" in problem for problem in said["problems"])
