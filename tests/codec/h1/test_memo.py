from __future__ import annotations

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.h1.head import parse_request, parse_response
from meshproxy.codec.h1.memo import RequestMemo, ResponseMemo
from meshproxy.codec.limits import Limits
from meshproxy.codec.problem import MessageProblem
from tests.thorough import tries

TRACE = b"traceparent: 00-%032x-00f067aa0ba902b7-0%d\r\n"


def head(*lines: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nhost: a\r\n" + b"".join(lines) + b"\r\n"


def test_a_head_that_comes_again_is_not_read_again() -> None:
    requests = RequestMemo(Limits())
    first = requests.parse(head(b"x: y\r\n"))
    assert requests.parse(head(b"x: y\r\n")) is first
    assert requests.parse(head(b"x: z\r\n")) is not first
    responses = ResponseMemo(Limits())
    wire = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    response = responses.parse(wire)
    assert responses.parse(wire[:]) is response
    assert response == parse_response(wire, Limits())


def test_another_trace_is_not_another_head() -> None:
    requests = RequestMemo(Limits())
    first = requests.parse(head(b"x: y\r\n", TRACE % (1, 1), b"z: w\r\n"))
    second = requests.parse(head(b"x: y\r\n", b"z: w\r\n", TRACE % (2, 0)))
    assert second == parse_request(head(b"x: y\r\n", TRACE % (2, 0), b"z: w\r\n"), Limits())
    assert second.headers is first.headers
    assert second.trace == b"00-%032x-00f067aa0ba902b7-00" % 2


def test_limits_count_the_trace() -> None:
    """A head that was read without it may be too large with it."""
    limits = Limits(header_count=2)
    requests = RequestMemo(limits)
    requests.parse(head(b"x: y\r\n"))
    with pytest.raises(MessageProblem) as raised:
        requests.parse(head(b"x: y\r\n", TRACE % (1, 1)))
    assert raised.value.limit == "header_count"


LINES = st.sampled_from(
    [
        *(TRACE % (number, number % 2) for number in range(3)),
        *(b"Traceparent: x\r\n", b"traceparent: \r\n", b"traceparent: 00-xyz\r\n", b"tracestate: a=b\r\n"),
        *(
            b"x: y\r\n",
            b"x: \r\n",
            b"connection: traceparent\r\n",
            b"content-length: 5\r\n",
            b"bad\r\n",
            b"host: a\r\n",
        ),
    ]
)


@settings(max_examples=tries(150))
@given(heads=st.lists(st.lists(LINES, max_size=4).map(lambda lines: head(*lines)), max_size=12))
def test_what_is_remembered_is_what_would_be_read(heads: list[bytes]) -> None:
    requests = RequestMemo(Limits())
    for wire in heads * 2:
        try:
            expected = parse_request(wire, Limits())
        except MessageProblem as problem:
            with pytest.raises(MessageProblem, match=problem.reason):
                requests.parse(wire)
        else:
            assert requests.parse(wire) == expected


def test_what_is_remembered_is_bounded() -> None:
    """Every idle connection holds it."""
    requests = RequestMemo(Limits())
    responses = ResponseMemo(Limits())

    def held() -> int:
        seen: set[int] = set()
        waiting: list[object] = [requests, responses]
        size = 0
        while waiting:
            thing = waiting.pop()
            if id(thing) not in seen and not isinstance(thing, type):
                seen.add(id(thing))
                size += len(thing) if isinstance(thing, bytes) else 0
                waiting += gc.get_referents(thing)
        return size

    for number in range(100):
        padding = b"p: %d%b\r\n" % (number, b"p" * 3_900)
        requests.parse(head(padding))
        requests.parse(head(padding, TRACE % (number, 1)))
        requests.parse(head(padding * 2))
        responses.parse(b"HTTP/1.1 200 OK\r\n" + padding + b"\r\n")
        responses.parse(b"HTTP/1.1 200 OK\r\n" + padding * 2 + b"\r\n")
    assert 3 * 4_000 < held() < 3 * 4 * 2 * 4_200
