from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.events import Headers
from meshproxy.codec.headers import CREDENTIALS, OTHER_TARGET
from meshproxy.identity.caller import ANONYMOUS, Caller, Token, Workload
from meshproxy.proxy.headers import (
    CACHE_BYTES,
    HeaderReader,
    RequestHeaders,
    clean_trailers,
    identity_headers,
    is_identity,
)
from tests.thorough import tries

GRPC = (b"content-type", b"application/grpc")


def test_what_decides_something_is_read_and_the_rest_goes_on_in_its_order() -> None:
    read = RequestHeaders(
        (
            (b"accept", b"a"),
            (b"authorization", b"Bearer x"),
            (b"content-type", b"application/grpc+proto"),
            (b"grpc-encoding", b"gzip"),
            (b"grpc-timeout", b"250m"),
            (b"accept", b"b"),
        )
    )
    assert read.is_grpc
    assert read.authorization == [b"Bearer x"]
    assert read.encoding == b"gzip"
    assert read.timeout == 0.25
    assert read.forward == (
        (b"accept", b"a"),
        (b"content-type", b"application/grpc+proto"),
        (b"grpc-encoding", b"gzip"),
        (b"accept", b"b"),
    )
    assert read.forward_with_token == (*read.forward, (b"authorization", b"Bearer x"))


@pytest.mark.parametrize("name", [*sorted(CREDENTIALS), b"x_amzn_oidc_data", b"cf-access.jwt-assertion"])
def test_no_credential_goes_on_unless_that_is_asked_for(name: bytes) -> None:
    read = RequestHeaders(((name, b"secret"), (b"accept", b"a"), (b"x-request-id", b"7")))
    assert read.forward == ((b"accept", b"a"), (b"x-request-id", b"7"))
    assert read.forward_with_token == (*read.forward, (name, b"secret"))


def test_trace_states_are_not_forwarded_as_they_are() -> None:
    read = RequestHeaders(((b"accept", b"a"), (b"tracestate", b"a=1"), (b"tracestate", b"b=2")))
    assert read.forward == ((b"accept", b"a"),)
    assert read.trace_states == [b"a=1", b"b=2"]


def test_a_plain_request_says_nothing() -> None:
    read = RequestHeaders(((b"accept", b"a"),))
    assert not read.is_grpc
    assert read.authorization == []
    assert read.encoding is None
    assert read.timeout is None
    assert read.forward == read.forward_with_token == ((b"accept", b"a"),)


def test_every_authorization_is_seen() -> None:
    read = RequestHeaders(((b"authorization", b"one"), (b"authorization", b"two")))
    assert read.authorization == [b"one", b"two"]
    assert read.forward == ()


@pytest.mark.parametrize("values", [(b"application/json",), (b"application/grpc", b"application/json"), (b"",)])
def test_what_is_not_clearly_grpc_is_not_grpc(values: tuple[bytes, ...]) -> None:
    assert not RequestHeaders(tuple((b"content-type", value) for value in values)).is_grpc


@pytest.mark.parametrize("values", [(b"1S", b"2S"), (b"1",), (b"999999999S",), (b"-1S",)])
def test_a_deadline_that_cannot_be_read_is_none(values: tuple[bytes, ...]) -> None:
    assert RequestHeaders(tuple((b"grpc-timeout", value) for value in values)).timeout is None


IDENTITY = [b"x-meshproxy-caller", b"x-meshproxy-anything", b"x-forwarded-client-cert"]


@pytest.mark.parametrize("name", IDENTITY)
@settings(max_examples=tries(100))
@given(data=st.data())
def test_a_name_that_some_server_folds_into_ours_is_ours(name: bytes, data: st.DataObject) -> None:
    spelling = bytes(data.draw(st.sampled_from(b"-_.!#$%&'*+^`|~")) if byte == ord("-") else byte for byte in name)
    assert is_identity(spelling)
    assert RequestHeaders(((spelling, b"forged"), GRPC)).forward == (GRPC,)


@pytest.mark.parametrize("name", sorted(OTHER_TARGET))
@settings(max_examples=tries(50))
@given(data=st.data())
def test_no_other_path_or_method_goes_on(name: bytes, data: st.DataObject) -> None:
    spelling = bytes(data.draw(st.sampled_from(b"-_.!#$%&'*+^`|~")) if byte == ord("-") else byte for byte in name)
    read = RequestHeaders(((spelling, b"/v1/models/other"), (b"authorization", b"Bearer x"), GRPC))
    assert read.forward == (GRPC,)
    assert read.forward_with_token == (GRPC, (b"authorization", b"Bearer x"))


@pytest.mark.parametrize(
    "name", [b"x-meshproxy", b"meshproxy-caller", b"client-cert", b"x-forwarded-for", b"user-agent", b"x-client-id"]
)
def test_other_names_are_not(name: bytes) -> None:
    assert not is_identity(name)


@pytest.mark.parametrize(
    ("headers", "timeout"),
    [
        (((b"x-envoy-expected-rq-timeout-ms", b"250"),), 0.25),
        (((b"x-envoy-expected-rq-timeout-ms", b"0"),), None),
        (((b"x-envoy-expected-rq-timeout-ms", b"soon"),), None),
        (((b"x-envoy-expected-rq-timeout-ms", b"1"), (b"x-envoy-expected-rq-timeout-ms", b"2")), None),
        (((b"grpc-timeout", b"1S"),), None),
        ((GRPC, (b"grpc-timeout", b"1S"), (b"x-envoy-expected-rq-timeout-ms", b"250")), 1.0),
    ],
)
def test_each_protocol_has_its_own_deadline_and_neither_goes_on(
    headers: tuple[tuple[bytes, bytes], ...], timeout: float | None
) -> None:
    read = RequestHeaders(headers)
    assert read.timeout == timeout
    assert [name for name, _ in read.forward] == [name for name, _ in headers if name == b"content-type"]


def test_which_server_is_meant_is_for_us_to_know() -> None:
    read = RequestHeaders(((b"x-model-server", b"a"),))
    assert (read.server, read.forward) == (b"a", ())
    assert RequestHeaders(((b"x-model-server", b"a"), (b"x-model-server", b"b"))).server is None
    assert RequestHeaders(()).server is None


def test_the_verified_caller_is_told_and_cannot_break_out_of_its_headers() -> None:
    workload = Workload("spiffe://dev.example/ns/a/sa/b", "dev.example", "a", "b", 2e9)
    assert identity_headers(ANONYMOUS) == ()
    assert identity_headers(Caller(workload, None)) == ((b"x-meshproxy-caller", b"spiffe://dev.example/ns/a/sa/b"),)
    assert identity_headers(Caller(None, Token("corp", " a b%\r\nx: é", {}, 2e9))) == (
        (b"x-meshproxy-issuer", b"corp"),
        (b"x-meshproxy-subject", b"%20a%20b%25%0D%0Ax:%20%C3%A9"),
    )


def test_equal_lists_are_read_once() -> None:
    reader = HeaderReader()
    first = reader.read(((b"accept", b"a"),))
    assert reader.read(((b"accept", b"a"),)) is first
    assert reader.read(((b"accept", b"b"),)) is not first


def test_the_server_may_not_speak_in_our_name() -> None:
    reader = HeaderReader()
    headers = ((b"x-meshproxy-refusal", b"forged"), (b"a", b"b"), (b"X-Not-Lower".lower(), b"c"))
    for _ in range(2):
        assert reader.clean(headers) == ((b"a", b"b"), (b"x-not-lower", b"c"))


def test_what_trailers_say_in_our_name() -> None:
    status, message, refusal = (b"grpc-status", b"7"), (b"grpc-message", b"\xff"), (b"x-meshproxy-refusal", b"internal")
    assert clean_trailers((status, refusal, message), is_sidecar=False) == (status, (b"grpc-message", b"%FF"))
    assert clean_trailers((status, refusal), is_sidecar=True) == (status, refusal)
    assert clean_trailers((status,), is_sidecar=False) == (status,)


def test_large_heads_are_not_remembered() -> None:
    """A thousand of 60 KB, each a little different, would be kept for good; nobody sends such again and again."""
    reader = HeaderReader()
    large = ((b"large", b"x" * 60_000),)
    many = tuple((b"name-%d" % number, b"x" * 500) for number in range(110))
    for headers in (large, many):
        assert reader.read(headers).forward == headers
        assert reader.clean(headers) == headers
    assert len(reader._requests) == len(reader._responses) == 0


@pytest.mark.parametrize("count", [1, 40])
def test_what_is_remembered_takes_no_more_than_is_counted(count: int) -> None:
    reader = HeaderReader()
    lists = [
        tuple((b"n%d" % number, b"%d" % (part * 100 + number)) for number in range(count)) for part in range(6_000)
    ]
    tracemalloc.start()
    try:
        for headers in lists:
            reader.read(tuple((bytes(bytearray(name)), bytes(bytearray(value))) for name, value in headers))
        assert tracemalloc.get_traced_memory()[0] < CACHE_BYTES
    finally:
        tracemalloc.stop()
    assert len(reader._requests) > 10


def test_a_long_list_is_not_remembered() -> None:
    reader = HeaderReader()
    reader.read(tuple((b"a%d" % number, b"b") for number in range(45)))
    reader.read(((b"a", bytes(8_192)),))
    reader.clean(((b"a", bytes(8_192)),))
    assert (len(reader._requests), len(reader._responses)) == (0, 0)
    reader.read(((b"a", bytes(7_000)),))
    assert len(reader._requests) == 1


@pytest.mark.parametrize(
    "before",
    [
        (),
        ((b"accept", b"a"), (b"authorization", b"Bearer t"), (b"tracestate", b"a=b")),
        ((b"content-type", b"application/grpc"), (b"grpc-timeout", b"1S"), (b"b3", b"0"), (b"x-request-id", b"first")),
    ],
)
def test_a_request_id_that_comes_last_is_read_as_it_would_be_anywhere(before: Headers) -> None:
    reader = HeaderReader()
    for value in (b"1", b"2"):
        headers = (*before, (b"x-request-id", value))
        found, expected = reader.read(headers), RequestHeaders(headers)
        for name in RequestHeaders.__slots__:
            assert getattr(found, name) == getattr(expected, name), name
    assert list(reader._requests) == [before]
