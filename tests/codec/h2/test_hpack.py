"""HPACK: appendix C of RFC 7541 word for word, limits, all that is malformed, and `hpack` as a second opinion."""

from __future__ import annotations

import hpack
import pytest
from hpack.table import HeaderTable
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.h2.errors import ConnectionFault, ErrorCode
from meshproxy.codec.h2.fields import LONG_NAME, REGULAR, kind_of_name, make_field
from meshproxy.codec.h2.hpack import (
    MOST_FIELDS,
    MOST_RESIZES,
    STATIC_TABLE,
    CompressionFault,
    Decoder,
    encode_field,
    pack_fields,
    read_integer,
    unpack_fields,
    write_integer,
)
from meshproxy.codec.headers import CREDENTIALS
from tests.thorough import tries

Pairs = list[tuple[bytes, bytes]]


def decoder(*, header_bytes: int = 65_536, header_count: int = 128, name_bytes: int = 256) -> Decoder:
    return Decoder(header_bytes, header_count, name_bytes)


def decode(to: Decoder, block: str | bytes) -> Pairs:
    wire = bytes.fromhex(block) if isinstance(block, str) else block
    fields = to.decode(wire)
    for (name, value), size, _ in fields:
        assert size >= len(name) + len(value) + 32
    return [field[0] for field in fields]


def table(of: Decoder, count: int) -> Pairs:
    """The dynamic table from index 62 on, which must have `count` entries."""
    with pytest.raises(CompressionFault):
        of.decode(write_integer(62 + count, 0x7F, 0x80))
    return [of.decode(write_integer(62 + index, 0x7F, 0x80))[0][0] for index in range(count)]


# Appendix C: name -> table size (None: the default), [(block, fields, table after it)].
REQUEST_1 = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
REQUEST_2 = [*REQUEST_1, (b"cache-control", b"no-cache")]
REQUEST_3 = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":path", b"/index.html"),
    (b":authority", b"www.example.com"),
    (b"custom-key", b"custom-value"),
]
DATE_21 = (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT")
DATE_22 = (b"date", b"Mon, 21 Oct 2013 20:13:22 GMT")
LOCATION = (b"location", b"https://www.example.com")
PRIVATE = (b"cache-control", b"private")
GZIP = (b"content-encoding", b"gzip")
COOKIE = (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1")
RESPONSE_1 = [(b":status", b"302"), PRIVATE, DATE_21, LOCATION]
RESPONSE_2 = [(b":status", b"307"), PRIVATE, DATE_21, LOCATION]
RESPONSE_3 = [(b":status", b"200"), PRIVATE, DATE_22, LOCATION, GZIP, COOKIE]
AUTHORITY = (b":authority", b"www.example.com")
NO_CACHE = (b"cache-control", b"no-cache")
CUSTOM = (b"custom-key", b"custom-value")
AFTER_REQUESTS = [[AUTHORITY], [NO_CACHE, AUTHORITY], [CUSTOM, NO_CACHE, AUTHORITY]]
AFTER_RESPONSES = [
    [LOCATION, DATE_21, PRIVATE, (b":status", b"302")],
    [(b":status", b"307"), LOCATION, DATE_21, PRIVATE],
    [COOKIE, GZIP, DATE_22],
]
APPENDIX_C: dict[str, tuple[int | None, list[tuple[str, Pairs, Pairs]]]] = {
    "C.2.1": (
        None,
        [
            (
                "400a637573746f6d2d6b65790d637573746f6d2d686561646572",
                [(b"custom-key", b"custom-header")],
                [(b"custom-key", b"custom-header")],
            )
        ],
    ),
    "C.2.2": (None, [("040c2f73616d706c652f70617468", [(b":path", b"/sample/path")], [])]),
    "C.2.3": (None, [("100870617373776f726406736563726574", [(b"password", b"secret")], [])]),
    "C.2.4": (None, [("82", [(b":method", b"GET")], [])]),
    "C.3": (
        None,
        [
            ("828684410f7777772e6578616d706c652e636f6d", REQUEST_1, AFTER_REQUESTS[0]),
            ("828684be58086e6f2d6361636865", REQUEST_2, AFTER_REQUESTS[1]),
            ("828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", REQUEST_3, AFTER_REQUESTS[2]),
        ],
    ),
    "C.4": (
        None,
        [
            ("828684418cf1e3c2e5f23a6ba0ab90f4ff", REQUEST_1, AFTER_REQUESTS[0]),
            ("828684be5886a8eb10649cbf", REQUEST_2, AFTER_REQUESTS[1]),
            ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", REQUEST_3, AFTER_REQUESTS[2]),
        ],
    ),
    "C.5": (
        256,
        [
            (
                (
                    "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54"
                    "6e1768747470733a2f2f7777772e6578616d706c652e636f6d"
                ),
                RESPONSE_1,
                AFTER_RESPONSES[0],
            ),
            ("4803333037c1c0bf", RESPONSE_2, AFTER_RESPONSES[1]),
            (
                (
                    "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d"
                    "4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b20766572"
                    "73696f6e3d31"
                ),
                RESPONSE_3,
                AFTER_RESPONSES[2],
            ),
        ],
    ),
    "C.6": (
        256,
        [
            (
                (
                    "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97"
                    "c8e9ae82ae43d3"
                ),
                RESPONSE_1,
                AFTER_RESPONSES[0],
            ),
            ("4883640effc1c0bf", RESPONSE_2, AFTER_RESPONSES[1]),
            (
                (
                    "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd"
                    "5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
                ),
                RESPONSE_3,
                AFTER_RESPONSES[2],
            ),
        ],
    ),
}


@pytest.mark.parametrize("example", APPENDIX_C)
def test_appendix_c(example: str) -> None:
    size, blocks = APPENDIX_C[example]
    ours = decoder()
    if size is not None:
        assert decode(ours, write_integer(size, 0x1F, 0x20)) == []
    for block, fields, after in blocks:
        assert decode(ours, block) == fields
        assert table(ours, len(after)) == after


def test_appendix_a() -> None:
    assert HeaderTable.STATIC_TABLE == STATIC_TABLE
    ours = decoder()
    for index, field in enumerate(STATIC_TABLE, 1):
        assert decode(ours, write_integer(index, 0x7F, 0x80)) == [field]


@pytest.mark.parametrize(
    ("value", "mask", "wire"),
    [
        (10, 0x1F, "0a"),
        (1337, 0x1F, "1f9a0a"),
        (42, 0xFF, "2a"),
        (31, 0x1F, "1f00"),
        (127, 0x7F, "7f00"),
        (254, 0x7F, "7f7f"),
        (255, 0x7F, "7f8001"),
    ],
)
def test_integers_of_appendix_c1(value: int, mask: int, wire: str) -> None:
    assert write_integer(value, mask, 0) == bytes.fromhex(wire)
    if value >= mask:
        assert read_integer(bytes.fromhex(wire), 1, mask) == (value, len(wire) // 2)


MALFORMED = {
    "index 0": "80",
    "index beyond the static table": "be",
    "index beyond everything": "ffffffffff0f",
    "name index beyond everything": "7f2101610162",
    "literal with name index 62 of an empty table": "7e0161",
    "integer cut off": "ff",
    "integer cut off later": "ff80",
    "integer with zeros without end (CVE-2023-33953)": "ff" + "80" * 50 + "01",
    "integer of six octets": "ff808080808001",
    "string of 4 GiB (CVE-2023-33953)": "007fffffffff0f61",
    "value longer than its block": "0001610562",
    "name longer than its block": "000561",
    "no value": "000161",
    "no value after an indexed name": "04",
    "no name": "00",
    "Huffman padding longer than 7 bits": "000161821fff",
    "Huffman padding of zeros": "0001618118",
    "Huffman EOS": "00016184fffffffc",
    "table larger than allowed": "3fe21f",
    "table size after a field": "8220",
    "table size cut off": "3f",
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case: str) -> None:
    ours = decoder()
    with pytest.raises(CompressionFault) as raised:
        ours.decode(bytes.fromhex(MALFORMED[case]))
    assert raised.value.code == ErrorCode.COMPRESSION_ERROR


def test_table_size_updates() -> None:
    ours = decoder()
    entry = b"\x40\x01a\x01b"
    assert decode(ours, entry + b"\x40\x01c\x01d") == [(b"a", b"b"), (b"c", b"d")]
    assert decode(ours, b"\x3f\x03") == []  # 34: room for one
    assert table(ours, 1) == [(b"c", b"d")]
    assert decode(ours, b"\x20\x3f\xe1\x1f") == []  # 0, then 4096: emptied and usable again
    assert table(ours, 0) == []
    assert decode(ours, entry) == [(b"a", b"b")]
    assert table(ours, 1) == [(b"a", b"b")]


def test_so_many_table_size_updates_and_no_more() -> None:
    """A block of nothing else is read in one step."""
    ours = decoder()
    assert decode(ours, b"\x20" * MOST_RESIZES + b"\x82") == [(b":method", b"GET")]
    with pytest.raises(CompressionFault, match="table size updates"):
        ours.decode(b"\x20" * (MOST_RESIZES + 1) + b"\x82")


def test_an_entry_larger_than_the_table_empties_it() -> None:
    ours = decoder()
    decode(ours, b"\x40\x01a\x01b")
    value = b"v" * 5_000
    assert decode(ours, b"\x40\x01c" + write_integer(5_000, 0x7F, 0) + value) == [(b"c", value)]
    assert table(ours, 0) == []


def test_a_name_may_be_that_of_the_entry_it_evicts() -> None:
    """RFC 7541 section 4.4."""
    ours = decoder()
    decode(ours, b"\x3f\x09\x40\x05abcde\x01b")  # 40: room for one
    assert decode(ours, b"\x7e\x02xy") == [(b"abcde", b"xy")]
    assert table(ours, 1) == [(b"abcde", b"xy")]


def test_a_smaller_table_must_be_taken_up() -> None:
    ours = decoder()
    decode(ours, b"\x40\x01a\x01b")
    ours.allow(0)
    with pytest.raises(CompressionFault):
        ours.decode(b"\x82")
    with pytest.raises(CompressionFault):
        ours.decode(b"\x3f\xe1\x1f")
    with pytest.raises(CompressionFault):
        ours.decode(b"")
    assert decode(ours, b"\x20\x82") == [(b":method", b"GET")]
    assert decode(ours, b"\x82") == [(b":method", b"GET")]
    assert table(ours, 0) == []


def test_a_larger_table_may_be_taken_up() -> None:
    ours = decoder()
    ours.allow(8_192)
    assert decode(ours, b"\x82") == [(b":method", b"GET")]
    assert decode(ours, write_integer(8_192, 0x1F, 0x20) + b"\x82") == [(b":method", b"GET")]


def test_generation_changes_with_the_table_only() -> None:
    ours = decoder()
    decode(ours, b"\x82\x00\x01a\x01b\x10\x01a\x01b")
    assert ours.generation == 0
    decode(ours, b"\x40\x01a\x01b")
    assert ours.generation == 1
    decode(ours, b"\x20")
    assert ours.generation == 2


def test_bomb_is_counted_before_it_is_kept() -> None:
    """CVE-2016-6581: one large entry, referenced again and again."""
    ours = decoder()
    decode(ours, b"\x40\x01a" + write_integer(4_000, 0x7F, 0) + b"v" * 4_000)
    fields = ours.decode(b"\xbe" * 2_000)
    assert ours.exceeded == "header_bytes"
    assert sum(size for _, size, _ in fields) <= 65_536
    assert len({id(field) for field in fields}) == 1, "an indexed field is shared, not copied"


def test_a_block_of_fields_without_end_is_not_read_to_its_end() -> None:
    ours = decoder()
    ours.decode(b"\x82" * (128 + MOST_FIELDS))
    assert (ours.exceeded, ours.dropped) == ("header_count", MOST_FIELDS)
    with pytest.raises(ConnectionFault) as raised:
        ours.decode(b"\x82" * (128 + MOST_FIELDS + 1))
    assert (raised.value.code, raised.value.limit) == (ErrorCode.ENHANCE_YOUR_CALM, "header_count")


def test_many_small_fields_are_counted() -> None:
    ours = decoder()
    assert len(ours.decode(b"\x82" * 129)) == 128
    assert ours.exceeded == "header_count"
    assert len(ours.decode(b"\x82" * 128)) == 128
    assert ours.exceeded is None


def test_what_exceeds_a_limit_still_enters_the_table() -> None:
    """CVE-2024-7246: the peer's table has the entry, so ours must have it."""
    ours = decoder(header_bytes=60)
    assert decode(ours, b"\x82\x40\x01a\x01b\x40\x01c\x01d") == [(b":method", b"GET")]
    assert ours.exceeded == "header_bytes"
    assert table(ours, 2) == [(b"c", b"d"), (b"a", b"b")]


def test_a_table_size_update_behind_dropped_fields_is_malformed() -> None:
    with pytest.raises(CompressionFault):
        decoder(header_bytes=10).decode(b"\x82\x20")


def test_huffman_strings_are_kept_and_forgotten() -> None:
    ours = decoder()
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    for number in range(200):
        fields = [(b"x-name-%d" % (number % 100), b"value-%d" % number)]
        for _ in range(2):
            assert decode(ours, encoder.encode(fields)) == fields
    assert len(ours._strings) <= 64


NAMES = st.sampled_from(
    [name for name, _ in STATIC_TABLE] + [b"custom-%d" % n for n in range(5)] + [b"x" * 300, b"Upper"]
)
VALUES = st.one_of(
    st.binary(max_size=20), st.sampled_from([value for _, value in STATIC_TABLE] + [b"v" * 1_000, b"v" * 3_000])
)
FIELDS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=12)


@settings(max_examples=tries(150))
@given(st.lists(st.tuples(FIELDS, st.booleans(), st.one_of(st.none(), st.integers(0, 4_096))), max_size=8))
def test_whatever_the_hpack_package_encodes(
    blocks: list[tuple[list[tuple[bytes, bytes, bool]], bool, int | None]],
) -> None:
    encoder = hpack.Encoder()
    ours = decoder(header_bytes=1_000_000)
    for fields, huffman, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        block = encoder.encode(fields, huffman=huffman)
        agree(decode(ours, block), [(name, value) for name, value, _ in fields])


@given(st.lists(st.tuples(FIELDS, st.booleans(), st.booleans()), max_size=8))
def test_a_table_at_rest_reads_the_same(blocks: list[tuple[list[tuple[bytes, bytes, bool]], bool, bool]]) -> None:
    encoder = hpack.Encoder()
    restless, resting = decoder(), decoder()
    for fields, huffman, rests in blocks:
        block = encoder.encode(fields, huffman=huffman)
        if rests:
            resting.rest()
        assert resting.decode(block) == restless.decode(block)
        assert (resting.exceeded, resting.generation) == (restless.exceeded, restless.generation)


@given(FIELDS)
def test_packed_fields(pairs: list[tuple[bytes, bytes, bool]]) -> None:
    fields = [make_field(name, value, kind_of_name(name)) for name, value, _ in pairs]
    assert unpack_fields(pack_fields(fields)) == fields


def agree(ours: Pairs, theirs: Pairs) -> None:
    """White space around values is left out by us."""
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    for (_, mine), (_, value) in zip(ours, theirs, strict=True):
        assert mine in (value, value.strip(b" \t"))


@settings(max_examples=tries(200))
@given(st.lists(st.binary(max_size=40), max_size=5))
def test_any_octets_give_fields_or_a_fault(blocks: list[bytes]) -> None:
    """And the `hpack` package agrees wherever it takes a block that we take."""
    ours, theirs = decoder(), hpack.Decoder()
    for block in blocks:
        try:
            fields = decode(ours, block)
        except CompressionFault:
            return
        agree(fields, [(bytes(name), bytes(value)) for name, value in theirs.decode(block, raw=True)])


@given(st.lists(st.tuples(NAMES, VALUES), max_size=20))
def test_what_we_encode(fields: Pairs) -> None:
    theirs = hpack.Decoder()
    block = b"".join(encode_field(name, value) for name, value in fields)
    assert [(bytes(n), bytes(v)) for n, v in theirs.decode(block, raw=True)] == fields
    agree(decode(decoder(), block), fields)
    assert not theirs.header_table.dynamic_entries, "we never write to the peer's table"


@pytest.mark.parametrize("name", sorted(CREDENTIALS | {b"cookie", b"set-cookie"}))
def test_credentials_are_never_to_be_indexed(name: bytes) -> None:
    (field,) = hpack.Decoder().decode(encode_field(name, b"secret"), raw=True)
    assert isinstance(field, hpack.NeverIndexedHeaderTuple)
    (field,) = hpack.Decoder().decode(encode_field(b"accept", b"secret"), raw=True)
    assert not isinstance(field, hpack.NeverIndexedHeaderTuple)


def test_name_limit() -> None:
    ours = decoder(name_bytes=5)
    kinds = [kind for _, _, kind in ours.decode(b"\x00\x05abcde\x01v" + b"\x00\x06abcdef\x01v")]
    assert kinds == [REGULAR, LONG_NAME]
