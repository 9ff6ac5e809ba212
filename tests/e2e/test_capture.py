"""Traffic capture, as the API server of Kubernetes takes it."""

from __future__ import annotations

from tests.e2e.conftest import TestNamespace
from tests.e2e.test_injection import Server
from tests.injection.pods import injected, pod

CAPTURED = {"config.meshproxy.dev/capture": "enabled", "config.meshproxy.dev/outbound": "enabled"}


async def test_a_pod_whose_traffic_is_captured(namespace: TestNamespace) -> None:
    await namespace.token("default")  # its service account
    made = Server(namespace.cluster, namespace.name).create(injected(pod(annotations=CAPTURED)).pod)
    names = [each["name"] for each in made["spec"]["initContainers"]]
    assert names == ["meshproxy-capture", "meshproxy"]
