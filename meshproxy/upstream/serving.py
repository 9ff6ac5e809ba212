"""Whether a model server, or a model on it, is serving, as grpc.health.v1 says it.

TensorFlow Serving's own health service says SERVING once and never anything else, and nothing about models
(tensorflow/serving#671), so the sidecar answers for it. The service that is asked for is the name of a model; empty, or
one of TensorFlow Serving's two services, is the server as a whole. What is known comes from health checks (`health`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from meshproxy.inference.grpc_health import Serving

if TYPE_CHECKING:
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.health import Health

WHOLE_SERVER = frozenset({"", "PredictionService", "ModelService"})
"""Services that mean the server as a whole (tensorflow_serving/model_servers/server.cc)."""


class Watcher(Protocol):
    """A call of Watch."""

    service: str
    """The requested service."""

    def send_status(self, status: Serving) -> None:
        """Send the current status; it may be the one sent last. Must not raise."""

    def end(self) -> None:
        """No further status will be sent."""


class HealthService:
    """The status of one model server and its models, and the calls that watch it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._watching: set[Watcher] = set()
        self._is_draining = False

    def serving(self, service: str) -> Serving:
        """The status of a service. Calls may go to the server before the first check has ended, but it is not reported
        as serving before that."""
        healths = self._healths()
        if service not in WHOLE_SERVER and not any(service in health.settings.models for health in healths):
            return Serving.SERVICE_UNKNOWN
        model = "" if service in WHOLE_SERVER else service
        if not self._is_draining and any(health.allows(model) and health.is_known(model) for health in healths):
            return Serving.SERVING
        return Serving.NOT_SERVING

    def conditions(self) -> dict[str, bool]:
        """What readiness depends on: the server, and each of its models that is checked."""
        healths = self._healths()
        models = dict.fromkeys(model for health in healths for model in health.settings.models)
        return {
            "model server answers": self.serving("") is Serving.SERVING,
            **{f"model {model} is available": self.serving(model) is Serving.SERVING for model in models},
        }

    def _healths(self) -> list[Health]:
        """Of the endpoints that are checked."""
        return [each.health for each in self.cluster.endpoints.values() if each.health is not None]

    def changed(self) -> None:
        """A status may have changed: send it to the watching calls."""
        for watcher in list(self._watching):
            watcher.send_status(self.serving(watcher.service))

    def drain(self) -> None:
        """The sidecar stops: every Watch ends."""
        self._is_draining = True
        for watcher in list(self._watching):
            watcher.send_status(Serving.NOT_SERVING)
            watcher.end()

    def watch(self, watcher: Watcher) -> None:
        """Send it every status from now on."""
        if self._is_draining:
            watcher.end()
        else:
            self._watching.add(watcher)

    def forget(self, watcher: Watcher) -> None:
        """The call has ended."""
        self._watching.discard(watcher)
