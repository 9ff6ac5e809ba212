from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.h1.head import (
    ParsedRequest,
    ParsedResponse,
    check_head,
    check_request_line,
    check_status_line,
    parse_request,
    parse_response,
    parse_trailers,
    without_forbidden,
)
from meshproxy.codec.headers import FRAMING, NOT_IN_TRAILERS
from meshproxy.codec.limits import Limits
from meshproxy.codec.problem import MessageProblem
from tests.thorough import tries

START = b"GET / HTTP/1.1\r\nhost: a\r\n"


def refusal(head: bytes, **limits: int) -> MessageProblem:
    with pytest.raises(MessageProblem) as caught:
        parse_request(head, Limits(**limits))
    return caught.value


def test_a_request() -> None:
    head = (
        b"POST /v1/models/m:predict?x HTTP/1.1\r\nHost: a:8501\r\nAuthorization: Bearer x.y\r\n"
        b"Content-Length: 30\r\nConnection: close\r\n\r\n"
    )
    assert parse_request(head, Limits()) == ParsedRequest(
        method=b"POST",
        authority=b"a:8501",
        target=b"/v1/models/m:predict?x",
        headers=((b"authorization", b"Bearer x.y"),),
        length=30,
        chunked=False,
        expects_continue=False,
        is_http10=False,
        closes=True,
        trace=None,
    )


def test_a_response() -> None:
    head = b"HTTP/1.0 200 OK\r\nTransfer: x\r\ncontent-length: 7\r\n\r\n"
    assert parse_response(head, Limits()) == ParsedResponse(200, ((b"transfer", b"x"),), 7, False, True)


# What is wrong is said in the order of the wire, by its first fault.
REASONS = {
    b"GET /\x7f HTTP/1.1\r\nhost: a\r\n\r\n": "the request line contains a byte that is not printable ASCII",
    b"GET / HTTP/1.1\nhost: a\r\n\r\n": "the request line does not end with CR LF",
    b"GET  / HTTP/1.1\r\n\r\n": "the request line is not of the form: method, target, HTTP version",
    b"GET / HTTP/3.0\r\n bad\r\n\r\n": "only HTTP/1.0 and HTTP/1.1 are supported",
    START + b" x: y\r\n\r\n": "a field line begins with white space",
    START + b"x: y\nz: w\r\n\r\n": "a field line does not end with CR LF",
    START + b"x\r\n\r\n": "a field line has no colon",
    START + b": x\r\n\r\n": "a field has no name",
    START + b"x : y\r\n\r\n": "the name of a field contains white space or another invalid character",
    START + b"x: \0\r\n\r\n": "the value of a field contains a control character",
    START + b"x: \0\r\ny : z\r\n\r\n": "the value of a field contains a control character",
    START + b"host: a\r\n\r\n": "there is more than one host field",
    b"GET / HTTP/1.1\r\n\r\n": "the request has no host field",
    b"GET /[ HTTP/1.1\r\nhost: a\r\n\r\n": (
        "the request target is neither a path and query of RFC 3986 nor an http address"
    ),
    b"GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n": "the request target and the host field name different hosts",
    START + b"content-length: x\r\n\r\n": "content-length is not a decimal number",
    START + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n": (
        "the message has both content-length and transfer-encoding"
    ),
}


@pytest.mark.parametrize("head", REASONS)
def test_reasons(head: bytes) -> None:
    assert refusal(head).reason == REASONS[head]


def test_reasons_repeat_nothing_of_what_was_sent() -> None:
    """They stand in answers and logs."""
    for head in REASONS:
        secret = head.replace(b"x", b"s3cr3t").replace(b"host: a", b"host: s3cr3t")
        assert "s3cr3t" not in refusal(secret).reason


def test_the_size_of_a_head_is_counted_as_in_http2() -> None:
    """32 for each field (RFC 9113 section 10.5.1): many small ones cost more than they weigh."""
    head = b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\nz:\r\n\r\n"
    counted = len(b"GET / HTTP/1.1") + len(b"hosta") + len(b"xy") + len(b"z") + 3 * 32
    assert parse_request(head, Limits(header_bytes=counted)).headers == ((b"x", b"y"), (b"z", b""))
    assert refusal(head, header_bytes=counted - 1).limit == "header_bytes"
    head = b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n"
    counted = len(b"HTTP/1.1 200 OK") + len(b"xy") + 32
    parse_response(head, Limits(header_bytes=counted))
    with pytest.raises(MessageProblem):
        parse_response(head, Limits(header_bytes=counted - 1))


def test_white_space_counts_too() -> None:
    assert refusal(START + b"x: " + b" " * 1_000 + b"\r\n\r\n", header_bytes=1_000).limit == "header_bytes"


@pytest.mark.parametrize(
    ("limits", "head"),
    [
        ({"header_count": 1}, START + b"x: y\r\n\r\n"),
        ({"header_name_bytes": 4}, START + b"names: y\r\n\r\n"),
        ({"header_name_bytes": 4}, START + b"names: y\0\r\n\r\n"),
        ({"target_bytes": 3}, b"GET /abc HTTP/1.1\r\nhost: a\r\n\r\n"),
        ({"body_bytes": 4}, START + b"content-length: 5\r\n\r\n"),
    ],
)
def test_limits(limits: dict[str, int], head: bytes) -> None:
    problem = refusal(head, **limits)
    assert problem.limit == next(iter(limits))
    assert problem.status == {"target_bytes": 414, "body_bytes": 413}.get(problem.limit, 431)
    raised = {name: value + 1 for name, value in limits.items()}
    if b"\0" not in head:
        parse_request(head, Limits(**raised))


def test_an_unfinished_head_is_checked_as_its_lines_come() -> None:
    limits = Limits()
    assert check_head(b"GE", 0, limits, check_request_line) == 0
    assert check_head(b"GET / HTTP/1.1\r\nhost: a", 0, limits, check_request_line) == 16
    assert check_head(b"GET / HTTP/1.1\r\nhost: a\r\nx", 16, limits, check_request_line) == 25
    with pytest.raises(MessageProblem):
        check_head(b"GET / HTTP/1.1\r\nhost: a\r\nx\r\n", 25, limits, check_request_line)
    assert check_head(b"HTTP/1.", 0, limits, check_status_line) == 0
    with pytest.raises(MessageProblem):
        check_head(b"HTTP/2", 0, limits, check_status_line)


@settings(max_examples=tries(150))
@given(
    start=st.sampled_from([b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"CONNECT a:1 HTTP/1.1\r\n", b"G T\r\n"]),
    lines=st.lists(
        st.sampled_from(
            [b"host: a", b"x: y", b"x", b": y", b" x: y", b"x : y", b"x: \0", b"x" * 20 + b": y", b"x: y\n"]
        ),
        max_size=6,
    ),
)
def test_a_head_is_refused_for_the_same_reason_line_by_line(start: bytes, lines: list[bytes]) -> None:
    limits = Limits(header_count=3, header_name_bytes=16, header_bytes=150)
    head = start + b"".join([line + b"\r\n" for line in lines]) + b"\r\n"
    whole = piecemeal = None
    try:
        parse_request(head, limits)
    except MessageProblem as problem:
        whole = (problem.status, problem.reason, problem.limit)
    checked = 0
    try:
        for end in range(1, len(head)):
            checked = check_head(head[:end], checked, limits, check_request_line)
        piecemeal = whole  # nothing is wrong with a line: what is wrong with the head shows at its end
    except MessageProblem as problem:
        piecemeal = (problem.status, problem.reason, problem.limit)
    assert piecemeal == whole


def test_nothing_behind_a_limit_is_looked_at() -> None:
    """In pieces it would not have been seen."""
    for line in (b" bad\r\n", b"x" * 300 + b": y\r\n", b"x: \0\r\n"):
        assert refusal(START + b"x: y\r\n" * 20 + line + b"\r\n", header_bytes=100).limit == "header_bytes"


def test_no_head_takes_long() -> None:
    """An expression that goes back and tries again would need minutes for these (64 KiB squared)."""
    limits = Limits()
    fill = 60_000
    for tail in (b"\0", b"\r", b"x", b" ", b"\xff\0"):
        for value in (b" " * fill, b"\t " * (fill // 2), b"a " * (fill // 2), b"a" * fill, b"%41" * (fill // 3)):
            started = time.process_time()
            for head in (
                START + b"x:" + value + tail + b"\r\n\r\n",
                START + b"connection:" + value + tail + b"\r\n\r\n",
                START + b"connection:" + value.replace(b" ", b",") + tail + b"\r\n\r\n",
                START + b"transfer-encoding:" + value + tail + b"\r\n\r\n",
                START + value[:8_000] + tail + b": x\r\n\r\n",
                b"GET /" + value[:8_000] + tail + b" HTTP/1.1\r\n\r\n",
                b"GET http://" + value[:8_000] + tail + b" HTTP/1.1\r\nhost: a\r\n\r\n",
            ):
                try:
                    parse_request(head, limits)
                except MessageProblem:
                    pass
            assert time.process_time() - started < 2


def test_trailers() -> None:
    block = b"X-Sum: 1 \r\nCONTENT-LENGTH: 5\r\nx_forwarded.for: y\r\nempty:\r\n"
    assert parse_trailers(block) == ((b"x-sum", b"1"), (b"empty", b""))
    assert without_forbidden(((b"authorization", b"x"), (b"grpc-status", b"0"))) == ((b"grpc-status", b"0"),)
    assert not any(without_forbidden(((name, b"x"),)) for name in NOT_IN_TRAILERS)
    assert FRAMING < NOT_IN_TRAILERS
