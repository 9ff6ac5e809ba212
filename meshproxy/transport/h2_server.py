"""HTTP/2 from a client: its streams, its requests, when it is asked to leave, and what it costs while it is idle."""

from __future__ import annotations

import logging
from enum import Enum
from functools import partial
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Protocol

from meshproxy.codec.events import Data, Failed, GoneAway, Headers, Pong, Rejected, RequestHead, WholeRequest
from meshproxy.codec.h2.encoder import HeadTooLarge
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.h2.frames import PING
from meshproxy.codec.role import Role
from meshproxy.transport.h2 import REQUESTS, SHED_REQUESTS, H2Driver, H2Stream, Slices, end_streams
from meshproxy.transport.stream import RequestSink
from meshproxy.transport.tls_buffer import give_back

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from meshproxy.codec.events import Event
    from meshproxy.codec.h2.whole import PreparedAnswer
    from meshproxy.transport.connection import ConnectionContext
    from meshproxy.transport.connection_info import ConnectionInfo
    from meshproxy.transport.stream import Reject, Serve

logger = logging.getLogger(__name__)

UNREAD_BUDGET = 16 * 1_048_576
"""Bytes that may wait for a client that does not read before it is refused further streams. A pause of a client among
large responses is no reason: of 32 of 1 MiB, up to 4 MiB wait."""
DRAIN_PING = b"draining"
PAUSE = 0.005
"""Seconds without a request after a response, after which a client is asked to leave: as far from its next request as
can be known. Earlier the response might not have been read."""
QUIET = 0.3
"""Seconds without a request after which any moment is as good."""
ENDED_AT_ONCE = 64
"""Requests that end with their connection: a thousand take 20 ms."""
PINGED_PERIODS = 10
"""How many times `Times.idle` a connection without a stream stays open if the client sends a PING in each of them, as
gRPC clients do that keep a channel alive (`keepalive_permit_without_calls`)."""


class Lane(Protocol):
    """Carries requests of one client's connection that came whole (`proxy.express`)."""

    def carry(self, downstream: H2Server, head: RequestHead, body: bytes, flow: int) -> bool:
        """A request came, and all of its body with it, which took `flow` of the windows. False: nothing has
        happened."""

    def follow(self, request: RequestSink | None) -> None:
        """What `carry` did not take has been served: this reads it."""


class H2ServerStream(H2Stream[RequestSink]):
    """A request of a client (`stream.Downstream`)."""

    __slots__ = ()

    _driver: H2Server

    def open_lane(self, make: Callable[[], Lane]) -> None:
        """The connection gets an express lane, if it has none."""
        if self._driver.lane is None:
            self._driver.lane = make()
            self._driver.codec.gate = self._driver.shared.overload
            self._driver.codec.joins = not self._driver.is_paused

    def send_response(self, status: int, headers: Headers, end: bool, length: int | None = None) -> None:
        """Write a head (`stream.Downstream`). One larger than the client accepts resets this stream only."""
        driver = self._driver
        try:
            driver.codec.send_response(self.id, status, headers, end, length)
        except HeadTooLarge as problem:
            self.give_up(str(problem))
            return
        driver.touch()
        if end:
            driver.end_half(self)

    @property
    def unread(self) -> int:
        """Bytes that wait for the client's windows, or else behind those of other streams for the socket
        (`stream.Downstream`)."""
        driver = self._driver
        return driver.codec.held(self.id) or driver.transport.get_write_buffer_size()

    def stop_receiving(self) -> None:
        """Tell the client to stop sending the request (RFC 9113 section 8.1)."""
        if self.ended < 2:
            self.reset(ErrorCode.NO_ERROR)

    def close_connection(self) -> None:
        """GOAWAY, behind the response that is about to be written (`stream.Downstream`)."""
        self._driver.shared.loop.call_soon(self._driver.announce)


class Ride(Protocol):
    """A request on the express lane (`proxy.express`), as its client's stream sees it."""

    def client_reset(self, code: int, reason: str) -> None:
        """The client has left, or its connection is gone."""


class RideStream(H2ServerStream):
    """The stream of a request on the express lane, which came whole. Until the ride unfolds, the stream is its own sink
    (`stream.RequestSink`): of a client that has sent everything nothing can come but that it leaves."""

    __slots__ = ("ride",)

    def __init__(self, driver: H2Server, number: int) -> None:
        """Opens it: the request's credit is about to be returned."""
        # As the base, without its call.
        self._driver = driver
        self.info = driver.info
        self.id = number
        self.sink = self
        self.ended = 1
        self._is_held = self._ends_when_drained = False
        self.owed = 0
        self.ride: Ride | None = None
        """None: it has unfolded, or is over."""
        driver.deadline = 0.0
        driver._newest = number
        driver.streams[number] = self

    def send_answer(self, answer: PreparedAnswer, body: bytes, size: int) -> bool:
        """Send a whole answer, as `send_response`, `send_data` and `send_trailers` do. False: the client does not take
        it at once, and nothing was done. `size`: bytes of the body."""
        driver = self._driver
        if driver.is_paused or not driver.codec.send_answer(self.id, answer, body, size):
            return False
        if not driver.is_dirty:
            driver.touch()
        self.sink = self.ride = None
        streams = driver.streams  # `forget`, without its call: nothing is owed
        del streams[self.id]
        if not streams:
            driver.became_idle()
        return True

    def data_received(self, data: bytes, flow: int, end: bool) -> None: ...

    def trailers_received(self, headers: Headers) -> None: ...

    def rejected(self, rejected: Rejected) -> None: ...

    def drained(self) -> None: ...

    def reset_received(self, code: int, reason: str) -> None:
        """The client has left, or its connection is gone."""
        if self.ride is not None:
            self.ride.client_reset(code, reason)


class Departure(Enum):
    """How far a client has been asked to leave its connection (`H2Server`)."""

    NONE = "none"
    DUE = "due"
    ANNOUNCED = "announced"
    FINAL = "final"


# Looked up once: a member costs 0.4 us on Python 3.11.
_NONE, _DUE, _ANNOUNCED, _FINAL = Departure


class H2Server(H2Driver[H2ServerStream]):
    """A client's connection. How it is asked to leave (RFC 9113 section 6.8):

    departure  event                                    next
    NONE       `drain`                                  DUE
    DUE        `PAUSE` after a response, or `QUIET`     ANNOUNCED: GOAWAY without a last stream, and a PING
    DUE        streams are open, after `patience`       ANNOUNCED
    NONE DUE   `announce`                               ANNOUNCED
    ANNOUNCED  PING acknowledged                        FINAL: GOAWAY with the last stream; later ones are ignored
    either     no stream for `Times.linger`             closed

    Nothing is announced before the first request: clients (grpcio, grpc-js, grpclib) take a GOAWAY that comes earlier
    for a failure to connect, and fail the calls that wait for the connection. With `patience` it waits for a moment
    between two requests: grpclib 0.4 closes the connection when GOAWAY arrives, and with it what it has just sent.
    `close` sends the final GOAWAY.
    """

    reads_ahead = True  # how many requests have been given up shows in what waits (`transport.overload`)

    __slots__ = (
        "_departure",
        "_idle_periods",
        "_idle_since",
        "_idle_until",
        "_leaves_at",
        "_leaves_by",
        "_newest",
        "_pings",
        "_reject",
        "_serve",
        "is_leaving",
        "lane",
    )

    def __init__(self, shared: ConnectionContext, info: ConnectionInfo, serve: Serve, reject: Reject) -> None:
        super().__init__(Role.SERVER, shared, info)
        self._newest = 0
        """The highest stream id that was served or rejected."""
        self._departure = _NONE
        self._idle_since = 0.0
        """`loop.time()` since which no stream has been open, if none is."""
        self._idle_until = 0.0
        """`loop.time()` of the idle time limit, while no stream is open."""
        self._idle_periods = 0
        """How many of them have begun since the last stream closed."""
        self._pings = 0
        """PINGs received before this one."""
        self._leaves_at = inf
        """`loop.time()` from which the client is asked to leave between two requests."""
        self._leaves_by = inf
        """`loop.time()` from which open streams do not matter."""
        self._serve = serve
        self._reject = reject
        self.lane: Lane | None = None
        self.is_leaving = False
        """The client is to be asked to leave, or has been: `_departure` is not NONE."""

    def attach(self, transport: asyncio.Transport) -> None:
        """Start the idle time limit with the connection."""
        super().attach(transport)
        self.became_idle()

    @property
    def slices(self) -> Slices:
        """As the base. More at once while requests are shed."""
        return SHED_REQUESTS if self.shared.overload.is_shedding else REQUESTS

    def caught_up(self) -> None:
        self.codec.slice_frames = min(self.codec.slice_frames, REQUESTS.most)

    def dispatch_whole(self, events: list[Event]) -> None:
        """A request that came whole is one event, or two in a row: those may take the express lane."""
        previous: RequestHead | None = None
        for event in events:
            if previous is not None:
                if (
                    type(event) is Data
                    and event.end
                    and event.stream == previous.stream
                    and not self.shared.overload.is_shedding
                ):
                    event = WholeRequest(previous, event.data, event.flow)
                else:
                    self._dispatch((previous,))
                previous = None
            if type(event) is WholeRequest:
                head, lane = event.head, self.lane
                # It is admitted. Does nothing keep it from being served at once? The tests of `_begin`.
                if (
                    lane is None
                    or head.stream not in self.codec.live
                    or self.is_paused
                    or len(self.streams) >= self.shared.limits.streams
                    or not lane.carry(self, head, event.data, event.flow)
                ):
                    self._serve_whole(event)
            elif type(event) is RequestHead:
                previous = event
            else:
                self._dispatch((event,))
        if previous is not None:
            self._dispatch((previous,))

    def _serve_whole(self, whole: WholeRequest) -> None:
        """Serve a request that is admitted as ever."""
        head, lane = whole.head, self.lane
        self._begin(head)
        self._dispatch((Data(head.stream, whole.data, whole.flow, True),))
        stream = self.streams.get(head.stream)
        if lane is not None and stream is not None:
            lane.follow(stream.sink)

    def close_lane(self) -> None:
        """Requests of this connection do without an express lane from here on."""
        self.lane = None
        self.codec.joins = False

    def pause_writing(self) -> None:
        """As the base. Each request is looked at from here on (`_has_too_much_unread`); the lane would carry none."""
        super().pause_writing()
        self.codec.joins = False

    def resume_writing(self) -> None:
        """As the base."""
        self.codec.joins = self.lane is not None
        super().resume_writing()

    def handle(self, event: Event) -> None:
        """Serve a request, reject one, or finish a drain when its PING is acknowledged."""
        if type(event) is RequestHead:
            if not self.shared.overload.is_shedding or self.shared.overload.admits(self.codec):
                self._begin(event)
            elif event.stream in self.codec.live or not self.codec.was_given_up(event.stream):
                self._shed(event)
        elif isinstance(event, Rejected):
            if event.limit is not None:
                self.shared.on_limit(event.limit)
            self._rejected(event)
        elif isinstance(event, Pong):
            if event.payload == DRAIN_PING and self._departure is _ANNOUNCED:
                self._depart(_FINAL)
                self.codec.go_away(final=True)
        elif not isinstance(event, GoneAway):
            if isinstance(event, Failed) and not event.by_peer:
                self._log("closed the HTTP/2 connection", event.reason)
            super().handle(event)

    def _begin(self, head: RequestHead) -> None:
        """Serve a request."""
        if head.stream not in self.codec.live and self.codec.was_given_up(head.stream):
            return  # reset within the same read: the client has left, and nothing is done for it
        if len(self.streams) >= self.shared.limits.streams:
            # The codec bounds open streams; those whose responses wait for the socket are counted here only.
            self.shared.on_limit("streams")
            self.codec.reset(head.stream, ErrorCode.REFUSED_STREAM)
            return
        if self._has_too_much_unread(head):
            return
        self.deadline = 0.0
        self._newest = head.stream
        stream = H2ServerStream(self, head.stream)
        self.streams[head.stream] = stream
        if self._departure is _DUE:
            self._consider()
        if head.end:
            stream.ended = 1
        self._serve(stream, head)

    def _has_too_much_unread(self, head: RequestHead) -> bool:
        """Whether the client does not read its responses. Then this request is reset."""
        if not self.is_paused or self.transport.get_write_buffer_size() <= UNREAD_BUDGET:
            return False
        self.shared.on_limit("unread_bytes")
        self.codec.reset(head.stream, ErrorCode.REFUSED_STREAM)
        return True

    def _shed(self, head: RequestHead) -> None:
        """Refuse a request, for as little as possible."""
        if self._has_too_much_unread(head):
            return
        self.codec.refuse(head.stream, *self.shared.overload.refusal(head.headers))

    def _log(self, what: str, reason: str) -> None:
        shared, remote = self.shared, self.info.remote
        message = f"{what} from {remote}: the client broke the protocol ({reason}): correct or update the client"
        shared.notices.info(logger, f"{remote.rpartition(':')[0]} {reason}", shared.loop.time(), message)

    def _rejected(self, event: Rejected) -> None:
        """The codec ignores the rest of the request."""
        if event.is_reset:
            self._log("reset an HTTP/2 stream", event.reason)
            self._reject(H2ServerStream(self, event.stream), event)
            return
        stream = self.streams.get(event.stream)
        if stream is None:
            if event.stream > self._newest:
                self._newest = event.stream
                stream = self.streams[event.stream] = H2ServerStream(self, event.stream)
                stream.ended = 1
                self._reject(stream, event)
            return  # otherwise it was answered before, within the same read
        sink = stream.sink
        self.end_half(stream)
        if sink is not None:
            sink.rejected(event)

    # Asking the client to leave

    def drain(self, delay: float = 0.0, patience: float = 0.0) -> None:
        """The process is shutting down: ask the client to leave after `delay` seconds, at a moment without open
        streams if there is one within further `patience` seconds."""
        if not self.is_announced:
            self._depart(_DUE)
            self._leaves_at = self.shared.loop.time() + delay
            self._leaves_by = self._leaves_at + patience
            self._consider()

    def _depart(self, departure: Departure) -> None:
        self._departure = departure
        self.is_leaving = True

    def announce(self) -> None:
        """Announce GOAWAY. The last stream is named one round trip later, which the PING measures: the client may have
        sent requests meanwhile."""
        if not self.is_announced and not self.is_closing:
            self._depart(_ANNOUNCED)
            self.codec.go_away(final=False)
            self.codec.ping(DRAIN_PING)
            self.touch()
            self._consider()

    def _consider(self) -> None:
        """See whether it is time to ask the client to leave, or to close; otherwise, when it will be."""
        if not self._newest:
            return
        now = self.shared.loop.time()
        if self._departure is _DUE:
            due = self._leaves_by if self.streams else self._idle_leaves_at()
            if now >= due:
                self.announce()
            else:
                self.deadline = due
        elif not self.streams:
            self.deadline = now + self.shared.times.linger

    def _idle_leaves_at(self) -> float:
        """When a client without open streams is asked, if it sends nothing meanwhile."""
        return max(self._leaves_at, min(self._leaves_by, self._idle_since + QUIET))

    def _pause_ended(self, newest: int) -> None:
        is_due = self._departure is _DUE and self.shared.loop.time() >= self._leaves_at
        if is_due and self._newest == newest and not self.streams:
            self.announce()

    @property
    def is_announced(self) -> bool:
        """The client knows that it should send no more requests."""
        return self._departure is _ANNOUNCED or self._departure is _FINAL

    @property
    def is_idle(self) -> bool:
        """No stream is open, and every response has been written."""
        return not self.streams and not self.codec.has_more and not self.transport.get_write_buffer_size()

    def became_idle(self) -> None:
        """The last stream has closed: start the idle time limit. A client that is to leave is asked after a pause:
        GOAWAY in one read with the end of a response makes grpclib lose the response."""
        self._idle_since = now = self.shared.loop.time()
        if self._departure is _NONE:
            self._idle_periods = 1
            self._idle_until = now + self.shared.times.idle
            self._pings = self.codec.frames_received[PING]
            self.deadline = now + self.shared.times.rest
        elif self._departure is _DUE:
            self.deadline = max(now, self._idle_leaves_at())
            self.shared.loop.call_later(PAUSE, self._pause_ended, self._newest)
        else:
            self.deadline = now + self.shared.times.linger

    def expire(self, now: float) -> None:
        """A deadline has passed: of memory, of the idle time, or one of the departure (see the table above)."""
        if self.is_closing or self._departure is _NONE or not self._newest:
            if now < self._idle_until and not self.streams and not self.is_closing:
                if self.shared.overload.is_shedding:
                    self.deadline = now + self.shared.times.rest  # whose requests are refused has no streams
                else:
                    self._rest()
            else:
                super().expire(now)
            return
        self.deadline = 0.0
        if self._departure is _DUE:
            self.announce()
        elif not self.streams:
            self.close()  # and not abort, as a peer that reads slowly would be otherwise

    def _rest(self) -> None:
        """No request for `Times.rest`: hold less, for the rest of the idle time limit."""
        self.codec.rest()
        if self.info.tls_version:
            give_back(self.transport)
        self.info.caller = None
        self.deadline = self._idle_until

    def overdue(self) -> None:
        """The idle time limit was exceeded. A PING within it is worth another one, but not for ever."""
        if self.streams:
            return
        pings = self.codec.frames_received[PING]
        if pings == self._pings or self._idle_periods >= PINGED_PERIODS:
            self.close()
            return
        self._pings = pings
        self._idle_periods += 1
        self._idle_until = self.deadline = self.shared.loop.time() + self.shared.times.idle

    def fail(self, code: int, reason: str) -> None:
        """As the base, so many at a time: what else is sent on streams that are to end goes nowhere."""
        self.codec.receive_eof()  # it knows none of them any more
        streams, self.streams = self.streams, {}
        self._end_some(iter(streams.values()), len(streams), code, reason)

    def _end_some(self, streams: Iterator[H2ServerStream], left: int, code: int, reason: str) -> None:
        left -= ENDED_AT_ONCE
        if left > 0:
            self.shared.turns.add(partial(self._end_some, streams, left, code, reason))
        end_streams(islice(streams, ENDED_AT_ONCE), code, reason)
        self.waiting.clear()  # also of what was sent in between: it refers to us

    def close(self) -> None:
        """Name the last stream, so that the client may repeat later requests elsewhere, and close."""
        if self._departure is not _FINAL:
            self._depart(_FINAL)
            self.codec.go_away(final=True)
        super().close()
