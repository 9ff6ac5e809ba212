"""The export of spans, put together from documents and variables."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meshproxy.config.schema import Documents, MeshConfig, MeshSpec, Sidecar
from meshproxy.config.telemetry import Telemetry, Traces
from meshproxy.sidecar.span_export import SpanExport, open_export
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from meshproxy.transport.channel import own_connections


def documents(traces: Traces | None) -> Documents:
    spec = MeshSpec(trust_domain="dev.example", mtls="disabled", telemetry=Telemetry(traces))
    sidecar: dict[str, Any] = {"kind": "Sidecar", "metadata": {"name": "own"}, "spec": {"outbound": {}}}
    return Documents(
        mesh=msgspec.convert(
            {"kind": "MeshConfig", "metadata": {"name": "m"}, "spec": msgspec.to_builtins(spec)}, MeshConfig
        ),
        sidecar=msgspec.convert(sidecar, Sidecar),
        fingerprint="",
    )


def opened(traces: Traces | None, **environ: str) -> SpanExport | None:
    return open_export(documents(traces), environ, own_connections(), SidecarMetrics(), lambda: 0.0)


MESH = Traces(endpoint="http://127.0.0.1:1", ratio=1.0)


async def test_the_parts_fit(caplog: pytest.LogCaptureFixture) -> None:
    export = opened(MESH)
    assert export is not None
    context, _ = export.tracer.begin()
    assert context.sampled
    assert caplog.records == []
    await export.exporter.close()


async def test_zipkins_format_is_written_where_that_is_asked_for() -> None:
    for traces, environ in ((msgspec.structs.replace(MESH, b3="single"), {}), (MESH, {"OTEL_PROPAGATORS": "b3"})):
        export = opened(traces, **environ)
        assert export is not None
        assert export.tracer.reads_b3
        context, parent = export.tracer.begin()
        assert context.inject is not None
        assert context.inject((), parent) == ((b"b3", parent[3:52] + b"-1"),)
        await export.exporter.close()


async def test_the_environment_turns_it_off() -> None:
    assert opened(MESH, OTEL_SDK_DISABLED="true") is None
    assert opened(None) is None


async def test_what_cannot_be_used_is_logged_and_the_sidecar_serves(caplog: pytest.LogCaptureFixture) -> None:
    export = opened(MESH, OTEL_TRACES_SAMPLER="mine")
    assert export is not None
    await export.exporter.close()
    assert "setting of the export of spans ignored" in caplog.text
    https = Traces(endpoint="https://127.0.0.1:1")
    assert opened(https, OTEL_EXPORTER_OTLP_CERTIFICATE="/nowhere/ca.pem") is None
    assert "spans are not exported" in caplog.text
