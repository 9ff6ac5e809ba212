"""What processes cost: as the kernel counts it."""

import os
import subprocess
import sys

from benchmarks.processes import cpu_seconds, reaped_cpu_seconds, waited_seconds


def test_a_process_has_run_and_waited() -> None:
    assert cpu_seconds(os.getpid()) > 0
    assert waited_seconds(os.getpid()) >= 0


def test_a_process_that_is_gone_has_waited_for_nothing() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert cpu_seconds(gone.pid) == waited_seconds(gone.pid) == reaped_cpu_seconds(gone.pid) == 0.0


def test_children_count_when_they_have_been_waited_for() -> None:
    before = reaped_cpu_seconds(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", "import time\nwhile time.process_time() < 0.1: pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert reaped_cpu_seconds(os.getpid()) == before
    child.wait()
    assert reaped_cpu_seconds(os.getpid()) - before >= 0.05
