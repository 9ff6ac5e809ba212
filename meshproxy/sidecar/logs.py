"""The access log and the audit trail of a sidecar: opened, flushed, opened again after a rotation, and closed."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from meshproxy.telemetry.access_log import AccessLog
from meshproxy.telemetry.line_writer import LineWriter

if TYPE_CHECKING:
    from meshproxy.config.schema import Sidecar
    from meshproxy.telemetry.audit import AuditLog
    from meshproxy.telemetry.audit_writer import AuditWriter
    from meshproxy.telemetry.log_encoding import UtcClock
    from meshproxy.telemetry.sidecar_metrics import SidecarMetrics

logger = logging.getLogger(__name__)

FLUSH_PERIOD = 0.5
"""Seconds that a line of the access log may be buffered."""


class Logs:
    """What a sidecar writes about calls.

    Attributes:
        access: the access log; None: off.
        audit: the lines of the trail that are about calls; None: off.
        trail: what writes them.
    """

    def __init__(self, sidecar: Sidecar, worker: int | None, clock: UtcClock, metrics: SidecarMetrics) -> None:
        """Open both.

        Args:
            sidecar: says where they go.
            worker: its number, if it is one of several.
            clock: for the times in the lines.
            metrics: which count the lines that are lost, left out or written.

        Raises:
            OSError: one cannot be opened.
        """
        spec = sidecar.spec
        self.access: AccessLog | None = None
        self._lines = _open(spec.access_log)
        if (lines := self._lines) is not None:
            self.access = access = AccessLog(lines, clock)
            metrics.access_log_dropped.read_from(lambda: [((), lines.dropped)])
            metrics.access_log_filtered.read_from(lambda: [((), access.filtered)])
        self.audit: AuditLog | None = None
        self.trail: AuditWriter | None = None
        if spec.audit_log != "off":
            from meshproxy.telemetry.audit import AuditLog  # its memory is for those who have a trail
            from meshproxy.telemetry.audit_trail import open_trail
            from meshproxy.telemetry.audit_writer import TRAFFIC_BYTES

            self.trail = trail = open_trail(spec.audit_log, spec.audit, sidecar.metadata.name, worker)
            self.audit = AuditLog(
                trail.write, clock, metrics.audit_events, write_traffic=partial(trail.write, most=TRAFFIC_BYTES)
            )
            metrics.audit_dropped.read_from(lambda: [((), trail.dropped)])
            metrics.audit_failing.read_from(lambda: [((), int(bool(trail.problem)))])

    def start(self) -> None:
        """Begin to write the trail."""
        if self.trail is not None:
            self.trail.start()

    async def run(self) -> None:
        """Flush the access log, for as long as it is open."""
        while True:
            await asyncio.sleep(FLUSH_PERIOD)
            if self._lines is not None:
                self._lines.flush()

    def reopen(self) -> None:
        """The files may have been rotated."""
        if self._lines is not None:
            try:
                self._lines.reopen()
            except OSError as error:
                logger.error("log file could not be reopened", extra={"fields": {"problem": str(error)}})
        if self.trail is not None:
            self.trail.reopen()

    def close(self) -> None:
        """Write what waits, and close both."""
        if self._lines is not None:
            self._lines.close()
        if self.trail is not None:
            self.trail.close()


def _open(where: str) -> LineWriter | None:
    if where == "off":
        return None
    return LineWriter.stdout() if where == "stdout" else LineWriter.file(Path(where))
