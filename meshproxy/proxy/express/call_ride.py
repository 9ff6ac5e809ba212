"""A gRPC call in flight on the express lane, from the moment when it was sent whole to its answer.

Both connections' codecs have seen all of it, so to unfold it is to put the ordinary request in its place: that becomes
the sink of both streams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.proxy.express.carried import Carried, Owner
from meshproxy.proxy.express_outcome import CARRIED, Outcome

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers, RequestHead, ResponseHead, WholeResponse
    from meshproxy.proxy.exchange import LiveExchange
    from meshproxy.proxy.express.call_plan import CallPlan
    from meshproxy.transport.h2_client import H2ClientStream
    from meshproxy.transport.h2_server import RideStream
    from meshproxy.transport.stream import RequestSink, ResponseSink


class CallOwner(Owner, Protocol):
    """The lane that a ride is on (`call_lane.CallLane`)."""

    def unfold(
        self, ride: CallRide, why: Outcome, answer: WholeResponse | None = None
    ) -> tuple[LiveExchange, RequestSink, ResponseSink]:
        """Make an ordinary request of it: what the reaper watches, what reads the client's stream, and what reads the
        model server's. `answer`: one that no plan knows."""


class CallRide(Carried):
    """The record of an exchange on the lane, and who takes its answer (`stream.ResponseSink`, `h2_client.Ride`)."""

    __slots__ = ()

    lane: CallOwner
    plan: CallPlan
    downstream: RideStream
    upstream_connection: H2ClientStream

    def answered(self, whole: WholeResponse) -> bool:
        """The whole answer came in one read (`h2_client.Ride`). False: the ride has unfolded."""
        try:
            plan, lane, body, headers, trailers = self.plan, self.lane, whole.data, whole.headers, whole.trailers
            version = plan.read_version(body) if plan.read_version is not None else ""
            answer = plan.last
            if (
                answer is None
                or answer.headers is not headers
                or answer.trailers is not trailers
                or answer.version != version
            ):
                answer = plan.answers.get((headers, trailers, version))
                if answer is None or whole.status != 200 or whole.length is not None:
                    lane.unfold(self, Outcome.ANSWER, whole)
                    return False
                plan.last = answer
            elif whole.status != 200 or whole.length is not None:
                lane.unfold(self, Outcome.ANSWER)
                return False
            context = lane.context
            if context.snapshot is not plan.snapshot:
                lane.unfold(self, Outcome.RELOADED)
                return False
            downstream, upstream, endpoint = self.downstream, self.upstream_connection, self.endpoint
            self.first_byte = self.ended = now = context.now()
            size = len(body)
            if not downstream.send_answer(answer.prepared, body, size):
                self.first_byte = self.ended = 0.0
                lane.unfold(self, Outcome.CLIENT)
                return False
            upstream.ride_over(whole.flow)
            endpoint.succeeded(plan.model, now - self.connected, now, self.token)
            self.is_reported = True
            self.status = 200
            self.grpc_status = 0
            self.effective_version = version
            self.bytes_sent = size
            lane.wasted = 0
            context.live.discard(self)  # `leave`, without its call
            context.replay_bytes -= self.replayed
            self.replayed = 0
            context.served += 1
            context.express[CARRIED] += 1
            self.finished = context.now()
            answer.observe(self)
        except Exception as error:
            self.fail(error)
        return True

    # What else may happen: it unfolds, and the ordinary request hears of it (stream.ResponseSink)

    def head_received(self, head: ResponseHead) -> None:
        """The answer has not come whole."""
        self._unfolded(Outcome.ANSWER).head_received(head)

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        self._unfolded(Outcome.ANSWER).data_received(data, flow, end)

    def trailers_received(self, headers: Headers) -> None:
        self._unfolded(Outcome.ANSWER).trailers_received(headers)

    def reset_received(self, code: int, reason: str) -> None:
        self._unfolded(Outcome.UPSTREAM).reset_received(code, reason)

    def drained(self) -> None:
        """Nothing is buffered: there is nothing to go on with."""

    def expire(self, now: float) -> None:
        """It takes long (`reaper.Expirable`)."""
        try:
            request, _, _ = self.lane.unfold(self, Outcome.TIME)
        except Exception as error:
            self.fail(error)
        else:
            request.expire(now)

    def client_reset(self, code: int, reason: str) -> None:
        """The client has left (`h2_server.Ride`)."""
        try:
            _, sink, _ = self.lane.unfold(self, Outcome.CLIENT)
        except Exception as error:
            self.fail(error)
        else:
            sink.reset_received(code, reason)

    def _unfolded(self, why: Outcome) -> ResponseSink:
        try:
            return self.lane.unfold(self, why)[2]
        except Exception as error:
            self.fail(error)
            return NOBODY

    def fail(self, error: Exception) -> None:
        """A defect: the client must see a break, and the model server that nobody waits."""
        self.broke(error)
        self.downstream.ride = None
        self.downstream.reset(ErrorCode.INTERNAL_ERROR)
        self.upstream_connection.ride = None
        self.upstream_connection.reset(ErrorCode.CANCEL)


class Sent:
    """The stream that an unfolding ride is written to once more (`stream.Upstream`): nothing goes anywhere."""

    __slots__ = ("address", "info", "sink")

    def __init__(self, stream: H2ClientStream) -> None:
        self.address = stream.address
        self.info = stream.info
        self.sink: ResponseSink | None = None

    def send_request(self, head: RequestHead) -> None: ...

    def send_data(self, data: bytes, end: bool) -> bool:
        return True

    def send_trailers(self, headers: Headers) -> bool:
        return True

    def credit(self, size: int) -> None: ...

    def reset(self, code: int) -> None: ...

    def stop_sending(self) -> None: ...


class _Nobody:
    """Takes an answer that nobody waits for."""

    def head_received(self, head: ResponseHead) -> None: ...

    def data_received(self, data: bytes, flow: int, end: bool) -> None: ...

    def trailers_received(self, headers: Headers) -> None: ...

    def reset_received(self, code: int, reason: str) -> None: ...

    def drained(self) -> None: ...


NOBODY = _Nobody()
