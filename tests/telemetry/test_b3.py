"""B3 propagation, by the examples of its specification."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.proxy.headers import B3_FIELDS
from meshproxy.telemetry.b3 import B3Context, B3Format, B3Propagator, read_b3
from meshproxy.telemetry.sampling import Sampler
from meshproxy.telemetry.trace import Tracer

TRACE = b"80f198ee56343ba864fe8b2a57d3eff7"
SPAN = b"e457b5a2e4d86bd1"
PARENT = b"05e3ac9a4f6e3b90"
TRACE_PARENT = b"00-" + TRACE + b"-" + SPAN + b"-01"

Fields = tuple[tuple[bytes, bytes], ...]


def single(value: bytes) -> Fields:
    return ((b"b3", value),)


def multi(**values: bytes) -> Fields:
    return tuple((b"x-b3-" + name.encode(), value) for name, value in values.items())


IDS = {"traceid": TRACE, "spanid": SPAN}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (single(TRACE + b"-" + SPAN + b"-1-" + PARENT), B3Context(TRACE, SPAN, True)),
        (single(TRACE + b"-" + SPAN + b"-0"), B3Context(TRACE, SPAN, False)),
        (single(TRACE + b"-" + SPAN), B3Context(TRACE, SPAN, None)),
        (single(TRACE + b"-" + SPAN + b"-d"), B3Context(TRACE, SPAN, True, True)),
        (single(SPAN + b"-" + SPAN), B3Context(b"0" * 16 + SPAN, SPAN, None)),
        (single(b"0"), B3Context(b"", b"", False)),
        (single(b"1"), B3Context(b"", b"", True)),
        (single(b"d"), B3Context(b"", b"", True, True)),
        (multi(**IDS, parentspanid=PARENT, sampled=b"1"), B3Context(TRACE, SPAN, True)),
        (multi(**IDS, sampled=b"0"), B3Context(TRACE, SPAN, False)),
        (multi(**IDS, sampled=b"False"), B3Context(TRACE, SPAN, False)),
        (multi(**IDS), B3Context(TRACE, SPAN, None)),
        (multi(**IDS, flags=b"1"), B3Context(TRACE, SPAN, True, True)),
        (multi(**IDS, sampled=b"0", flags=b"1"), B3Context(TRACE, SPAN, True, True)),
        (multi(**IDS, sampled=b"1", flags=b"0"), B3Context(TRACE, SPAN, True)),
        (multi(sampled=b"0"), B3Context(b"", b"", False)),
        (multi(flags=b"1"), B3Context(b"", b"", True, True)),
        (single(b"0") + multi(**IDS, sampled=b"1"), B3Context(b"", b"", False)),
        (single(b"malformed") + multi(**IDS, sampled=b"1"), B3Context(TRACE, SPAN, True)),
    ],
)
def test_a_trace_is_read(fields: Fields, expected: B3Context) -> None:
    assert read_b3(fields) == expected


@pytest.mark.parametrize(
    "fields",
    [
        (),
        single(b""),
        single(b"2"),
        single(TRACE),
        single(TRACE + b"-" + SPAN + b"-"),
        single(TRACE + b"-" + SPAN + b"-2"),
        single(TRACE + b"-" + SPAN + b"-1-" + PARENT + b"-1"),
        single(TRACE.upper() + b"-" + SPAN),
        single(TRACE[1:] + b"-" + SPAN),
        single(TRACE[8:] + b"-" + SPAN),
        single(TRACE + b"-" + SPAN[1:]),
        single(b"0" * 32 + b"-" + SPAN),
        single(b"0" * 16 + b"-" + SPAN),
        single(TRACE + b"-" + b"0" * 16),
        single(TRACE + b"-" + SPAN + b"\n"),
        single(b"0") + single(b"1"),
        multi(traceid=TRACE),
        multi(spanid=SPAN, sampled=b"1"),
        multi(**IDS, sampled=b"maybe"),
        multi(**IDS) + multi(traceid=TRACE),
        multi(flags=b"0"),
        multi(parentspanid=PARENT),
    ],
)
def test_what_is_malformed_is_no_trace(fields: Fields) -> None:
    assert read_b3(fields) is None


PARTS = st.sampled_from([TRACE, SPAN, b"0" * 16, b"0", b"1", b"d", b"", b"\xff"]) | st.binary(max_size=40)
VALUES = PARTS | st.lists(PARTS, max_size=5).map(b"-".join)


@given(st.lists(st.tuples(st.sampled_from(sorted(B3_FIELDS)), VALUES), max_size=6).map(tuple))
def test_whatever_comes_one_valid_trace_goes_on(fields: Fields) -> None:
    """What is written of it is read again as what the `traceparent` says."""
    propagator = B3Propagator(set(B3Format))
    context, parent = Tracer(Sampler(0.5), None, propagator).begin(fields)
    assert context.inject is not None
    written = context.inject(fields, parent)
    for names in ({b"b3"}, B3_FIELDS - {b"b3"}):
        found = read_b3(tuple(field for field in written if field[0] in names))
        assert found is not None
        assert (found.trace_id, found.span_id, found.sampled) == (context.trace_id, context.span_id, context.sampled)
        given_one = read_b3(fields)
        assert found.is_debug is (given_one is not None and given_one.is_debug)
    assert int(context.trace_id, 16) > 0


def test_fields_are_written_in_the_place_of_those_that_came() -> None:
    fields = ((b"accept", b"*/*"), *multi(**IDS, parentspanid=PARENT, sampled=b"0"), *single(b"0"))
    write = B3Propagator({B3Format.SINGLE}).write
    assert write(fields, TRACE_PARENT) == ((b"accept", b"*/*"), (b"b3", TRACE + b"-" + SPAN + b"-1"))
    propagator = B3Propagator({B3Format.MULTI})
    assert propagator.write(fields, TRACE_PARENT) == ((b"accept", b"*/*"), *multi(**IDS, sampled=b"1"))
    assert propagator.write_debug((), TRACE_PARENT) == multi(**IDS, flags=b"1")


@pytest.mark.parametrize(
    ("decision", "ratio", "sampled"),
    [(b"1", 0.0, True), (b"0", 1.0, False), (b"d", 0.0, True), (b"", 1.0, True), (b"", 0.0, False)],
)
def test_the_callers_decision_counts_and_one_that_is_left_is_made(decision: bytes, ratio: float, sampled: bool) -> None:
    value = TRACE + b"-" + SPAN + (b"-" + decision if decision else b"")
    context, parent = Tracer(Sampler(ratio), None, B3Propagator({B3Format.SINGLE})).begin(single(value))
    assert (context.trace_id, context.parent_id, context.sampled) == (TRACE, SPAN, sampled)
    assert parent.endswith(b"-01" if sampled else b"-00")


def test_a_decision_alone_is_followed_by_a_trace_that_begins_here() -> None:
    context, _ = Tracer(Sampler(1.0), None, B3Propagator({B3Format.SINGLE})).begin(single(b"0"))
    assert (context.parent_id, context.sampled) == (b"", False)
    assert int(context.trace_id, 16) > 0


def test_a_debug_trace_is_sampled_whoever_the_sampler_follows() -> None:
    context, _ = Tracer(Sampler(0.0, False), None, B3Propagator({B3Format.SINGLE})).begin(single(b"d"))
    assert context.sampled
