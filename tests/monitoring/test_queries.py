from __future__ import annotations

from meshproxy.monitoring.queries import FAILED_STATUSES, failures, quantile, requests, selected
from meshproxy.refusal import GrpcStatus
from tests.promql import problems


def test_they_name_what_pages_have() -> None:
    assert problems(requests("5m", "model", 'direction="inbound"')) == []
    assert problems(failures("5m", "model", 'direction="inbound"')) == []
    assert problems(quantile(0.5, "meshproxy_request_duration_seconds", "5m", "model")) == []
    assert problems(quantile(0.5, "meshproxy_proxy_overhead_seconds", "5m", "")) == []
    assert selected("up") == "up"


def test_statuses_are_called_as_in_metrics() -> None:
    assert set(FAILED_STATUSES.split("|")) <= {status.name for status in GrpcStatus}
