"""What the process itself takes: the `process_*` metrics that every Prometheus client has, read when they are scraped.

https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

from meshproxy.telemetry.metrics import Counter, Gauge, Registry, Rows

PROC = Path("/proc")


def watch_process(registry: Registry, proc: Path = PROC) -> None:
    """Add the metrics of this process to a registry. `proc` is where the proc file system (proc(5)) is."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    started = _read_start(proc)

    def read_pages(field: int) -> float:
        return int((proc / "self/statm").read_text().split()[field]) * page_bytes

    def count_descriptors() -> float:
        # Since Linux 6.2 the size is the number; a list of 10,000 would hold the loop for milliseconds.
        folder = proc / "self/fd"
        return folder.stat().st_size or sum(1 for _ in folder.iterdir())

    Counter(registry, "process_cpu_seconds_total", "Processor time, user and system.", ()).read_from(
        _one(time.process_time)
    )
    for name, text, read in (
        ("process_resident_memory_bytes", "Memory that is in RAM (RSS).", lambda: read_pages(1)),
        ("process_virtual_memory_bytes", "Address space.", lambda: read_pages(0)),
        ("process_open_fds", "File descriptors that are open.", count_descriptors),
        ("process_max_fds", "File descriptors that may be open.", _read_limit),
        ("process_start_time_seconds", "When the process began, in seconds since the epoch.", lambda: started),
    ):
        Gauge(registry, name, text, ()).read_from(_one(read))


def _one(read: Callable[[], float]) -> Callable[[], Rows]:
    """A source of the one row of a metric without labels."""
    return lambda: [((), read())]


def _read_limit() -> float:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _read_start(proc: Path) -> float:
    """0.0 where it cannot be known."""
    try:
        # The name of the process, in parentheses, may hold anything; after it comes field 3.
        fields = (proc / "self/stat").read_text().rpartition(")")[2].split()
        lines = (proc / "stat").read_text().splitlines()
        booted = next(float(line.split()[1]) for line in lines if line.startswith("btime "))
    except (OSError, StopIteration):
        return 0.0
    return booted + int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")
