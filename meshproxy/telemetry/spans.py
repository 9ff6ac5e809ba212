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
from meshproxy.refusal import GrpcStatus
from meshproxy.telemetry.otlp import Event, Span, SpanKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.proxy.exchange import AttemptRecord
    from meshproxy.telemetry.otlp import Value
    from meshproxy.telemetry.span_record import SpanRecord

OTHER = "_OTHER"
"""The conventions' word for methods that are not known: names of spans are few, whatever is asked for."""
METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"QUERY"})
ACTIONS = {Verb.PREDICT: ":predict", Verb.CLASSIFY: ":classify", Verb.REGRESS: ":regress", Verb.METADATA: "/metadata"}
"""How paths of TensorFlow Serving's REST API end."""

Found = list[tuple[str, "Value"]]


def spans_of(record: SpanRecord, offset: float, new_id: Callable[[], bytes]) -> list[Span]:
    """The spans of an exchange, its server span first.

    Args:
        offset: seconds since the epoch minus monotonic ones.
        new_id: ids for the spans of attempts that sent nothing.
    """
    attempts = sorted(record.attempts, key=lambda attempt: attempt.started)
    name, request = _request_attributes(record)
    spans = [_server_span(record, name, request, attempts, offset)]
    spans += [
        _client_span(record, name, number, attempt, offset, attempt.span_id or new_id())
        for number, attempt in enumerate(attempts)
    ]
    return spans


def _server_span(record: SpanRecord, name: str, request: Found, attempts: list[AttemptRecord], offset: float) -> Span:
    trace, refusal = record.trace, record.refusal
    attributes = [*request, *_response_attributes(record.is_grpc, record.status, record.grpc_status)]
    attributes += _own_attributes(record)
    error = None
    if record.has_failed:
        error = refusal.message if refusal is not None else ""
        attributes.append(("error.type", _error_type(record)))
    events = []
    if record.dequeued:
        events.append(Event(_nanoseconds(record.decided, offset), "meshproxy.queued"))
        events.append(Event(_nanoseconds(record.dequeued, offset), "meshproxy.dequeued"))
    events += [
        Event(
            _nanoseconds(attempt.started, offset),
            "meshproxy.hedge" if before.ended > attempt.started else "meshproxy.retry",
            (("meshproxy.reason", before.failure.value),) if before.failure is not None else (),
        )
        for before, attempt in pairwise(attempts)
    ]
    events += [
        Event(
            _nanoseconds(note.at, offset),
            f"meshproxy.{note.what.value}",
            tuple([(f"meshproxy.{name}", value) for name, value in note.facts]),
        )
        for note in record.notes
    ]
    if refusal is not None:
        said: Found = [("meshproxy.refusal", refusal.reason.label), ("meshproxy.message", refusal.message)]
        if refusal.limit is not None:
            said.append(("meshproxy.limit", refusal.limit))
        events.append(Event(_nanoseconds(record.finished, offset), "meshproxy.refusal", tuple(said)))
    return Span(
        trace.trace_id,
        trace.span_id,
        trace.parent_id,
        True,
        trace.sampled,
        trace.state,
        name,
        SpanKind.SERVER,
        _nanoseconds(record.started, offset),
        _nanoseconds(record.finished, offset),
        tuple(attributes),
        tuple(events),
        error,
    )


def _client_span(
    record: SpanRecord, name: str, number: int, attempt: AttemptRecord, offset: float, span_id: bytes
) -> Span:
    trace, failure = record.trace, attempt.failure
    attributes: Found = []
    if record.is_grpc:
        attributes += [("rpc.system.name", "grpc"), ("rpc.method", name)]
        failed = attempt.grpc_status not in (None, 0)
    else:
        attributes += [("http.request.method", _method(record)), ("url.full", _url(record, attempt))]
        if template := _route(record):
            attributes.append(("url.template", template))
        if number:
            attributes.append(("http.request.resend_count", number))
        failed = attempt.status >= 400
    attributes += _server_address(record, attempt)
    attributes += _address("network.peer", attempt.endpoint)
    attributes += _response_attributes(record.is_grpc, attempt.status, attempt.grpc_status)
    error = None
    if failed or failure is not None:
        error = ""
        if failed:
            kind = _status_word(attempt.grpc_status) if record.is_grpc else str(attempt.status)
        else:
            assert failure is not None
            kind = failure.value
        attributes.append(("error.type", kind))
    if attempt.is_cancelled:
        attributes.append(("meshproxy.attempt.cancelled", True))
    times = (("meshproxy.request.sent", attempt.sent), ("meshproxy.response.begun", attempt.first_byte))
    return Span(
        trace.trace_id,
        span_id,
        trace.span_id,
        False,
        trace.sampled,
        trace.state,
        name,
        SpanKind.CLIENT,
        _nanoseconds(attempt.started, offset),
        _nanoseconds(attempt.ended, offset),
        tuple(attributes),
        tuple(Event(_nanoseconds(time, offset), event) for event, time in times if time),
        error,
    )


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
    return GrpcStatus(status).name if status is not None and 0 <= status <= 16 else str(status)


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


def _nanoseconds(moment: float, offset: float) -> int:
    return int(moment * 1e9) + int(offset * 1e9)  # their sum as a float would be exact to 240 ns
