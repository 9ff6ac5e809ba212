"""The spans of one exchange: a server span, and a client span for each attempt.

Names and attributes are those of the OpenTelemetry semantic conventions 1.45.0 for HTTP and gRPC. What they have no
name for is `meshproxy.*`: models, callers, policy and routing. `url.query` and bodies are never part of a span, nor are
fields of the head.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from meshproxy.inference.call import Verb
from meshproxy.proxy.exchange import NO_FLAGS
from meshproxy.refusal import grpc_status_name
from meshproxy.telemetry.otlp import Event, Recurring, Span, SpanKind
from meshproxy.telemetry.span_record import SpanRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.proxy.exchange import AttemptRecord
    from meshproxy.telemetry.otlp import Value

OTHER = "_OTHER"
"""The conventions' word for methods that are not known: names of spans are few, whatever is asked for."""
METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"QUERY"})
ACTIONS = {Verb.PREDICT: ":predict", Verb.CLASSIFY: ":classify", Verb.REGRESS: ":regress", Verb.METADATA: "/metadata"}
"""How paths of TensorFlow Serving's REST API end."""

Found = list[tuple[str, "Value"]]

RECURRING = slice(SpanRecord._fields.index("is_grpc"), SpanRecord._fields.index("flags") + 1)
"""The fields of a record that are alike in most requests of a connection."""
MEMO_ENTRIES = 256
MEMO_ATTEMPTS = 32
"""Of each entry."""
MEMO_PATH = 256
"""Bytes of a path beyond which it is not remembered: entries take 4 KB at most, and all of them a megabyte."""


class _Kind:
    """What requests of one kind have in common: made once for each, as it is two thirds of the work."""

    __slots__ = ("attempts", "attributes", "error", "name")

    def __init__(self, record: SpanRecord) -> None:
        self.name, request = _request_attributes(record)
        self.error: str | None = None
        """Of the server span."""
        request += _response_attributes(record.is_grpc, record.status, record.grpc_status)
        request += _own_attributes(record)
        if record.has_failed:
            self.error = record.refusal.message if record.refusal is not None else ""
            request.append(("error.type", _error_type(record)))
        self.attributes = Recurring(tuple(request))
        """Of the server span."""
        self.attempts: dict[tuple[object, ...], tuple[Recurring, str | None]] = {}
        """Attributes and error of its attempts."""


_kinds: dict[tuple[object, ...], _Kind] = {}


def spans_of(record: SpanRecord, offset: float, new_id: Callable[[], bytes]) -> list[Span]:
    """The spans of an exchange, its server span first.

    Args:
        offset: seconds since the epoch minus monotonic ones.
        new_id: ids for the spans of attempts that sent nothing.
    """
    epoch = int(offset * 1e9)  # the sum of both as a float would be exact to 240 ns
    attempts = record.attempts
    if len(attempts) > 1:
        attempts = tuple(sorted(attempts, key=lambda attempt: attempt.started))
    kind = _kind_of(record)
    trace, name = record.trace, kind.name
    spans = [
        Span(
            trace.trace_id,
            trace.span_id,
            trace.parent_id,
            True,
            trace.sampled,
            trace.state,
            name,
            SpanKind.SERVER,
            int(record.started * 1e9) + epoch,
            int(record.finished * 1e9) + epoch,
            (),
            _events(record, attempts, epoch),
            kind.error,
            kind.attributes,
        )
    ]
    for number, attempt in enumerate(attempts):
        attributes, error = _attempt_attributes(kind, record, number, attempt)
        times = (("meshproxy.request.sent", attempt.sent), ("meshproxy.response.begun", attempt.first_byte))
        spans.append(
            Span(
                trace.trace_id,
                attempt.span_id or new_id(),
                trace.span_id,
                False,
                trace.sampled,
                trace.state,
                name,
                SpanKind.CLIENT,
                int(attempt.started * 1e9) + epoch,
                int(attempt.ended * 1e9) + epoch,
                (),
                tuple([Event(int(time * 1e9) + epoch, event) for event, time in times if time]),
                error,
                attributes,
            )
        )
    return spans


def _kind_of(record: SpanRecord) -> _Kind:
    if record.refusal is not None or len(record.path) > MEMO_PATH or len(record.target) > MEMO_PATH:
        return _Kind(record)
    key: tuple[object, ...] = tuple.__getitem__(record, RECURRING)
    kind = _kinds.get(key)
    if kind is None:
        if len(_kinds) >= MEMO_ENTRIES:
            _kinds.clear()
        kind = _kinds[key] = _Kind(record)
    return kind


def _events(record: SpanRecord, attempts: tuple[AttemptRecord, ...], epoch: int) -> tuple[Event, ...]:
    """What happened to a request. Most have none."""
    events = []
    if record.dequeued:
        events.append(Event(int(record.decided * 1e9) + epoch, "meshproxy.queued"))
        events.append(Event(int(record.dequeued * 1e9) + epoch, "meshproxy.dequeued"))
    for before, attempt in pairwise(attempts):
        name = "meshproxy.hedge" if before.ended > attempt.started else "meshproxy.retry"
        reason = (("meshproxy.reason", before.failure.value),) if before.failure is not None else ()
        events.append(Event(int(attempt.started * 1e9) + epoch, name, reason))
    for note in record.notes:
        facts = tuple([(f"meshproxy.{name}", value) for name, value in note.facts])
        events.append(Event(int(note.at * 1e9) + epoch, f"meshproxy.{note.what.value}", facts))
    refusal = record.refusal
    if refusal is not None:
        said: Found = [("meshproxy.refusal", refusal.reason.label), ("meshproxy.message", refusal.message)]
        if refusal.limit is not None:
            said.append(("meshproxy.limit", refusal.limit))
        events.append(Event(int(record.finished * 1e9) + epoch, "meshproxy.refusal", tuple(said)))
    return tuple(events)


def _attempt_attributes(
    kind: _Kind, record: SpanRecord, number: int, attempt: AttemptRecord
) -> tuple[Recurring, str | None]:
    """Attributes and error of a client span."""
    key = (
        attempt.endpoint, attempt.is_tls, number, attempt.status, attempt.grpc_status, attempt.failure,
        attempt.is_cancelled,
    )  # fmt: skip
    found = kind.attempts.get(key)
    if found is not None:
        return found
    attributes: Found
    if record.is_grpc:
        attributes = [("rpc.system.name", "grpc"), ("rpc.method", kind.name)]
        failed = attempt.grpc_status not in (None, 0)
    else:
        attributes = [("http.request.method", _method(record)), ("url.full", _url(record, attempt))]
        if template := _route(record):
            attributes.append(("url.template", template))
        if number:
            attributes.append(("http.request.resend_count", number))
        failed = attempt.status >= 400
    attributes += _server_address(record, attempt)
    attributes += _address("network.peer", attempt.endpoint)
    attributes += _response_attributes(record.is_grpc, attempt.status, attempt.grpc_status)
    error = None
    if failed:
        error = ""
        attributes.append(("error.type", _status_word(attempt.grpc_status) if record.is_grpc else str(attempt.status)))
    elif attempt.failure is not None:
        error = ""
        attributes.append(("error.type", attempt.failure.value))
    if attempt.is_cancelled:
        attributes.append(("meshproxy.attempt.cancelled", True))
    found = Recurring(tuple(attributes)), error
    if len(kind.attempts) < MEMO_ATTEMPTS:
        kind.attempts[key] = found
    return found


def _request_attributes(record: SpanRecord) -> tuple[str, Found]:
    """The name of the server span, and what it says of the request."""
    host = record.authority.decode("utf-8", "replace")
    attributes: Found
    if record.is_grpc:
        method = record.path.decode("utf-8", "replace").removeprefix("/")
        is_known = record.asked is not None and record.asked.verb is not Verb.UNLISTED
        name = method if is_known else OTHER
        attributes = [("rpc.system.name", "grpc"), ("rpc.method", name)]
        if not is_known and method:
            attributes.append(("rpc.method_original", method))
    else:
        word = _method(record)
        route = _route(record)
        name = "HTTP" if word == OTHER else word
        attributes = [
            ("http.request.method", word),
            ("url.scheme", "https" if record.is_tls else "http"),
            ("network.protocol.version", record.protocol.removeprefix("HTTP/")),
        ]
        if record.path:  # of a head that could not be read nothing is known
            attributes.append(("url.path", record.path.decode("utf-8", "replace")))
        if word == OTHER and record.method:
            attributes.append(("http.request.method_original", record.method.decode("utf-8", "replace")))
        if route:
            name = f"{name} {route}"
            attributes.append(("http.route", route))
    return name, [*attributes, *_address("server", host), *_address("network.peer", record.remote)]


def _method(record: SpanRecord) -> str:
    return record.method.decode() if record.method in METHODS else OTHER


def _route(record: SpanRecord) -> str:
    """The path with placeholders, if it is of a model; empty otherwise."""
    call = record.asked
    if call is None or len(call.models) != 1 or not record.path.startswith(b"/v1/models/"):
        return ""
    model = call.models[0]
    part = "/versions/{version}" if model.version is not None else "/labels/{label}" if model.label is not None else ""
    return f"/v1/models/{{model}}{part}{ACTIONS.get(call.verb, '')}"


def _response_attributes(is_grpc: bool, status: int, grpc_status: int | None) -> Found:
    if is_grpc:
        return [("rpc.status_code", _status_word(grpc_status))] if grpc_status is not None else []
    return [("http.response.status_code", status)] if status else []


def _status_word(status: int | None) -> str:
    return grpc_status_name(status) if status is not None else str(status)


def _error_type(record: SpanRecord) -> str:
    if record.refusal is not None:
        return record.refusal.reason.label
    if record.flags is not NO_FLAGS:
        return str(record.flags)
    return _status_word(record.grpc_status) if record.is_grpc else str(record.status)


def _own_attributes(record: SpanRecord) -> Found:
    attributes: Found = [("meshproxy.direction", record.direction)]
    call, forwarded, arm = record.asked, record.forwarded, record.arm
    if call is not None:
        attributes.append(("meshproxy.verb", call.verb.value))
    if call is not None and call.models:
        model = call.models[0]
        attributes.append(("meshproxy.model.name", model.name))
        wanted = ("version", model.version), ("label", model.label), ("signature", model.signature)
        attributes += [(f"meshproxy.model.{name}", value) for name, value in wanted if value is not None]
        if forwarded is not None and forwarded is not call and forwarded.models:
            sent = forwarded.models[0]
            wanted = ("name", sent.name), ("version", sent.version), ("label", sent.label)
            attributes += [(f"meshproxy.forwarded.{name}", value) for name, value in wanted if value is not None]
    workload, token = record.caller.workload, record.caller.token
    texts = [
        ("meshproxy.model.effective_version", record.effective_version),
        ("meshproxy.caller.spiffe_id", workload.spiffe_id if workload is not None else ""),
        ("meshproxy.caller.subject", token.subject if token is not None else ""),
        ("meshproxy.rule", record.rule if record.refusal is None else record.refusal.rule or record.rule),
        ("meshproxy.route", record.route),
        ("meshproxy.server", record.server),
        ("meshproxy.arm", _arm(arm.server, arm.model, arm.version, arm.label) if arm is not None else ""),
        ("meshproxy.flags", "" if record.flags is NO_FLAGS else str(record.flags)),
    ]
    return attributes + [(name, text) for name, text in texts if text]


def _arm(*parts: str | None) -> str:
    """What tells an arm from the others of its split."""
    return "/".join([part for part in parts if part]) or "base"


def _address(prefix: str, address: str) -> Found:
    """`prefix.address` and `prefix.port` of `host:port`; of a UNIX socket its path."""
    if not address:
        return []
    if address.startswith("unix:"):
        return [(f"{prefix}.address", address.removeprefix("unix:"))]
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5:
        return [(f"{prefix}.address", address.strip("[]"))]
    return [(f"{prefix}.address", host.strip("[]")), (f"{prefix}.port", int(port))]


def _url(record: SpanRecord, attempt: AttemptRecord) -> str:
    """The absolute URL of an attempt, without its query."""
    authority = record.authority.decode("utf-8", "replace") or attempt.endpoint
    return f"{'https' if attempt.is_tls else 'http'}://{authority}{record.target.decode('utf-8', 'replace')}"


def _server_address(record: SpanRecord, attempt: AttemptRecord) -> Found:
    """Of an attempt: the host that it asks for, and the port; the endpoint's where the request names none."""
    host = _address("server", record.authority.decode("utf-8", "replace"))
    endpoint = _address("server", attempt.endpoint)
    return host + endpoint[1:] if len(host) == 1 else host or endpoint
