"""What a head may say (RFC 9113 section 8), as tables; and that a head which is kept is never given out in vain."""

from __future__ import annotations

import tracemalloc

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.events import RequestHead
from meshproxy.codec.h2.heads import (
    KEPT_BLOCK_BYTES,
    KEPT_BYTES,
    KEPT_HEADS,
    HeadReader,
)
from meshproxy.codec.h2.hpack import CompressionFault
from meshproxy.codec.limits import Limits
from meshproxy.codec.problem import Malformed, Unacceptable

Pairs = list[tuple[bytes, bytes]]

METHOD = (b":method", b"POST")
SCHEME = (b":scheme", b"https")
PATH = (b":path", b"/v1/models/m:predict")
AUTHORITY = (b":authority", b"model.example:8501")
HEAD: Pairs = [METHOD, SCHEME, PATH, AUTHORITY]


def encode(fields: Pairs) -> bytes:
    """A block that leaves the table alone."""
    return hpack.Encoder().encode([(name, value, True) for name, value in fields], huffman=False)


def request(fields: Pairs, limits: Limits | None = None) -> RequestHead:
    return HeadReader(limits or Limits()).request(1, False, encode(fields))


def test_a_plain_request() -> None:
    assert request([*HEAD, (b"accept", b"a"), (b"x", b""), (b"accept", b"b")]) == RequestHead(
        1,
        b"POST",
        b"model.example:8501",
        b"/v1/models/m:predict",
        ((b"accept", b"a"), (b"x", b""), (b"accept", b"b")),
        end=False,
    )


GRPC = (b"content-type", b"application/grpc")
SEVERAL = [
    b"127.0.0.1:8500,127.0.0.1:8501",
    b"[::1]:8500,[::1]:8501",
    b"a:1,b",
    b"[fe80::1%25eth0]:8500",
    b"[fe80::1%25eth0]",
    b"[fe80::1%25eth0.7]:8500,[fe80::2%25eth0.7]:8500",
]


@pytest.mark.parametrize("authority", SEVERAL)
def test_a_grpc_client_may_send_all_addresses_of_its_target(authority: bytes) -> None:
    head = [METHOD, SCHEME, PATH, (b":authority", authority)]
    assert request([*head, GRPC]).authority == authority
    with pytest.raises(Malformed, match="several hosts"):
        request(head)


@pytest.mark.parametrize(
    "authority",
    [
        b"a:1,",
        b"a:1,:2",
        b"a:1,[::1",
        b"a:1,user@b:2",
        b"a:1, b:2",
        b"[fe80::1%eth0]:1",
        b"[fe80::1%25]:1",
        b"[fe80::1%25a/b]:1",
        b"[%25eth0]:1",
        b"fe80::1%25eth0:1",
    ],
)
def test_each_address_of_a_list_must_be_one(authority: bytes) -> None:
    with pytest.raises(Malformed):
        request([METHOD, SCHEME, PATH, (b":authority", authority), GRPC])


def test_what_never_stands_in_headers_is_read() -> None:
    head = request(
        [
            *HEAD,
            (b"host", b"MODEL.example:8501"),
            (b"content-length", b"007"),
            (b"te", b"trailers"),
            (b"expect", b"100-Continue"),
            (b"content-type", b"application/grpc"),
        ]
    )
    assert head.headers == ((b"content-type", b"application/grpc"),)
    assert head.length == 7
    assert head.expects_continue


def test_host_is_authority_without_the_default_port() -> None:
    fields = [METHOD, (b":scheme", b"https"), PATH, (b":authority", b"a:443")]
    assert request([*fields, (b"host", b"a")]).authority == b"a:443"
    with pytest.raises(Malformed):
        request([*fields, (b"host", b"a:80")])


def test_host_stands_in_for_authority() -> None:
    assert request([METHOD, SCHEME, PATH, (b"host", b"a")]).authority == b"a"


def test_cookies_are_joined_in_place() -> None:
    """RFC 9113 section 8.2.3."""
    head = request([*HEAD, (b"a", b"1"), (b"cookie", b"x=1"), (b"b", b"2"), (b"cookie", b"y=2"), (b"cookie", b"z=3")])
    assert head.headers == ((b"a", b"1"), (b"cookie", b"x=1; y=2; z=3"), (b"b", b"2"))


def test_crumbs_do_not_grow_out_of_nothing() -> None:
    """CVE-2026-47774: references to one large crumb, octet by octet."""
    reader = HeadReader(Limits())
    encoder = hpack.Encoder()
    crumb = (b"cookie", b"c" * 3_900)
    assert reader.request(1, False, encoder.encode([*HEAD, crumb])).headers == (crumb,)
    with pytest.raises(Unacceptable) as raised:
        reader.request(1, False, encoder.encode([*HEAD, *[crumb] * 15]))
    assert (raised.value.status, raised.value.limit) == (431, "header_bytes")
    # What was really sent is joined, however large.
    crumbs = [(b"cookie", b"%d=" % number + b"x" * 3_000) for number in range(15)]
    assert reader.request(1, False, encode([*HEAD, *crumbs])).headers == (
        (b"cookie", b"; ".join([value for _, value in crumbs])),
    )


def test_options_may_ask_for_everything() -> None:
    assert request([(b":method", b"OPTIONS"), SCHEME, (b":path", b"*"), AUTHORITY]).target == b"*"


MALFORMED: dict[str, Pairs] = {
    "nothing": [],
    "no :method": [SCHEME, PATH, AUTHORITY],
    "no :scheme": [METHOD, PATH, AUTHORITY],
    "no :path": [METHOD, SCHEME, AUTHORITY],
    "no authority at all": [METHOD, SCHEME, PATH],
    ":method twice": [*HEAD, METHOD],
    ":scheme twice": [*HEAD, SCHEME],
    ":path twice": [*HEAD, PATH],
    ":authority twice": [*HEAD, AUTHORITY],
    ":status": [*HEAD, (b":status", b"200")],
    "unknown pseudo-header": [*HEAD, (b":protocol", b"websocket")],
    "pseudo-header that is none": [*HEAD, (b":", b"")],
    "empty name": [*HEAD, (b"", b"x")],
    "late pseudo-header": [METHOD, SCHEME, PATH, (b"a", b"b"), AUTHORITY],
    "pseudo-header behind host": [METHOD, SCHEME, PATH, (b"host", AUTHORITY[1]), AUTHORITY],
    "pseudo-header behind te": [METHOD, SCHEME, PATH, (b"te", b"trailers"), AUTHORITY],
    "pseudo-header behind cookie": [METHOD, SCHEME, PATH, (b"cookie", b"a=b"), AUTHORITY],
    "upper case": [*HEAD, (b"Accept", b"x")],
    "connection": [*HEAD, (b"connection", b"close")],
    "keep-alive": [*HEAD, (b"keep-alive", b"5")],
    "proxy-connection": [*HEAD, (b"proxy-connection", b"close")],
    "transfer-encoding": [*HEAD, (b"transfer-encoding", b"chunked")],
    "upgrade": [*HEAD, (b"upgrade", b"h2c")],
    "te: gzip": [*HEAD, (b"te", b"gzip")],
    "other host": [*HEAD, (b"host", b"evil")],
    "a repeated host": [*HEAD, (b"host", AUTHORITY[1]), (b"host", AUTHORITY[1])],
    "a repeated content-length": [*HEAD, (b"content-length", b"1"), (b"content-length", b"1")],
    "content-length 2^63": [*HEAD, (b"content-length", b"9223372036854775808")],
    "content-length +5": [*HEAD, (b"content-length", b"+5")],
    "CR LF in a value": [*HEAD, (b"a", b"b\r\nhost: evil")],
    "NUL in a value": [*HEAD, (b"a", b"b\0")],
    "space before :path": [METHOD, SCHEME, (b":path", b" /"), AUTHORITY],
    "space after content-length": [*HEAD, (b"content-length", b"1 ")],
    "content_length": [*HEAD, (b"content_length", b"1")],
    "content.length": [*HEAD, (b"content.length", b"1")],
    "content+length": [*HEAD, (b"content+length", b"1")],
    "transfer~encoding": [*HEAD, (b"transfer~encoding", b"chunked")],
    "transfer_encoding": [*HEAD, (b"transfer_encoding", b"chunked")],
    "keep_alive": [*HEAD, (b"keep_alive", b"1")],
    "colon in a name": [*HEAD, (b"a:b", b"c")],
    "space in :path": [METHOD, SCHEME, (b":path", b"/a HTTP/1.1"), AUTHORITY],
    "space in :method": [(b":method", b"GET /admin HTTP/1.1"), SCHEME, PATH, AUTHORITY],
    "fragment in :path": [METHOD, SCHEME, (b":path", b"/a#b"), AUTHORITY],
    "GET *": [(b":method", b"GET"), SCHEME, (b":path", b"*"), AUTHORITY],
    "CONNECT with :path": [(b":method", b"CONNECT"), SCHEME, PATH, AUTHORITY],
    "CONNECT to nobody": [(b":method", b"CONNECT")],
}


def test_white_space_around_a_value_is_stripped_and_counted() -> None:
    """Five gRPC stacks send such metadata. The size of a table entry counts what was sent (RFC 7541 section 4.1)."""
    fields = [*HEAD, (b"a", b" b c\t "), (b"cookie", b" d=e "), (b"traceparent", b" x ")]
    head = request(fields)
    assert (head.headers, head.trace) == (((b"a", b"b c"), (b"cookie", b"d=e")), b"x")
    encoder, reader = hpack.Encoder(), HeadReader(Limits())
    for _ in range(3):  # from the block, then from the table, which both ends evict alike
        for padding in (b"", b" " * 1_500, b"\t" * 1_000):
            block = encoder.encode([*HEAD, (b"x-a", b"v" + padding), (b"x-b", padding + b"v")])
            assert reader.request(1, False, block).headers == ((b"x-a", b"v"), (b"x-b", b"v"))


def test_a_response_may_have_names_like_framing_fields() -> None:
    field = (b"content_length", b"1")
    assert HeadReader(Limits()).response(encode([(b":status", b"200"), field])).headers == (field,)


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_requests(case: str) -> None:
    with pytest.raises(Malformed):
        request(MALFORMED[case])


@pytest.mark.parametrize(
    ("fields", "status", "limit"),
    [
        ([*HEAD, (b"expect", b"gold")], 417, None),
        ([*HEAD, (b"expect", b"100-continue"), (b"expect", b"100-continue")], 417, None),
        ([(b":method", b"CONNECT"), AUTHORITY], 501, None),
        ([METHOD, SCHEME, (b":path", b"/" + b"x" * 8_192), AUTHORITY], 414, "target_bytes"),
        ([*HEAD, (b"x" * 257, b"")], 431, "header_name_bytes"),
        ([*HEAD, (b"a", b"b" * 65_536)], 431, "header_bytes"),
        ([*HEAD, *[(b"a", b"b")] * 125], 431, "header_count"),
        ([*HEAD, *[(b"cookie", b"a=b")] * 125], 431, "header_count"),
        ([*HEAD, (b"content-length", b"101")], 413, "body_bytes"),
    ],
)
def test_rejected_requests(fields: Pairs, status: int, limit: str | None) -> None:
    with pytest.raises(Unacceptable) as raised:
        request(fields, Limits(body_bytes=100))
    assert (raised.value.status, raised.value.limit) == (status, limit)


def test_limits_are_met_exactly() -> None:
    used = sum(len(name) + len(value) + 32 for name, value in HEAD)
    fits = b"b" * (65_536 - used - 33)
    assert request([*HEAD, (b"a", fits)]).headers == ((b"a", fits),)
    with pytest.raises(Unacceptable):
        request([*HEAD, (b"a", fits + b"b")])
    assert len(request([*HEAD, *[(b"a", b"b")] * 124]).headers) == 124
    assert len(request([METHOD, SCHEME, (b":path", b"/" + b"x" * 8_191), AUTHORITY]).target) == 8_192
    assert request([*HEAD, (b"content-length", b"100")], Limits(body_bytes=100)).length == 100


def test_a_plain_response() -> None:
    reader = HeadReader(Limits())
    fields = [(b":status", b"200"), (b"content-length", b"5"), (b"set-cookie", b"a"), (b"set-cookie", b"b")]
    assert reader.response(encode(fields)) == (200, ((b"set-cookie", b"a"), (b"set-cookie", b"b")), 5)


def test_responses_keep_nothing_that_is_for_requests() -> None:
    fields = [(b":status", b"204"), (b"content-length", b"0"), (b"host", b"a"), (b"expect", b"x"), (b"cookie", b"c")]
    assert HeadReader(Limits()).response(encode(fields)) == (204, ((b"cookie", b"c"),), None)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"a", b"b")],
        [(b"a", b"b"), (b":status", b"200")],
        [(b"content-length", b"0"), (b":status", b"200")],
        [(b":status", b"200"), (b":status", b"200")],
        [(b":status", b"200"), (b":path", b"/")],
        [(b":status", b"101")],
        [(b":status", b"20")],
        [(b":status", b"200"), (b"te", b"trailers")],
        [(b":status", b"200"), (b"connection", b"close")],
        [(b":status", b"200"), (b"content-length", b"1"), (b"content-length", b"1")],
        [(b":status", b"100"), (b"content-length", b"0")],
        [(b":status", b"204"), (b"content-length", b"1")],
    ],
)
def test_malformed_responses(fields: Pairs) -> None:
    with pytest.raises(Malformed):
        HeadReader(Limits()).response(encode(fields))


def test_trailers_keep_only_what_may_be_believed_there() -> None:
    fields = [
        (b"grpc-status", b"0"),
        (b"content-length", b"5"),
        (b"host", b"evil"),
        (b"te", b"trailers"),
        (b"authorization", b"Bearer x"),
        (b"x-amzn-oidc-data", b"x.y.z"),
        (b"cookie", b"a=b"),
        (b"x-forwarded-for", b"::1"),
        (b"x_forwarded.for", b"::1"),
        (b"x_meshproxy_refusal", b"none"),
        (b"x-meshproxy-caller", b"spiffe://dev.example/admin"),
        (b"x-meshproxy-refusal-", b"none"),
        (b"x-meshproxy-refusal", b"overloaded"),  # whoever knows the endpoint decides about this one
        (b"grpc-message", b"fine"),
    ]
    kept = ((b"grpc-status", b"0"), (b"x-meshproxy-refusal", b"overloaded"), (b"grpc-message", b"fine"))
    assert HeadReader(Limits()).trailers(encode(fields)) == kept


@pytest.mark.parametrize(
    "fields", [[(b":status", b"200")], [(b":path", b"/")], [(b"connection", b"close")], [(b"A", b"")], [(b"a", b"\n")]]
)
def test_malformed_trailers(fields: Pairs) -> None:
    with pytest.raises(Malformed):
        HeadReader(Limits()).trailers(encode(fields))


def test_a_repeated_head_is_shared_until_the_table_changes() -> None:
    encoder = hpack.Encoder()
    reader = HeadReader(Limits())
    fields = [*HEAD, (b"user-agent", b"grpc")]
    first = reader.request(1, False, encoder.encode(fields))  # inserts
    block = encoder.encode(fields)  # indices only
    second = reader.request(1, False, block)
    assert second == first
    assert reader.request(1, False, block).headers is second.headers
    # The same octets mean something else once an entry has been inserted before them.
    moved = encoder.encode([*HEAD, (b"user-agent", b"other")])
    assert reader.request(1, False, moved).headers == ((b"user-agent", b"other"),)
    assert reader.request(1, False, encoder.encode(fields)) == first
    with pytest.raises(Malformed):
        reader.request(1, False, block)


def test_nothing_is_kept_of_a_peer_that_does_not_repeat_itself() -> None:
    encoder, reader = hpack.Encoder(), HeadReader(Limits())
    reader.remembers = False
    reader.request(1, False, encoder.encode(HEAD))
    block = encoder.encode(HEAD)
    assert reader.request(1, False, block) == reader.request(1, False, block)
    assert reader._requests == {}


def test_kept_responses_and_trailers_are_forgotten_as_well() -> None:
    encoder = hpack.Encoder()
    reader = HeadReader(Limits())
    reader.response(encoder.encode([(b":status", b"200"), (b"x-a", b"1")]))
    block = encoder.encode([(b":status", b"200"), (b"x-a", b"1")])
    assert reader.response(block) is reader.response(block)
    trailers = encoder.encode([(b"x-a", b"1")])
    assert reader.trailers(trailers) is reader.trailers(trailers) == ((b"x-a", b"1"),)
    reader.skip(encoder.encode([(b"x-a", b"2")]))
    assert reader.response(block).headers == ((b"x-a", b"2"),)
    assert reader.trailers(trailers) == ((b"x-a", b"2"),)


def test_a_kept_head_does_not_pass_for_trailers_or_a_response() -> None:
    reader = HeadReader(Limits())
    block = encode(HEAD)
    reader.request(1, False, block)
    with pytest.raises(Malformed):
        reader.trailers(block)
    with pytest.raises(Malformed):
        reader.response(block)


def test_a_skipped_block_changes_the_table() -> None:
    encoder = hpack.Encoder()
    reader = HeadReader(Limits())
    reader.request(1, False, encoder.encode(HEAD))
    block = encoder.encode(HEAD)
    assert reader.request(1, False, block).target == PATH[1]
    reader.skip(encoder.encode([(b"new", b"entry")]))
    assert reader.request(1, False, encoder.encode(HEAD)).target == PATH[1]
    with pytest.raises(Malformed):
        reader.request(1, False, block)


def test_kept_heads_are_bounded() -> None:
    reader = HeadReader(Limits())
    for number in range(100):
        fields = [*HEAD, (b"x-request-id", b"%d" % number)]
        assert reader.request(1, False, encode(fields)).headers == ((b"x-request-id", b"%d" % number),)
    assert len(reader._requests) <= 32


def test_a_smaller_table_is_insisted_on_even_for_kept_heads() -> None:
    reader = HeadReader(Limits())
    block = encode(HEAD)
    reader.request(1, False, block)
    reader.allow_table(0)
    with pytest.raises(CompressionFault):
        reader.request(1, False, block)
    assert reader.request(1, False, b"\x20" + block).target == PATH[1]


PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER_PARENT = b"00-11111111111111111111111111111111-2222222222222222-00"


def traced(fields: list[tuple[bytes, bytes, bool]], value: bytes = PARENT) -> bytes:
    """A block as our own encoder ends it: a literal with a new name, not indexed, not Huffman-coded."""
    literal = b"\x00\x0btraceparent" + bytes([len(value)]) + value
    return hpack.Encoder().encode(fields, huffman=False) + literal


def test_a_head_is_kept_by_what_stands_before_its_trace() -> None:
    reader = HeadReader(Limits())
    fields = [(name, value, True) for name, value in [*HEAD, (b"accept", b"a")]]
    first = reader.request(1, False, traced(fields))
    for value in (PARENT, OTHER_PARENT, PARENT):
        head = reader.request(1, False, traced(fields, value))
        assert head == request([*HEAD, (b"accept", b"a"), (b"traceparent", value)])
        assert head.trace == value
        assert head.headers is first.headers
    assert len(reader._shapes) == 1
    assert reader._requests == {}


@pytest.mark.parametrize(
    "value", [PARENT[:-1] + b"\n", PARENT[:-1] + b"\0", b"A" * 55, PARENT.upper(), b" " + PARENT[1:]]
)
def test_what_is_no_trace_is_read_like_any_other_field(value: bytes) -> None:
    reader = HeadReader(Limits())
    fields = [(name, content, True) for name, content in HEAD]
    reader.request(1, False, traced(fields))

    def outcome(read: HeadReader) -> object:
        try:
            return read.request(1, False, traced(fields, value))
        except Malformed as malformed:
            return str(malformed)

    assert outcome(reader) == outcome(HeadReader(Limits()))


def test_the_end_of_another_field_is_no_trace() -> None:
    """A value, or a name, that ends with the octets of a trace: what comes before is then no head of its own."""
    hidden = b"\x00\x0btraceparent\x37" + PARENT
    reader = HeadReader(Limits())
    for name in (b"x", b"traceparent"):
        block = hpack.Encoder().encode([(n, v, True) for n, v in [*HEAD, (name, b"a" + hidden)]], huffman=False)
        assert block.endswith(hidden)
        with pytest.raises(Malformed):  # NUL in a value; but a start that is kept would pass it
            reader.request(1, False, block)
    assert reader._shapes == {}


def test_the_end_of_a_huffman_string_is_no_trace() -> None:
    """Behind the trace itself: its value is read, and the octets are at the end of the block, but they are not it."""
    start = hpack.Encoder().encode([(n, v, True) for n, v in [*HEAD, (b"traceparent", PARENT)]], huffman=False)
    tail = b"\x00\x0btraceparent\x37" + PARENT
    found = 0
    for octet in range(256):
        value = bytes((octet,)) + tail
        block = start + b"\x00\x01x" + bytes((0x80 | len(value),)) + value
        try:
            head = HeadReader(Limits()).request(1, False, block)
        except (Malformed, CompressionFault):
            continue
        found += 1
        reader = HeadReader(Limits())
        assert reader.request(1, False, block) == reader.request(1, False, block) == head
        assert head.trace == PARENT
        assert reader._shapes == {}
    assert found


def test_a_table_that_changes_forgets_what_stood_before_traces() -> None:
    reader = HeadReader(Limits())
    encoder = hpack.Encoder()
    tail = b"\x00\x0btraceparent\x37"
    first = encoder.encode([*HEAD, (b"x", b"1")])  # goes into the table
    assert reader.request(1, False, first + tail + PARENT).headers[0] == (b"x", b"1")
    assert reader._shapes == {}, "equal octets mean something else from now on"
    indexed = encoder.encode([*HEAD, (b"x", b"1")])
    for value in (PARENT, OTHER_PARENT):
        head = reader.request(1, False, indexed + tail + value)
        assert (head.headers, head.trace) == (((b"x", b"1"),), value)
    assert len(reader._shapes) == 1
    reader.request(1, False, encoder.encode([*HEAD, (b"y", b"2")]))
    assert reader._shapes == {}


def test_kept_starts_are_bounded() -> None:
    reader = HeadReader(Limits())
    for number in range(3 * KEPT_HEADS):
        reader.request(1, False, traced([(n, v, True) for n, v in [*HEAD, (b"x", b"%d" % number)]]))
        assert len(reader._shapes) <= KEPT_HEADS
    reader.request(1, False, traced([(n, v, True) for n, v in [*HEAD, (b"x", b"a" * KEPT_BLOCK_BYTES)]]))
    assert all(sum(map(len, shape)) <= KEPT_BLOCK_BYTES for shape in reader._shapes)


def test_a_trace_counts_against_the_limits() -> None:
    for limits, name in ((Limits(header_count=5), "header_count"), (Limits(header_bytes=260), "header_bytes")):
        reader = HeadReader(limits)
        fields = [(n, v, True) for n, v in [*HEAD, (b"accept", b"a")]]
        reader.request(1, False, hpack.Encoder().encode(fields, huffman=False))
        for value in (PARENT, OTHER_PARENT):
            with pytest.raises(Unacceptable) as raised:
                reader.request(1, False, traced(fields, value))
            assert raised.value.limit == name


def read_alike(fields: Pairs, ends: list[bytes], indexes: bool) -> None:
    """One reader that keeps, beside readers that have not seen anything yet but the same table.

    Args:
        fields: of every head, before its end.
        indexes: they enter the table.
    """
    encoder = hpack.Encoder()
    seen: list[bytes] = []
    reader = HeadReader(Limits())

    def outcome(read: HeadReader, block: bytes) -> object:
        try:
            return read.request(1, False, block)
        except (Malformed, Unacceptable) as refused:
            return str(refused)

    for end in ends:
        block = encoder.encode([(n, v, not indexes) for n, v in [*HEAD, *fields]], huffman=False) + end
        fresh = HeadReader(Limits())
        for earlier in seen:
            fresh.skip(earlier)
        assert outcome(reader, block) == outcome(fresh, block)
        seen.append(block)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"x", b"y", b"traceparent", b"tracestate"]), st.sampled_from([b"1", PARENT, b"\x37"])
        ),
        max_size=3,
    ),
    st.lists(st.binary(min_size=55, max_size=55) | st.sampled_from([PARENT, OTHER_PARENT]), max_size=4),
    st.booleans(),
)
def test_traced_heads_are_read_as_others_are(fields: Pairs, values: list[bytes], indexes: bool) -> None:
    read_alike(fields, [b"\x00\x0btraceparent\x37" + value for value in values], indexes)


# Request ids, which differ each time as well


def literal(name: bytes, value: bytes) -> bytes:
    """A literal with a new name, not indexed, not Huffman-coded."""
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


@pytest.mark.parametrize("has_trace", [False, True])
def test_a_head_is_kept_by_what_stands_before_its_request_id(has_trace: bool) -> None:
    reader = HeadReader(Limits())
    for number in range(3):
        name = (b"x-request-id", b"id-%d" % 10**number)
        trace = (b"traceparent", (PARENT, OTHER_PARENT)[number % 2])
        last = [name, trace] if has_trace else [name]
        block = encode([*HEAD, (b"accept", b"a")]) + b"".join(literal(*field) for field in last)
        assert reader.request(1, False, block) == request([*HEAD, (b"accept", b"a"), *last])
    assert len(reader._shapes) == 1
    assert reader._requests == {}


@pytest.mark.parametrize("value", [b"a b", b"a\0", b"", b"a" * 65, b"a\n"])
def test_what_is_no_usual_request_id_is_read_like_any_other_field(value: bytes) -> None:
    reader = HeadReader(Limits())
    reader.request(1, False, encode(HEAD) + literal(b"x-request-id", b"a"))

    def outcome(read: HeadReader) -> object:
        try:
            return read.request(1, False, encode(HEAD) + literal(b"x-request-id", value))
        except Malformed as malformed:
            return str(malformed)

    assert outcome(reader) == outcome(HeadReader(Limits()))


def test_the_end_of_another_field_is_no_request_id() -> None:
    hidden = literal(b"x-request-id", b"a")
    reader = HeadReader(Limits())
    for name in (b"x", b"x-request-id"):
        block = encode([*HEAD, (name, b"a" + hidden)])
        assert block.endswith(hidden)
        with pytest.raises(Malformed):  # NUL in a value; but a start that is kept would pass it
            reader.request(1, False, block)
    assert reader._shapes == {}


def test_an_id_that_would_exceed_a_limit_makes_no_other_one_pass() -> None:
    size = sum(len(name) + len(value) + 32 for name, value in [*HEAD, (b"x-request-id", b"a")])
    reader = HeadReader(Limits(header_bytes=size))
    reader.request(1, False, encode(HEAD) + literal(b"x-request-id", b"a"))
    with pytest.raises(Unacceptable):
        reader.request(1, False, encode(HEAD) + literal(b"x-request-id", b"ab"))


def test_white_space_around_values_counts_for_the_limit() -> None:
    start = encode(HEAD) + literal(b"p", b" " * 100 + b"x")
    size = sum(
        len(name) + len(value) + 32 for name, value in [*HEAD, (b"p", b" " * 100 + b"x"), (b"x-request-id", b"a")]
    )
    reader = HeadReader(Limits(header_bytes=size))
    reader.request(1, False, start + literal(b"x-request-id", b"a"))
    with pytest.raises(Unacceptable):
        reader.request(1, False, start + literal(b"x-request-id", b"a" * 64))


def test_the_length_of_an_id_makes_no_cookies_pass() -> None:
    encoder = hpack.Encoder()
    first = encoder.encode([*HEAD, (b"cookie", b"c" * 60)], huffman=False)
    reader, fresh = HeadReader(Limits()), HeadReader(Limits())
    for each in (reader, fresh):
        each.request(1, False, first)
    start = encoder.encode(HEAD, huffman=False)

    def outcome(read: HeadReader, count: int, length: int) -> str:
        try:
            read.request(1, False, start + b"\xbe" * count + literal(b"x-request-id", b"a" * length))
        except Unacceptable:
            return "refused"
        return "read"

    for count in range(60, 90):
        outcome(reader, count, 64)
        assert outcome(reader, count, 1) == outcome(fresh, count, 1), count


@given(
    st.lists(
        st.tuples(st.sampled_from([b"x", b"x-request-id", b"traceparent"]), st.sampled_from([b"1", PARENT, b"\x01"])),
        max_size=3,
    ),
    st.lists(
        st.lists(
            st.sampled_from([(b"x-request-id", value) for value in (b"a", b"b-1", b"c" * 64, b"d e", b"x" * 65)])
            | st.sampled_from([(b"traceparent", value) for value in (PARENT, OTHER_PARENT, b"1")])
            | st.tuples(st.just(b"x-request-id"), st.binary(max_size=70)),
            max_size=3,
        ),
        max_size=5,
    ),
    st.booleans(),
)
def test_heads_with_request_ids_are_read_as_others_are(fields: Pairs, ends: list[Pairs], indexes: bool) -> None:
    read_alike(fields, [b"".join(literal(*field) for field in end) for end in ends], indexes)


@pytest.mark.parametrize("count", [1, 120])
def test_heads_that_are_kept_take_no_more_than_is_counted(count: int) -> None:
    reader = HeadReader(Limits())
    start = b"\x83\x86\x84\x01\x01a"
    blocks = [
        start
        + b"".join(
            b"\x00\x03x%c%c\x02%c%c" % (97 + part % 26, 97 + at % 26, 97 + part // 26, 97 + at // 26)
            for at in range(count)
        )
        for part in range(200)
    ]
    HeadReader(Limits()).request(1, False, blocks[0])  # what the interpreter keeps of code that runs, if it is measured
    tracemalloc.start()
    try:
        for block in blocks:
            reader.request(1, False, block)
        assert tracemalloc.get_traced_memory()[0] < KEPT_BYTES + 20_000
    finally:
        tracemalloc.stop()
    assert 0 < reader._kept_bytes <= KEPT_BYTES
    assert 0 < len(reader._requests) <= KEPT_HEADS
