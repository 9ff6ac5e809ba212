"""The export of spans, put together: settings, tracer, exporter. Loaded only where there is a collector."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, NamedTuple

from meshproxy.sidecar.http_get import FetchError
from meshproxy.sidecar.span_exporter import SpanExporter
from meshproxy.telemetry.b3 import B3Propagator
from meshproxy.telemetry.otlp_settings import describe_process, read_settings
from meshproxy.telemetry.span_record import SpanRecorder
from meshproxy.telemetry.trace import Tracer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshproxy.config.schema import Documents
    from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
    from meshproxy.transport.connection import ConnectionContext

INSTANCE = str(uuid.uuid4())
"""`service.instance.id`: of this process, whatever settings it has."""

logger = logging.getLogger(__name__)


class SpanExport(NamedTuple):
    """What a sidecar needs of it."""

    tracer: Tracer
    """Its traces are recorded and exported."""
    exporter: SpanExporter


def open_export(
    documents: Documents,
    environ: Mapping[str, str],
    shared: ConnectionContext,
    metrics: SidecarMetrics,
    offset: Callable[[], float],
) -> SpanExport | None:
    """Put it together.

    Args:
        environ: the variables of the process.
        shared: what connections to the collector share.
        offset: seconds since the epoch minus monotonic ones.

    Returns:
        None where the environment turns it off, or it cannot be used: that is logged, and the sidecar serves without.
    """
    defaults = describe_process(documents.sidecar.metadata.name, INSTANCE)
    settings, problems = read_settings(documents.mesh.spec.telemetry.traces, environ, defaults)
    for problem in problems:
        logger.warning("setting of the export of spans ignored", extra={"fields": {"problem": problem}})
    if settings is None:
        return None
    try:
        exporter = SpanExporter(
            settings,
            shared,
            exported=metrics.spans_exported,
            dropped=metrics.spans_dropped,
            offset=offset,
            new_id=Tracer().span_id,
        )
    except FetchError as error:
        logger.error("spans are not exported", extra={"fields": {"collector": settings.url, "problem": str(error)}})
        return None
    record = SpanRecorder(settings.keep, exporter.take, exporter.limited)
    b3 = B3Propagator(settings.b3) if settings.b3 else None
    return SpanExport(Tracer(settings.sampler, record, b3), exporter)
