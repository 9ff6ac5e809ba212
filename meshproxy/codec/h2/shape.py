"""Heads of requests, split into what stays the same and the values of a few fields, which differ each time.

Heads are read from blocks, and there are two ways to find out that one has the shape of another.

By their octets, without decoding them (`split_block`, `find_shape`): two blocks have the same shape if they are equal
octet for octet but for the values of these slots: literal fields without indexing, with a new name and a short value in
a strict form (RFC 7541 section 6.2.2), as grpcio and our own encoder write them. A block is read from its beginning, so
if one of a shape has a field where a slot is, all have, and what follows is read alike, as long as the dynamic table
stays the same.

By their fields, once they are decoded (`split_fields`, `shape_of_fields`): most clients put every field into the
dynamic table, also those that differ each time (grpc-go, grpc-java, tonic). So the table changes with each head, and so
do the octets of the fields that stay the same. Two lists of fields have the same shape if they are equal but for the
values of these slots: what is read of a head is a function of its fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from meshproxy.codec.events import Headers, RequestHead
from meshproxy.codec.h2.errors import ConnectionFault
from meshproxy.codec.h2.fields import COOKIE, Field
from meshproxy.codec.headers import GRPC_TIMEOUT, REQUEST_ID, REQUEST_ID_BYTES, REST_TIMEOUT, TRACE_PARENT


class ParsedRequest(NamedTuple):
    """A parsed request head."""

    method: bytes
    authority: bytes
    target: bytes
    headers: Headers
    length: int | None
    expects_continue: bool
    trace: bytes | None


def _literal(name: bytes) -> bytes:
    return b"\\x%02x%b" % (len(name), re.escape(name))


def _of_lengths(lengths: range, begin: bytes, end: bytes = b"") -> bytes:
    """Values of so many octets, each behind the octet that says how many: `begin`, repeated, and one `end`."""
    less = 1 if end else 0
    return b"|".join([b"\\x%02x%b{%d}%b" % (length, begin, length - less, end) for length in lengths])


_TRACE = rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
split_block = re.compile(
    rb"\x00("
    + _literal(TRACE_PARENT)
    + rb"(?=\x37"
    + _TRACE
    + rb")|"
    + _literal(GRPC_TIMEOUT)
    + rb"(?="
    + _of_lengths(range(2, 10), b"[0-9]", b"[HMSmun]")
    + rb")|"
    + _literal(REST_TIMEOUT)
    + rb"(?="
    + _of_lengths(range(1, 10), b"(?!0)[0-9]")
    + rb")|"
    + _literal(REQUEST_ID)
    + rb")("
    + _of_lengths(range(1, REQUEST_ID_BYTES + 1), b"[0-9A-Za-z._-]")
    + rb")"
).split
"""A block -> constant part, name and value of a slot, each behind its length, constant part, and so on. `parts[2::3]`
are the values, and what is left without them is the shape."""


_FORMS = {
    TRACE_PARENT: re.compile(_TRACE).fullmatch,
    GRPC_TIMEOUT: re.compile(rb"[0-9]{1,8}[HMSmun]").fullmatch,
    REST_TIMEOUT: re.compile(rb"[1-9][0-9]{0,8}").fullmatch,
    REQUEST_ID: re.compile(rb"[0-9A-Za-z._-]{1,%d}" % REQUEST_ID_BYTES).fullmatch,
}
"""The same slots, by the names of their fields."""

FieldKey = tuple[bytes | tuple[bytes, bytes], ...]
"""The shape of a list of fields: each of them, but of the slots the names only."""


def split_fields(fields: list[Field]) -> tuple[FieldKey, list[bytes]]:
    """Decoded fields -> their shape, and the values of the slots."""
    key: list[bytes | tuple[bytes, bytes]] = []
    values = []
    for field, _, _ in fields:
        name, value = field
        if name in _FORMS and _FORMS[name](value):
            key.append(name)
            values.append(value)
        else:
            key.append(field)
    return tuple(key), values


class HeadShape:
    """What the heads of one shape have in common."""

    __slots__ = ("before", "parsed", "places", "plans", "refusal", "trace")

    def __init__(
        self,
        parsed: ParsedRequest,
        places: tuple[tuple[int, bytes, int], ...] = (),
        trace: int = -1,
        before: int = 0,
    ) -> None:
        self.parsed = parsed
        """One of them."""
        self.places = places
        """Of each slot that is a field: where it is among the fields, its name, and where its value is among those of
        the slots."""
        self.trace = trace
        """Where that of `traceparent` is; -1: it is no slot."""
        self.before = before
        """Octets before each value of a slot."""
        self.plans: object = None
        """What the layers above keep of requests with such heads (`proxy.express`)."""
        self.refusal: tuple[bytes, int] | None = None
        """The block of the response to those that are not admitted (`joined.Gate`), and the size of its head."""

    def head(self, stream: int, end: bool, values: list[bytes]) -> RequestHead:
        """The head of a request on this stream, with these values of its slots. `end`: there is no body."""
        method, authority, target, headers, length, expects_continue, trace = self.parsed
        before = self.before
        if self.places:
            fields = [*headers]
            for at, name, place in self.places:
                fields[at] = name, values[place][before:]
            headers = (*fields,)
        if self.trace >= 0:
            trace = values[self.trace][before:]
        return RequestHead(stream, method, authority, target, headers, end, length, expects_continue, trace, self)


def find_shape(
    parts: list[bytes],
    head: ParsedRequest,
    fields: list[Field],
    header_bytes: int,
    decode: Callable[[bytes], list[Field]],
) -> HeadShape | None:
    """The shape of a block; None: it has a slot where no field begins, or one whose value decides something.

    Args:
        parts: the block, split.
        head: what was read of it.
        fields: those that it has. They have not changed the dynamic table.
        header_bytes: the limit on all of them, which heads with longer values must not exceed.
        decode: reads the fields of a part of the block. Raises ConnectionFault if that ends within one.
    """
    names = [part[1:] for part in parts[1::3]]
    if (
        len({*names}) < len(names)
        or sum([size for _, size, _ in fields]) + REQUEST_ID_BYTES * len(names) > header_bytes
    ):
        return None
    start = b""
    for place, name in enumerate(names):
        before, prefix, value = parts[3 * place : 3 * place + 3]
        start += before
        try:
            count = len(decode(start))
        except ConnectionFault:
            return None
        # A field begins here: these octets are it.
        start += b"\0" + prefix + value
        field = name, value[1:]
        if count >= len(fields) or fields[count][0] != field:
            return None
    return _make_shape(head, names, [value[1:] for value in parts[2::3]], 1)


def shape_of_fields(key: FieldKey, values: list[bytes], head: ParsedRequest, fields: list[Field]) -> HeadShape | None:
    """The shape of a head; None: a slot is there twice, or it has cookies in pieces, whose limit depends on the length
    of the block.

    Args:
        key: of `split_fields`, and so are `values`.
        head: what was read of it.
        fields: those that it has.
    """
    names = [name for name in key if isinstance(name, bytes)]
    if len({*names}) < len(names) or [kind for _, _, kind in fields].count(COOKIE) > 1:
        return None
    return _make_shape(head, names, values, 0)


def _make_shape(head: ParsedRequest, names: list[bytes], values: list[bytes], before: int) -> HeadShape | None:
    """None: a field that is a slot is there once more, in another form."""
    places = []
    trace = -1
    for place, field in enumerate(zip(names, values, strict=True)):
        name, value = field
        if name == TRACE_PARENT:
            if head.trace != value:
                return None
            trace = place
        else:
            if [other for other, _ in head.headers].count(name) != 1:
                return None
            places.append((head.headers.index(field), name, place))
    return HeadShape(head, tuple(places), trace, before)
