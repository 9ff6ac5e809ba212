"""HPACK (RFC 7541): a decoder with its dynamic table, and an encoder that needs none.

The decoder is strict and bounded. Every field is counted before it is kept, an indexed one like a literal one
(CVE-2016-6581); beyond the limit fields are dropped, but the block is read on so that the table stays in step with the
peer's (CVE-2024-7246), up to `MOST_FIELDS`. Integers have five continuation octets at most (CVE-2023-33953).

The encoder writes static references and literals that the peer must not index. So it has no state that could be out of
step, blocks can be kept and sent again byte for byte, and nothing that one client sends can be probed for by another
through the size of a block (RFC 7541 section 7.1).
"""

from __future__ import annotations

from struct import Struct

from meshproxy.codec.events import Headers
from meshproxy.codec.h2 import huffman
from meshproxy.codec.h2.errors import ConnectionFault, ErrorCode
from meshproxy.codec.h2.fields import LONG_NAME, UNKNOWN_PSEUDO, Field, kind_of_name, make_field
from meshproxy.codec.h2.frames import DEFAULT_TABLE_BYTES
from meshproxy.codec.headers import CREDENTIALS

STATIC_TABLE: Headers = (
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
)
"""RFC 7541 appendix A; the first has index 1."""

STATIC_FIELDS = {
    index: make_field(name, value, kind_of_name(name)) for index, (name, value) in enumerate(STATIC_TABLE, 1)
}
"""By index; 0 is no field."""
STATIC_COUNT = len(STATIC_TABLE)

MAX_CONTINUATION_OCTETS = 5

MOST_FIELDS = 2_048
"""A block with so many fields beyond the limits is not read on, and the connection ends. A frame of the default size
can hold 16,384, which take 2 to 15 ms, and a whole block of CONTINUATION frames 50."""

MOST_RESIZES = 16
"""Table size updates of one block: two are all that an encoder needs (RFC 7541 section 4.2), and one takes as long as a
field."""

PACKED = Struct("<IIIB")
"""Before each field of a packed table: the length of its name and of its value, its size and its kind."""


class CompressionFault(ConnectionFault):
    """A block that cannot be decoded: the connection is lost with it (RFC 9113 section 4.3)."""

    def __init__(self, reason: str) -> None:
        super().__init__(ErrorCode.COMPRESSION_ERROR, reason)


class Decoder:
    """Decodes the header blocks of one connection, in the order they came."""

    __slots__ = (
        "_allowed_bytes",
        "_header_bytes",
        "_header_count",
        "_max_bytes",
        "_must_resize",
        "_name_bytes",
        "_packed",
        "_size",
        "_strings",
        "_table",
        "dropped",
        "exceeded",
        "generation",
    )

    def __init__(self, header_bytes: int, header_count: int, name_bytes: int) -> None:
        self._header_bytes = header_bytes
        self._header_count = header_count
        self._name_bytes = name_bytes
        self._table: list[Field] = []
        """Oldest first: index 62 is the last one. At most 128 entries in 4 KiB, so that eviction may move them all."""
        self._packed = b""
        """The table instead, while the connection is at rest: a field takes 13 bytes more than its octets, not 200."""
        self._size = 0
        self._max_bytes = DEFAULT_TABLE_BYTES
        """What the peer's encoder has chosen."""
        self._allowed_bytes = DEFAULT_TABLE_BYTES
        """What our SETTINGS allow it to choose."""
        self._must_resize = False
        self._strings: dict[bytes, bytes] = {}
        """Huffman-coded strings met before."""
        self.exceeded: str | None = None
        """The limit that the last block exceeded: the fields beyond it are missing."""
        self.dropped = 0
        """How many those are."""
        self.generation = 0
        """Changes with the dynamic table: as long as it does not, equal blocks have equal fields."""

    def allow(self, table_bytes: int) -> None:
        """The peer has acknowledged our SETTINGS_HEADER_TABLE_SIZE. A smaller table than it uses must be announced at
        the start of its next block (RFC 7541 section 4.2)."""
        self._allowed_bytes = table_bytes
        self._must_resize = self._max_bytes > table_bytes

    def rest(self) -> None:
        """No block is expected soon: hold no more than it takes to read the next one."""
        self._strings.clear()
        if self._table:
            self._packed = pack_fields(self._table)
            self._table.clear()

    def decode(self, block: bytes) -> list[Field]:
        """Decode a whole block. Raises CompressionFault; sets `exceeded` and `dropped`."""
        self.exceeded = None
        self.dropped = 0
        if self._packed:
            self._table.extend(unpack_fields(self._packed))
            self._packed = b""
        if self._must_resize and (not block or block[0] & 0xE0 != 0x20):
            raise CompressionFault("the peer ignored the table size of our SETTINGS")
        try:
            return self._decode(block)
        except (IndexError, KeyError):
            raise CompressionFault("an index outside of both tables, or a block that ends within a field") from None
        except ValueError as error:
            raise CompressionFault(str(error)) from None

    def _decode(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        append = fields.append
        table = self._table
        room = self._header_bytes
        at = resizes = 0
        stop = len(block)
        while at < stop:
            octet = block[at]
            at += 1
            if octet >= 0x80:  # indexed field, section 6.1
                index = octet & 0x7F
                if index == 0x7F:
                    index, at = read_integer(block, at, 0x7F)
                field = table[STATIC_COUNT - index] if index > STATIC_COUNT else STATIC_FIELDS[index]
            elif octet & 0xE0 == 0x20:  # dynamic table size update, section 6.3
                if fields or self.exceeded:
                    raise CompressionFault("a table size update after a field")
                resizes += 1
                if resizes > MOST_RESIZES:
                    raise CompressionFault(f"more than {MOST_RESIZES} table size updates in a row")
                size = octet & 0x1F
                if size == 0x1F:
                    size, at = read_integer(block, at, 0x1F)
                self._resize(size)
                continue
            else:  # literal field, section 6.2
                is_indexed = octet >= 0x40
                mask = 0x3F if is_indexed else 0x0F
                index = octet & mask
                if index == mask:
                    index, at = read_integer(block, at, mask)
                if index:
                    known = table[STATIC_COUNT - index] if index > STATIC_COUNT else STATIC_FIELDS[index]
                    (name, _), _, kind = known
                    if kind >= UNKNOWN_PSEUDO:
                        kind = self._kind(name)
                else:
                    name, at = self._string(block, at)
                    kind = self._kind(name)
                size = block[at]
                if size < 0x7F:  # a short string without Huffman: what grpcio sends
                    start = at + 1
                    at = start + size
                    if at > stop:
                        raise CompressionFault("a string is longer than its block")
                    value = block[start:at]
                else:
                    value, at = self._string(block, at)
                field = make_field(name, value, kind)
                if is_indexed:
                    self._insert(field)
            room -= field[1]
            if room >= 0 and len(fields) < self._header_count:
                append(field)
            else:
                self.exceeded = self.exceeded or ("header_bytes" if room < 0 else "header_count")
                self.dropped += 1
                if self.dropped > MOST_FIELDS:
                    raise ConnectionFault(
                        ErrorCode.ENHANCE_YOUR_CALM, "a field block with too many fields", "header_count"
                    )
        return fields

    def _kind(self, name: bytes) -> int:
        return kind_of_name(name) if len(name) <= self._name_bytes else LONG_NAME

    def _string(self, block: bytes, at: int) -> tuple[bytes, int]:
        octet = block[at]
        at += 1
        size = octet & 0x7F
        if size == 0x7F:
            size, at = read_integer(block, at, 0x7F)
        stop = at + size
        if stop > len(block):
            raise CompressionFault("a string is longer than its block")
        string = block[at:stop]
        if octet < 0x80:
            return string, stop
        decoded = self._strings.get(string)
        if decoded is None:
            decoded = huffman.decode(string)
            if size <= 128:
                if len(self._strings) >= 64:
                    self._strings.clear()
                self._strings[string] = decoded
        return decoded, stop

    def _insert(self, field: Field) -> None:
        """RFC 7541 section 4.4: evict until the field fits; one that never fits empties the table."""
        self.generation += 1
        self._size += field[1]
        self._table.append(field)
        if self._size > self._max_bytes:
            self._evict()

    def _resize(self, size: int) -> None:
        if size > self._allowed_bytes:
            raise CompressionFault("a table size above SETTINGS_HEADER_TABLE_SIZE")
        self.generation += 1
        self._must_resize = False
        self._max_bytes = size
        self._evict()

    def _evict(self) -> None:
        count = 0
        while self._size > self._max_bytes:
            self._size -= self._table[count][1]
            count += 1
        del self._table[:count]


def pack_fields(fields: list[Field]) -> bytes:
    """Fields as bytes, to be kept."""
    pieces: list[bytes] = []
    for (name, value), size, kind in fields:
        pieces += PACKED.pack(len(name), len(value), size, kind), name, value
    return b"".join(pieces)


def unpack_fields(packed: bytes) -> list[Field]:
    """The fields that `pack_fields` has packed."""
    fields: list[Field] = []
    at = 0
    while at < len(packed):
        name_bytes, value_bytes, size, kind = PACKED.unpack_from(packed, at)
        middle = at + PACKED.size + name_bytes
        stop = middle + value_bytes
        fields.append(((packed[at + PACKED.size : middle], packed[middle:stop]), size, kind))
        at = stop
    return fields


def read_integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """Read the rest of an integer whose prefix was all ones (RFC 7541 section 5.1): its value, and where it ends."""
    value = mask
    for count in range(MAX_CONTINUATION_OCTETS):
        octet = block[at + count]
        value += (octet & 0x7F) << 7 * count
        if octet < 0x80:
            return value, at + count + 1
    raise CompressionFault("an integer that is too long")


def write_integer(value: int, mask: int, flags: int) -> bytes:
    """Write an integer behind `flags`, with a prefix as wide as `mask` (RFC 7541 section 5.1)."""
    if value < mask:
        return bytes((flags | value,))
    octets = bytearray((flags | mask,))
    value -= mask
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


# How a name begins a literal. Credentials are marked as never to be indexed, not by anyone further on either
# (RFC 7541 section 7.1.3); for the rest "without indexing" is enough.
_SENSITIVE = CREDENTIALS | {b"cookie", b"set-cookie"}
_INDEXED = {field: write_integer(index, 0x7F, 0x80) for index, field in enumerate(STATIC_TABLE, 1) if field[1]}
_NAMES = {
    name: write_integer(index, 0x0F, 0x10 if name in _SENSITIVE else 0x00)
    for index, (name, _) in reversed(tuple(enumerate(STATIC_TABLE, 1)))
}
_LENGTHS = tuple(bytes((length,)) for length in range(0x7F))


def encode_field(name: bytes, value: bytes) -> bytes:
    """One field as a static reference or as a literal without indexing, never Huffman-coded."""
    indexed = _INDEXED.get((name, value))
    if indexed is not None:
        return indexed
    size = len(value)
    prefix = _NAMES.get(name)
    if prefix is None:
        prefix = (b"\x10" if name in _SENSITIVE else b"\0") + write_integer(len(name), 0x7F, 0) + name
    return prefix + (_LENGTHS[size] if size < 0x7F else write_integer(size, 0x7F, 0)) + value
