"""Envoy and meshproxy once more, with spans of one request in a hundred, sent to the sink."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from benchmarks.peers.envoy import Envoy, cluster
from benchmarks.peers.meshproxy import Meshproxy

if TYPE_CHECKING:
    from benchmarks.peers.peer import Setting

RATIO = 0.01
"""Of traces that begin at the proxy. Those of the load say themselves whether they are sampled, as many of them."""


class EnvoyTraces(Envoy):
    name = "envoy-traces"
    checks = "as envoy, and spans of 1 % of the requests (envoy.tracers.opentelemetry, OTLP over HTTP)"
    exports = True

    def configuration(self, setting: Setting, port: int) -> dict[str, Any]:
        assert setting.sink is not None
        whole = super().configuration(setting, port)
        http = whole["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        uri = f"http://127.0.0.1:{setting.sink.taking}/v1/traces"
        tracer = {
            "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
            "http_service": {"http_uri": {"uri": uri, "cluster": "sink", "timeout": "10s"}},
            "service_name": "bench",
        }
        http["tracing"] = {
            "provider": {"name": "envoy.tracers.opentelemetry", "typed_config": tracer},
            # Of requests that say nothing; others say it in `x-request-id` and in `traceparent`.
            "random_sampling": {"value": RATIO * 100},
            # A span of the request and one of its attempt, as meshproxy's.
            "spawn_upstream_span": True,
        }
        whole["static_resources"]["clusters"].append(cluster("sink", setting.sink.taking, {}))
        return whole


class MeshproxyTraces(Meshproxy):
    """Exports spans.

    Args:
        port: which of the sink's ports they are sent to.
        samples_all: of each request.
    """

    def __init__(self, name: str, checks: str, port: str, *, samples_all: bool = False) -> None:
        self.name = name
        self.checks = f"as meshproxy, and spans of {checks}"
        self.exports = port == "taking"
        self._port = port
        if samples_all:
            self.variables = MappingProxyType({"OTEL_TRACES_SAMPLER": "always_on"})

    def documents(self, setting: Setting, port: int, admin: int) -> list[dict[str, Any]]:
        assert setting.sink is not None
        found = super().documents(setting, port, admin)
        (mesh,) = [document for document in found if document["kind"] == "MeshConfig"]
        endpoint = f"http://127.0.0.1:{getattr(setting.sink, self._port)}"
        mesh["spec"]["telemetry"] = {"traces": {"endpoint": endpoint, "ratio": RATIO}}
        return found


ENVOY_TRACES = EnvoyTraces()
OWN_TRACES = (
    MeshproxyTraces("meshproxy-traces", "1 % of the requests", "taking"),
    MeshproxyTraces("meshproxy-traces-all", "all requests", "taking", samples_all=True),
    MeshproxyTraces("meshproxy-traces-silent", "1 %, to a collector that does not answer", "silent"),
    MeshproxyTraces("meshproxy-traces-dead", "1 %, to one that is not there", "closed"),
)
