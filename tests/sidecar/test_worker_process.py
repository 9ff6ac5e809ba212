"""The restart back-off, and a worker without its supervisor; tests/sidecar/test_supervisor.py has both."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from meshproxy.sidecar.worker import WorkerSlot
from meshproxy.sidecar.worker_process import RestartBackoff, Worker, WorkerState


@pytest.mark.parametrize(
    ("lives", "delays"),
    [
        ([0, 0, 0, 0, 0], [0.1, 0.2, 0.4, 0.8, None]),
        ([0, 0, 0, 0, 2, 0, 0, 0, 0, 0], [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, None]),
        ([2, 2, 2, 2, 2, 2, 2, 2], [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]),
        ([0, 0, 60, 0, 60], [0.1, 0.2, 0.1, 0.2, 0.1]),
    ],
)
def test_restart_backoff(lives: list[float], delays: list[float | None]) -> None:
    backoff = RestartBackoff()
    assert [backoff.exited(lived) for lived in lives] == delays


def slot(tmp_path: Path) -> WorkerSlot:
    return WorkerSlot(3, 1, 0, 0, tmp_path)


async def test_a_worker_that_never_listens_has_not_lived(tmp_path: Path) -> None:
    worker = Worker(slot(tmp_path), (sys.executable, "-I", "-S", "-c", "import sys; sys.exit(7)"), [])
    assert await worker.run() == (7, 0.0)
    assert worker.pid is None
    assert worker.conditions() == {"worker 3 is ready": False}
    assert (worker.starts, worker.state) == (1, WorkerState.STARTING)


async def test_its_reports_say_how_it_is(tmp_path: Path) -> None:
    program = """
import os, sys, time
os.write(0, b'{"admin": "127.0.0.1:9", "fingerprint": "f", "is_ready": false, "unmet": ["a"], "notes": ["b"]}')
time.sleep(60)
"""
    worker = Worker(slot(tmp_path), (sys.executable, "-I", "-S", "-c", program), [])
    task = asyncio.ensure_future(worker.run())
    await asyncio.wait_for(worker.listening.wait(), 60)
    assert worker.state is WorkerState.SERVING
    assert worker.conditions() == {"worker 3 is ready": False, "worker 3: a": False}
    assert worker.describe() == {
        "number": 3,
        "pid": worker.pid,
        "state": "serving",
        "admin": "127.0.0.1:9",
        "ready": False,
        "fingerprint": "f",
        "notes": ["b"],
    }
    worker.signal(signal.SIGKILL)
    status, lived = await asyncio.wait_for(task, 60)
    assert status == -signal.SIGKILL
    assert 0.0 <= lived < 20.0  # the clock of uvloop stands still within a millisecond
    assert worker.report is None
