"""Reads the few fields that name a model out of a protobuf message, exactly as the model server's parser reads them.

TensorFlow Serving parses with C++ protobuf. A proxy that reads a message in another way authorises one model and lets
another be called, so everything is refused on which parsers disagree (measured, or read in their sources):

- tags that are not minimal or exceed 32 bits: C++ takes 5 bytes and drops bits above 32, upb refuses those, Google's
  pure-Python decoder does not recognise the padded tag of a known field at all;
- lengths that are not minimal, for which C++ takes 5 bytes and upb 10, or that exceed 2^31 - 1;
- varints of more than 64 bits: the surplus is dropped by some and refused by others;
- varints of ten bytes of which the last is 0: protobuf-java takes it for 1;
- field number 0, wire types 6 and 7, groups that do not match or nest deeper than 100.

What they agree on is read as they do: a known field with another wire type is an unknown field; unknown fields and
groups are skipped; what was skipped by its length is not looked into.
(https://protobuf.dev/programming-guides/encoding; src/google/protobuf/parse_context.cc; upb/wire/decode.c)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container

from meshproxy.refusal import Reason, Refusal

DEPTH = 100
"""Messages and groups within each other: the default limit of C++ and upb alike."""
FIELDS = 16_384
"""Fields of one body, in all of its messages together. A PredictRequest has one for each input tensor. Two-byte fields
without end cost 0.08 µs a byte and compress 1000:1, so that 1 KB could stop everything else for 80 ms."""
FREE_FIELDS = 1_024
"""Of those, what a body may have whatever its size; beyond, one for each byte received, which only compressed ones
exceed."""
MESSAGE_FIELDS = 256
"""What another message costs in fields: to begin one takes 10 µs, and nobody who calls a unary method needs several."""
REPEATED_FIELDS = 64
"""What a singular field that comes again costs in fields: it takes 5 µs, and no client writes one twice."""
OCCURRENCES = 1_024
"""Of the fields that name models, in one message."""
FAST_FIELDS = 64
"""Fields that `holds_only_others` looks at."""

_INT31 = 0x7FFFFFFF
_UINT32 = 0xFFFFFFFF

VARINT, FIXED64, LENGTH, GROUP, END_GROUP, FIXED32 = range(6)
"""Wire types; a tag is the field number times 8 plus one of these."""

Found = list[tuple[int, bytes | int]]
"""Wanted fields in the order of the wire: the tag, and the bytes (LENGTH) or the unsigned number (VARINT)."""


def malformed(why: str) -> Refusal:
    return Refusal(Reason.MALFORMED_MESSAGE, f"Malformed message: {why}.")


def _too_many() -> Refusal:
    return Refusal(
        Reason.SCAN_LIMIT,
        f"The messages of a request have too many fields: {FIELDS} at most, and {FREE_FIELDS} more than bytes.",
        limit="fields",
    )


def too_many_models() -> Refusal:
    return Refusal(Reason.SCAN_LIMIT, "A call names too many models.", limit="models")


class FieldWalker:
    """Walks over the fields of the messages of one body, and of those inside them: at most `FIELDS` in all."""

    __slots__ = ("_to_earn", "left")

    def __init__(self, free: int = FIELDS) -> None:
        """`free`: fields that need not be earned."""
        self.left = free
        """Fields that there may still be."""
        self._to_earn = FIELDS - free

    def earn(self, received: int) -> None:
        """So many bytes of the body were received."""
        if self._to_earn:
            more = min(received, self._to_earn)
            self._to_earn -= more
            self.left += more

    def begin_message(self) -> None:
        """Another message of the body begins.

        Raises:
            Refusal: SCAN_LIMIT (`FIELDS`).
        """
        self.left -= MESSAGE_FIELDS
        if self.left < 0:
            raise _too_many()

    def walk(
        self,
        data: bytes,
        position: int,
        wanted: Container[int],
        groups: list[int],
        depth: int,
        room: int,
        found: Found,
        most: int = FIELDS,
        too_many: Callable[[], Refusal] = _too_many,
    ) -> tuple[int, int, int]:
        """Walks from `position`, which is at a tag, to the end of `data`.

        Args:
            wanted: tags whose fields are collected into `found`, where they stand outside of groups.
            groups: end tags of the open groups, innermost last. Changed.
            depth: how many messages this one is nested in.
            room: bytes of the message that `data` does not hold yet.
            found: a wanted field that `data` does not hold whole is collected as far as it goes.
            most: fields that it may have then; `too_many` is what more of them mean.

        Returns:
            `(position, beyond, tag)`: `position` is the end of `data`, or where a tag with its length or varint
            begins that `data` cuts short; `beyond` is how many bytes the last field reaches past `data`, `tag` its tag.

        Raises:
            Refusal: MALFORMED_MESSAGE, or SCAN_LIMIT (`FIELDS`, `most`).
        """
        stop = len(data)
        left = self.left
        while position < stop:
            begin = position
            tag = data[position]
            position += 1
            if tag >= 0x80:
                tag, position = _read_uint32(data, begin, _UINT32, "tag")
                if not position:
                    self.left = left
                    return begin, 0, 0
            if tag < 8:
                raise malformed("it has a field number 0")
            wire = tag & 7
            if wire == LENGTH:
                size = data[position] if position < stop else 0x80
                if size < 0x80:
                    position += 1
                else:
                    size, position = _read_uint32(data, position, _INT31, "length")
                    if not position:
                        self.left = left
                        return begin, 0, 0
                end = position + size
                if end > stop + room:
                    raise malformed("a field is longer than its message")
                if tag in wanted and not groups:
                    if len(found) >= most:
                        raise too_many()
                    found.append((tag, data[position:end]))
                position = end
            elif wire == VARINT:
                number = data[position] if position < stop else 0x80
                if number < 0x80:
                    position += 1
                else:
                    number, position = _read_varint(data, position)
                    if not position:
                        self.left = left
                        return begin, 0, 0
                if tag in wanted and not groups:
                    found.append((tag, number))
            elif wire == GROUP:
                groups.append(tag + 1)
                if depth + len(groups) > DEPTH:
                    raise malformed(f"it is nested deeper than {DEPTH}")
            elif wire == END_GROUP:
                if not groups or groups.pop() != tag:
                    raise malformed("a group ends that did not begin")
            elif wire in (FIXED64, FIXED32):
                position += 8 if wire == FIXED64 else 4
                if position > stop + room:
                    raise malformed("a field is longer than its message")
            else:
                raise malformed(f"wire type {wire} does not exist")
            left -= 1
            if left < 0:
                raise _too_many()
            if position > stop:
                self.left = left
                return stop, position - stop, tag
        self.left = left
        return stop, 0, 0

    def read(self, data: bytes, wanted: Container[int], depth: int, most: int = FIELDS) -> Found:
        """The wanted fields, `most` of them, of a whole message that is nested `depth` messages deep.

        Raises:
            Refusal: MALFORMED_MESSAGE, or SCAN_LIMIT (`FIELDS`, `most`).
        """
        found: Found = []
        groups: list[int] = []
        position, _, _ = self.walk(data, 0, wanted, groups, depth, 0, found, most)
        if position < len(data) or groups:
            raise malformed("it is cut short")
        return found

    def read_singular(self, data: bytes, wanted: Collection[int], depth: int) -> Found:
        """As `read`, of fields that should come once: what comes again counts for `REPEATED_FIELDS`."""
        found = self.read(data, wanted, depth, len(wanted) + self.left // REPEATED_FIELDS)
        again = len(found) - len(wanted)
        if again > 0:
            self.left -= REPEATED_FIELDS * again
            if self.left < 0:
                raise _too_many()
        return found


def holds_only_others(data: bytes, position: int, stop: int) -> bool:
    """Whether from `position` to the end, `stop`, there are only whole length-delimited fields with numbers 2 to 15, at
    most 16 KiB each and `FAST_FIELDS` in all: what mostly follows a model_spec. False says nothing.

    In the hot path of every small request: 0.2 µs, where `FieldScanner` takes 2.
    """
    try:
        for _ in range(FAST_FIELDS):
            if position >= stop:
                break
            tag = data[position]
            if tag & 0x87 != LENGTH or tag < 0x12:
                return False
            size = data[position + 1]
            position += 2
            if size >= 0x80:
                high = data[position]
                if not 0 < high < 0x80:
                    return False
                size += (high - 1) << 7
                position += 1
            position += size
    except IndexError:
        return False
    return position == stop


class FieldScanner:
    """Finds every occurrence of some length-delimited fields at the top level of a message while the message arrives.

    Holds nothing but the occurrence that is just arriving; everything else is counted off by its length.
    """

    __slots__ = (
        "_carry",
        "_groups",
        "_held",
        "_held_tag",
        "_left",
        "_limit",
        "_limit_name",
        "_need",
        "_room",
        "_seen",
        "_skip",
        "_tags",
        "_walker",
    )

    def __init__(
        self,
        tags: tuple[int, ...],
        size: int,
        limit: int,
        limit_name: str,
        walker: FieldWalker | None = None,
        most: int = OCCURRENCES,
    ) -> None:
        """
        Args:
            tags: of the wanted fields.
            size: bytes of the message, or the most it can have where that is not known yet.
            limit: bytes that all occurrences may have together: that much is held. `limit_name` is for the refusal.
            walker: of the body; None: the message is the only one.
            most: occurrences.
        """
        self._tags = tags
        self._room = size
        self._limit = limit
        self._limit_name = limit_name
        self._seen = 0  # bytes of all occurrences so far
        self._left = most
        self._walker = walker or FieldWalker()
        self._groups: list[int] = []
        self._skip = 0  # bytes to pass over
        self._need = 0  # bytes missing of the occurrence in _held
        self._held = bytearray()
        self._held_tag = 0
        self._carry = b""  # a tag, with its length or varint, that the last piece cut short: at most 14 bytes

    def passes(self, size: int) -> bool:
        """Whether the next bytes, so many, are within one field that is not wanted."""
        return self._skip >= size

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The next piece of the message -> the occurrences that are complete now: tag and value, in order.

        Raises:
            Refusal: MALFORMED_MESSAGE, or SCAN_LIMIT.
        """
        size = len(data)
        self._room -= size
        if self._skip >= size:
            self._skip -= size
            return []
        position = self._skip
        self._skip = 0
        done: list[tuple[int, bytes]] = []
        if self._need:
            position = min(self._need, size)
            self._held += data[:position]
            self._need -= position
            if self._need:
                return done
            done.append((self._held_tag, bytes(self._held)))
        elif self._carry:
            data = self._carry + data
        found: Found = []
        position, beyond, tag = self._walker.walk(
            data, position, self._tags, self._groups, 0, self._room, found, self._left, too_many_models
        )
        self._carry = data[position:]
        self._left -= len(found)
        for wanted, value in found:
            assert isinstance(value, bytes)
            self._seen += len(value)
            done.append((wanted, value))
        if beyond and tag in self._tags and not self._groups:
            self._held_tag, begun = done.pop()
            self._held = bytearray(begun)
            self._need = beyond
            self._seen += beyond
        else:
            self._skip = beyond
        if self._seen > self._limit:
            raise Refusal(
                Reason.SCAN_LIMIT,
                f"The part of the message that names models is longer than {self._limit} bytes.",
                limit=self._limit_name,
            )
        return done

    @property
    def ahead(self) -> int:
        """How many of the next bytes need not be read."""
        return self._skip

    def passed(self, size: int) -> None:
        """So many of them have come, and were not fed."""
        self._skip -= size
        self._room -= size

    def finish(self) -> None:
        """Check that the message is complete.

        Raises:
            Refusal: MALFORMED_MESSAGE: it is cut short.
        """
        if self._skip or self._need or self._carry or self._groups:
            raise malformed("it is cut short")


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """An unsigned number below 2^64 and the position after it; position 0 if `data` ends within it.

    Padding is taken, as all parsers take it in a value of up to nine bytes.

    Raises:
        Refusal: MALFORMED_MESSAGE: more than 64 bits, or ten bytes that are padded.
    """
    number = 0
    shift = 0
    for byte in data[position : position + 10]:
        number |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            if number >> 64:
                break
            if not byte and shift == 63:
                raise malformed("a varint of ten bytes is padded")
            return number, position
        shift += 7
    else:
        if shift < 70:
            return 0, 0
    raise malformed("a varint has more than 64 bits")


def as_int64(number: int) -> int:
    """The value of an int64 field from its varint: two's complement."""
    return number - (1 << 64) if number >> 63 else number


def _read_uint32(data: bytes, position: int, most: int, what: str) -> tuple[int, int]:
    """A minimal varint of at most `most`, and the position after it; position 0 if `data` ends within it."""
    number = 0
    shift = 0
    for byte in data[position : position + 5]:
        number |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            if number > most:
                raise malformed(f"a {what} is too large")
            if not byte and shift:
                raise malformed(f"a {what} is padded")
            return number, position
        shift += 7
    if shift == 35:
        raise malformed(f"a {what} is too long")
    return 0, 0
