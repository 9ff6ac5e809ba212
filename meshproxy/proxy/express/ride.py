"""A request in flight on the express lane, from the moment when it was sent whole to its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from meshproxy.proxy.express.carried import Carried, Owner
from meshproxy.proxy.express.shape import MOST_HEAD
from meshproxy.proxy.express_outcome import CARRIED, Outcome

if TYPE_CHECKING:
    from meshproxy.proxy.exchange import LiveExchange
    from meshproxy.proxy.express.plan import Plan
    from meshproxy.transport.h1_client import H1Client
    from meshproxy.transport.h1_server import H1Server
    from meshproxy.upstream.pool import H1Pool

HEAD_END = b"\r\n\r\n"


class RideOwner(Owner, Protocol):
    """The lane that a ride is on (`lane.Lane`)."""

    def unfold(self, ride: Ride, why: Outcome, answer: bytes = b"") -> LiveExchange:
        """Make an ordinary request of it, and return that. `answer`: the head of one that no plan knows."""


class Ride(Carried):
    """The record of an exchange on the lane, and who takes its answer (`h1.Ride`)."""

    __slots__ = ()

    lane: RideOwner
    plan: Plan
    pool: H1Pool
    downstream: H1Server
    upstream_connection: H1Client

    def answered(self, data: bytes) -> bool:
        """The answer came, or some of it (`h1.Ride`). False: the ride has unfolded."""
        try:
            plan, lane = self.plan, self.lane
            read = plan.last
            if read is None or not data.startswith(read[0]):
                end = data.find(HEAD_END) + 4
                read = plan.read_answer(data[:end]) if end <= MOST_HEAD else None
                if read is None:
                    lane.unfold(self, Outcome.ANSWER, data[:end] if end >= len(HEAD_END) else b"")
                    return False
                plan.last = read
            _, end, size, begin, answer = read
            if len(data) != end + size:
                lane.unfold(self, Outcome.ANSWER)
                return False
            context = lane.context
            if context.snapshot is not plan.snapshot:
                lane.unfold(self, Outcome.RELOADED)
                return False
            upstream, downstream, endpoint = self.upstream_connection, self.downstream, self.endpoint
            self.first_byte = self.ended = first_byte = context.now()
            upstream.ride = None
            self.pool.released(upstream)
            endpoint.succeeded(plan.model, first_byte - self.connected, first_byte, self.token)
            self.is_reported = True
            self.status = answer.status
            self.bytes_sent = size
            self.head.stream = downstream.ride_over(begin + data[end:], first_byte)
            lane.wasted = 0
            context.live.discard(self)  # `leave`, without its call
            context.replay_bytes -= self.replayed
            self.replayed = 0
            context.served += 1
            context.express[CARRIED] += 1
            self.finished = context.now()
            answer.observe(self)
        except Exception as error:
            self._fail(error)
        return True

    # What else may happen: it unfolds, and the ordinary request hears of it

    def client_acted(self) -> None:
        """The client sent something, or is gone (`h1.Ride`)."""
        self._unfold(Outcome.CLIENT)

    def client_leaves(self) -> None:
        """The client is to be asked to leave (`h1.Ride`)."""
        self._unfold(Outcome.DRAINED)

    def server_left(self) -> None:
        """The connection to the model server has ended (`h1.Ride`)."""
        self._unfold(Outcome.UPSTREAM)

    def expire(self, now: float) -> None:
        """It takes long (`reaper.Expirable`)."""
        request = self._unfold(Outcome.TIME)
        if request is not None:
            request.expire(now)

    def _unfold(self, why: Outcome) -> LiveExchange | None:
        try:
            return self.lane.unfold(self, why)
        except Exception as error:
            self._fail(error)
            return None

    def _fail(self, error: Exception) -> None:
        """A defect: neither side can be trusted to be where it should be."""
        self.broke(error)
        self.downstream.ride = None
        self.downstream.abort()
        upstream = self.upstream_connection
        if upstream.ride is self:  # else it is somebody else's by now
            upstream.ride = None
            upstream.abort()
