"""Processes on cores, and what they cost: CPU and memory as the kernel counts them."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
REPOSITORY = Path(__file__).resolve().parent.parent


class CannotRun(Exception):
    """Something that a benchmark needs is missing or did not start; the message says what."""


def free_port() -> int:
    """A port of the loopback address that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Child:
    """A process of the benchmark, pinned to cores, its output in a file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        cores: frozenset[int],
        log: Path,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log

        def pin() -> None:
            os.sched_setaffinity(0, cores)
            # Goes when we go, however that is.
            _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=REPOSITORY,
                preexec_fn=pin,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | dict(variables or {}),
            )
        self.pid = self._process.pid

    def wait_for_port(self, port: int, seconds: float = 20.0) -> None:
        """
        Raises:
            CannotRun: the process ended, or does not listen in time. Holds the end of what it wrote.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise CannotRun(f"{self.name} ended with {self._process.returncode}:\n{self.said()}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise CannotRun(f"{self.name} does not listen on port {port} after {seconds:.0f} s:\n{self.said()}")

    def said(self, size: int = 2_000) -> str:
        return self.log.read_bytes()[-size:].decode("utf-8", "replace")

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def family(self) -> list[int]:
        """Its pid and those of its children (workers), theirs included."""
        found = [self.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    found += [int(child) for child in task.read_text().split()]
                except OSError:
                    continue
        return found

    def cpu(self) -> float:
        """CPU seconds so far, user and system, workers included."""
        return sum(cpu_seconds(pid) for pid in self.family())

    def reaped_cpu(self) -> float:
        """CPU seconds of processes that it or its workers have waited for."""
        return sum(reaped_cpu_seconds(pid) for pid in self.family())

    def waited(self) -> float:
        """Seconds so far in which its threads could run and others had the core, workers included."""
        return sum(waited_seconds(pid) for pid in self.family())

    def rss(self) -> int:
        """Resident bytes now, workers included (shared pages count for each)."""
        return sum(status_bytes(pid, "VmRSS") for pid in self.family())

    def peak_rss(self) -> int:
        """The most bytes that were resident at once since `reset_peak`."""
        return sum(status_bytes(pid, "VmHWM") for pid in self.family())

    def reset_peak(self) -> None:
        for pid in self.family():
            try:
                Path(f"/proc/{pid}/clear_refs").write_text("5")
            except OSError:
                continue

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Chain:
    """Several processes that carry a request one after the other: what they cost together."""

    def __init__(self, *links: Child) -> None:
        self._links = links
        self.name = links[0].name
        self.pid = links[0].pid

    def said(self, size: int = 2_000) -> str:
        return "\n".join(link.said(size) for link in self._links)

    @property
    def is_running(self) -> bool:
        return all(link.is_running for link in self._links)

    def cpu(self) -> float:
        return sum(link.cpu() for link in self._links)

    def reaped_cpu(self) -> float:
        return sum(link.reaped_cpu() for link in self._links)

    def waited(self) -> float:
        return sum(link.waited() for link in self._links)

    def rss(self) -> int:
        return sum(link.rss() for link in self._links)

    def peak_rss(self) -> int:
        return sum(link.peak_rss() for link in self._links)

    def reset_peak(self) -> None:
        for link in self._links:
            link.reset_peak()

    def stop(self) -> None:
        for link in reversed(self._links):
            link.stop()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (/proc/pid/stat, fields 14 and 15); with the kernel's finer count of the time
    its threads ran, where it keeps one. 0 for a process that is gone."""
    ran, _ = _scheduled(pid)
    return ran / 1e9 if ran else _ticks(pid, 14)


def reaped_cpu_seconds(pid: int) -> float:
    """User and system time of the children that a process has waited for (fields 16 and 17), in steps of 10 ms. 0 for a
    process that is gone."""
    return _ticks(pid, 16)


def _ticks(pid: int, first: int) -> float:
    """Seconds in two fields of /proc/pid/stat: the first of them (proc(5) counts from 1), and the one behind it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[first - 3]) + int(fields[first - 2])) / os.sysconf("SC_CLK_TCK")


def waited_seconds(pid: int) -> float:
    """Time for which the threads of a process waited for a core. 0 for a process that is gone, or where the kernel does
    not count it."""
    return _scheduled(pid)[1] / 1e9


def _scheduled(pid: int) -> tuple[int, int]:
    """Nanoseconds for which the threads of a process ran and waited (`sched_info`), zeros where nobody can tell."""
    ran = waited = 0
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            fields = (thread / "schedstat").read_text().split()
            ran += int(fields[0])
            waited += int(fields[1])
    except OSError:
        return 0, 0
    return ran, waited


def status_bytes(pid: int, field: str) -> int:
    """A field of /proc/pid/status that is given in kB; 0 for a process that is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]
