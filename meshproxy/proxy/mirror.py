"""Mirrored requests: copies that go elsewhere once the client has its answer, so that they cannot slow or fail it.

A copy keeps the request as it came, and the client's answer if the two are to be compared. What is longer than the
route's `mirror` allows, or beyond its number of copies in flight, is not copied, and counted. The policy is not asked
about the model and version that a copy calls: the answer is dropped.

Endpoints count a copy among the calls in flight there, and hear nothing else of it: a version under test that fails
must not open breakers that the calls of clients go by. Nor is a copy sent to an endpoint that is doubted: it is no
probe.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from meshproxy.codec.grpc import grpc_status
from meshproxy.codec.pieces import join
from meshproxy.inference.surface import Tolerance
from meshproxy.proxy.guard import guarded
from meshproxy.refusal import Refusal
from meshproxy.routing.split import chosen, redirect
from meshproxy.transport.client import (
    HEAD_BYTES,
    ClientError,
    ClientFailure,
    Response,
    UnaryExchange,
    complete_head,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from meshproxy.codec.events import RequestHead
    from meshproxy.config.routes import Compare, Mirror
    from meshproxy.inference.body_scan import ScanLimits
    from meshproxy.inference.surface import Operation
    from meshproxy.proxy.context import ProxyContext
    from meshproxy.proxy.exchange import Exchange
    from meshproxy.routing.routes import Route
    from meshproxy.routing.split import Arm
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.pool import H1Pool, H2Pool

logger = logging.getLogger(__name__)

RESULTS = ("answered", "agrees", "differs", "differs-top1", "failed", "timeout", "limited", "too-large", "incomplete")
"""How a copy ends. `answered`: well, and not compared: compressed answers and those with too many values never are.
`differs-top1`: and the largest number is another one. `limited`: too many in flight. `too-large`: longer than
`maxBytes`, or a head that the server does not take. `incomplete`: the client's request or answer never was whole."""

COMPARING = 20
"""Comparing takes at most one part in so many of the time: 20 to 40 ms for the largest answers that are compared, while
no request is served. What comes too early after the last comparison, by what that took, is not compared."""


class Mirrors:
    """The mirrored requests of a pipeline."""

    def __init__(self, context: ProxyContext) -> None:
        self.context = context
        self.in_flight: dict[str, int] = {}
        """Copies recorded or in flight, by route."""
        self.live: set[MirroredRequest] = set()
        """Those in flight."""
        self._compares_again = 0.0
        """When there is time for another comparison."""

    def begin(
        self,
        exchange: Exchange,
        route: Route,
        server: str,
        operation: Operation,
        head: RequestHead,
        encoding: bytes | None,
        limits: ScanLimits,
    ) -> MirroredRequest | None:
        """A copy of this request, if it is to have one. Nothing but inference is worth one, and a reload must not be
        made twice. Nor is a call copied to where it goes itself: that server would answer it twice, and agree.

        Args:
            server: where the request itself goes.
            head: as it goes there, without what is for that server alone.
            encoding: `grpc-encoding` of the request.
        """
        mirror = route.mirror
        context = self.context
        if mirror is None or not operation.verb.is_inference or context.draw() * 100 >= mirror.percent:
            return None
        forwarded = exchange.forwarded
        assert forwarded is not None
        if mirror.server in (None, server) and route.mirrored(forwarded) == forwarded:
            return None
        in_flight = self.in_flight.get(route.name, 0)
        if in_flight >= mirror.max_in_flight:
            context.traffic.mirrored(exchange.connection.direction, route.name, "limited")
            return None
        self.in_flight[route.name] = in_flight + 1
        return MirroredRequest(self, exchange, route.name, mirror, server, operation, head, encoding, limits)

    def compare(self, operation: Operation, ours: bytes, theirs: bytes, settings: Compare) -> str:
        """One of `RESULTS`."""
        context = self.context
        if operation.compare is None or context.now() < self._compares_again:
            return "answered"
        # Processor time counts: on a busy machine a short comparison may last long.
        began = context.cpu_time()
        found = operation.compare(ours, theirs, Tolerance(settings.relative, settings.absolute))
        self._compares_again = context.now() + (context.cpu_time() - began) * (COMPARING - 1)
        if found is None:
            return "answered"
        if found.agrees:
            return "agrees"
        return "differs-top1" if found.top1_disagrees else "differs"

    def ended(self, copy: MirroredRequest, direction: str, route: str, result: str) -> None:
        """A copy has ended with one of `RESULTS`."""
        self.live.discard(copy)
        left = self.in_flight.get(route, 1) - 1
        if left:
            self.in_flight[route] = left
        else:
            self.in_flight.pop(route, None)
        self.context.traffic.mirrored(direction, route, result)

    def close(self) -> None:
        """The process ends: cancel the copies in flight."""
        for copy in list(self.live):
            copy.time_out()


class State(Enum):
    """RECORDING -> SENT -> DONE, or straight to DONE."""

    RECORDING = 0
    """The request itself is being carried."""
    SENT = 1
    """The copy waits for a connection or for its answer."""
    DONE = 2


RECORDING: Final = State.RECORDING
SENT: Final = State.SENT
DONE: Final = State.DONE


class MirroredRequest:
    """One copy: records a request and its answer while they are carried, then makes the same request elsewhere."""

    __slots__ = (
        "_answer",
        "_call",
        "_direction",
        "_encoding",
        "_endpoint",
        "_exchange",
        "_head",
        "_is_grpc",
        "_is_whole",
        "_judged",
        "_limits",
        "_mirror",
        "_mirrors",
        "_model",
        "_operation",
        "_pieces",
        "_pool",
        "_request_bytes",
        "_route",
        "_server",
        "_target",
        "_timer",
        "_token",
        "state",
    )

    def __init__(
        self,
        mirrors: Mirrors,
        exchange: Exchange,
        route: str,
        mirror: Mirror,
        server: str,
        operation: Operation,
        head: RequestHead,
        encoding: bytes | None,
        limits: ScanLimits,
    ) -> None:
        asked, forwarded = exchange.asked, exchange.forwarded
        assert asked is not None
        assert forwarded is not None
        self._mirrors = mirrors
        self._direction = exchange.connection.direction
        self._route = route
        self._mirror = mirror
        self._server = mirror.server or server
        self._operation = operation
        self._head = head
        self._encoding = encoding
        self._limits = limits
        self._call = asked
        # The copy asks for what the route chose, unless the mirror names a model or version.
        self._target = redirect(forwarded, mirror.model, mirror.version, mirror.label)
        self._model = self._target.models[0].name if self._target.models else ""
        self._is_grpc = exchange.is_grpc
        self.state = RECORDING
        self._pieces: list[bytes | bytearray] = []
        self._request_bytes = 0
        self._is_whole = False
        """The request has come to its end."""
        self._answer: bytearray | None = bytearray() if mirror.compare is not None else None
        """What the client got; None if nothing is compared, or it was too long for that."""
        self._endpoint: Endpoint | None = None
        self._token = 0
        self._pool: H1Pool | H2Pool | None = None
        self._exchange: UnaryExchange | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._judged: Callable[[bool], None] | None = None
        """Told whether the answers agree, if they are compared."""

    def judge_for(self, judged: Callable[[bool], None], arm: Arm) -> None:
        """Have it told whether the answers agree, if the copy goes to this arm."""
        mirror = self._mirror
        if (mirror.version, mirror.label, mirror.model) == (arm.version, arm.label, arm.model) and (
            mirror.server is None or mirror.server == arm.server
        ):
            self._judged = judged

    # While the request itself is carried

    def take_request(self, data: bytes, end: bool) -> None:
        """A piece of the request's body, as it came."""
        if self.state is not RECORDING:
            return
        self._is_whole = end
        self._request_bytes += len(data)
        if self._request_bytes > self._mirror.max_bytes:
            self._end("too-large")
        else:
            pieces = self._pieces
            joined = join(pieces[-1], data) if pieces else None
            if joined is not None:
                pieces[-1] = joined
            else:
                pieces.append(data)

    def take_answer(self, data: bytes) -> None:
        """A piece of the answer that the client gets."""
        if self._answer is not None:
            self._answer += data
            if len(self._answer) > self._mirror.max_bytes:
                self._answer = None

    def launch(self, exchange: Exchange, is_whole: bool) -> None:
        """The exchange is over: send the copy. Never raises.

        Args:
            is_whole: the client's answer was.
        """
        if self.state is not RECORDING:
            return
        if not self._is_whole or not is_whole:
            self._end("incomplete")
            return
        if exchange.status != 200 or exchange.grpc_status not in (None, 0):
            self._answer = None
        try:
            self._send()
        except (KeyError, Refusal):
            self._end("failed")
        except Exception as error:
            self.crashed(error)

    # Sending the mirrored request

    def _send(self) -> None:
        mirror, context, operation = self._mirror, self._mirrors.context, self._operation
        now = context.now()
        cluster = context.snapshot.clusters[self._server]
        self._mirrors.live.add(self)
        self._timer = context.loop.call_at(now + mirror.timeout, self.time_out)
        body, head = b"".join(self._pieces), self._head
        self._pieces = []
        if self._target is not self._call:
            what = chosen(self._call, self._target)
            if operation.rewrite_target is not None:
                head = replace(head, target=operation.rewrite_target(self._call, what))
            if operation.rewrite_body is not None:
                most, encoding = mirror.max_bytes, self._encoding
                rewriter = operation.rewrite_body(self._call, what, most, encoding, self._limits)
                body = rewriter.feed(body, True)
        if not self._is_grpc:
            head = replace(head, length=len(body))
        endpoint = cluster.pick_clean(self._is_grpc, self._model, now)
        if endpoint is None:
            self._end("failed")
            return
        self._endpoint = endpoint
        self._token = endpoint.begin(self._model, now)
        pool = endpoint.grpc if self._is_grpc else endpoint.rest
        assert pool is not None  # or it would not have been picked
        head = complete_head(head, pool, body)
        self._pool = pool
        self._exchange = UnaryExchange(head, body, HEAD_BYTES, mirror.max_bytes, self._answered)
        self.state = SENT
        pool.acquire(self._exchange)

    @guarded
    def _answered(self, result: Response | Exception) -> None:
        """The other server's answer is whole, or there is none."""
        self._exchange = None  # what refers to each other in a circle would have to wait for the garbage collector
        if isinstance(result, Response):
            self._end(self._judge(result))
        elif isinstance(result, ClientError):
            self._end("too-large" if result.failure is ClientFailure.TOO_LARGE else "failed")
        else:
            self.crashed(result)

    def _judge(self, theirs: Response) -> str:
        """One of `RESULTS`."""
        if theirs.status != 200 or (self._is_grpc and grpc_status(theirs.trailers) != 0):
            return "failed"
        settings, ours = self._mirror.compare, self._answer
        if settings is None or ours is None or any(name == b"content-encoding" for name, _ in theirs.headers):
            return "answered"
        if self._is_grpc and (ours[:1] != b"\0" or theirs.body[:1] != b"\0"):
            return "answered"  # a compressed message
        return self._mirrors.compare(self._operation, bytes(ours), theirs.body, settings)

    # The end

    def time_out(self) -> None:
        """It takes too long."""
        self._end("timeout")

    def crashed(self, error: Exception) -> None:
        """A callback raised (`guard.Guarded`): the copy has failed, nothing else has."""
        logger.error("internal error in a mirrored request", exc_info=error)
        self._end("failed")

    def _end(self, result: str) -> None:
        if self.state is DONE:
            return
        self.state = DONE
        self._pieces = []
        self._answer = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        exchange, self._exchange = self._exchange, None
        if exchange is not None and self._pool is not None:
            self._pool.withdraw(exchange)
            exchange.cancel()
        if self._endpoint is not None:
            self._endpoint.cancelled(self._model, self._mirrors.context.now(), self._token)
        judged, self._judged = self._judged, None
        if judged is not None and (result == "agrees" or result.startswith("differs")):
            judged(result == "agrees")
        self._mirrors.ended(self, self._direction, self._route, result)
