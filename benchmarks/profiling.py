"""py-spy beside a measurement: where a Python proxy's time goes while it carries this very load."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.processes import CannotRun


class Profiler:
    """Records one process into one file; the format follows from its ending (.svg flame graph, .json speedscope)."""

    def __init__(self, file: Path, rate: int = 500) -> None:
        beside = Path(sys.executable).with_name("py-spy")
        self._program = str(beside) if beside.exists() else shutil.which("py-spy")
        self.file = file
        self._rate = rate
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, pid: int) -> None:
        """Begins to record.

        Raises:
            CannotRun: py-spy is not installed.
        """
        if self._program is None:
            raise CannotRun("py-spy is not installed: pip install 'meshproxy[bench]'")
        kind = {".svg": "flamegraph", ".json": "speedscope"}.get(self.file.suffix, "raw")
        command = [self._program, "record", "--pid", str(pid), "--output", str(self.file), "--format", kind]
        # --nonblocking: the proxy is not stopped for a sample; a few samples are torn and dropped instead.
        command += ["--rate", str(self._rate), "--duration", "3600", "--nonblocking"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        """Ends the recording and writes the file."""
        if self._process is not None:
            self._process.send_signal(2)
            self._process.wait(30)
            self._process = None
