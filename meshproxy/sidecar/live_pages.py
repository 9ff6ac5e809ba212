"""The pages of the admin port that go on while somebody reads: `/tap` and `/stat`, as JSON lines.

    GET /tap    a line of each call that ends, as the access log has it; `rate` is how many a second at most
    GET /stat   a line every second, or every `every`, with the calls since the last one in groups: `by=model&by=caller`

Both take the fields of `call_filter`. Without a reader they cost nothing: a reader is a guest of the observer. What
readers cost is bounded: there are `MOST_READERS`, none for longer than `MOST_SECONDS`, and one that does not read for
`STALL_SECONDS` is dismissed; nothing waits for it.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qsl

import msgspec

from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.config.problems import closest
from meshproxy.config.telemetry import Tap as TapMode
from meshproxy.config.values import shown
from meshproxy.sidecar.admin import JSON, TEXT, DiscardingSink, reply
from meshproxy.telemetry import call_facts
from meshproxy.telemetry.call_filter import CallFilter, read_time
from meshproxy.telemetry.call_stats import CallStats
from meshproxy.telemetry.tap import DEFAULT_RATE, MOST_RATE, Tap

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from meshproxy.codec.events import RequestHead
    from meshproxy.proxy.exchange import Exchange
    from meshproxy.telemetry.observer import Observer
    from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
    from meshproxy.transport.stream import Downstream

MOST_READERS = 4
MOST_SECONDS = 3_600.0
"""A reader that was forgotten, such as the process that `kubectl exec` leaves behind, does not stay for ever."""
STALL_SECONDS = 10.0
PULSE_SECONDS = 0.1
"""How often a reader gets what has come: a write for each call would cost more than its line."""
SHORTEST_INTERVAL = 0.5
MOST_FIELDS = 128
"""Of a query."""
LINES = ((b"content-type", b"application/jsonl"), TEXT[1], (b"cache-control", b"no-store"))

HIDDEN = "callers are not shown: spec.telemetry.tap of the MeshConfig is not full"
ANONYMOUS = frozenset(
    {
        "method", "path", "response_code", "response_flags", "refusal", "grpc_status", "bytes_received", "bytes_sent",
        "duration", "upstream_host", "upstream_cluster", "route_name", "attempts", "protocol", "direction",
        "tls_version", "model", "model_version", "verb", "forwarded_model", "forwarded_version",
    }
)  # fmt: skip
"""What a line has where callers are hidden, beside times; a field that is new is hidden, too."""

logger = logging.getLogger(__name__)


class CallersHidden(Exception):
    """A query asks for callers, which the documents do not allow."""


class View(Protocol):
    """What a reader gets: `Tap` and `CallStats`."""

    def __call__(self, exchange: Exchange) -> None:
        """An exchange has ended (`observer.Sink`)."""

    def take(self, now: float) -> bytes:
        """Lines that are due."""

    def end(self, now: float) -> bytes:
        """The last lines."""


class LivePages:
    """Serves both pages.

    Args:
        observer: calls the sinks of the readers.
        metrics: count readers, and what was not shown.
        mode: what the documents in use allow.
        line_of: the line of an exchange in the access log, as JSON.
        clock: seconds, of the times in exchanges.
        on_limit: counts a limit that was exceeded, by its name.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        observer: Observer,
        metrics: SidecarMetrics,
        *,
        mode: Callable[[], TapMode],
        line_of: Callable[[Exchange], bytes],
        clock: Callable[[], float],
        on_limit: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._observer = observer
        self._metrics = metrics
        self._mode = mode
        self._line_of = line_of
        self._clock = clock
        self.on_limit = on_limit
        self._readers: set[Reader] = set()

    def serve(self, stream: Downstream, head: RequestHead) -> None:
        """Answer a request for `/tap` or `/stat`. The client is on this host."""
        path, _, query = head.target.partition(b"?")
        page = path[1:].decode()
        if head.method != b"GET":
            stream.sink = DiscardingSink(stream)
            reply(stream, head, 405, b"use GET\n", (*TEXT, (b"allow", b"GET")))
        elif len(self._readers) >= MOST_READERS:
            self.on_limit("live_readers")
            _refuse(stream, 429, f"there are {MOST_READERS} readers of /tap and /stat: end one of them")
        elif page == "tap" and self._mode() == "off":
            _refuse(stream, 403, "spec.telemetry.tap of the MeshConfig is off")
        else:
            try:
                view = (self._tap if page == "tap" else self._stat)(read_query(query))
            except CallersHidden:
                _refuse(stream, 403, HIDDEN)
            except ValueError as error:
                _refuse(stream, 400, str(error))
            else:
                self._begin(stream, page, query, view)

    def _tap(self, fields: list[tuple[str, str]]) -> Tap:
        """Raises ValueError or CallersHidden."""
        rate = _take(fields, "rate")
        identities = _take(fields, "identities") or "shown"
        if identities not in ("shown", "hidden"):
            raise ValueError(f"identities: expected shown or hidden, got {shown(identities)}")
        if rate is not None and not (rate.isdecimal() and len(rate) < 6 and 0 < int(rate) <= MOST_RATE):
            raise ValueError(f"rate: expected a number from 1 to {MOST_RATE}, got {shown(rate)}")
        line_of = self._line_of
        if identities == "hidden" or self._mode() != "full":
            line_of = partial(anonymous_line, line_of)
        return Tap(self._filter(fields).takes, line_of, int(rate) if rate is not None else DEFAULT_RATE)

    def _stat(self, fields: list[tuple[str, str]]) -> CallStats:
        """Raises ValueError or CallersHidden."""
        by = [value for name, value in fields if name == "by"]
        every = _take(fields, "every")
        for name in by:
            if name not in call_facts.GROUPS:
                expected = ", ".join(call_facts.GROUPS)
                raise ValueError(f"by: expected {expected}, got {shown(name)}{closest(name, call_facts.GROUPS)}")
        if "caller" in by and self._mode() != "full":
            raise CallersHidden
        seconds = read_time(every) if every is not None else 1.0
        if seconds < SHORTEST_INTERVAL:
            raise ValueError(f"every: expected {SHORTEST_INTERVAL:g}s or more")
        wanted = self._filter([field for field in fields if field[0] != "by"])
        return CallStats(wanted.takes, list(dict.fromkeys(by)), seconds, self._clock())

    def _filter(self, fields: list[tuple[str, str]]) -> CallFilter:
        """Raises ValueError or CallersHidden."""
        takes = CallFilter(fields)
        if "caller" in takes.fields and self._mode() != "full":
            raise CallersHidden
        return takes

    def _begin(self, stream: Downstream, page: str, query: bytes, view: View) -> None:
        fields = {"page": page, "query": query.decode("ascii"), "client": stream.info.remote}
        logger.info("live page opened", extra={"fields": fields})
        stream.send_response(200, LINES, end=False)
        self._observer.admit(view)
        self._metrics.live_readers.labels(page).value += 1
        mode = self._mode()
        reader = Reader(
            self._loop,
            self._clock,
            stream,
            view,
            is_allowed=lambda: self._mode() == mode,
            ended=partial(self._ended, page),
        )
        self._readers.add(reader)

    def _ended(self, page: str, reader: Reader, why: str) -> None:
        self._readers.discard(reader)
        self._observer.dismiss(reader.view)
        self._metrics.live_readers.labels(page).value -= 1
        fields: dict[str, object] = {"page": page, "reason": why}
        view = reader.view
        if isinstance(view, Tap):
            self._metrics.tap_dropped.labels("rate").value += view.over_rate
            self._metrics.tap_dropped.labels("reader").value += view.unread
            fields |= {"shown": view.shown, "over_rate": view.over_rate, "unread": view.unread}
        logger.info("live page closed", extra={"fields": fields})


def _refuse(stream: Downstream, status: int, problem: str) -> None:
    stream.sink = DiscardingSink(stream)
    reply(stream, None, status, problem.encode() + b"\n")


class Reader(DiscardingSink):
    """A client that reads a page, until it leaves or is dismissed."""

    __slots__ = ("_clock", "_ended", "_ends_at", "_is_allowed", "_loop", "_paused_at", "_timer", "view")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        stream: Downstream,
        view: View,
        *,
        is_allowed: Callable[[], bool],
        ended: Callable[[Reader, str], None],
    ) -> None:
        """The response has begun.

        Args:
            is_allowed: the documents still say the same about taps as when it came.
            ended: called once, with the reason.
        """
        super().__init__(stream)
        self.view = view
        self._loop = loop
        self._clock = clock
        self._is_allowed = is_allowed
        self._ended = ended
        self._ends_at = clock() + MOST_SECONDS
        self._paused_at: float | None = None
        """It does not take more, since then."""
        stream.sink = self
        self._timer = loop.call_later(PULSE_SECONDS, self._pulse)

    def _pulse(self) -> None:
        """Pass on what is due, unless the client has not read what came before."""
        now = self._clock()
        if not self._is_allowed():
            self._stream.reset(ErrorCode.CANCEL)  # what waits may not be shown any more
            self._finish("spec.telemetry.tap of the MeshConfig has changed")
        elif self._paused_at is not None and now - self._paused_at >= STALL_SECONDS:
            self._stream.reset(ErrorCode.CANCEL)
            self._finish(f"it was not read for {STALL_SECONDS:g} s")
        elif self._paused_at is None and now >= self._ends_at:
            self._stream.send_data(self.view.end(now), end=True)
            self._finish(f"it was open for {MOST_SECONDS:g} s")
        elif self._paused_at is None and not self._send(self.view.take(now)):
            self._paused_at = now
        if not self.is_gone:
            self._timer = self._loop.call_later(PULSE_SECONDS, self._pulse)

    def _send(self, lines: bytes) -> bool:
        """Whether the client takes more."""
        return not lines or self._stream.send_data(lines, end=False)

    def drained(self) -> None:
        """The client has read what was sent."""
        self._paused_at = None

    def reset_received(self, code: int, reason: str) -> None:
        """The client disconnected or cancelled."""
        self._finish("the client has left")

    def _finish(self, why: str) -> None:
        if not self.is_gone:
            self.is_gone = True
            self._timer.cancel()
            self._ended(self, why)


def read_query(query: bytes) -> list[tuple[str, str]]:
    """The fields of a query (application/x-www-form-urlencoded). Raises ValueError."""
    if not query:
        return []
    try:
        return parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MOST_FIELDS,
        )
    except ValueError:
        raise ValueError(f"the query cannot be read: expected at most {MOST_FIELDS} fields, name=value&...") from None


def _take(fields: list[tuple[str, str]], name: str) -> str | None:
    """Remove a field that may be given once, and return its value. Raises ValueError."""
    values = [value for field, value in fields if field == name]
    if len(values) > 1:
        raise ValueError(f"{name}: expected one value")
    fields[:] = [field for field in fields if field[0] != name]
    return values[0] if values else None


def anonymous_line(line_of: Callable[[Exchange], bytes], exchange: Exchange) -> bytes:
    """The line of an exchange without what tells who calls."""
    line = msgspec.json.decode(line_of(exchange))
    for name in line:
        if name not in ANONYMOUS and not name.endswith("_time"):
            line[name] = None
    return msgspec.json.encode(line) + b"\n"


def point_to_workers(stream: Downstream, head: RequestHead, addresses: list[str]) -> None:
    """The answer of a supervisor, which carries no calls: RFC 9110 section 15.5.20."""
    stream.sink = DiscardingSink(stream)
    content = {"error": "calls are carried by workers: ask each of them", "workers": addresses}
    reply(stream, head, 421, msgspec.json.encode(content) + b"\n", JSON)
