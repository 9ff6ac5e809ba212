"""Blocks that we send: what `hpack` reads in them, and what is never sent."""

from __future__ import annotations

import hpack
import pytest

from meshproxy.codec.h2.encoder import Encoder, HeadTooLarge
from meshproxy.codec.role import LocalProtocolError

GRPC = ((b"content-type", b"application/grpc+proto"), (b"x-a", b"1"))


def read(block: bytes) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in hpack.Decoder().decode(block, raw=True)]


def test_names_like_framing_fields_go_on_in_a_response() -> None:
    assert read(Encoder().response(200, ((b"content_length", b"1"),), None))[-1] == (b"content_length", b"1")


def test_request() -> None:
    block = Encoder().request(b"POST", b"http", b"a:80", b"/x", ((b"x-a", b"1"),), 5)
    assert read(block) == [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/x"),
        (b":authority", b"a:80"),
        (b"content-length", b"5"),
        (b"x-a", b"1"),
    ]


def test_grpc_requests_take_trailers() -> None:
    block = Encoder().request(b"POST", b"http", b"a", b"/x", GRPC, None)
    assert read(block)[-1] == (b"te", b"trailers")
    assert (b"te", b"trailers") not in read(Encoder().request(b"POST", b"http", b"a", b"/x", GRPC[1:], None))


@pytest.mark.parametrize(
    ("content_type", "takes"),
    [
        (b"Application/GRPC", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;charset=utf-8", True),
        (b"application/grpc-web", False),
    ],
)
def test_what_is_grpc_has_no_case(content_type: bytes, takes: bool) -> None:
    """As it is read: grpcio resets a call without `te`."""
    block = Encoder().request(b"POST", b"http", b"a", b"/x", ((b"content-type", content_type),), None)
    assert ((b"te", b"trailers") in read(block)) is takes


def test_authority_may_be_missing() -> None:
    names = [name for name, _ in read(Encoder().request(b"GET", b"http", b"", b"/", (), None))]
    assert names == [b":method", b":scheme", b":path"]


@pytest.mark.parametrize("status", [100, 200, 204, 304, 404, 418, 599])
def test_response(status: int) -> None:
    assert read(Encoder().response(status, (), 0)) == [(b":status", b"%d" % status), (b"content-length", b"0")]


def test_trailers() -> None:
    assert read(Encoder().trailers(((b"grpc-status", b"0"),))) == [(b"grpc-status", b"0")]


def test_the_first_block_gives_up_the_dynamic_table() -> None:
    encoder = Encoder()
    first, second = encoder.response(200, (), None), encoder.response(200, (), None)
    assert first == b"\x20" + second
    peer = hpack.Decoder()
    peer.max_allowed_table_size = 0  # a peer that set SETTINGS_HEADER_TABLE_SIZE to nothing, and insists on it
    assert peer.decode(first + second)


def test_equal_heads_are_one_block() -> None:
    encoder = Encoder()
    encoder.trailers(())
    block = encoder.response(200, GRPC, None)
    assert encoder.response(200, (GRPC[0], GRPC[1]), None) is block
    assert encoder.response(201, GRPC, None) is not block
    assert encoder.response(200, GRPC, 0) is not block
    assert encoder.trailers(GRPC) != block


def test_a_trace_context_is_put_behind_what_is_kept() -> None:
    encoder = Encoder()
    blocks = set()
    for number in range(50):
        trace = b"00-%032x-%016x-01" % (number, number)
        block = encoder.request(b"POST", b"http", b"a", b"/x", GRPC, None, trace)
        assert read(block)[-1] == (b"traceparent", trace)
        assert (b"te", b"trailers") in read(block)
        blocks.add(block)
    assert len(blocks) == 50
    assert len(encoder._blocks) == 1
    for value in (b"", b"x", b"A" * 55):
        assert read(encoder.request(b"POST", b"http", b"a", b"/x", GRPC, None, value))[-1] == (b"traceparent", value)
    answer = encoder.response(200, ((b"traceparent", b"x"),), None)
    assert read(answer)[-1] == (b"traceparent", b"x"), "elsewhere it is a field like any other"
    for value in (b"x\r\n", b"x" * 54 + b"\n", b"\0"):
        with pytest.raises(LocalProtocolError):
            encoder.request(b"POST", b"http", b"a", b"/x", GRPC, None, value)


def test_a_request_id_is_put_behind_what_is_kept_and_before_the_trace() -> None:
    encoder = Encoder()
    trace = b"00-%032x-%016x-01" % (1, 1)
    for number in range(50):
        headers = (*GRPC[:1], (b"x-request-id", b"%d" % number), *GRPC[1:], (b"grpc-timeout", b"1S"))
        fields = read(encoder.request(b"POST", b"http", b"a", b"/x", headers, None, trace))
        assert fields[-2:] == [(b"x-request-id", b"%d" % number), (b"traceparent", trace)]
        assert sorted(fields) == sorted(
            [
                *read(Encoder().request(b"POST", b"http", b"a", b"/x", (), None)),
                *headers,
                (b"te", b"trailers"),
                fields[-1],
            ]
        )
    assert len(encoder._blocks) == 1


@pytest.mark.parametrize("values", [[b"a", b"b"], [b""], [b"a b"], [b"a" * 65]])
def test_other_request_ids_are_fields_like_any_other(values: list[bytes]) -> None:
    headers = (*((b"x-request-id", value) for value in values), (b"last", b"1"))
    assert read(Encoder().request(b"POST", b"http", b"a", b"/x", headers, None))[-1] == (b"last", b"1")


def test_a_request_id_counts_as_part_of_the_head() -> None:
    encoder = Encoder()
    encoder.request(b"POST", b"http", b"a", b"/x", ((b"x-request-id", b"a"),), None)
    encoder.limit(
        32 * 5 + sum(map(len, (b":methodPOST", b":schemehttp", b":path/x", b":authoritya", b"x-request-ida")))
    )
    encoder.request(b"POST", b"http", b"a", b"/x", ((b"x-request-id", b"a"),), None)
    with pytest.raises(HeadTooLarge):
        encoder.request(b"POST", b"http", b"a", b"/x", ((b"x-request-id", b"ab"),), None)


def test_nothing_is_kept_where_nothing_is_repeated() -> None:
    encoder = Encoder()
    encoder.remembers = False
    headers = ((b"x-a", b"b"),)
    assert read(encoder.response(200, headers, None)) == read(encoder.response(200, headers, None))
    assert not encoder._blocks
    assert not encoder._fields


def test_what_is_kept_is_bounded() -> None:
    encoder = Encoder()
    for number in range(500):
        headers = ((b"x-request-id", b"%d" % number), (b"x-large", b"v" * (number * 20)))
        assert read(encoder.response(200, headers, None))[1:] == list(headers)
    assert len(encoder._blocks) <= 32
    assert len(encoder._fields) <= 64
    assert sum(len(block) for block, _ in encoder._blocks.values()) <= 32 * 4_096
    assert sum(map(len, encoder._fields.values())) <= 64 * 256


@pytest.mark.parametrize(
    "field",
    [
        (b"host", b"a"),
        (b"content-length", b"5"),
        (b"connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"te", b"trailers"),
        (b"upgrade", b"h2c"),
        (b":path", b"/"),
        (b"X-Upper", b"a"),
        (b"", b"a"),
        (b"a b", b"c"),
        (b"a", b"b\r\nc: d"),
        (b"a", b"\0"),
    ],
)
def test_what_must_not_be_sent(field: tuple[bytes, bytes]) -> None:
    encoder = Encoder()
    for _ in range(2):
        with pytest.raises(LocalProtocolError):
            encoder.response(200, (field,), None)
        with pytest.raises(LocalProtocolError):
            encoder.trailers((field,))


def test_what_the_peer_takes() -> None:
    encoder = Encoder()
    headers = ((b"a", b"b" * 50),)
    encoder.response(200, headers, None)
    size = len(b":status") + 3 + 32 + 1 + 50 + 32
    encoder.limit(size)
    assert read(encoder.response(200, headers, None)) == [(b":status", b"200"), *headers]
    encoder.limit(size - 1)
    with pytest.raises(HeadTooLarge):
        encoder.response(200, headers, None)
    assert read(encoder.response(200, (), None)) == [(b":status", b"200")]


def test_what_the_peer_takes_of_a_request() -> None:
    sent = read(Encoder().request(b"POST", b"http", b"a", b"/x", GRPC, None, b"00-1"))
    size = sum(len(name) + len(value) + 32 for name, value in sent)
    encoder = Encoder()
    encoder.limit(size)
    for _ in range(2):
        assert read(encoder.request(b"POST", b"http", b"a", b"/x", GRPC, None, b"00-1")) == sent
        with pytest.raises(HeadTooLarge):
            encoder.request(b"POST", b"http", b"a", b"/x", GRPC, None, b"00-12")
