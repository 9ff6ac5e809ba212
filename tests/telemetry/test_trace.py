from __future__ import annotations

import os
import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.proxy.exchange import Exchange, TraceContext
from meshproxy.telemetry.sampling import Sampler
from meshproxy.telemetry.trace import POOL_BYTES, Tracer, record_trace
from tests.telemetry.conftest import MakeExchange
from tests.thorough import tries

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = b"00f067aa0ba902b7"
PARENT = b"00-" + TRACE + b"-" + SPAN + b"-01"


def carry(parent: bytes, states: Sequence[bytes] = ()) -> tuple[TraceContext, bytes]:
    carried = Tracer().carry(parent, states)
    assert carried is not None
    return carried


def test_a_trace_is_carried_on_with_a_span_of_ours() -> None:
    context, forward = carry(PARENT)
    assert (context.trace_id, context.parent_id, context.sampled) == (TRACE, SPAN, True)
    assert re.fullmatch(rb"[0-9a-f]{16}", context.span_id)
    assert context.span_id != SPAN
    assert forward == b"00-" + TRACE + b"-" + context.span_id + b"-01"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        PARENT[:-1],
        PARENT + b"0",
        PARENT + b"-",  # version 00 is complete
        PARENT.upper(),
        PARENT.replace(b"f", b"g"),
        b" " + PARENT[1:],
        PARENT.replace(b"-", b"_"),
        b"0-0" + PARENT[3:],
        b"0x" + PARENT[2:],
        b"00-" + b"0" * 32 + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        b"ff-" + PARENT[3:],
        b"01-" + PARENT[3:] + b"x",
        b"01" + PARENT[2:-1],
        b"00-" + TRACE[1:] + b"-" + SPAN + b"0-01",
        b"00--" + TRACE[1:] + SPAN + b"-01",
        b"+0" + PARENT[2:],
        PARENT + b", " + PARENT,
    ],
)
def test_what_is_not_exactly_a_parent_is_no_trace(value: bytes) -> None:
    assert Tracer().carry(value, [b"a=1"]) is None


@pytest.mark.parametrize(
    "value", [b"cc" + PARENT[2:], b"cc" + PARENT[2:] + b"-what-the-future-will-be-like", b"01" + PARENT[2:]]
)
def test_later_versions_share_their_first_part(value: bytes) -> None:
    context, forward = carry(value)
    assert (context.trace_id, context.parent_id, context.sampled) == (TRACE, SPAN, True)
    assert forward.startswith(b"00-" + TRACE)


@pytest.mark.parametrize(
    ("flags", "sampled"), [(b"00", False), (b"01", True), (b"02", False), (b"03", True), (b"fe", False), (b"ff", True)]
)
def test_of_the_flags_only_sampled_is_known(flags: bytes, sampled: bool) -> None:
    context, forward = carry(PARENT[:-2] + flags)
    assert context.sampled is sampled
    assert forward.endswith(b"-01" if sampled else b"-00")


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([b"foo=1"], b"foo=1"),
        ([b"foo=1,bar=2"], b"foo=1,bar=2"),
        ([b"foo=1", b"bar=2"], b"foo=1,bar=2"),
        ([b" foo=1 \t, bar=2"], b"foo=1,bar=2"),
        ([b"foo=1,,bar=2,"], b"foo=1,bar=2"),
        ([b"foo=1,foo=2"], b"foo=1,foo=2"),
        ([b"foo= 1"], b"foo= 1"),
        ([b"0foo@0=1"], None),
        ([b"fw529a3039@dt=FfffffffJ~!"], b"fw529a3039@dt=FfffffffJ~!"),
        ([b"a_-*/b@c_-*/d=1"], b"a_-*/b@c_-*/d=1"),
        ([b"z" * 256 + b"=1"], b"z" * 256 + b"=1"),
        ([b"z" * 257 + b"=1"], None),
        ([b"t" * 241 + b"@" + b"v" * 14 + b"=1"], b"t" * 241 + b"@" + b"v" * 14 + b"=1"),
        ([b"t" * 242 + b"@v=1"], None),
        ([b"t@" + b"v" * 15 + b"=1"], None),
        ([b"a=" + b"v" * 256], b"a=" + b"v" * 256),
        ([b"a=" + b"v" * 257], None),
        ([b",".join(b"b%02d=1" % number for number in range(32))], b",".join(b"b%02d=1" % n for n in range(32))),
        ([b",".join(b"b%02d=1" % number for number in range(33))], None),
        ([b"a=" + b"v" * 250, b"b=" + b"v" * 257], None),
        ([b"foo"], None),
        ([b"foo="], None),
        ([b"=1"], None),
        ([b"FOO=1"], None),
        ([b"foo =1"], None),
        ([b"foo.bar=1"], None),
        ([b"foo@=1,bar=2"], None),
        ([b"@foo=1"], None),
        ([b"foo@@bar=1"], None),
        ([b"foo@bar@baz=1"], None),
        ([b"foo=bar=baz"], None),
        ([b"foo=\x7f"], None),
        ([b"foo=\xc3\xbc"], None),
        ([b"foo=1\nbar"], None),
        ([b"foo=1\n"], None),
        ([b""], None),
        ([b" , "], None),
    ],
)
def test_the_state_goes_on_whole_or_not_at_all(states: list[bytes], expected: bytes | None) -> None:
    context, _ = carry(PARENT, states)
    assert context.trace_id == TRACE
    assert context.state == (expected or b"")


def test_ids_do_not_repeat() -> None:
    tracer = Tracer()
    assert len({tracer.carry(PARENT)[0].span_id for _ in range(2_000)}) == 2_000  # type: ignore[index]


def test_an_id_of_zeros_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pools = iter([bytes(8) + os.urandom(POOL_BYTES - 16) + bytes(8), bytes([1]) * POOL_BYTES])
    monkeypatch.setattr(os, "urandom", lambda size: next(pools))
    tracer = Tracer()
    ids = [tracer.carry(PARENT)[0].span_id for _ in range(POOL_BYTES // 8)]  # type: ignore[index]
    assert ids == [b"01" * 8] * len(ids)


def hexadecimal(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size).map(lambda data: data.hex().encode())


VALUES = (
    st.binary(max_size=70)
    | st.tuples(hexadecimal(1), hexadecimal(16), hexadecimal(8), hexadecimal(1)).map(b"-".join)
    | st.sampled_from([PARENT, PARENT + b"-x", b"a=1", b"a=1,b@c=2", b"a =1"])
)


@settings(max_examples=tries(200))
@given(VALUES, st.lists(VALUES, max_size=3))
def test_whatever_comes_one_valid_parent_goes_on_or_none(parent: bytes, states: list[bytes]) -> None:
    carried = Tracer().carry(parent, states)
    if carried is None:
        return
    context, forward = carried
    match = re.fullmatch(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-0[01]", forward)
    assert match is not None
    assert match.groups() == (context.trace_id, context.span_id)
    assert int(match[1], 16) > 0
    assert int(match[2], 16) > 0
    assert (parent[3:35], parent[36:52]) == (context.trace_id, context.parent_id)


@pytest.mark.parametrize(("ratio", "sampled"), [(0.0, False), (1.0, True)])
def test_a_trace_begins_where_spans_are_exported(ratio: float, sampled: bool) -> None:
    tracer = Tracer(Sampler(ratio))
    assert tracer.is_recording
    seen = set()
    for _ in range(3 * POOL_BYTES // 8):  # more than are fetched at once
        context, forward = tracer.begin()
        assert re.fullmatch(rb"[0-9a-f]{32}", context.trace_id)
        assert re.fullmatch(rb"[0-9a-f]{16}", context.span_id)
        assert (context.parent_id, context.sampled, context.state) == (b"", sampled, b"")
        assert forward == b"00-%b-%b-%b" % (context.trace_id, context.span_id, b"01" if sampled else b"00")
        seen |= {context.trace_id, context.span_id}
    assert len(seen) == 2 * 3 * POOL_BYTES // 8


def test_an_attempt_is_another_span_of_the_trace() -> None:
    tracer = Tracer(Sampler(1.0))
    context, _ = tracer.begin()
    span_id, forward = tracer.attempt(context)
    assert span_id != context.span_id
    assert forward == b"00-%b-%b-01" % (context.trace_id, span_id)


@pytest.mark.parametrize(
    ("flags", "follows", "sampled"), [(b"00", True, False), (b"01", True, True), (b"01", False, False)]
)
def test_a_sampler_may_follow_the_caller_or_not(flags: bytes, follows: bool, sampled: bool) -> None:
    carried = Tracer(Sampler(0.0, follows)).carry(PARENT[:-2] + flags)
    assert carried is not None
    context, forward = carried
    assert context.sampled is sampled
    assert forward.endswith(b"-01" if sampled else b"-00")


def test_an_exchange_is_recorded_by_the_tracer_of_its_trace(make_exchange: MakeExchange) -> None:
    seen: list[Exchange] = []
    tracer = Tracer(Sampler(0.0), seen.append)
    carried = tracer.carry(PARENT)
    assert carried is not None
    for context in (carried[0], tracer.begin()[0]):
        exchange = make_exchange(trace=context)
        record_trace(exchange)
        assert seen.pop() is exchange
    record_trace(make_exchange(trace=carry(PARENT)[0]))
    record_trace(make_exchange(trace=None))
    assert seen == []


def test_without_a_sampler_nothing_begins() -> None:
    assert not Tracer().is_recording
