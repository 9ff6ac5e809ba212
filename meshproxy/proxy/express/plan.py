"""What was decided about the requests of one shape, and about the answers of one shape.

Made of exchanges that went well, and of the bytes that began them. Pure: neither clocks nor connections.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from meshproxy.codec.events import RequestHead
from meshproxy.codec.h1.head import parse_request, parse_response
from meshproxy.codec.h1.write import frame_request, write_request_head, write_response_head
from meshproxy.codec.problem import MessageProblem
from meshproxy.identity.tokens import KeysWanted
from meshproxy.proxy.client_side import OVER, TIMER_SECONDS
from meshproxy.proxy.exchange import NO_FLAGS
from meshproxy.proxy.express.shape import (
    DATE,
    LENGTH,
    REQUEST_ID,
    ROOM,
    TIMEOUT,
    TRACE,
    shape_of,
    slots_of,
    split_answer,
    split_request,
)
from meshproxy.proxy.headers import has_refusal
from meshproxy.refusal import Refusal
from meshproxy.routing.cors import share

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from meshproxy.codec.events import Headers
    from meshproxy.codec.limits import Limits
    from meshproxy.proxy.exchange import Exchange
    from meshproxy.proxy.ports import Tracer
    from meshproxy.proxy.request import Request

MOST_BODY = 16_384
"""Bytes of a body: more may not fit into the buffers of the server's socket (`h1_client.LONG`)."""
NO_LIMIT = inf
"""Seconds of an exchange that may take as long as it takes."""
ABSENT = -1
"""The place of a slot that a head does not have: of the empty value that is put behind all others."""

# Put for values where bytes are cut: the codec lets no control character through, so they occur nowhere else.
_ID, _LEFT, _SIZE, _TRACE_VALUE = b"\x01", b"\x02", b"\x03", b"\x04"
_CONTENT_LENGTH = b"content-length: " + _SIZE + b"\r\n"

Pieces = tuple[bytes, ...]
"""Bytes, cut where values go."""


class AnswerPlan:
    """What answers of one shape have in common."""

    __slots__ = ("date", "length", "observe", "pieces", "status")

    def __init__(
        self, status: int, length: int, date: int, pieces: Pieces, observe: Callable[[Exchange], None]
    ) -> None:
        self.status = status
        self.length = length
        """The place of the slot among the values."""
        self.date = date
        self.pieces = pieces
        """What is written to the client: date and length go in between, the body behind."""
        self.observe = observe
        """Takes the record in the end."""


ReadAnswer = tuple[bytes, int, int, bytes, AnswerPlan]
"""The head of an answer, its length, that of the body behind it, what is written to the client before that, and the
plan."""


class Decisions:
    """What requests of one shape have in common: all that the stations found out about one of them."""

    __slots__ = (
        "asked",
        "authorization",
        "caller",
        "conditions",
        "fields",
        "forward",
        "is_traced",
        "matched",
        "model",
        "most_replayed",
        "not_after",
        "operation",
        "permit_audits",
        "rule",
        "sampler",
        "seconds",
        "server",
        "sharing",
        "snapshot",
        "tracer",
    )

    def __init__(self, request: Request, tracer: Tracer) -> None:
        # Not the request itself: it refers to the connection, which refers to its lane.
        operation, route, fields, asked = request.operation, request.matched, request.fields, request.asked
        assert operation is not None
        assert route is not None
        assert fields is not None
        assert asked is not None
        self.snapshot = request.snapshot
        self.tracer = tracer
        self.caller = request.caller
        self.asked = asked
        self.rule = request.rule
        self.permit_audits = request.permit_audits
        self.conditions = request.conditions
        self.operation = operation
        self.matched = route
        self.server = request.server
        self.fields = fields
        self.forward = request.forward
        self.sharing = request.sharing
        self.is_traced = request.trace is not None
        self.authorization = fields.authorization[0] if fields.authorization and request.snapshot.verifier else None
        """The token that was verified; None: there was none, or nobody asks for one."""
        workload = request.caller.workload
        self.not_after = workload.not_after if workload is not None else inf
        """When the client's certificate stops being valid, seconds since the epoch."""
        self.seconds = route.timeout if route.timeout is not None else NO_LIMIT
        """How long the exchange may take, but for what the client says."""
        self.most_replayed = route.retry.replay_bytes if route.retry.attempts > 1 else -1
        """Bytes of a body that is kept for another attempt."""
        self.model = asked.models[0].name if asked.models else ""
        """What breakers go by."""
        sampler = request.context.sampler
        reads = sampler is not None and operation.read_signals is not None and sampler.wants(asked)
        self.sampler = sampler if reads else None
        """Chooses the calls whose answers are read, which take the ordinary way; None: none is."""

    def token_holds(self, wall_clock: float) -> bool | None:
        """Whether the token is still valid, and its key was not withdrawn. There is an `authorization`. None: the same
        token is another object, and so is the caller that the plan would tell."""
        verifier = self.snapshot.verifier
        assert verifier is not None
        assert self.authorization is not None
        try:
            token = verifier.verify(self.authorization, wall_clock)
        except (Refusal, KeysWanted):
            return False
        return True if token is self.caller.token else None


class Plan(Decisions):
    """The plan for requests of HTTP/1.1."""

    __slots__ = (
        "answers",
        "authority",
        "declared",
        "headers",
        "id_field",
        "is_sidecar",
        "last",
        "length",
        "method",
        "most_body",
        "pieces",
        "request_id",
        "target",
        "timeout",
        "timeout_field",
        "trace",
    )

    def __init__(
        self,
        request: Request,
        slots: dict[bytes, int],
        pieces: Pieces,
        most_body: int,
        tracer: Tracer,
        is_sidecar: bool,
    ) -> None:
        Decisions.__init__(self, request, tracer)
        head = request.head
        self.is_sidecar = is_sidecar
        """Answers are those of another sidecar."""
        self.method = head.method
        self.authority = head.authority
        self.target = head.target
        self.headers = head.headers
        self.declared = head.length
        """The length that the head declares where that is no slot: 0, or None."""
        self.pieces = pieces
        """What is written to the model server: request id, time left, length and trace context go in between, the body
        behind."""
        self.most_body = most_body
        self.answers: dict[tuple[bytes, ...], AnswerPlan] = {}
        """By their shape."""
        self.last: ReadAnswer | None = None
        """The head that was read last: mostly the next one is the same, as long as the second of its date lasts."""
        # Places of slots among the values of a head, and of those that are fields among its fields.
        self.length = slots.get(LENGTH, ABSENT)
        self.request_id = slots.get(REQUEST_ID, ABSENT)
        self.trace = slots.get(TRACE, ABSENT)
        self.timeout = slots.get(TIMEOUT, ABSENT)
        names = [name for name, _ in head.headers]
        self.id_field = names.index(REQUEST_ID) if REQUEST_ID in slots else ABSENT
        self.timeout_field = names.index(TIMEOUT) if TIMEOUT in slots else ABSENT

    def read_answer(self, head: bytes) -> ReadAnswer | None:
        """Read the head of an answer; None: it has no shape that is known."""
        parts = split_answer(head)
        answer = self.answers.get(shape_of(parts))
        if answer is None:
            return None
        values = [*parts[2::3], b""]  # of slots that are absent
        before, between, behind = answer.pieces
        length = values[answer.length]
        return head, len(head), int(length), b"".join((before, values[answer.date], between, length, behind)), answer


def went_well(request: Request) -> bool:
    """Whether the exchange is over and had nothing about it that a plan does not foresee."""
    return (
        request.answer is OVER
        and request.refusal is None
        and request.flags is NO_FLAGS
        and request.status == 200
        and request.request_ended
        and len(request.attempts) == 1
        and request.attempts[0].failure is None
        and not request.attempts[0].is_cancelled
    )


def repeats(request: Request, slots: Collection[bytes], tracer: Tracer) -> bool:
    """Whether requests that differ from this one in the values of these fields are treated alike, and in one step."""
    operation, route, fields, snapshot = request.operation, request.matched, request.fields, request.snapshot
    if operation is None or route is None or fields is None:
        return False
    if (
        request.asked is None
        or request.asked is not request.forwarded
        or request.asked.verb.is_admin  # each is asked about, beyond the policy (`ProxyContext.admit_admin`)
        or operation.is_health
        or request.is_partial
        or (fields.wants_timing and snapshot.tells_timing)
        or not route.is_plain
        or route.fallback is not None
        or route.try_timeout is not None
        or route.refuses_late
        or route.retry.hedge_after is not None
        or (route.timeout is not None and route.timeout <= TIMER_SECONDS)
        or snapshot.clusters[request.server].key is not None
        or request.rewrites_body
        or request.set_cookies
        or len(fields.authorization) > 1
    ):
        return False
    # Who may call, and where to, must not depend on what differs from one request to the next.
    if not snapshot.policy.headers.isdisjoint(slots) or not snapshot.routes.headers.isdisjoint(slots):
        return False
    is_begun = tracer.is_recording and not fields.b3  # what is read of Zipkin's fields differs each time
    if (request.trace is not None) is not (TRACE in slots or is_begun):
        return False
    return request.trace is None or request.trace.inject is None


def plan_request(
    request: Request, head: bytes, limits: Limits, tracer: Tracer, *, is_sidecar: bool = False
) -> Plan | None:
    """The plan for requests with the shape of `head`. None: they are not all treated alike, or not in one step.

    Args:
        request: what became of it. It went well.
        limits: those of the client's connection.
        tracer: the one in use now.
        is_sidecar: another sidecar answered.
    """
    operation, fields = request.operation, request.fields
    parts = split_request(head)
    slots = slots_of(parts)
    values = parts[2::3]
    if slots is None or not repeats(request, slots, tracer):
        return None
    assert operation is not None
    assert fields is not None
    if operation.call is not request.asked or operation.read_version is not None:
        return None
    try:
        parsed = parse_request(head, limits)
    except MessageProblem:
        return None
    names = [name for name, _ in parsed.headers]
    method, authority, target, headers, length, chunked, expects_continue, is_http10, closes, trace = parsed
    read = RequestHead(request.head.stream, method, authority, target, headers, not length, length, False, trace)
    if (
        read != request.head  # these are not the bytes that it was read from
        or chunked
        or closes
        or is_http10
        or expects_continue
        or (length != int(values[slots[LENGTH]]) if LENGTH in slots else length)
        or trace != (values[slots[TRACE]] if TRACE in slots else None)
        or (fields.timeout is not None) is not (TIMEOUT in slots)
        or any(names.count(name) != 1 for name in (REQUEST_ID, TIMEOUT) if name in slots)
        or _has_no_room(head, limits)
    ):
        return None
    most = MOST_BODY if limits.body_bytes is None else min(MOST_BODY, limits.body_bytes)
    return Plan(request, slots, _cut_request(request, slots), most, tracer, is_sidecar)


def _has_no_room(head: bytes, limits: Limits) -> bool:
    """Whether a head of this shape may exceed the limit, which counts 32 for each field (`codec.h1.head`)."""
    return len(head) + 32 * head.count(b"\r\n") + ROOM > limits.header_bytes


def _cut_request(request: Request, slots: dict[bytes, int]) -> Pieces:
    """What was written to the model server, cut into five."""
    trace = None if request.trace is None else _TRACE_VALUE
    head = request.forwarded_head(request.connected, request.upstream, trace)
    headers = list(head.headers)
    if request.due:
        headers[-1] = (headers[-1][0], _LEFT)
    if REQUEST_ID in slots:
        headers = [(name, _ID if name == REQUEST_ID else value) for name, value in headers]
    framing = _CONTENT_LENGTH if LENGTH in slots else frame_request(head.method, head.end, head.length)[0]
    written = write_request_head(head.method, head.target, head.authority, tuple(headers), framing, trace)
    return _cut(written, (_ID, _LEFT, _SIZE, _TRACE_VALUE))


def plan_answer(
    request: Request,
    head: bytes,
    limits: Limits,
    clean: Callable[[Headers, bool], Headers],
    repeat: Callable[[Exchange], Callable[[Exchange], None]],
    *,
    is_sidecar: bool = False,
) -> AnswerPlan | None:
    """The plan for answers with the shape of `head`; None: there is none.

    Args:
        request: whose answer it was. It went well.
        limits: those of the connection to the model server.
        clean: what of an answer's fields goes to clients.
        repeat: makes what takes the records of exchanges that repeat `request` (`ProxyContext.repeat`).
        is_sidecar: it came from another sidecar.
    """
    parts = split_answer(head)
    slots = slots_of(parts)
    if slots is None or LENGTH not in slots:
        return None
    values = parts[2::3]
    try:
        parsed = parse_response(head, limits)
    except MessageProblem:
        return None
    names = [name for name, _ in parsed.headers]
    if (
        parsed.status != 200
        or parsed.length != int(values[slots[LENGTH]])
        or parsed.chunked
        or parsed.closes
        or request.head.method == b"HEAD"
        or limits.body_bytes is not None
        or names.count(DATE) != (DATE in slots)
        or _has_no_room(head, limits)
    ):
        return None
    headers = clean(parsed.headers, is_sidecar)
    if is_sidecar and has_refusal(headers):
        return None
    if request.sharing is not None:
        headers = share(headers, request.sharing)
    if DATE in slots:
        headers = tuple([(name, _ID if name == DATE else value) for name, value in headers])
    written = write_response_head(200, headers, _CONTENT_LENGTH)
    return AnswerPlan(200, slots[LENGTH], slots.get(DATE, ABSENT), _cut(written, (_ID, _SIZE)), repeat(request))


def _cut(written: bytes, marks: tuple[bytes, ...]) -> Pieces:
    """What stands before each mark, and what is left; where a mark is missing, an empty piece stands for it."""
    pieces = []
    for mark in marks:
        before, found, after = written.partition(mark)
        pieces.append(before if found else b"")
        written = after if found else written
    return (*pieces, written)
