"""Writes another model or version into a gRPC request body while the body passes, for every wire surface whose messages
name models in a field or two.

What a call gets is the proxy's choice where a route splits a model over versions or other models, or gives it labels.
What the caller asked for was authorised before, and what is written in its place, too.

A gRPC frame begins with the length of the message, which is known when the fields that name models have been seen
whole: until then the message is held, under a limit; everything after them is forwarded as it comes. So one that
comes again later cannot be merged any more, and is refused. Other fields are neither decoded nor encoded again: their
bytes are those that came.

- What takes the place of those fields is built by the surface from what they said (`Replace`), and written first in the
  message. Unknown fields within them are dropped.
- Occurrences that were seen before anything was forwarded are replaced together. The first run of them is always seen
  as a whole, whatever pieces it came in. So repeated sub-messages that name models must stand together before what
  follows them, as every serialiser writes them.
- A compressed message is held whole, since the length of what it inflates to is known at its end; it is forwarded
  uncompressed.
"""

from __future__ import annotations

from meshproxy.codec.grpc import PREFIX_BYTES, Deframer, MessagePart, Misframed
from meshproxy.inference.body_scan import (
    DEFAULT_LIMITS,
    FIELD_1,
    MESSAGE_BYTES,
    BodyKind,
    Replace,
    Replaced,
    ScanLimits,
)
from meshproxy.inference.call import Call, Chosen
from meshproxy.inference.fields import read_field
from meshproxy.inference.inflate import Inflater
from meshproxy.inference.protobuf import END_GROUP, GROUP, FieldScanner, holds_only_others, malformed
from meshproxy.refusal import Reason, Refusal

MEMO_ENTRIES = 1024
"""Bytes that name models, with what was chosen -> what takes their place. About 0.6 KB each."""


class MessageRewriter:
    """Rewrites one request body (`surface.BodyRewriter`).

    What a body is read as is checked against `call` once more, so that nothing is forwarded which was not authorised,
    even if the scan of the body and this were given different bytes.
    """

    __slots__ = ("_choice", "_encoding", "_has_passed", "_limit", "_limits", "_slow")

    def __init__(
        self,
        kind: BodyKind,
        call: Call,
        chosen: Chosen,
        limit: int,
        encoding: bytes | None = None,
        limits: ScanLimits = DEFAULT_LIMITS,
    ) -> None:
        """
        Args:
            kind: with a `replace`. For the others see `surface.RewriteBody`.
        """
        self._choice = _Choice(kind, call, chosen)
        self._limit = limit
        self._encoding = encoding
        self._limits = limits
        self._has_passed = False  # a message has been forwarded on the fast path
        self._slow: _Stream | None = None

    @property
    def call(self) -> Call:
        """What was authorised. Set it again when a later message has been authorised, before that is fed."""
        return self._choice.call

    @call.setter
    def call(self, call: Call) -> None:
        self._choice.call = call

    def feed(self, data: bytes, end: bool) -> bytes:
        """Bytes of the body, cut anywhere -> the bytes to forward, empty while they are held.

        Raises:
            Refusal: MODEL_CHANGED: a model is named after the message was begun, or another than was authorised.
                SCAN_LIMIT: too much would have to be held. MALFORMED_MESSAGE, BODY_TOO_LARGE, UNSUPPORTED_ENCODING: as
                `BodyScan.feed`. Nothing more may be fed then.
        """
        if self._slow is None:
            # Nearly every request, and why: see BodyScan.feed. 1.2 us instead of 14.
            if not self._has_passed and len(data) > 7 and data[5] == self._choice.kind.first and not data[0]:
                stop = 7 + data[6]
                whole = stop <= len(data) == PREFIX_BYTES + int.from_bytes(data[1:5], "big")
                if whole and data[6] < 0x80 and holds_only_others(data, stop, len(data)):
                    field = self._choice.replace_one(data[7:stop])
                    self._has_passed = True
                    return b"\0%b%b%b" % ((len(data) - stop + len(field)).to_bytes(4, "big"), field, data[stop:])
            elif not data and (self._has_passed or not end):
                return b""
            self._slow = _Stream(self._choice, self._limit, self._encoding, self._limits, self._has_passed)
        return self._slow.feed(data, end)


_memo: dict[tuple[Replace, bytes, Chosen], Replaced] = {}


class _Choice:
    """What was authorised, what was chosen instead, and how the surface writes it."""

    __slots__ = ("_chosen", "_replace", "call", "kind")

    def __init__(self, kind: BodyKind, call: Call, chosen: Chosen) -> None:
        assert kind.replace is not None
        self.call = call
        self.kind = kind
        self._replace = kind.replace
        self._chosen = chosen

    def replace_one(self, occurrence: bytes) -> bytes:
        """What takes the place of a field 1 that is the only one; remembered."""
        key = (self._replace, occurrence, self._chosen)
        replaced = _memo.get(key)
        if replaced is None:
            replaced = self._replace(((FIELD_1, occurrence),), self._chosen)
            if len(_memo) >= MEMO_ENTRIES:
                _memo.clear()
            _memo[key] = replaced
        return self._checked(replaced)

    def replace(self, occurrences: list[tuple[int, bytes]]) -> bytes:
        """What takes the place of all fields that name models in a message."""
        return self._checked(self._replace(occurrences, self._chosen))

    def _checked(self, replaced: Replaced) -> bytes:
        refs, field = replaced
        for ref in refs:
            if ref not in self.call.models:
                raise Refusal(
                    Reason.MODEL_CHANGED, "The body names another model than the one decided on: name it once."
                )
            if ref.name != refs[0].name:
                raise Refusal(Reason.MODEL_CHANGED, "The tasks name different models: name one in all of them.")
        return field


class Finder:
    """Finds the positions of some fields at the top level of a message that grows. The message has been validated."""

    __slots__ = ("_at", "_groups", "_places", "_tags")

    def __init__(self, tags: tuple[int, ...]) -> None:
        self._tags = tags
        self._at = 0  # where the next field begins; beyond the data while a value is not complete
        self._groups = 0
        self._places: list[tuple[int, int]] = []  # with tag and length

    @property
    def is_past(self) -> bool:
        """One of the fields has been found whole, and another field after it has begun."""
        return bool(self._places) and self._places[-1][1] < self._at

    @property
    def bytes_found(self) -> int:
        return sum(end - begin for begin, end in self._places)

    def find(self, data: bytes | bytearray) -> None:
        """Continue to the end of `data`, which is all of the message so far."""
        stop = len(data)
        while self._at < stop:
            tag, _, end = read_field(data, self._at, stop)
            if not tag:
                break
            if tag in self._tags and not self._groups:
                self._places.append((self._at, end))
            elif tag & 7 == GROUP:
                self._groups += 1
            elif tag & 7 == END_GROUP:
                self._groups -= 1
            self._at = end

    def rest(self, data: bytes | bytearray) -> bytes:
        """`data` without what was found."""
        at = 0
        kept: list[bytes | bytearray] = []
        for begin, end in self._places:
            kept.append(data[at:begin])
            at = end
        kept.append(data[at:])
        return b"".join(kept)


class _Stream:
    """The messages of one body on the slow path."""

    __slots__ = ("_choice", "_deframer", "_encoding", "_has_passed", "_inflater", "_limit", "_limits", "_message")

    def __init__(
        self, choice: _Choice, limit: int, encoding: bytes | None, limits: ScanLimits, has_passed: bool
    ) -> None:
        """
        Args:
            has_passed: a message has been forwarded already.
        """
        self._choice = choice
        self._limit = limit
        self._encoding = encoding
        self._limits = limits
        self._deframer = Deframer()
        self._inflater: Inflater | None = None
        self._message: _Message | _Compressed | None = None
        self._has_passed = has_passed

    def feed(self, data: bytes, end: bool) -> bytes:
        out: list[bytes] = []
        for part in self._deframer.parts(data):
            if isinstance(part, Misframed):
                raise malformed(part.reason)
            message = self._message
            if message is None:
                message = self._message = self._begin(part)
            out.append(message.feed(part.data, part.end))
            if part.end:
                self._message = None
        if self._message is not None and self._message.held_bytes > self._limit:
            raise Refusal(
                Reason.SCAN_LIMIT,
                f"The message does not name its model within {self._limit} bytes: write model_spec first.",
                limit="scan_buffer_bytes",
            )
        if end:
            if not self._deframer.is_idle:
                raise malformed("the body ends within a message")
            if not self._has_passed:
                raise malformed("the body has no message")
        return b"".join(out) if len(out) != 1 else out[0]

    def _begin(self, part: MessagePart) -> _Message | _Compressed:
        self._has_passed = True
        if part.size > MESSAGE_BYTES:
            raise Refusal(
                Reason.BODY_TOO_LARGE, f"A message is longer than {MESSAGE_BYTES} bytes.", limit="message_bytes"
            )
        if not part.compressed:
            return _Message(self._choice, part.size, self._limits)
        if self._inflater is None:
            self._inflater = self._limits.inflater(self._encoding)
        return _Compressed(self._choice, self._inflater, self._limit, self._limits)


class _Message:
    """One message while it passes."""

    __slots__ = ("_choice", "_finder", "_has_begun", "_held", "_occurrences", "_scanner", "_size")

    def __init__(self, choice: _Choice, size: int, limits: ScanLimits) -> None:
        self._choice = choice
        self._size = size
        kind = choice.kind
        self._scanner = FieldScanner(kind.tags, size, getattr(limits, kind.limit), kind.limit, most=limits.models)
        self._finder = Finder(kind.tags)
        self._occurrences: list[tuple[int, bytes]] = []
        self._held = bytearray()
        self._has_begun = False

    @property
    def held_bytes(self) -> int:
        return len(self._held)

    def feed(self, data: bytes, end: bool) -> bytes:
        occurrences = self._scanner.feed(data)  # which validates, so that the finder need not
        if end:
            self._scanner.finish()
        if self._has_begun:
            if occurrences:
                raise Refusal(
                    Reason.MODEL_CHANGED,
                    "The message names its model again after other fields: name the model once, and first.",
                )
            return data
        self._occurrences += occurrences
        self._held += data
        self._finder.find(self._held)
        return self._begin() if end or self._finder.is_past else b""

    def _begin(self) -> bytes:
        """All that is held, rewritten, with its prefix."""
        if not self._occurrences:
            raise Refusal(Reason.MALFORMED_MESSAGE, "Missing ModelSpec")
        field = self._choice.replace(self._occurrences)
        size = self._size - self._finder.bytes_found + len(field)
        rest = self._finder.rest(self._held)
        self._has_begun = True
        self._occurrences.clear()
        self._held = bytearray()
        return b"\0%b%b%b" % (size.to_bytes(4, "big"), field, rest)


class _Compressed:
    """One compressed message: held whole, and inflated."""

    __slots__ = ("_choice", "_held", "_inflater", "_limit", "_limits")

    def __init__(self, choice: _Choice, inflater: Inflater, limit: int, limits: ScanLimits) -> None:
        self._choice = choice
        self._inflater = inflater
        self._limit = limit
        self._limits = limits
        self._held = bytearray()

    @property
    def held_bytes(self) -> int:
        return len(self._held)

    def feed(self, data: bytes, end: bool) -> bytes:
        for piece in self._inflater.feed(data):
            self._held += piece
            if len(self._held) > self._limit:
                raise Refusal(
                    Reason.SCAN_LIMIT,
                    f"A compressed message to this model may inflate to {self._limit} bytes: send it uncompressed.",
                    limit="scan_buffer_bytes",
                )
        if not end:
            return b""
        self._inflater.finish()
        return _Message(self._choice, len(self._held), self._limits).feed(bytes(self._held), True)
