from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meshproxy.injection.pod import Container
from meshproxy.injection.probes import rewritten_probes


def rewritten(*, to_sidecar: bool = False, **probes: Any) -> dict[str, Any]:
    return rewritten_probes(msgspec.convert({"name": "a", **probes}, Container), to_sidecar=to_sidecar)


@pytest.mark.parametrize(
    "handler",
    [
        {"httpGet": {"path": "/v1/models/fraud", "port": "mesh"}},
        {"httpGet": {"path": "/", "port": 18500, "scheme": "HTTPS"}},
        {"httpGet": {"path": "/readyz", "port": 18502, "scheme": "HTTPS"}},
        {"tcpSocket": {"port": "mesh"}},
        {"tcpSocket": {"port": 18502}},
        {"grpc": {"port": 18500, "service": "fraud"}},
    ],
)
def test_probes_at_the_sidecars_ports(handler: dict[str, Any]) -> None:
    """The kubelet has no certificate, and looks for the name of a port in the container of the probe."""
    changed = rewritten(readinessProbe={**handler, "periodSeconds": 3}, livenessProbe=handler)
    assert changed == {
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 18502}, "periodSeconds": 3},
        "livenessProbe": {"httpGet": {"path": "/livez", "port": 18502}},
    }


def test_the_admin_port_by_its_name() -> None:
    probe = {"httpGet": {"path": "/readyz?verbose", "port": "mesh-admin"}}
    assert rewritten(startupProbe=probe) == {"startupProbe": {"httpGet": {"path": "/readyz?verbose", "port": 18502}}}
    assert rewritten(startupProbe={"httpGet": {"path": "/livez", "port": 18502, "scheme": "HTTP"}}) == {}


def test_probes_that_work_stay() -> None:
    for handler in ({"httpGet": {"port": 8501}}, {"tcpSocket": {"port": "rest"}}, {"grpc": {"port": 8500}}):
        assert rewritten(readinessProbe=handler) == {}
        assert rewritten(readinessProbe=handler, to_sidecar=True)
    assert rewritten(readinessProbe={"exec": {"command": ["true"]}}, to_sidecar=True) == {}
    assert rewritten(readinessProbe={"httpGet": None}) == {}
