"""Which version answered a gRPC call: TensorFlow Serving names it in the `model_spec` of its response.

    response                              where the model_spec is
    Predict, Classify, Regress            field 2, behind the outputs: C++ writes fields in ascending order
    MultiInference                        field 1 of the first result, field 1
    GetModelMetadata                      field 1

It authorises nothing: what cannot be read, is compressed or is too long says no version, and passes all the same.

Sources: tensorflow_serving/apis/{predict,classification,regression,inference,get_model_metadata}.proto.
"""

from __future__ import annotations

from meshproxy.codec.grpc import PREFIX_BYTES
from meshproxy.inference.fields import TooMuch, Unreadable, Work, fields, read_field, read_varint
from meshproxy.inference.protobuf import FAST_FIELDS, FREE_FIELDS, FieldScanner, FieldWalker, as_int64
from meshproxy.refusal import Refusal

SPEC_BYTES = 1_024
"""Of a model_spec: it has some 50."""
SPEC_FIELDS = 64
MEMO_ENTRIES = 1_024
"""A model_spec -> its version: 1.1 us to read."""

UNREADABLE = (Refusal, Unreadable, TooMuch)

_FIELD_1, _FIELD_2, _VALUE = 0x0A, 0x12, 0x08

_memo: dict[bytes, str] = {}


class BehindOutputs:
    """Reads field 2 of one response while its body passes. Holds nothing but that field."""

    __slots__ = ("_is_over", "_scanner")

    def __init__(self) -> None:
        self._scanner: FieldScanner | None = None
        self._is_over = False

    def feed(self, data: bytes) -> str:
        """A piece of the body -> the version, once it has come; empty until then, and if there is none.

        0.9 us for a message that is whole, as nearly all are.
        """
        if self._is_over:
            return ""
        try:
            if self._scanner is not None:
                return self._find(self._scanner.feed(data))
            received, size = len(data), int.from_bytes(data[1:PREFIX_BYTES], "big")
            if received < PREFIX_BYTES or data[0]:
                self._is_over = True
                return ""
            if received == PREFIX_BYTES + size:
                self._is_over = True
                return whole_version(data)
            self._scanner = FieldScanner((_FIELD_2,), size, SPEC_BYTES, "spec_bytes", FieldWalker(FREE_FIELDS))
            return self._find(self._scanner.feed(data[PREFIX_BYTES:]))
        except UNREADABLE:
            self._is_over = True
            return ""

    def _find(self, found: list[tuple[int, bytes]]) -> str:
        if not found:
            return ""
        self._is_over = True
        return _version(found[-1][1])


class InFront:
    """Reads the first field of one response, or the first one in that. It comes with the first piece of the body."""

    __slots__ = ("_depth", "_is_over")

    def __init__(self, depth: int) -> None:
        """`depth`: fields 1 within each other, the innermost is the model_spec."""
        self._depth = depth
        self._is_over = False

    def feed(self, data: bytes) -> str:
        """As `BehindOutputs.feed`."""
        if self._is_over:
            return ""
        self._is_over = True
        if len(data) < PREFIX_BYTES or data[0]:
            return ""
        at, end, stop = PREFIX_BYTES, 0, len(data)
        try:
            for _ in range(self._depth):
                tag, at, end = read_field(data, at, stop)
                if tag != _FIELD_1:
                    return ""
                stop = min(end, stop)  # a result may be longer than the piece
            return _version(data[at:end]) if end == stop else ""
        except UNREADABLE:
            return ""


def whole_version(data: bytes) -> str:
    """What `BehindOutputs` finds in a whole body; 0.5 us for one like others before."""
    stop = len(data)
    if stop < PREFIX_BYTES or data[0] or PREFIX_BYTES + int.from_bytes(data[1:PREFIX_BYTES], "big") != stop:
        return BehindOutputs().feed(data)
    # Nearly every response: a few fields of at most 16 KiB, and a model_spec that was read before.
    spec = b""
    at = PREFIX_BYTES
    try:
        for _ in range(FAST_FIELDS):
            if at == stop:
                return _memo[spec]
            tag = data[at]
            begin = at + 2
            size = data[at + 1]
            if size >= 0x80:
                high = data[begin]
                if high >= 0x80:
                    break
                size += (high - 1) << 7
                begin += 1
            at = begin + size
            if tag == _FIELD_2:
                spec = data[begin:at]
            elif tag != _FIELD_1:
                break
    except LookupError:
        pass
    spec = b""
    try:
        for tag, begin, end in fields(data, PREFIX_BYTES, stop, Work(FREE_FIELDS)):
            if tag == _FIELD_2:
                spec = data[begin:end]
        return _version(spec)
    except UNREADABLE:
        return ""


def front_version(depth: int, data: bytes) -> str:
    """What `InFront` finds in a whole body."""
    return InFront(depth).feed(data)


def _version(spec: bytes) -> str:
    """The version that a `ModelSpec {Int64Value version=2 {value=1}}` names; empty if it names none."""
    if len(spec) > SPEC_BYTES:
        return ""
    version = ""
    work = Work(SPEC_FIELDS)
    for tag, begin, end in fields(spec, 0, len(spec), work):
        if tag == _FIELD_2:
            number = 0
            for inner, value, stop in fields(spec, begin, end, work):
                if inner == _VALUE:
                    number = as_int64(read_varint(spec, value, stop)[0])
            version = str(number)
    if len(_memo) >= MEMO_ENTRIES:
        _memo.clear()
    _memo[spec] = version
    return version
