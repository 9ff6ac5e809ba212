"""What the official messages of OpenTelemetry read of what we write, and we of what they write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from meshproxy.telemetry.otlp import (
    MEMO_ENTRIES,
    VALUE_CHARACTERS,
    Attributes,
    Event,
    PartialSuccess,
    Recurring,
    Span,
    SpanKind,
    Value,
    encode_attributes,
    encode_request,
    encode_scope,
    encode_span,
    read_response,
)

SCHEMA = "https://opentelemetry.io/schemas/1.45.0"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
values: st.SearchStrategy[Value] = st.one_of(texts, st.booleans(), st.integers(-(2**63), 2**63 - 1))
attribute_lists: st.SearchStrategy[Attributes] = st.lists(st.tuples(texts, values), max_size=4).map(tuple)
times = st.integers(0, 2**64 - 1)


def hex_digits(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size).map(lambda data: data.hex().encode())


spans = st.builds(
    Span,
    trace_id=hex_digits(16),
    span_id=hex_digits(8),
    parent_id=st.one_of(st.just(b""), hex_digits(8)),
    is_parent_remote=st.booleans(),
    sampled=st.booleans(),
    state=st.sampled_from([b"", b"vendor=1,other=2"]),
    name=texts,
    kind=st.sampled_from(SpanKind),
    start=times,
    end=times,
    attributes=attribute_lists,
    events=st.lists(st.builds(Event, times, texts, attribute_lists), max_size=3).map(tuple),
    error=st.one_of(st.none(), texts),
    recurring=st.one_of(st.none(), st.builds(Recurring, attribute_lists)),
)


def official_attributes(attributes: Attributes) -> list[KeyValue]:
    found = []
    for key, value in attributes:
        if isinstance(value, bool):
            found.append(KeyValue(key=key, value=AnyValue(bool_value=value)))
        elif isinstance(value, int):
            found.append(KeyValue(key=key, value=AnyValue(int_value=value)))
        else:
            found.append(KeyValue(key=key, value=AnyValue(string_value=value)))
    return found


def official(span: Span) -> trace_pb2.Span:
    status = None
    if span.error is not None:
        status = trace_pb2.Status(code=trace_pb2.Status.STATUS_CODE_ERROR, message=span.error)
    flags = int(span.sampled)
    if span.parent_id:
        flags |= trace_pb2.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
        flags |= trace_pb2.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK if span.is_parent_remote else 0
    kinds = {SpanKind.SERVER: trace_pb2.Span.SPAN_KIND_SERVER, SpanKind.CLIENT: trace_pb2.Span.SPAN_KIND_CLIENT}
    return trace_pb2.Span(
        trace_id=bytes.fromhex(span.trace_id.decode()),
        span_id=bytes.fromhex(span.span_id.decode()),
        parent_span_id=bytes.fromhex(span.parent_id.decode()),
        trace_state=span.state.decode(),
        flags=flags,
        name=span.name,
        kind=kinds[span.kind],
        start_time_unix_nano=span.start,
        end_time_unix_nano=span.end,
        attributes=official_attributes((*(span.recurring.attributes if span.recurring else ()), *span.attributes)),
        events=[
            trace_pb2.Span.Event(
                time_unix_nano=event.time, name=event.name, attributes=official_attributes(event.attributes)
            )
            for event in span.events
        ],
        status=status,
    )


@given(st.lists(spans, max_size=3), attribute_lists)
def test_a_request_is_what_the_official_messages_say(some: list[Span], resource: Attributes) -> None:
    body = encode_request(encode_attributes(1, resource), encode_scope("meshproxy", "1"), map(encode_span, some))
    expected = ExportTraceServiceRequest(
        resource_spans=[
            trace_pb2.ResourceSpans(
                resource=Resource(attributes=official_attributes(resource)),
                scope_spans=[
                    trace_pb2.ScopeSpans(
                        scope=InstrumentationScope(name="meshproxy", version="1"),
                        spans=map(official, some),
                        schema_url=SCHEMA,
                    )
                ],
                schema_url=SCHEMA,
            )
        ]
    )
    assert ExportTraceServiceRequest.FromString(body) == expected


def read_attributes(attributes: Attributes) -> list[KeyValue]:
    return list(Resource.FromString(encode_attributes(1, attributes)).attributes)


def test_true_is_not_one() -> None:
    """They are equal keys of a dict."""
    both: Attributes = (("a", True), ("a", 1), ("a", False), ("a", 0))
    assert read_attributes(both) == official_attributes(both)


def test_long_values_are_cut_and_what_is_no_unicode_is_replaced() -> None:
    (cut, replaced) = read_attributes((("long", "x" * 5_000), ("surrogate", "a\udcffb")))
    assert cut.value.string_value == "x" * VALUE_CHARACTERS
    assert replaced.value.string_value == "a?b"


def test_the_cache_is_bounded() -> None:
    for number in range(3 * MEMO_ENTRIES):
        assert read_attributes((("n", number),)) == official_attributes((("n", number),))


@given(st.integers(0, 2**63 - 1), texts)
def test_a_partial_success_is_read(rejected: int, message: str) -> None:
    partial = ExportTracePartialSuccess(rejected_spans=rejected, error_message=message)
    body = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    assert read_response(body) == PartialSuccess(rejected, message)


@pytest.mark.parametrize("body", [b"", b"\x0a\x00", b"\x1d\x00\x00\x00\x00\x21" + b"\x00" * 8])
def test_empty_ones_and_unknown_fields_are_a_success(body: bytes) -> None:
    """Two bytes are what the OpenTelemetry Collector sends."""
    assert read_response(body) == PartialSuccess(0, "")


@given(st.binary(max_size=60))
def test_anything_else_is_a_value_error(body: bytes) -> None:
    try:
        read_response(body)
    except ValueError:
        return


@pytest.mark.parametrize("body", [b"<html>", b"\x0a\x05\x08", b"\x0b", b"\x0a" + b"\xff" * 11, b"\x02\x00"])
def test_what_is_no_message(body: bytes) -> None:
    with pytest.raises(ValueError):
        read_response(body)
