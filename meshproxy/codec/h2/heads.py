"""Header blocks to heads: which fields a message must, may and must not have (RFC 9113 section 8).

Nothing is repaired. A head that breaks a rule of HTTP is malformed and costs its stream; one that breaks a limit of
ours, or asks for something we do not offer, is rejected and can be answered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from meshproxy.codec.events import Headers, RequestHead
from meshproxy.codec.grpc import has_grpc
from meshproxy.codec.h2.fields import (
    BAD_NAME,
    BAD_VALUE,
    CONNECTION,
    CONTENT_LENGTH,
    COOKIE,
    EXPECT,
    FRAMING_ALIAS,
    HOST,
    LAST_PSEUDO,
    LONG_NAME,
    REGULAR,
    STATUS,
    TE,
    TRACE,
    UNKNOWN_PSEUDO,
    Field,
    is_single_authority,
)
from meshproxy.codec.h2.hpack import Decoder
from meshproxy.codec.h2.shape import (
    FieldKey,
    HeadShape,
    ParsedRequest,
    find_shape,
    shape_of_fields,
    split_block,
    split_fields,
)
from meshproxy.codec.headers import (
    MAX_LENGTH,
    REFUSAL_HEADER,
    is_same_authority,
    may_be_trailer,
)
from meshproxy.codec.limits import Limits
from meshproxy.codec.problem import Malformed, MessageProblem, Unacceptable

CRUMBS_BYTES = 4_096
CRUMBS_FACTOR = 4
"""What crumbs of cookies may come to once they are joined: so much, and so many times their block. The joined value is
the only part of a head that is a copy, and not shared with the table: crumbs of one octet each could make it 64 KiB
(CVE-2026-47774)."""

KEPT_HEADS = 32
KEPT_BLOCK_BYTES = 4_096
KEPT_BYTES = 131_072
"""Heads of one connection that are kept, of each kind, and the memory of all together. A usual one takes 1 to 2 KB."""


class ParsedResponse(NamedTuple):
    """A parsed response head."""

    status: int
    headers: Headers
    length: int | None


Head = TypeVar("Head", ParsedResponse, Headers)
Key = TypeVar("Key", bytes, tuple[bytes, ...])
Kept = TypeVar("Kept", HeadShape, ParsedResponse, Headers)


class HeadReader:
    """Reads the blocks of one connection.

    A client that repeats itself sends the same block of indices again and again. Heads are kept by the bytes of their
    block until the dynamic table changes: such a head costs 0.1 µs instead of 5 to 8. One that differs in a request id,
    a trace context or a time limit only is kept by its shape, and costs 3 µs. If the client puts those into the table,
    too, its blocks are decoded, and the head is found by the shape of its fields.
    """

    __slots__ = (
        "_decoder",
        "_field_bytes",
        "_field_shapes",
        "_generation",
        "_kept_bytes",
        "_limits",
        "_requests",
        "_shapes",
        "changes_table",
        "kept_trailers",
        "remembers",
        "responses",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._decoder = Decoder(limits.header_bytes, limits.header_count, limits.header_name_bytes)
        self._generation = 0
        self._requests: dict[bytes, HeadShape] = {}
        """By their blocks: those without slots."""
        self._shapes: dict[tuple[bytes, ...], HeadShape] = {}
        """By what their blocks have in common."""
        self._field_shapes: dict[FieldKey, HeadShape] = {}
        """By what their fields have in common, whatever the table is."""
        self.changes_table = False
        """The last request did."""
        self.responses: dict[bytes, ParsedResponse] = {}
        self.kept_trailers: dict[bytes, Headers] = {}
        """By their blocks."""
        self._kept_bytes = 0
        """By block."""
        self._field_bytes = 0
        """By field."""
        self.remembers = True
        """Heads are kept, as the peer is expected to repeat itself."""

    def allow_table(self, table_bytes: int) -> None:
        """The peer has acknowledged our SETTINGS_HEADER_TABLE_SIZE."""
        self._decoder.allow(table_bytes)
        self.forget()

    def rest(self) -> None:
        """No block is expected soon: give up what can be read again."""
        self._decoder.rest()
        self.forget()

    def request(self, stream: int, end: bool, block: bytes) -> RequestHead:
        """Read the head of a request on this stream. `end`: it has no body. Raises Malformed, Unacceptable,
        CompressionFault."""
        found = self.find(block)
        if found is not None:
            return found[0].head(stream, end, found[1])
        did_change = self.changes_table
        fields, self.changes_table = self._fields(block)
        key, values = split_fields(fields)
        if self.changes_table:
            return self._read_fields(stream, end, block, key, values, fields, did_change)
        parts = split_block(block)
        if len(values) > len(parts) // 3:  # some are in the table
            return self._read_fields(stream, end, block, key, values, fields, did_change)
        # The limit on joined cookies must not depend on the lengths of values.
        parsed = read_request(fields, self._limits, sum([len(part) for part in parts[::3]]))
        shape: HeadShape | None
        if len(parts) == 1:
            shape = HeadShape(parsed)
            self._keep(self._requests, block, shape, len(block), len(fields))
        else:
            shape = find_shape(parts, parsed, fields, self._limits.header_bytes, self._decoder.decode)
            if shape is not None:
                del parts[2::3]
                self._keep(self._shapes, (*parts,), shape, len(block), len(fields))
        return _make_head(stream, end, parsed, shape)

    def find(self, block: bytes) -> tuple[HeadShape, list[bytes]] | None:
        """The shape of a head that can be read without decoding its block, and the values of its slots. None: it
        cannot."""
        if self.changes_table:
            return None
        if self._requests and (shape := self._requests.get(block)) is not None:
            return shape, []
        parts = split_block(block)
        values = parts[2::3]
        del parts[2::3]
        shape = self._shapes.get((*parts,))
        return (shape, values) if shape is not None else None

    def _read_fields(
        self,
        stream: int,
        end: bool,
        block: bytes,
        key: FieldKey,
        values: list[bytes],
        fields: list[Field],
        is_kept: bool,
    ) -> RequestHead:
        """The head of a client that puts fields into the table which differ each time. One head changes the table in
        any case: only others are to be kept."""
        shape = self._field_shapes.get(key)
        if shape is not None:
            return shape.head(stream, end, values)
        parsed = read_request(fields, self._limits, len(block))
        size = _kept_size(sum([size for _, size, _ in fields]), len(fields))
        if is_kept and self.remembers and size <= KEPT_BLOCK_BYTES:
            shape = shape_of_fields(key, values, parsed, fields)
            if shape is not None:
                if len(self._field_shapes) >= KEPT_HEADS or self._field_bytes + size > KEPT_BYTES:
                    self.forget()
                self._field_bytes += size
                self._field_shapes[key] = shape
        return _make_head(stream, end, parsed, shape)

    def response(self, block: bytes) -> ParsedResponse:
        """Read the head of a response. Raises as `request`."""
        return self.responses.get(block) or self._read(block, self.responses, read_response)

    def trailers(self, block: bytes) -> Headers:
        """Read trailers, either way. Raises as `request`."""
        return self.kept_trailers.get(block) or self._read(block, self.kept_trailers, read_trailers)

    def skip(self, block: bytes) -> int:
        """Decode a block only for its changes of the table. Returns how many fields it had beyond the limits. Raises
        CompressionFault."""
        self._decode(block)
        return self._decoder.dropped

    def _read(self, block: bytes, kept: dict[bytes, Head], read: Callable[[list[Field], Limits, int], Head]) -> Head:
        fields, changes_table = self._fields(block)
        head = read(fields, self._limits, len(block))
        if not changes_table:
            self._keep(kept, block, head, len(block), len(fields))
        return head

    def _fields(self, block: bytes) -> tuple[list[Field], bool]:
        """As `_decode`. Raises Unacceptable if they exceed a limit."""
        decoded = self._decode(block)
        exceeded = self._decoder.exceeded
        if exceeded is not None:
            problem = Unacceptable(431, f"the head exceeds {exceeded}", exceeded)
            problem.fields = len(decoded[0]) + self._decoder.dropped
            problem.is_grpc = has_grpc([field for field, _, _ in decoded[0]])
            raise problem
        return decoded

    def _decode(self, block: bytes) -> tuple[list[Field], bool]:
        """The fields of a block, and whether it changed the table: then no block means what it meant before."""
        fields = self._decoder.decode(block)
        if self._decoder.generation == self._generation:
            return fields, False
        self._generation = self._decoder.generation
        self._forget_blocks()
        return fields, True

    def forget(self) -> None:
        """Give up the heads that are kept, and what is kept with them (`HeadShape.plans`)."""
        self._forget_blocks()
        self._field_shapes.clear()
        self._field_bytes = 0

    def _forget_blocks(self) -> None:
        """The same, for those that are kept by their blocks."""
        self._requests.clear()
        self._shapes.clear()
        self.responses.clear()
        self.kept_trailers.clear()
        self._kept_bytes = 0

    def _keep(self, kept: dict[Key, Kept], key: Key, value: Kept, block_bytes: int, count: int) -> None:
        """`count`: of its fields."""
        if block_bytes > KEPT_BLOCK_BYTES or not self.remembers:
            return
        size = _kept_size(block_bytes, count)
        if len(kept) >= KEPT_HEADS or self._kept_bytes + size > KEPT_BYTES:
            self.forget()
        self._kept_bytes += size
        kept[key] = value


def _make_head(stream: int, end: bool, parsed: ParsedRequest, shape: HeadShape | None) -> RequestHead:
    method, authority, target, headers, length, expects_continue, trace = parsed
    return RequestHead(stream, method, authority, target, headers, end, length, expects_continue, trace, shape)


def _kept_size(size: int, count: int) -> int:
    """What a head takes that is kept, with so many bytes and fields."""
    return 256 + 3 * size + 100 * count


def read_request(fields: list[Field], limits: Limits, block_bytes: int) -> ParsedRequest:
    """Apply the rules for requests (RFC 9113 section 8.3.1). Raises Malformed, Unacceptable."""
    try:
        return _read_request(fields, limits, block_bytes)
    except Unacceptable as problem:
        problem.fields = len(fields)
        problem.is_grpc = has_grpc([field for field, _, _ in fields])
        raise


def _read_request(fields: list[Field], limits: Limits, block_bytes: int) -> ParsedRequest:
    pseudo: list[bytes | None] = [None] * (LAST_PSEUDO + 1)
    headers: list[tuple[bytes, bytes]] = []
    append = headers.append
    host: bytes | None = None
    length: int | None = None
    expectation: bytes | None = None
    crumbs: list[bytes] = []
    first_crumb = 0
    traces: list[bytes] = []
    is_past_pseudo = False
    for field, _, kind in fields:
        if kind == REGULAR:
            append(field)
        elif kind <= LAST_PSEUDO:
            if is_past_pseudo or headers:
                raise Malformed("a pseudo-header after a field")
            if pseudo[kind] is not None:
                raise Malformed("a repeated pseudo-header")
            pseudo[kind] = field[1]
        else:
            is_past_pseudo = True
            value = field[1]
            if kind == COOKIE:
                if not crumbs:
                    first_crumb = len(headers)
                    append(field)
                crumbs.append(value)
            elif kind == TRACE:
                traces.append(value)
            elif kind == CONTENT_LENGTH:
                if length is not None:
                    raise Malformed("a repeated content-length")
                length = int(value)
            elif kind == HOST:
                if host is not None:
                    raise Malformed("a repeated host")
                host = value
            elif kind == EXPECT:
                if expectation is not None:
                    raise Unacceptable(417, "there is more than one expect field")
                expectation = value
            elif kind != TE:
                raise bad_field(field, kind)
    _, method, scheme, authority, target, status = pseudo
    if method is None or status is not None:
        raise Malformed("no :method" if method is None else ":status in a request")
    if method == b"CONNECT":
        if scheme is not None or target is not None or authority is None:
            raise Malformed("CONNECT takes :authority and nothing else")
        raise Unacceptable(501, "CONNECT is not supported")
    if scheme is None or target is None:
        raise Malformed("no :scheme" if scheme is None else "no :path")
    if target == b"*" and method != b"OPTIONS":
        raise Malformed("the request target * is for OPTIONS only")
    if authority is None:
        if host is None:
            raise Malformed("neither :authority nor host")
        authority = host
    elif host is not None and host != authority and not is_same_authority(host, authority, scheme):
        raise Malformed(":authority and host differ")
    if (b"," in authority or b"[" in authority) and is_single_authority(authority) is None and not has_grpc(headers):
        raise Malformed(":authority has several hosts or a zone, which only gRPC clients may send")
    if len(target) > limits.target_bytes:
        raise Unacceptable(414, f"the request target is longer than {limits.target_bytes} bytes", "target_bytes")
    if length is not None:
        check_length(length, limits)
    if expectation is not None and expectation.lower() != b"100-continue":
        raise Unacceptable(417, "the expect field asks for something other than 100-continue")
    if len(crumbs) > 1:
        # RFC 9113 section 8.2.3
        joined = b"; ".join(crumbs)
        if len(joined) > CRUMBS_BYTES + CRUMBS_FACTOR * block_bytes:
            raise Unacceptable(431, "the joined cookie fields are too large", "header_bytes")
        headers[first_crumb] = b"cookie", joined
    trace = traces[0] if len(traces) == 1 else None
    return ParsedRequest(method, authority, target, tuple(headers), length, expectation is not None, trace)


def read_response(fields: list[Field], limits: Limits, block_bytes: int) -> ParsedResponse:
    """Apply the rules for responses (RFC 9113 section 8.3.2). Raises Malformed, Unacceptable."""
    headers: list[tuple[bytes, bytes]] = []
    status = 0
    length: int | None = None
    is_past_pseudo = False
    for field, _, kind in fields:
        if kind in (REGULAR, COOKIE, TRACE, FRAMING_ALIAS):
            headers.append(field)
        elif kind == STATUS:
            if status or is_past_pseudo or headers:
                raise Malformed("a repeated :status, or one after a field")
            status = int(field[1])
        else:
            is_past_pseudo = True
            if kind == CONTENT_LENGTH:
                if length is not None:
                    raise Malformed("a repeated content-length")
                length = int(field[1])
            elif kind != HOST and kind != EXPECT:
                raise bad_field(field, kind)
    if not status:
        raise Malformed("no :status")
    if status == 101:
        raise Malformed("101 does not exist in HTTP/2")
    if length is not None:
        if status < 200 or (status == 204 and length):
            raise Malformed("a content-length on a response without a body")
        check_length(length, limits)
    return ParsedResponse(status, tuple(headers), length if status != 204 else None)


def read_trailers(fields: list[Field], limits: Limits, block_bytes: int) -> Headers:
    """Apply the rules for trailers (RFC 9113 section 8.1), and leave out what has no meaning after the body or must not
    be believed there (RFC 9110 section 6.5.1). Raises Malformed, Unacceptable."""
    headers = []
    for field, _, kind in fields:
        if kind in (REGULAR, TRACE):
            if may_be_trailer(field[0]) or field[0] == REFUSAL_HEADER:
                headers.append(field)
        elif kind <= LAST_PSEUDO:
            raise Malformed("a pseudo-header in trailers")
        elif kind >= CONNECTION:
            raise bad_field(field, kind)
    return tuple(headers)


def check_length(length: int, limits: Limits) -> None:
    """Raise Malformed for a content-length that is out of range, Unacceptable for one above our limit."""
    if length > MAX_LENGTH:
        raise Malformed("content-length is out of range")
    if limits.body_bytes is not None and length > limits.body_bytes:
        raise Unacceptable(413, f"the body is larger than {limits.body_bytes} bytes", "body_bytes")


def bad_field(field: tuple[bytes, bytes], kind: int) -> MessageProblem:
    """The problem of a field that is not allowed in this head."""
    if kind == LONG_NAME:
        return Unacceptable(431, "the name of a field is too long", "header_name_bytes")
    if kind == BAD_NAME:
        return Malformed("the name of a field is empty or contains an invalid character")
    if kind == UNKNOWN_PSEUDO:
        return Malformed("an unknown pseudo-header")
    name = field[0].decode("ascii")  # a name that passed the grammar
    if kind == BAD_VALUE:
        return Malformed(f"the value of {name} is malformed")
    return Malformed(f"{name} is not allowed here")
