"""grpc.health.v1.Health, answered for the model server: TensorFlow Serving's own says SERVING once and never anything
else, and nothing about models (tensorflow/serving#671).

The service that is asked for is the name of a model; empty, or one of TensorFlow Serving's two services, is the server
as a whole. What is known comes from health checks (`upstream.health`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.inference.grpc_health import WATCH, Serving, read_request, write_response
from meshproxy.refusal import GrpcStatus, Reason, Refusal

if TYPE_CHECKING:
    from meshproxy.proxy.passage import Passage
    from meshproxy.upstream.cluster import Cluster

WHOLE = frozenset({"", "PredictionService", "ModelService"})
"""Names that mean the server as a whole (tensorflow_serving/model_servers/server.cc)."""
REQUEST_BYTES = 4_096
"""A longer request names no service that there is."""
HEADERS = ((b"content-type", b"application/grpc"),)


class HealthService:
    """What is said of one model server, and to whom it is said again when it changes."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._watching: set[HealthCall] = set()
        self._is_draining = False

    def serving(self, service: str) -> Serving:
        """How the server, or a model on it, is. Calls may go there before the first check has ended, but nobody is told
        that it serves before somebody has looked."""
        healths = [each.health for each in self.cluster.endpoints.values() if each.health is not None]
        if service not in WHOLE and not any(service in health.checked.models for health in healths):
            return Serving.SERVICE_UNKNOWN
        model = "" if service in WHOLE else service
        if not self._is_draining and any(health.allows(model) and health.is_known(model) for health in healths):
            return Serving.SERVING
        return Serving.NOT_SERVING

    def conditions(self) -> dict[str, bool]:
        """What being ready hangs on: the server, and each of its models that is asked for."""
        healths = [each.health for each in self.cluster.endpoints.values() if each.health is not None]
        models = dict.fromkeys(model for health in healths for model in health.checked.models)
        return {
            "model server answers": self.serving("") is Serving.SERVING,
            **{f"model {model} is available": self.serving(model) is Serving.SERVING for model in models},
        }

    def changed(self) -> None:
        """Something may have: tell those who watch."""
        for call in list(self._watching):
            call.tell(self.serving(call.service))

    def drain(self) -> None:
        """We are going away: nobody may wait for us to change our mind."""
        self._is_draining = True
        for call in list(self._watching):
            call.tell(Serving.NOT_SERVING)
            call.end()

    def watch(self, call: HealthCall) -> None:
        """Tell it from now on."""
        if self._is_draining:
            call.end()
        else:
            self._watching.add(call)

    def forget(self, call: HealthCall) -> None:
        """It is over."""
        self._watching.discard(call)


class HealthCall:
    """One call of Check or Watch."""

    __slots__ = ("_body", "_is_watch", "_passage", "_said", "_service_of", "service")

    def __init__(self, service_of: HealthService, passage: Passage, target: bytes) -> None:
        self._service_of = service_of
        self._passage = passage
        self._is_watch = target == WATCH
        self._body = b""
        self._said: Serving | None = None
        self.service = ""

    def feed(self, data: bytes, end: bool) -> None:
        """A piece of the request came. Raises Refusal."""
        self._body += data
        if len(self._body) > REQUEST_BYTES:
            raise Refusal(Reason.BODY_TOO_LARGE, "A health check names one service.", limit="health_request")
        if not end:
            return
        self.service = service = read_request(self._body)
        models = () if service in WHOLE else (ModelRef(service),)
        self._passage.decide(Call(Verb.STATUS, models))
        status = self._service_of.serving(service)
        passage = self._passage
        if self._is_watch:
            self.tell(status)
            self._service_of.watch(self)
        elif status is Serving.SERVICE_UNKNOWN:
            message = b"the health of this model is not asked for"
            passage.answer_with((*HEADERS, (b"grpc-status", b"5"), (b"grpc-message", message)), end=True)
            passage.grpc_status = GrpcStatus.NOT_FOUND
            passage.finish()
        else:
            passage.answer_with(HEADERS, end=False)
            self._write(status)
            self._finish(GrpcStatus.OK)

    def tell(self, status: Serving) -> None:
        """Say how it is, if that was not said last."""
        passage = self._passage
        if status is self._said or passage.is_over:
            return
        try:
            if self._said is None:
                passage.answer_with(HEADERS, end=False)
            self._said = status
            self._write(status)
        except Exception as error:
            passage.fail(error)  # others are to be told, too

    def _write(self, status: Serving) -> None:
        response = write_response(status)
        self._passage.bytes_sent += len(response)
        self._passage.stream.send_data(response, end=False)

    def end(self) -> None:
        """No more is said: whoever wants to know asks again, elsewhere if it can."""
        if not self._passage.is_over:
            self._finish(GrpcStatus.UNAVAILABLE)

    def _finish(self, status: GrpcStatus) -> None:
        passage = self._passage
        passage.grpc_status = status
        passage.stream.send_trailers(((b"grpc-status", b"%d" % status),))
        passage.finish()

    def close(self) -> None:
        """The exchange is over."""
        self._service_of.forget(self)
