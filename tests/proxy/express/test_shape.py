from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.h1.head import ParsedRequest, ParsedResponse, parse_request, parse_response
from meshproxy.codec.limits import Limits
from meshproxy.codec.problem import MessageProblem
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

HEAD = (
    b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\nX-Request-Id: a-1\r\n"
    b"traceparent: 00-0123456789abcdef0123456789abcdef-0123456789abcdef-01\r\nx-other: 1\r\n"
    b"x-envoy-expected-rq-timeout-ms: 250\r\n\r\n"
)
LIMITS = Limits()
REQUEST_SLOTS = (LENGTH, REQUEST_ID, TRACE, TIMEOUT)
ANSWER_SLOTS = (LENGTH, DATE)


def test_a_head_is_cut_at_the_values_of_its_slots() -> None:
    parts = split_request(HEAD)
    assert parts[2::3] == [b"12", b"a-1", b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-01", b"250"]
    assert slots_of(parts) == {name: place for place, name in enumerate(REQUEST_SLOTS)}
    other = HEAD.replace(b": 12", b": 7").replace(b"a-1", b"zz").replace(b"-01\r", b"-00\r").replace(b": 250", b": 9")
    assert shape_of(split_request(other)) == shape_of(parts)
    for changed in (b"POST", b"h\r\n", b"x-other: 1", b"X-Request-Id"):
        assert shape_of(split_request(HEAD.replace(changed, changed.swapcase() + b"x", 1))) != shape_of(parts)


@pytest.mark.parametrize(
    "line",
    [
        b"content-length: 0",
        b"content-length: 007",
        b"content-length: 1234567",
        b"content-length: 1, 1",
        b"content-length:12",
        b"content-length : 12",
        b"content-length: 12 ",
        b"content-length:\t12",
        b"content-length: +1",
        b"content-length: 1_0",
        b"x-request-id: " + b"a" * 65,
        b"x-request-id: a b",
        b"x-request-id: ",
        b"x-request-ids: a",
        b"my-x-request-id: a",
        b"traceparent: 00-" + b"0" * 32 + b"-0123456789abcdef-01",
        b"traceparent: 00-0123456789abcdef0123456789abcdef-" + b"0" * 16 + b"-01",
        b"traceparent: 00-0123456789ABCDEF0123456789abcdef-0123456789abcdef-01",
        b"traceparent: 01-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
        b"traceparent: 00-0123456789abcdef0123456789abcdef-0123456789abcdef-01-x",
        b"x-envoy-expected-rq-timeout-ms: 0",
        b"x-envoy-expected-rq-timeout-ms: 1e3",
        b"x-envoy-expected-rq-timeout-ms: 1234567890",
    ],
)
def test_a_value_of_another_form_is_part_of_the_shape(line: bytes) -> None:
    head = b"GET / HTTP/1.1\r\nhost: h\r\n%b\r\n\r\n" % line
    assert split_request(head) == [head]


def test_a_slot_that_comes_twice_is_told() -> None:
    head = b"GET / HTTP/1.1\r\nx-request-id: a\r\nX-Request-ID: b\r\n\r\n"
    assert slots_of(split_request(head)) is None


# Two heads of one shape are read alike, whatever else is in them.

ids = st.from_regex(rb"[0-9A-Za-z._-]{1,64}", fullmatch=True)
lengths = st.integers(1, 999_999).map(lambda number: b"%d" % number)
times = st.integers(1, 999_999_999).map(lambda number: b"%d" % number)
traces = st.builds(
    lambda trace, span, flags: b"00-%032x-%016x-%02x" % (trace, span, flags),
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.integers(0, 255),
)
dates = st.just(b"Mon, 30 Nov 2026 03:47:42 GMT") | st.just(b"Tue, 01 Dec 2026 00:00:00 GMT")
VALUES = {
    b"content-length": lengths,
    b"x-request-id": ids,
    b"traceparent": traces,
    b"x-envoy-expected-rq-timeout-ms": times,
    b"date": dates,
}
spellings = st.sampled_from([bytes.lower, bytes.title, bytes.upper])
noise = st.sampled_from(
    [
        b"accept: */*",
        b"connection: keep-alive",
        b"connection: x-request-id",
        b"connection: traceparent, close",
        b"connection: content-length",
        b"connection: date",
        b"transfer-encoding: chunked",
        b"expect: 100-continue",
        b"content-length: 5",
        b"content_length: 5",
        b"traceparent: rubbish",
        b"x-request-id: not valid",
        b" folded",
        b"no colon",
        b"bad\x00value: 1",
        b"host: again",
        b"a: content-length: 7",
    ]
)


@st.composite
def pairs(draw: st.DrawFn, start: list[bytes], names: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    """Two heads that differ in the values of slots only."""
    one, other = list(start), list(start)
    for name in draw(st.lists(st.sampled_from([*names, b""]), max_size=6)):
        if name:
            spelled = draw(spellings)(name)
            one.append(spelled + b": " + draw(VALUES[name]))
            other.append(spelled + b": " + draw(VALUES[name]))
        else:
            line = draw(noise)
            one.append(line)
            other.append(line)
    return b"\r\n".join((*one, b"", b"")), b"\r\n".join((*other, b"", b""))


def read(head: bytes, parse: type | object) -> ParsedRequest | ParsedResponse | str:
    try:
        return parse(head, LIMITS)  # type: ignore[operator,no-any-return]
    except MessageProblem as problem:
        return problem.reason


def without_values(parsed: ParsedRequest | ParsedResponse | str) -> object:
    """What was read, less the values of slots."""
    if isinstance(parsed, str):
        return parsed
    fields = parsed._asdict()
    fields["headers"] = [(name, b"" if name in VALUES else value) for name, value in parsed.headers]
    for name in ("length", "trace"):
        if name in fields:
            fields[name] = fields[name] is not None
    fields.pop("expects_continue", None) if not fields["length"] else None
    return fields


@given(pairs([b"POST /v1/models/m:predict HTTP/1.1", b"host: h"], REQUEST_SLOTS))
def test_requests_of_one_shape_are_accepted_or_refused_alike(heads: tuple[bytes, bytes]) -> None:
    one, other = heads
    assert shape_of(split_request(one)) == shape_of(split_request(other))
    assert without_values(read(one, parse_request)) == without_values(read(other, parse_request))


@given(pairs([b"HTTP/1.1 200 OK"], ANSWER_SLOTS))
def test_answers_of_one_shape_are_accepted_or_refused_alike(heads: tuple[bytes, bytes]) -> None:
    one, other = heads
    assert shape_of(split_answer(one)) == shape_of(split_answer(other))
    assert without_values(read(one, parse_response)) == without_values(read(other, parse_response))


@given(st.binary(max_size=300))
def test_any_octets_are_split_and_put_together_again(head: bytes) -> None:
    for split in (split_request, split_answer):
        parts = split(head)
        whole = [(b"\r\n" if at % 3 == 1 else b"") + part for at, part in enumerate(parts)]
        assert b"".join(whole) == head


def test_there_is_room_for_the_longest_values() -> None:
    assert ROOM >= 6 + 64 + 55 + 9
