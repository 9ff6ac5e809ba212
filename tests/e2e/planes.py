"""Control planes as processes, beside a real API server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshproxy.devtools.child import CONTROL


@dataclass
class Plane:
    """A process, and what it writes."""

    process: subprocess.Popen[str]
    log: Path

    def said(self, event: str) -> list[dict[str, Any]]:
        """The lines of an event, as far as they are whole."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in map(json.loads, lines) if line["event"] == event]


@contextmanager
def control_plane(folder: Path, kubeconfig: Path, *options: str) -> Iterator[Plane]:
    """`meshproxy control run` with these options, on free ports, with a new folder; it is killed at the end."""
    folder.mkdir()
    here = ["--folder", str(folder / "state"), "--kubeconfig", str(kubeconfig)]
    ports = ["--listen", "127.0.0.1:0", "--web", "127.0.0.1:0"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*CONTROL, "run", *options, *here, *ports], stderr=log, text=True)
    try:
        yield Plane(process, folder / "log")
    finally:
        process.kill()
        process.wait()
