from __future__ import annotations

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.h2.heads import KEPT_BYTES, KEPT_HEADS, HeadReader
from meshproxy.codec.h2.shape import split_block
from meshproxy.codec.limits import Limits
from meshproxy.codec.problem import Malformed, Unacceptable
from tests.codec.h2.test_heads import HEAD, OTHER_PARENT, PARENT, encode, literal, read_alike
from tests.thorough import tries

Fields = list[tuple[bytes, bytes]]
SLOTS: Fields = [(b"grpc-timeout", b"9S"), (b"x-request-id", b"id"), (b"traceparent", PARENT)]


GRPC_GO = (
    (
        "838645a06125a907b25a0fe17416cee6aa65f5d8590c4498f56e2d9dcc42b1aec2c86227418b089d5c0b8170dc0bcfbeff5f"
        "901d75d0620d263d4c4d6564ff75d8749f7a8a9acac8b4c7602bbcdae040027465864d833505b11f40899acac8b24d494f6a"
        "7f8669f7de03ee5b5788ba51d85b1498e7934089f2b585ed6950958d278698eb01600000"
    ),
    "8386c5c4c3c2c17f018669f7df7dd66dc07f008798eb056094b2ff",
    "8386c7c6c5c4c37f008669f7df7df66dc27f008798eb09666490bf",
    "8386c9c8c7c6c57f008669f7df740cdbc47f008798eb32b364249f",
    "8386cbcac9c8c77f008669f7df7de6adc67f008798eb34b3b1c64f",
    "8386cdcccbcac97f008669f7df7df05bc87f008798eb36b3e31c7f",
    "8386cfcecdcccb7f008669f7df7de7edca7f008798eb38b46fbe3f",
    "8386d1d0cfcecd7f008669f7df7df15bcc7f008798eb3ab48f3cff",
    "8386d3d2d1d0cf7f008669f7df7df6edce7f008798eb3cb4aebaf7",
    "8386d5d4d3d2d1c1cf7e8898eb3eb042e38eff",
    "8386d6d5d4d3d27f018669f7df7df72dd17f008898eb040b0596db73",
    "8386d8d7d6d5d4bfd27e8898eb042b05b69a6f",
)
"""Header blocks of twelve calls in a row by grpc-go 1.85.0 (recorded)."""


def block(*fields: tuple[bytes, bytes]) -> bytes:
    return encode(HEAD) + b"".join(literal(*field) for field in fields)


def test_slots_are_found_wherever_they_stand() -> None:
    reader = HeadReader(Limits())
    for number in range(3):
        fields = [
            (b"x-request-id", b"%d" % 10**number),
            (b"accept", b"a"),
            (b"traceparent", (PARENT, OTHER_PARENT)[number % 2]),
            (b"grpc-timeout", b"%dm" % (number * 900)),
            (b"x-envoy-expected-rq-timeout-ms", b"%d" % (number * 50 + 1)),
            (b"z", b"1"),
        ]
        head = reader.request(1, False, block(*fields))
        assert head == HeadReader(Limits()).request(1, False, block(*fields))
        assert head.shape is not None
    assert len(reader._shapes) == 1
    assert head.shape is not None
    assert [name for _, name, _ in head.shape.places] == [
        b"x-request-id",
        b"grpc-timeout",
        b"x-envoy-expected-rq-timeout-ms",
    ]


@pytest.mark.parametrize(
    "field",
    [
        (b"grpc-timeout", b"9"),
        (b"grpc-timeout", b"123456789S"),
        (b"grpc-timeout", b"9X"),
        (b"x-envoy-expected-rq-timeout-ms", b"09"),
        (b"x-envoy-expected-rq-timeout-ms", b"1234567890"),
        (b"traceparent", PARENT.upper()),
        (b"traceparent", b"00-" + b"0" * 32 + PARENT[35:]),
        (b"x-request-id", b"a b"),
        (b"x-request-id", b"a" * 65),
    ],
)
def test_a_value_of_another_form_is_no_slot(field: tuple[bytes, bytes]) -> None:
    assert len(split_block(block(field))) == 1


def test_a_field_that_is_there_twice_is_no_slot() -> None:
    for twice in SLOTS:
        reader = HeadReader(Limits())
        for other in (twice, (twice[0], b"odd value")):
            reader.request(1, False, block(twice, other))
            assert reader._shapes == {}


def test_octets_that_look_like_a_slot_within_a_string_are_none() -> None:
    """Huffman-coded strings may hold any octets."""
    hidden = literal(b"x-request-id", PARENT)
    found = 0
    for octet in range(256):
        value = bytes((octet,)) + hidden
        data = encode(HEAD) + b"\x00\x01x" + bytes((0x80 | len(value),)) + value
        reader = HeadReader(Limits())
        try:
            reader.request(1, False, data)
        except Exception:
            continue
        found += 1
        assert reader._shapes == {}
    assert found


def test_a_head_is_found_by_its_fields_if_every_head_changes_the_table() -> None:
    """What a client of grpc-go 1.85.0 has sent: 12 calls, each with a time limit and a request id of its own."""
    reader, plain = HeadReader(Limits()), HeadReader(Limits())
    plain.remembers = False
    shapes = []
    for sent in GRPC_GO:
        head = reader.request(1, False, bytes.fromhex(sent))
        assert head == plain.request(1, False, bytes.fromhex(sent))
        shapes.append(head.shape)
    assert shapes[0] is None, "the first head changes the table whatever the client does"
    assert shapes[1] is not None
    assert {*shapes[1:]} == {shapes[1]}
    assert [name for _, name, _ in shapes[1].places] == [b"grpc-timeout", b"x-request-id"]
    reader.forget()
    assert reader._field_shapes == {}


@pytest.mark.parametrize("odd", [*SLOTS, (b"cookie", b"a=b")])
def test_fields_that_are_there_twice_have_no_shape(odd: tuple[bytes, bytes]) -> None:
    reader, encoder = HeadReader(Limits()), hpack.Encoder()
    for number in range(4):
        fields = [*HEAD, (b"x", b"%d" % number), odd, (odd[0], odd[1] + b" ;")]
        assert reader.request(1, False, encoder.encode(fields)).shape is None
        assert reader._field_shapes == {}


def test_what_is_kept_by_fields_is_bounded() -> None:
    reader, encoder = HeadReader(Limits()), hpack.Encoder()
    for number in range(3 * KEPT_HEADS):
        reader.request(1, False, encoder.encode([*HEAD, (b"x", b"%d" % number * 300)]))
        assert len(reader._field_shapes) <= KEPT_HEADS
        assert reader._field_bytes <= KEPT_BYTES
    assert reader._field_shapes


def test_a_limit_holds_for_heads_that_are_found_by_their_fields() -> None:
    limits = Limits(header_bytes=400)
    reader, encoder = HeadReader(limits), hpack.Encoder()
    for number in range(4):
        reader.request(1, False, encoder.encode([*HEAD, (b"x-request-id", b"%d" % number)]))
    assert len(reader._field_shapes) == 1
    with pytest.raises(Unacceptable):
        reader.request(1, False, encoder.encode([*HEAD, (b"x-request-id", b"1" * 64), (b"y", b"2" * 64)]))


fields = st.sampled_from(
    [
        *SLOTS,
        (b"grpc-timeout", b"10m"),
        (b"x-request-id", b"longer-id"),
        (b"x-request-id", b"a b"),
        (b"traceparent", OTHER_PARENT),
        (b"x", b"1"),
        (b"cookie", b"a=" + b"b" * 50),
        (b"content-length", b"3"),
    ]
)


@settings(max_examples=tries(60))
@given(st.lists(st.lists(fields, max_size=5), min_size=2, max_size=6))
def test_heads_are_read_as_if_none_was_kept_by_fields(ends: list[Fields]) -> None:
    encoder, reader, plain = hpack.Encoder(), HeadReader(Limits()), HeadReader(Limits())
    plain.remembers = False
    for number, end in enumerate(ends * 2):
        block = encoder.encode([*HEAD, (b"x-request-id", b"%d" % number), *end])
        outcomes = []
        for each in (reader, plain):
            try:
                outcomes.append(str(each.request(1, False, block)))
            except (Malformed, Unacceptable) as refused:
                outcomes.append(str(refused))
        assert outcomes[0] == outcomes[1]


@settings(max_examples=tries(60))
@given(st.lists(st.lists(fields, max_size=5), min_size=2, max_size=5), st.booleans())
def test_heads_are_read_as_if_none_was_kept(ends: list[Fields], indexes: bool) -> None:
    read_alike([], [b"".join(literal(*field) for field in end) for end in ends], indexes)
