"""Writes the version that was chosen here into a request: into its target (REST) or into its body (gRPC).

The version a call gets is the proxy's choice where a route splits a model over its versions or gives it labels. What
the caller asked for was authorised before; of that, only the version changes.

A gRPC body is rewritten while it passes. Its frame begins with the length of the message, which is known when field 1,
the model_spec, has been seen whole: until then the message is held, under a limit; everything after it goes on as it
comes. So a model_spec that comes again later cannot be merged any more, and is refused. What is not field 1 is neither
decoded nor encoded again: its bytes are those that came.

- Field 1 is written first in its message, built from what it said: name, chosen version or label, signature. Unknown
  fields within it are dropped: who writes it must know what it says.
- Occurrences that were seen before anything went on are merged as protobuf merges them, and written once. The first
  run of them is always seen as a whole, whatever pieces it came in.
- `MultiInferenceRequest` has tasks in place of it: in each the model_spec is replaced. The tasks must stand together
  before what follows them, as every serialiser writes them.
- A compressed message is held whole, since the length of what it inflates to is known at its end; it goes on
  uncompressed.

Sources: tensorflow_serving/apis/{model,inference}.proto; servables/tensorflow/multi_inference.cc: one request, one
model.
"""

from __future__ import annotations

from functools import lru_cache

from meshproxy.codec.grpc import PREFIX_BYTES, Deframer, MessagePart, Misframed
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.inference.fields import read_field
from meshproxy.inference.inflate import Inflater
from meshproxy.inference.protobuf import END_GROUP, GROUP, FieldScanner, FieldWalker, holds_only_others, malformed
from meshproxy.inference.tfserving_grpc import DEFAULT_LIMITS, MESSAGE_BYTES, ModelSpec, ScanLimits
from meshproxy.inference.tfserving_rest import build_target
from meshproxy.refusal import Reason, Refusal

MEMO_ENTRIES = 1024
"""Bytes that name models, with what was chosen -> what takes their place. About 0.6 KB each."""

_FIELD_1 = 0x0A
_UINT64 = (1 << 64) - 1


def rewrite_target(call: Call, version: int | None, label: str | None) -> bytes:
    """The REST target that asks the same of another version of the model; of the server's latest, if both are None.

    0.2 µs. `call` is what `tfserving_rest.read` returned: to one model, and of a verb that has a target.
    """
    return _target(call.verb, call.models[0].name, version, label)


@lru_cache(maxsize=MEMO_ENTRIES)
def _target(verb: Verb, name: str, version: int | None, label: str | None) -> bytes:
    return build_target(verb, ModelRef(name, version, label))


class VersionRewriter:
    """Rewrites one gRPC request body of a method that names one model: all but `HandleReloadConfigRequest`.

    What a body is read as is checked against `call` once more, so that nothing goes on which was not authorised, even
    if the scan of the body (`tfserving_grpc.BodyScan`) and this were given different bytes.

    Attributes:
        call: what was authorised. Whoever decides again, since a later message names another, sets it anew.
    """

    __slots__ = ("_chosen", "_encoding", "_limit", "_limits", "_past", "_slow", "call")

    def __init__(
        self,
        call: Call,
        version: int | None,
        label: str | None,
        limit: int,
        encoding: bytes | None = None,
        limits: ScanLimits = DEFAULT_LIMITS,
    ) -> None:
        """
        Args:
            version: the one to call, or None and `label`; both None: the server's latest.
            limit: bytes that may be held.
            encoding: the value of `grpc-encoding`, if there is one.
            limits: those that the scan of the body has.
        """
        self.call = call
        self._chosen = (call.verb is Verb.MULTI_INFERENCE, version, label)
        self._limit = limit
        self._encoding = encoding
        self._limits = limits
        self._past = False  # a message has gone the fast way
        self._slow: _Stream | None = None

    def feed(self, data: bytes, end: bool) -> bytes:
        """Bytes of the body, cut anywhere -> the bytes to send on, empty while they are held.

        Raises:
            Refusal: MODEL_CHANGED: a model is named after the first went on, or another than was authorised.
                SCAN_LIMIT: too much would have to be held. MALFORMED_MESSAGE, BODY_TOO_LARGE, UNSUPPORTED_ENCODING: as
                `BodyScan.feed`. Nothing more may be fed then.
        """
        if self._slow is None:
            # Nearly every request, and why: see BodyScan.feed. 1.2 µs instead of 14.
            if not self._past and len(data) > 7 and data[5] == _FIELD_1 and not data[0]:
                stop = 7 + data[6]
                whole = stop <= len(data) == PREFIX_BYTES + int.from_bytes(data[1:5], "big")
                if whole and data[6] < 0x80 and holds_only_others(data, stop):
                    key = (data[7:stop], self._chosen)
                    refs, field = _memo.get(key) or self._learn(key)
                    _check(refs, self.call)
                    self._past = True
                    return b"\0%b%b%b" % ((len(data) - stop + len(field)).to_bytes(4, "big"), field, data[stop:])
            elif not data and (self._past or not end):
                return b""
            self._slow = _Stream(self, self._past)
        return self._slow.feed(data, end)

    def _learn(self, key: tuple[bytes, _Chosen]) -> _Replaced:
        replaced = _replace([key[0]], *key[1])
        if len(_memo) >= MEMO_ENTRIES:
            _memo.clear()
        _memo[key] = replaced
        return replaced


_Chosen = tuple[bool, int | None, str | None]
"""Whether field 1 is a task, the version, the label."""
_Replaced = tuple[tuple[ModelRef, ...], bytes]
"""The models that field 1 names, as they were asked for, and the bytes that take its place, tag and all."""

_memo: dict[tuple[bytes, _Chosen], _Replaced] = {}


def _check(refs: tuple[ModelRef, ...], call: Call) -> None:
    for ref in refs:
        if ref not in call.models:
            raise Refusal(Reason.MODEL_CHANGED, "The body names another model than the one decided on: name it once.")
        if ref.name != refs[0].name:
            raise Refusal(Reason.MODEL_CHANGED, "The tasks name different models: name one in all of them.")


def _replace(occurrences: list[bytes], is_multi: bool, version: int | None, label: str | None) -> _Replaced:
    """All occurrences of field 1 in a message -> what takes their place.

    Raises:
        Refusal: MALFORMED_MESSAGE, or SCAN_LIMIT (fields).
    """
    walker = FieldWalker()
    if not is_multi:
        spec = ModelSpec()
        for occurrence in occurrences:
            spec.merge(occurrence, 1, walker)
        return (_ref(spec),), _write(spec, version, label)
    refs: list[ModelRef] = []
    written: list[bytes] = []
    for task in occurrences:
        spec = ModelSpec()
        for _, value in walker.read(task, (_FIELD_1,), 1):
            assert isinstance(value, bytes)
            spec.merge(value, 2, walker)
        refs.append(_ref(spec))
        finder = _Finder()
        finder.find(task)
        written.append(_delimit(_FIELD_1, _write(spec, version, label) + finder.rest(task)))
    return tuple(refs), b"".join(written)


def _ref(spec: ModelSpec) -> ModelRef:
    if not spec.name:
        raise Refusal(Reason.MALFORMED_MESSAGE, "Missing ModelSpec")
    return spec.ref()


def _write(spec: ModelSpec, version: int | None, label: str | None) -> bytes:
    """A field 1 with the model_spec. A version is written even where it is 0: there is one, then."""
    inner = _delimit(0x0A, spec.name.encode())
    if version is not None:
        inner += _delimit(0x12, b"\x08" + _varint(version & _UINT64))
    if spec.signature:
        inner += _delimit(0x1A, spec.signature.encode())
    if version is None and label is not None:
        inner += _delimit(0x22, label.encode())
    return _delimit(_FIELD_1, inner)


def _delimit(tag: int, value: bytes) -> bytes:
    return b"%c%b%b" % (tag, _varint(len(value)), value)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class _Finder:
    """Finds where field 1 stands at the top level of a message that grows. What it reads has been validated."""

    __slots__ = ("_at", "_groups", "_places")

    def __init__(self) -> None:
        self._at = 0  # where the next field begins; beyond the data while a value is not complete
        self._groups = 0
        self._places: list[tuple[int, int]] = []  # with tag and length

    @property
    def is_past(self) -> bool:
        """A field 1 has been found whole, and another field after it has begun."""
        return bool(self._places) and self._places[-1][1] < self._at

    @property
    def bytes_found(self) -> int:
        return sum(end - begin for begin, end in self._places)

    def find(self, data: bytes | bytearray) -> None:
        """Goes on to the end of `data`, which is all of the message so far."""
        stop = len(data)
        while self._at < stop:
            tag, _, end = read_field(data, self._at, stop)
            if not tag:
                break
            if tag == _FIELD_1 and not self._groups:
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
    """The messages of one body, whatever their shape."""

    __slots__ = ("_deframer", "_inflater", "_message", "_past", "_rewriter")

    def __init__(self, rewriter: VersionRewriter, past: bool) -> None:
        """`past`: whether a message has gone already."""
        self._rewriter = rewriter
        self._deframer = Deframer()
        self._inflater: Inflater | None = None
        self._message: _Message | _Compressed | None = None
        self._past = past

    def feed(self, data: bytes, end: bool) -> bytes:
        out: list[bytes] = []
        for part in self._deframer.receive(data):
            if isinstance(part, Misframed):
                raise malformed(part.reason)
            message = self._message
            if message is None:
                message = self._message = self._begin(part)
            out.append(message.feed(part.data, part.end))
            if part.end:
                self._message = None
        if self._message is not None and self._message.held_bytes > self._rewriter._limit:
            raise Refusal(
                Reason.SCAN_LIMIT,
                f"The message does not name its model within {self._rewriter._limit} bytes: write model_spec first.",
                limit="held_body_bytes",
            )
        if end:
            if not self._deframer.is_idle:
                raise malformed("the body ends within a message")
            if not self._past:
                raise malformed("the body has no message")
        return b"".join(out) if len(out) != 1 else out[0]

    def _begin(self, part: MessagePart) -> _Message | _Compressed:
        self._past = True
        if part.size > MESSAGE_BYTES:
            raise Refusal(
                Reason.BODY_TOO_LARGE, f"A message is longer than {MESSAGE_BYTES} bytes.", limit="message_bytes"
            )
        if not part.compressed:
            return _Message(self._rewriter, part.size)
        if self._inflater is None:
            limits = self._rewriter._limits
            self._inflater = Inflater(
                self._rewriter._encoding, limits.inflated_bytes, limits.inflated_free, limits.inflated_ratio
            )
        return _Compressed(self._rewriter, self._inflater)


class _Message:
    """One message on its way through."""

    __slots__ = ("_finder", "_has_gone", "_held", "_occurrences", "_rewriter", "_scanner", "_size")

    def __init__(self, rewriter: VersionRewriter, size: int) -> None:
        self._rewriter = rewriter
        self._size = size
        self._scanner = FieldScanner(_FIELD_1, size, rewriter._limits.spec_bytes, "spec_bytes")
        self._finder = _Finder()
        self._occurrences: list[bytes] = []
        self._held = bytearray()
        self._has_gone = False

    @property
    def held_bytes(self) -> int:
        return len(self._held)

    def feed(self, data: bytes, end: bool) -> bytes:
        occurrences = self._scanner.feed(data)  # which validates, so that the finder need not
        if end:
            self._scanner.finish()
        if self._has_gone:
            if occurrences:
                raise Refusal(
                    Reason.MODEL_CHANGED,
                    "The message names its model again after other fields: name the model once, and first.",
                )
            return data
        self._occurrences += occurrences
        self._held += data
        self._finder.find(self._held)
        return self._go() if end or self._finder.is_past else b""

    def _go(self) -> bytes:
        """All that is held, rewritten, with its prefix."""
        if not self._occurrences:
            raise Refusal(Reason.MALFORMED_MESSAGE, "Missing ModelSpec")
        refs, field = _replace(self._occurrences, *self._rewriter._chosen)
        _check(refs, self._rewriter.call)
        size = self._size - self._finder.bytes_found + len(field)
        rest = self._finder.rest(self._held)
        self._has_gone = True
        self._occurrences.clear()
        self._held = bytearray()
        return b"\0%b%b%b" % (size.to_bytes(4, "big"), field, rest)


class _Compressed:
    """One compressed message: held whole, and inflated."""

    __slots__ = ("_held", "_inflater", "_rewriter")

    def __init__(self, rewriter: VersionRewriter, inflater: Inflater) -> None:
        self._rewriter = rewriter
        self._inflater = inflater
        self._held = bytearray()

    @property
    def held_bytes(self) -> int:
        return len(self._held)

    def feed(self, data: bytes, end: bool) -> bytes:
        for piece in self._inflater.feed(data):
            self._held += piece
            if len(self._held) > self._rewriter._limit:
                raise Refusal(
                    Reason.SCAN_LIMIT,
                    f"A compressed message to this model may inflate to {self._rewriter._limit} bytes: "
                    "send it uncompressed.",
                    limit="held_body_bytes",
                )
        if not end:
            return b""
        self._inflater.finish()
        return _Message(self._rewriter, len(self._held)).feed(bytes(self._held), True)
