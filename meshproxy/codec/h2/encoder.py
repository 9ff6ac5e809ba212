"""Heads to header blocks: which pseudo-headers stand before which fields, and blocks kept for the next time.

A proxy sends the same few heads repeatedly: a block that was sent before costs one look-up (0.6 µs; encoded again from
kept fields 3 µs). Time limit, request id and trace context of a request, which differ each time, are encoded behind
what is kept, in the form that our decoder knows (`shape`): blocks that never came again took 6 of the 49 µs of a unary
exchange. Both stores are small, belong to one connection, and are emptied when they are full.
"""

from __future__ import annotations

import sys

from meshproxy.codec.events import Headers
from meshproxy.codec.grpc import has_grpc
from meshproxy.codec.h2.fields import COOKIE, FRAMING_ALIAS, OVERHEAD, REGULAR, TRACE, kind_of_name, make_field
from meshproxy.codec.h2.hpack import encode_field
from meshproxy.codec.headers import (
    GRPC_TIMEOUT,
    REQUEST_ID,
    REQUEST_ID_BYTES,
    REQUEST_ID_OCTETS,
    REST_TIMEOUT,
    TRACE_PARENT,
)
from meshproxy.codec.role import LocalProtocolError

KEPT_BLOCKS = 32
KEPT_BLOCK_BYTES = 4_096
KEPT_FIELDS = 64
KEPT_FIELD_BYTES = 256

TABLE_UPDATE = b"\x20"
"""Dynamic table size 0 (RFC 7541 section 6.3): sent at the beginning of the first block, it is within whatever
SETTINGS_HEADER_TABLE_SIZE the peer has and will set."""

TRAILERS_ACCEPTED = encode_field(b"te", b"trailers")
TRAILERS_ACCEPTED_SIZE = len(b"te" + b"trailers") + OVERHEAD

_PARENT_BYTES = 55
_PARENT = b"\0" + bytes((len(TRACE_PARENT),)) + TRACE_PARENT + bytes((_PARENT_BYTES,))
"""The beginning of a literal without indexing (RFC 7541 section 6.2.2): the name, and the length of a usual value."""
_PARENT_OCTETS = b"0123456789abcdef-"
_VARYING = {name: b"\0" + bytes((len(name),)) + name for name in (GRPC_TIMEOUT, REST_TIMEOUT, REQUEST_ID)}
"""The same for other fields that differ each time, up to the lengths of their values, in the order in which they are
written."""

TRACE_LITERAL = _PARENT
LIMIT_LITERAL, REQUEST_ID_LITERAL = _VARYING[GRPC_TIMEOUT], _VARYING[REQUEST_ID]
VARYING_BYTES = 320
"""More than a time limit, a request id and a trace context add to the size of a head."""


class HeadTooLarge(LocalProtocolError):
    """The head is larger than the peer's SETTINGS_MAX_HEADER_LIST_SIZE. Nothing was sent."""


class Encoder:
    """Encodes the heads of one connection."""

    __slots__ = ("_blocks", "_fields", "_is_first", "_most", "most", "remembers")

    def __init__(self) -> None:
        self._blocks: dict[tuple[object, ...], tuple[bytes, int]] = {}
        """Blocks, and the size of their heads as RFC 9113 section 10.5.1 counts it."""
        self._fields: dict[tuple[bytes, bytes], bytes] = {}
        self._is_first = True
        self._most: int | None = None
        self.most = -1
        """The size of a head up to which a block that was kept may be sent as it is. None may be the first block."""
        self.remembers = True
        """Blocks and fields are kept, as we are expected to repeat ourselves."""

    def limit(self, header_bytes: int) -> None:
        """The peer's SETTINGS_MAX_HEADER_LIST_SIZE: bytes as RFC 9113 section 10.5.1 counts them."""
        self._most = header_bytes
        if not self._is_first:
            self.most = header_bytes

    def rest(self) -> None:
        """No head is expected soon: give up what can be encoded again."""
        self._blocks.clear()
        self._fields.clear()

    def request(
        self,
        method: bytes,
        scheme: bytes,
        authority: bytes,
        target: bytes,
        headers: Headers,
        length: int | None,
        trace: bytes | None = None,
    ) -> bytes:
        """The block of a request, with `x-request-id` and `traceparent` last. Tells a server that speaks gRPC that we
        take trailers, which it insists on.

        Raises:
            HeadTooLarge: see there.
            LocalProtocolError: a field that no message may have.
        """
        key = (method, scheme, authority, target, length, headers)
        kept = self._blocks.get(key)
        if kept is None:
            rest, varying = take_varying(headers)
            kept = self.kept_request(method, scheme, authority, target, rest, length)
            if varying:
                block, size = kept
                for name, value in varying:
                    block += b"%b%c%b" % (_VARYING[name], len(value), value)
                    size += len(name) + len(value) + OVERHEAD
                kept = block, size
                if varying[-1][0] != REQUEST_ID:  # a time limit, of which there are few values
                    self._keep(key, block, size)
        return self._finish(kept, trace)

    def kept_request(
        self, method: bytes, scheme: bytes, authority: bytes, target: bytes, headers: Headers, length: int | None
    ) -> tuple[bytes, int]:
        """The block of a request without the fields that differ each time, and the size of that head. Raises
        LocalProtocolError."""
        key = (method, scheme, authority, target, length, headers)
        kept = self._blocks.get(key)
        if kept is None:
            pseudo: Headers = ((b":method", method), (b":scheme", scheme), (b":path", target))
            if authority:
                pseudo = (*pseudo, (b":authority", authority))
            block, size = self._build(pseudo, headers, length)
            if has_grpc(headers):
                block += TRAILERS_ACCEPTED
                size += TRAILERS_ACCEPTED_SIZE
            kept = self._keep(key, block, size)
        return kept

    def response(self, status: int, headers: Headers, length: int | None) -> bytes:
        """The block of a response. Raises as `request`."""
        return self._finish(self.kept_response(status, headers, length), None)

    def kept_response(self, status: int, headers: Headers, length: int | None) -> tuple[bytes, int]:
        """The same, and the size of the head. Raises LocalProtocolError."""
        key = (status, length, headers)
        kept = self._blocks.get(key)
        if kept is None:
            kept = self._keep(key, *self._build(((b":status", b"%d" % status),), headers, length))
        return kept

    def trailers(self, headers: Headers) -> bytes:
        """The block of trailers, either way. Raises as `request`."""
        return self._finish(self.kept_trailers(headers), None)

    def kept_trailers(self, headers: Headers) -> tuple[bytes, int]:
        """The same, and the size of the fields. Raises LocalProtocolError."""
        key = (headers,)
        kept = self._blocks.get(key)
        if kept is None:
            kept = self._keep(key, *self._build((), headers, None))
        return kept

    def _finish(self, kept: tuple[bytes, int], trace: bytes | None) -> bytes:
        """The whole block: what is kept, and the field that is not."""
        block, size = kept
        if trace is not None:
            block += _encode_trace(trace)
        if self._most is not None:
            if trace is not None:
                size += len(TRACE_PARENT) + len(trace) + OVERHEAD
            if size > self._most:
                raise HeadTooLarge(f"the head has {size} bytes, and the peer takes {self._most}")
        if self._is_first:
            self._is_first = False
            self.most = sys.maxsize if self._most is None else self._most
            return TABLE_UPDATE + block
        return block

    def _build(self, pseudo: Headers, headers: Headers, length: int | None) -> tuple[bytes, int]:
        if length is not None:
            pseudo_end: Headers = ((b"content-length", b"%d" % length),)
        else:
            pseudo_end = ()
        size = sum([len(name) + len(value) + OVERHEAD for name, value in (*pseudo, *pseudo_end, *headers)])
        kept = self._fields
        pieces = [encode_field(name, value) for name, value in (*pseudo, *pseudo_end)]
        for field in headers:
            piece = kept.get(field)
            pieces.append(piece if piece is not None else self._keep_field(field))
        return b"".join(pieces), size

    def _keep_field(self, field: tuple[bytes, bytes]) -> bytes:
        piece = _encode(field)
        if len(piece) <= KEPT_FIELD_BYTES and self.remembers:
            if len(self._fields) >= KEPT_FIELDS:
                self._fields.clear()
            self._fields[field] = piece
        return piece

    def _keep(self, key: tuple[object, ...], block: bytes, size: int) -> tuple[bytes, int]:
        kept = (block, size)
        if len(block) <= KEPT_BLOCK_BYTES and self.remembers:
            if len(self._blocks) >= KEPT_BLOCKS:
                self._blocks.clear()
            self._blocks[key] = kept
        return kept


def take_varying(headers: Headers) -> tuple[Headers, list[tuple[bytes, bytes]]]:
    """The fields without those that differ each time, and those, in the order in which they are written; all of them
    and none if one has not the usual form, or is there twice."""
    rest = []
    found: dict[bytes, bytes] = {}
    for field in headers:
        name, value = field
        if name not in _VARYING:
            rest.append(field)
        elif name in found or not 0 < len(value) <= REQUEST_ID_BYTES or value.translate(None, REQUEST_ID_OCTETS):
            return headers, []
        else:
            found[name] = value
    return (tuple(rest), [(name, found[name]) for name in _VARYING if name in found]) if found else (headers, [])


def _encode_trace(value: bytes) -> bytes:
    if len(value) == _PARENT_BYTES and not value.translate(None, _PARENT_OCTETS):
        return _PARENT + value  # 0.2 us instead of 0.75
    return _encode((TRACE_PARENT, value))


def _encode(field: tuple[bytes, bytes]) -> bytes:
    name, value = field
    kind = make_field(name, value, kind_of_name(name))[2]
    if kind not in (REGULAR, COOKIE, TRACE, FRAMING_ALIAS):
        # A codec that reads this would have dropped or refused it, so it was made here.
        raise LocalProtocolError(f"a field that must not be sent: {name!r}")
    return encode_field(name, value)
