from __future__ import annotations

from meshproxy.telemetry.control_metrics import ControlMetrics
from meshproxy.telemetry.exposition import render
from meshproxy.telemetry.metric_table import TABLES


def test_what_the_control_plane_exposes() -> None:
    metrics = ControlMetrics()
    metrics.issuances.labels("refused", "join-token").value += 1
    page = b"".join(render(metrics.registry)).decode()
    assert 'meshproxy_control_issuances_total{result="refused",reason="join-token"} 1' in page
    for metric in TABLES["Control plane"]:
        assert f"# TYPE {metric.name} " in page
    assert "process_resident_memory_bytes" in page
