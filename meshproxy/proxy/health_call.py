"""One call of grpc.health.v1.Health, answered for the model server (`upstream.serving`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.inference.grpc_health import WATCH, Serving, read_request, write_response
from meshproxy.proxy.client_side import OVER
from meshproxy.proxy.guard import guarded
from meshproxy.refusal import GrpcStatus, Reason, Refusal
from meshproxy.upstream.serving import WHOLE_SERVER

if TYPE_CHECKING:
    from meshproxy.proxy.request import Request
    from meshproxy.upstream.serving import HealthService

REQUEST_BYTES = 4_096
"""A longer request names no service that exists."""
HEADERS = ((b"content-type", b"application/grpc"),)
UNKNOWN_SERVICE = b"the health of this model is not checked"


class HealthCall:
    """Check or Watch; a Watch is sent changes (`serving.Watcher`)."""

    __slots__ = ("_body", "_health", "_is_watch", "_request", "_said", "service")

    def __init__(self, health: HealthService, request: Request, target: bytes) -> None:
        self._health = health
        self._request = request
        self._is_watch = target == WATCH
        self._body = b""
        self._said: Serving | None = None
        """The status that the client was sent last."""
        self.service = ""

    def feed(self, data: bytes, end: bool) -> None:
        """A part of the request was received. Raises Refusal."""
        self._body += data
        if len(self._body) > REQUEST_BYTES:
            raise Refusal(Reason.BODY_TOO_LARGE, "A health check names one service.", limit="health_request")
        if not end:
            return
        request = self._request
        self.service = service = read_request(self._body)
        request.asked = call = Call(Verb.STATUS, () if service in WHOLE_SERVER else (ModelRef(service),))
        request.decide(call)
        status = self._health.serving(service)
        if self._is_watch:
            self.send_status(status)
            if request.answer is not OVER:
                self._health.watch(self)
        elif status is Serving.SERVICE_UNKNOWN:
            fields = (b"grpc-status", b"%d" % GrpcStatus.NOT_FOUND), (b"grpc-message", UNKNOWN_SERVICE)
            request.begin_answer(200, (*HEADERS, *fields), request.context.now(), end=True)
        else:
            self.send_status(status)
            if request.answer is not OVER:
                self._end(GrpcStatus.OK)

    @guarded
    def send_status(self, status: Serving) -> None:
        """Send the status, unless it was the last one sent."""
        request = self._request
        if status is self._said or request.answer is OVER:
            return
        if self._said is None:
            request.begin_answer(200, HEADERS, request.context.now())
        self._said = status
        request.send_body(write_response(status), 0, end=False)

    def end(self) -> None:
        """End a Watch: the client asks again, elsewhere if it can."""
        self._health.forget(self)
        if self._request.answer is not OVER:
            self._end(GrpcStatus.UNAVAILABLE)

    def _end(self, status: GrpcStatus) -> None:
        self._request.send_trailers(((b"grpc-status", b"%d" % status),), status)

    def crashed(self, error: Exception) -> None:
        """As in `guard.Guarded`."""
        self._request.crashed(error)

    def close(self) -> None:
        self._health.forget(self)
