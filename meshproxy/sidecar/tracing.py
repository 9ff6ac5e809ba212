"""Traces as the documents in use want them: the tracer of new requests, the export beside the traffic, and how a reload
replaces both. A request keeps the tracer, and with it the export, that it began with."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from meshproxy.telemetry.trace import Tracer, is_wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshproxy.config.schema import Documents
    from meshproxy.config.telemetry import Traces
    from meshproxy.sidecar.span_export import SpanExport
    from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
    from meshproxy.transport.connection import ConnectionContext

LINGER_SECONDS = 10.0
"""How long an export that was replaced goes on, for the requests that began with it."""
MOST_LINGERING = 4
"""Exports that go on so, however often the settings change: each has a queue. The oldest is ended for another."""

logger = logging.getLogger(__name__)


class Tracing:
    """The export in use, and those that were replaced and have not ended.

    Args:
        environ: the variables of the process.
        connect: makes what connections to collectors share; called once, if there is a collector.
        offset: seconds since the epoch minus monotonic ones.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        connect: Callable[[], ConnectionContext],
        metrics: SidecarMetrics,
        offset: Callable[[], float],
    ) -> None:
        self._environ = environ
        self._connect = connect
        self._shared: ConnectionContext | None = None
        self._metrics = metrics
        self._offset = offset
        self._current = self._built = _Export(None, None)
        self._ending: dict[asyncio.Task[None], _Export] = {}
        """The oldest first."""

    def build(self, documents: Documents) -> None:
        """Build the export that documents want, unless it is in use. Nothing runs yet. What cannot be used is logged:
        telemetry keeps no sidecar from serving."""
        settings = documents.mesh.spec.telemetry.traces, documents.sidecar.metadata.name
        self._built = self._current
        if settings != self._current.settings:
            self._built = _Export(settings, self._open(documents))

    def _open(self, documents: Documents) -> SpanExport | None:
        if not is_wanted(documents.mesh.spec.telemetry.traces, self._environ):
            return None
        from meshproxy.sidecar.span_export import open_export  # its memory is for those who have a collector

        if self._shared is None:
            self._shared = self._connect()
        return open_export(documents, self._environ, self._shared, self._metrics, self._offset)

    def adopt(self) -> Tracer:
        """The last `build` is in use: start it, and end the one before. Returns the tracer of new requests."""
        if self._built is not self._current:
            self._end(self._current)
            self._current = self._built
            self._current.start()
        return self._current.tracer

    def _end(self, export: _Export) -> None:
        if not export.is_running:
            return
        task = asyncio.get_running_loop().create_task(export.end())
        self._ending[task] = export
        task.add_done_callback(self._ending.pop)
        task.add_done_callback(_report)
        for late in list(self._ending.values())[:-MOST_LINGERING]:
            late.hurry()

    async def close(self) -> None:
        """End all of them now: each exports what it has left, for a moment (`span_exporter.CLOSE_SECONDS`)."""
        self._end(self._current)
        self._current = self._built = _Export(None, None)
        for export in self._ending.values():
            export.hurry()
        await asyncio.gather(*self._ending, return_exceptions=True)


class _Export:
    """One export, from its start to its end.

    Args:
        settings: those that it was built for.
        parts: None: nothing is exported.
    """

    def __init__(self, settings: tuple[Traces | None, str] | None, parts: SpanExport | None) -> None:
        self.settings = settings
        self.tracer = parts.tracer if parts is not None else Tracer()
        self._exporter = parts.exporter if parts is not None else None
        self._running: asyncio.Task[None] | None = None
        self._hurries = asyncio.Event()

    @property
    def is_running(self) -> bool:
        """It was started, and exports."""
        return self._running is not None

    def start(self) -> None:
        """Export beside the traffic."""
        if self._exporter is not None:
            self._running = asyncio.get_running_loop().create_task(self._exporter.run())
            self._running.add_done_callback(_report)

    def hurry(self) -> None:
        """Do not linger."""
        self._hurries.set()

    async def end(self) -> None:
        """Go on for the requests that are in flight, then export what is left and close."""
        assert self._exporter is not None
        assert self._running is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await self._hurries.wait()
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self._exporter.close()


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("internal error: an export of spans has failed", exc_info=error)
