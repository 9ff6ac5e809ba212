"""What the formats of the access log share: a line is made of values that differ from request to request (times, sizes,
ids: `Lines.__call__` writes them), and of the texts around them, which a format makes (`Lines.around`).

Most requests of a connection differ in nothing else. So what is around the values is formatted once, and found again by
connection and call; it is used if everything that it was made of is still the same, which one comparison of two tuples
tells, mostly by identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from meshproxy.codec.headers import REQUEST_ID_OCTETS
from meshproxy.proxy.exchange import NO_FLAGS
from meshproxy.proxy.time_split import split_answered, split_time_so_far
from meshproxy.refusal import grpc_status_name
from meshproxy.telemetry.log_encoding import QuotedBytes, quote_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.inference.call import Call
    from meshproxy.proxy.exchange import Exchange
    from meshproxy.refusal import Refusal
    from meshproxy.telemetry.log_encoding import UtcClock
    from meshproxy.transport.connection_info import ConnectionInfo

MEMO_ENTRIES = 512
"""Connections and calls of which the texts are kept: a kilobyte each, and what they were made of, the caller's claims
included."""
MEMO_CHARACTERS = 4_096
"""Longer texts, as somebody sends long paths or fields, are not kept."""

LOGGED_HEADERS = frozenset({b"user-agent", b"x-request-id", b"x-forwarded-for"})

VALUES = (
    "start_time",
    "bytes_received",
    "bytes_sent",
    "duration",
    "upstream_service_time",
    "x_forwarded_for",
    "request_id",
    "upstream_host",
    "read_time",
    "decide_time",
    "queue_time",
    "retry_time",
    "connect_time",
    "upstream_body_time",
    "write_time",
    "trace_id",
    "span_id",
)
"""The values that differ, in the order in which they stand in a line."""

NO_TIME = ("read_time", "queue_time", "retry_time", "connect_time", "upstream_body_time")
"""The parts of an exchange that went in one step (`Observer.repeat`) that take none."""
NOTHING_SAME: Mapping[str, bytes] = {}

SHORT = tuple([b"%.3f" % (microseconds / 1_000) for microseconds in range(1_024)])
"""Milliseconds by microseconds: to look one up takes 0.1 us, to format one 0.15."""


class Lines:
    """Formats exchanges. 2.6 to 2.8 us a line if nothing but `VALUES` is new.

    Args:
        clock: converts the times of an exchange to wall clock times.

    Attributes:
        null: stands for a number that there is not.
        nothing: stands for a text that there is not.
        duration, unit: how `duration` is written, and how many of these are a second.
    """

    null = b"null"
    nothing = b"null"
    duration = b"%.3f"
    unit = 1e3

    def __init__(self, clock: UtcClock) -> None:
        self._clock = clock
        self._hosts = QuotedBytes(self.nothing)
        self._known: dict[tuple[ConnectionInfo, int], tuple[object, tuple[object, ...], bytes]] = {}
        """By connection and the id of the call: the call, so that no other one gets its id; what the texts were made
        of; and the line, with a place for each value (`_lay_out`)."""

    def around(self, exchange: Exchange, agent: bytes | None) -> tuple[str, ...]:
        """The texts before, between and after `VALUES`, in ASCII. The ids of the trace are written bare; if there is no
        trace, the last two texts are empty. Nothing goes into them but the connection, the call, and what `__call__`
        compares.

        Args:
            agent: the request's `user-agent`.
        """
        raise NotImplementedError

    def __call__(self, exchange: Exchange) -> bytes:
        """The line of one exchange, with its line feed."""
        head = exchange.head
        agent = forwarded_for = id_at = None
        for at, (name, value) in enumerate(head.headers):
            if name in LOGGED_HEADERS:
                if name == b"user-agent":
                    agent = value
                elif name == b"x-request-id":
                    id_at = at
                else:
                    forwarded_for = value
        asked = exchange.asked
        made_of: tuple[object, ...] = (
            exchange.caller,
            exchange.forwarded,
            exchange.effective_version,
            head.target,
            head.method,
            head.authority,
            agent,
            exchange.status,
            exchange.grpc_status,
            exchange.server,
            exchange.route,
            exchange.rule,
            exchange.permit_audits,
            exchange.conditions,
            len(exchange.attempts),
            exchange.trace is None,
        )
        if exchange.refusal is not None or exchange.flags is not NO_FLAGS or not exchange.upstream:
            made_of = (*made_of, exchange.flags, not exchange.upstream, *_read_refusal(exchange.refusal))
        key = exchange.connection, id(asked)
        known = self._known.get(key)
        if known is not None and known[1] == made_of:
            line = known[2]
        else:
            line = self._lay_out(exchange, agent)
            if len(line) + len(head.target) + len(head.authority) + len(agent or b"") <= MEMO_CHARACTERS:
                if len(self._known) >= MEMO_ENTRIES:
                    self._known.clear()
                self._known[key] = asked, made_of, line
        return self._fill(line, self._quote(forwarded_for), id_at, exchange)

    def repeat(self, exchange: Exchange) -> Callable[[Exchange], bytes]:
        """What makes the lines of exchanges that repeat this one (`Observer.repeat`): their fields stand where those of
        this one do, and if its request id needs no escapes, theirs do not either."""
        headers = exchange.head.headers
        fields = dict(headers)
        same = dict.fromkeys(NO_TIME, SHORT[0])
        same["x_forwarded_for"] = self._quote(fields.get(b"x-forwarded-for"))
        line = self._lay_out(exchange, fields.get(b"user-agent"), same)
        request_id = fields.get(b"x-request-id")
        id_at = None if request_id is None else headers.index((b"x-request-id", request_id))
        is_plain = request_id is not None and not request_id.translate(None, REQUEST_ID_OCTETS)
        return partial(self._fill_repeated, line, id_at, is_plain)

    def _quote(self, value: bytes | None) -> bytes:
        return self.nothing if value is None else quote_bytes(value)

    def _fill_repeated(self, line: bytes, id_at: int | None, id_is_plain: bool, exchange: Exchange) -> bytes:
        """As `_fill`, of an exchange that went in one step (`Observer.repeat`).

        Args:
            line: with what stays the same.
            id_is_plain: the request id has none but `REQUEST_ID_OCTETS`.
        """
        trace, clock = exchange.trace, self._clock
        started, decided, answered, finished = (
            exchange.started,
            exchange.decided,
            exchange.first_byte,
            exchange.finished,
        )
        wall = started + clock.offset
        second = wall // 1
        request_id = self.nothing
        if id_at is not None:
            value = exchange.head.headers[id_at][1]
            request_id = b'"%b"' % value if id_is_plain else quote_bytes(value)
        upstream = answered - decided
        try:
            before, behind = SHORT[int((decided - started) * 1e6)], SHORT[int((finished - answered) * 1e6)]
            served = SHORT[int(upstream * 1e6)] if upstream < 0.001 else b"%.3f" % (upstream * 1e3)
        except IndexError:  # longer ones
            before, served, behind = self._format_parts((decided - started, upstream, finished - answered))
        return line % (
            clock.prefix if second == clock.second else clock.tick(second),
            (wall - second) * 1e6,
            exchange.bytes_received,
            exchange.bytes_sent,
            (finished - started) * self.unit,
            served,
            request_id,
            self._hosts[exchange.upstream],
            before,
            behind,
            b"" if trace is None else trace.trace_id,
            b"" if trace is None else trace.span_id,
        )

    def _fill(self, line: bytes, forwarded_for: bytes, id_at: int | None, exchange: Exchange) -> bytes:
        """Put the values between the texts.

        Args:
            line: see `_lay_out`.
            forwarded_for: quoted.
            id_at: where the request id is among the fields of the head; None: there is none.
        """
        trace = exchange.trace
        started, clock = exchange.started, self._clock
        wall = started + clock.offset
        second = wall // 1
        request_id = self.nothing if id_at is None else quote_bytes(exchange.head.headers[id_at][1])
        parts = split_answered(exchange) or split_time_so_far(exchange, exchange.finished)
        read, decide, queue, retry, connect, upstream, body, write = parts
        try:
            if queue or retry or connect is None or upstream is None or body is None or write is None:
                raise IndexError
            queued = retried = SHORT[0]
            was_read, decided, connected = SHORT[int(read * 1e6)], SHORT[int(decide * 1e6)], SHORT[int(connect * 1e6)]
            served = SHORT[int(upstream * 1e6)] if upstream < 0.001 else b"%.3f" % (upstream * 1e3)
            rest, written = SHORT[int(body * 1e6)], SHORT[int(write * 1e6)]
        except IndexError:  # longer ones, or none
            was_read, decided, queued, retried, connected, served, rest, written = self._format_parts(parts)
        return line % (
            clock.prefix if second == clock.second else clock.tick(second),
            (wall - second) * 1e6,
            exchange.bytes_received,
            exchange.bytes_sent,
            (exchange.finished - started) * self.unit,
            served,
            forwarded_for,
            request_id,
            self._hosts[exchange.upstream],
            was_read,
            decided,
            queued,
            retried,
            connected,
            rest,
            written,
            b"" if trace is None else trace.trace_id,
            b"" if trace is None else trace.span_id,
        )

    def _format_parts(self, parts: Iterable[float | None]) -> tuple[bytes, ...]:
        """In milliseconds."""
        return tuple([self.null if part is None else b"%.3f" % (part * 1e3) for part in parts])

    def _lay_out(self, exchange: Exchange, agent: bytes | None, same: Mapping[str, bytes] = NOTHING_SAME) -> bytes:
        """The line as a format: the texts, and between them where the values go, `start_time` as seconds and
        microseconds. To fill it takes 2.0 us, to join 35 pieces 2.6. `same`: values that are known."""
        places = [b"%b.%06dZ", b"%d", b"%d", self.duration, *[b"%b"] * (len(VALUES) - 4), b""]
        for name, value in same.items():
            places[VALUES.index(name)] = value.replace(b"%", b"%%")
        texts = [text.encode("ascii").replace(b"%", b"%%") for text in self.around(exchange, agent)]
        return b"".join([text + place for text, place in zip(texts, places, strict=True)])


def _read_refusal(refusal: Refusal | None) -> tuple[object, ...]:
    """What a line says of it."""
    if refusal is None:
        return ()
    return refusal.reason.label, refusal.message, refusal.rule, refusal.audits, refusal.conditions


# What the formats read of an exchange


def read_details(exchange: Exchange) -> str | None:
    """Who made the response; None: there was none, or it was a refusal."""
    if exchange.status and exchange.refusal is None:
        return "via_upstream" if exchange.upstream else "direct_response"
    return None


def read_grpc_status(exchange: Exchange) -> str | None:
    """The name of the gRPC status, or the number of one that has none."""
    return None if exchange.grpc_status is None else grpc_status_name(exchange.grpc_status)


def read_policy(exchange: Exchange) -> tuple[str, str, str]:
    """The binding that decided; the `audit` bindings that matched, joined by commas; and the conditions that made the
    difference. Empty where there are none."""
    rule, audits, conditions, refusal = exchange.rule, exchange.permit_audits, exchange.conditions, exchange.refusal
    if refusal is not None:
        audits = refusal.audits or audits
        if refusal.rule is not None:
            rule, conditions = refusal.rule or rule, refusal.conditions
    return rule, ",".join(audits), ", ".join(conditions)


def read_call(call: Call | None) -> tuple[str | None, str | None, str | None]:
    """The model as the client named it (several are joined by commas), its version or label, and the verb."""
    if call is None:
        return None, None, None
    names = ",".join([model.name for model in call.models]) or None
    if len(call.models) != 1:
        return names, None, call.verb.value
    return names, call.models[0].named_version, call.verb.value


def read_chosen(asked: Call | None, forwarded: Call | None) -> tuple[str | None, str | None]:
    """The model, and the version or label, that the route chose instead."""
    if asked is None or forwarded is None or forwarded is asked or not forwarded.models:
        return None, None
    model = forwarded.models[0]
    return (model.name if model.name != asked.models[0].name else None), model.named_version
