"""The `process_*` metrics that every Prometheus client has, read at scrape time.

https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

from meshproxy.telemetry import metric_table
from meshproxy.telemetry.metrics import Counter, Gauge, Registry, Rows

PROC = Path("/proc")


def watch_process(registry: Registry, proc: Path = PROC) -> None:
    """Register the metrics of this process. `proc` is where the proc file system (proc(5)) is mounted."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    started = _read_start(proc)

    def read_pages(field: int) -> float:
        return int((proc / "self/statm").read_text().split()[field]) * page_bytes

    def count_descriptors() -> float:
        # Since Linux 6.2 the size is the number; listing 10,000 would block the event loop for milliseconds.
        folder = proc / "self/fd"
        return folder.stat().st_size or sum(1 for _ in folder.iterdir())

    Counter(registry, metric_table.PROCESS_CPU).read_from(_one(time.process_time))
    for metric, read in (
        (metric_table.PROCESS_RESIDENT, lambda: read_pages(1)),
        (metric_table.PROCESS_VIRTUAL, lambda: read_pages(0)),
        (metric_table.PROCESS_OPEN_FDS, count_descriptors),
        (metric_table.PROCESS_MAX_FDS, _read_limit),
        (metric_table.PROCESS_START, lambda: started),
    ):
        Gauge(registry, metric).read_from(_one(read))


def _one(read: Callable[[], float]) -> Callable[[], Rows]:
    """The source of a metric without labels."""
    return lambda: [((), read())]


def _read_limit() -> float:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _read_start(proc: Path) -> float:
    """0.0 if it cannot be determined."""
    try:
        # The name of the process, in parentheses, may hold anything; after it comes field 3.
        fields = (proc / "self/stat").read_text().rpartition(")")[2].split()
        lines = (proc / "stat").read_text().splitlines()
        booted = next(float(line.split()[1]) for line in lines if line.startswith("btime "))
    except (OSError, StopIteration):
        return 0.0
    return booted + int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")
