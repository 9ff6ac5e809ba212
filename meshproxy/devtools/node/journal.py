"""How pods came to their ends: what was done to each container, and what it did."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime


class Journal:
    """Lines about each pod, in order.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lines: dict[str, list[str]] = {}
        self._killed: dict[str, None] = {}

    def note(self, pod: str, what: str, container: str = "") -> None:
        """Something has happened to a pod (NAMESPACE/NAME), or to a container of it."""
        at = datetime.fromtimestamp(self._clock(), UTC).strftime("%H:%M:%S.%f")[:-3]
        self._lines.setdefault(pod, []).append(f"{at} {f'{container}: ' if container else ''}{what}")

    def note_killed(self, pod: str, container: str, running: str) -> None:
        """A container did not end within its grace period, and gets its SIGKILL.

        Args:
            running: its processes.
        """
        self._killed[pod] = None
        self.note(pod, f"SIGKILL; it runs {running}", container)

    def take_killed(self) -> list[str]:
        """Pods with a container that was killed, since this was asked last."""
        taken, self._killed = list(self._killed), {}
        return taken

    def of(self, pod: str) -> str:
        """All about a pod, in lines."""
        return "\n".join((pod, *(f"  {line}" for line in self._lines.get(pod, ())))) + "\n"
