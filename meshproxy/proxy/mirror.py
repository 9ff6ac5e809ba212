"""Shadows: copies of calls that go elsewhere once the client has its answer, so that they can neither slow nor fail it.

A shadow keeps the request as it came, and the client's answer if the two are to be compared; what is longer than the
route's `mirror` says, or beyond its number of copies under way, is not copied, and counted. The policy is not asked
about the version that a shadow calls: the answer goes to nobody.

Endpoints count a shadow among the calls that are under way there, and hear nothing else of it: a version under test
that fails must not open breakers which the calls of clients go by. Nor is a shadow sent to who is doubted: it is no
probe, and takes the place of none.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from meshproxy.codec.events import RequestHead
from meshproxy.inference.surface import Tolerance
from meshproxy.proxy.attempt import CANCEL, grpc_status
from meshproxy.refusal import Refusal
from meshproxy.transport.connector import ConnectError

if TYPE_CHECKING:
    import asyncio

    from meshproxy.codec.events import Headers, ResponseHead
    from meshproxy.config.routes import Compare, Mirror
    from meshproxy.inference.call import Call
    from meshproxy.inference.surface import Operation
    from meshproxy.proxy.passage import Passage
    from meshproxy.proxy.pipeline import Pipeline
    from meshproxy.routing.routes import Route
    from meshproxy.transport.stream import Upstream
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.pool import H1Pool, H2Pool

logger = logging.getLogger(__name__)

RESULTS = ("answered", "agrees", "differs", "differs-top1", "failed", "timeout", "limited", "too-large", "incomplete")
"""What becomes of a copy. `answered`: well, and not compared: compressed answers never are. `differs-top1`: and
the largest number is another one. `limited`: too many under way. `incomplete`: the client's own request or answer never
was whole."""

COMPARING = 20
"""Comparing takes no more than one part of so many of the time: 30 ms for 1 MB of JSON, in which nobody is served. What
comes too early after the last comparison, by what that took, is not compared."""


class Mirrors:
    """The shadows of a pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.in_flight: dict[str, int] = {}
        """Copies kept or under way, by route."""
        self.live: set[Shadow] = set()
        """Those under way."""
        self._compares_again = 0.0
        """When there is time for another comparison."""

    def begin(self, route: Route, mirror: Mirror, server: str, call: Call, forwarded: Call) -> Shadow | None:
        """A shadow for this request, if it is to have one. Nothing but inference is worth a copy, and a reload must not
        be made twice.

        Args:
            mirror: what `route` says of copies; its label is resolved.
            server: where the request itself goes.
            call: as the client made it.
            forwarded: as it goes there.
        """
        if not call.verb.is_inference or self._pipeline.draw() * 100 >= mirror.percent:
            return None
        if self.in_flight.get(route.name, 0) >= mirror.max_in_flight:
            self._pipeline.traffic.mirrored(route.name, "limited")
            return None
        self.in_flight[route.name] = self.in_flight.get(route.name, 0) + 1
        return Shadow(self, self._pipeline, route, mirror, mirror.server or server, call, forwarded)

    def compare(self, ours: bytes, theirs: bytes, operation: Operation, settings: Compare) -> str:
        """What two answers have to say, one of `RESULTS`."""
        if operation.compare is None:
            return "answered"
        pipeline = self._pipeline
        if pipeline.now() < self._compares_again:
            return "answered"
        # What it takes of the processor counts: on a busy machine a short one may last long.
        began = pipeline.cpu_time()
        found = operation.compare(ours, theirs, Tolerance(settings.relative, settings.absolute))
        self._compares_again = pipeline.now() + (pipeline.cpu_time() - began) * (COMPARING - 1)
        if found.agrees:
            return "agrees"
        return "differs-top1" if found.top1_disagrees else "differs"

    def ended(self, shadow: Shadow, route: str, result: str) -> None:
        """A shadow is over."""
        self.live.discard(shadow)
        left = self.in_flight.get(route, 1) - 1
        if left:
            self.in_flight[route] = left
        else:
            self.in_flight.pop(route, None)
        self._pipeline.traffic.mirrored(route, result)

    def close(self) -> None:
        """The process ends: nobody will compare anything any more."""
        for shadow in list(self.live):
            shadow.time_out()


class Shadow:
    """One copy: fed with a request and its answer, then who asks the other server, and the sink of its answer."""

    __slots__ = (
        "_answer",
        "_call",
        "_chosen",
        "_endpoint",
        "_is_grpc",
        "_is_over",
        "_is_sent",
        "_is_whole",
        "_mirror",
        "_mirrors",
        "_model",
        "_operation",
        "_pieces",
        "_pipeline",
        "_pool",
        "_request",
        "_request_bytes",
        "_route",
        "_server",
        "_stream",
        "_theirs",
        "_timer",
        "_token",
        "_went_well",
    )

    def __init__(
        self,
        mirrors: Mirrors,
        pipeline: Pipeline,
        route: Route,
        mirror: Mirror,
        server: str,
        call: Call,
        forwarded: Call,
    ) -> None:
        self._mirrors = mirrors
        self._pipeline = pipeline
        self._route = route
        self._mirror = mirror
        self._server = server
        self._call = call
        self._chosen = forwarded.models[0] if forwarded is not call else None
        """With another version than the client named: the copy asks for it too, unless the mirror names one."""
        self._model = call.models[0].name if call.models else ""
        self._is_grpc = False
        self._operation: Operation
        self._pieces: list[bytes] = []
        self._request_bytes = 0
        self._request: RequestHead
        self._is_whole = False
        """The request has come to its end."""
        self._answer: bytearray | None = bytearray() if mirror.compare is not None else None
        """What the client got; None if nothing is compared, or it was too long for that."""
        self._theirs = bytearray()
        """What the shadow got."""
        self._went_well = True
        self._endpoint: Endpoint | None = None
        self._token = 0
        self._pool: H1Pool | H2Pool | None = None
        self._stream: Upstream | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_sent = False
        """The request has gone out whole."""
        self._is_over = False

    # While the request itself is carried

    def take_request(self, data: bytes, end: bool) -> None:
        """A piece of the request's body, as it came."""
        if self._is_over:
            return
        self._is_whole = end
        self._request_bytes += len(data)
        if self._request_bytes > self._mirror.max_bytes:
            self._end("too-large")
        else:
            self._pieces.append(data)

    def take_answer(self, data: bytes) -> None:
        """A piece of the answer that the client gets."""
        if self._answer is not None:
            self._answer += data
            if len(self._answer) > self._mirror.max_bytes:
                self._answer = None

    def finish(self, passage: Passage) -> None:
        """The client has its answer: now it is our turn. Never raises."""
        if self._is_over:
            return
        if not self._is_whole or not passage.has_ended:
            self._end("incomplete")
            return
        if passage.status != 200 or passage.grpc_status not in (None, 0):
            self._answer = None
        self._is_grpc = passage.is_grpc
        assert passage.operation is not None
        self._operation = passage.operation
        try:
            self._launch(passage)
        except (KeyError, Refusal):
            self._give_up("failed")
        except Exception:
            logger.exception("a copy of a request could not be sent")
            self._give_up("failed")

    # On our own

    def _launch(self, passage: Passage) -> None:
        pipeline = self._pipeline
        now = pipeline.now()
        cluster = pipeline.snapshot.clusters[self._server]
        self._mirrors.live.add(self)
        self._timer = pipeline.loop.call_at(now + self._mirror.timeout, self.time_out)
        body, target = b"".join(self._pieces), passage.target
        version, label = self._mirror.version, self._mirror.label
        if version is None and label is None and self._chosen is not None:
            version, label = self._chosen.version, self._chosen.label
        if version is not None or label is not None:
            if self._operation.rewrite_target is not None:
                target = self._operation.rewrite_target(self._call, version, label)
            if self._operation.rewrite_body is not None:
                most, limits = self._mirror.max_bytes, passage.snapshot.limits.scan
                rewriter = self._operation.rewrite_body(self._call, version, label, most, passage.encoding, limits)
                body = rewriter.feed(body, True)
            if not self._operation.can_rewrite:
                self._give_up("failed")
                return
        self._pieces = [body]
        endpoint = cluster.pick_calm(self._is_grpc, self._model, now)
        if endpoint is None:
            self._give_up("failed")
            return
        self._endpoint = endpoint
        self._token = endpoint.begin(self._model, now)
        pool = endpoint.grpc if self._is_grpc else endpoint.rest
        assert pool is not None
        self._pool = pool
        head, length = passage.head, None if self._is_grpc else len(body)
        self._request = RequestHead(
            0,
            head.method,
            head.authority,
            target,
            passage.forwarded_headers,
            end=False,
            length=length,
            trace=passage.forwarded_trace,
        )
        pool.acquire(self)

    def acquired(self, stream: Upstream) -> None:
        """A stream is at hand (`pool.Taker`)."""
        self._pool = None
        self._stream = stream
        stream.sink = self
        try:
            head = self._request
            if not head.authority:
                head = replace(head, authority=stream.address.encode())
            stream.send_request(head)
            self._is_sent = stream.send_data(self._pieces[0], True)
        except Exception as error:
            logger.debug("a copy of a request could not be sent: %s", error)
            self._give_up("failed")

    def acquire_failed(self, error: ConnectError) -> None:
        """There is no stream to be had."""
        self._pool = None
        self._give_up("failed")

    def head_received(self, head: ResponseHead) -> None:
        """The other server answered."""
        if self._is_over or head.status < 200:
            return
        # A gRPC call that went well has trailers.
        self._went_well = head.status == 200 and not (self._is_grpc and head.end)
        if any(name == b"content-encoding" for name, _ in head.headers):
            self._answer = None
        if head.end:
            self._answered()

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        """A piece of its answer."""
        if self._is_over:
            return
        assert self._stream is not None
        if len(self._theirs) + len(data) > self._mirror.max_bytes:
            self._give_up("too-large")
            return
        self._theirs += data
        if end:
            self._answered()
        else:
            self._stream.credit(flow)

    def trailers_received(self, headers: Headers) -> None:
        """The end of its answer."""
        if not self._is_over:
            if self._is_grpc and grpc_status(headers) != 0:
                self._went_well = False
            self._answered()

    def reset_received(self, code: int, reason: str) -> None:
        """Its answer broke off."""
        if not self._is_over:
            self._stream = None
            self._give_up("failed")

    def drained(self) -> None:
        """It has taken all."""
        self._is_sent = True

    def time_out(self) -> None:
        """It takes too long."""
        if not self._is_over:
            self._give_up("timeout")

    def _answered(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None and not self._is_sent:
            stream.stop_sending()
        self._end(self._compared() if self._went_well else "failed")

    def _compared(self) -> str:
        settings = self._mirror.compare
        if settings is None or self._answer is None:
            return "answered"
        if self._is_grpc and (self._answer[:1] != b"\0" or self._theirs[:1] != b"\0"):
            return "answered"
        return self._mirrors.compare(bytes(self._answer), bytes(self._theirs), self._operation, settings)

    def _give_up(self, result: str) -> None:
        if self._is_over:
            return
        if self._pool is not None:
            self._pool.withdraw(self)
            self._pool = None
        stream, self._stream = self._stream, None
        self._end(result)
        if stream is not None:
            stream.reset(CANCEL)

    def _end(self, result: str) -> None:
        self._is_over = True
        self._pieces = []
        self._answer = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._endpoint is not None:
            self._endpoint.cancelled(self._model, self._pipeline.now(), self._token)
        self._mirrors.ended(self, self._route.name, result)
