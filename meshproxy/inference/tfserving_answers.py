"""Reads TensorFlow Serving's answers into outputs, for comparing them (`answers`).

What names the version (`model_spec`) is no part of an answer.

Sources: tensorflow/core/framework/{tensor,tensor_shape,types}.proto, tensorflow_serving/apis/{predict,classification,
regression,inference}.proto, TensorFlow Serving's RESTful API (g3doc/api_rest.md).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from functools import partial
from json import loads
from struct import Struct, iter_unpack

from meshproxy.codec.grpc import PREFIX_BYTES
from meshproxy.inference.answer_signals import signals_of
from meshproxy.inference.answers import Numbers, Output, compare_outputs
from meshproxy.inference.call import Verb
from meshproxy.inference.fields import Unreadable, Work, fields, read_varint
from meshproxy.inference.protobuf import as_int64
from meshproxy.inference.surface import Comparison, Signals, Tolerance

MOST_FIELDS = 16_384
"""Protobuf fields that are looked at in one answer: 12 ms. Numbers that are packed are one field."""
VARINTS_FOR_A_FIELD = 8
"""Bytes of packed integers that cost as much as a field."""
MOST_VALUES = 65_536
"""Of a JSON answer: values, lists and objects. 20 ms."""

_FLOAT = Struct("<f")


def compare(first: bytes, second: bytes, is_grpc: bool, verb: Verb, tolerance: Tolerance) -> Comparison | None:
    """Compares two response bodies of an inference verb; None: they hold so much that it would take too long.

    Nothing is raised, whatever the answers are. 17 us for a few numbers. 64 KiB of floats that differ take 3 ms, 5 with
    a relative tolerance, equal ones 0.3; 64 KiB of JSON 3 ms, of packed integers or of classes with labels 8.
    """
    return compare_outputs(first, second, partial(_read_grpc if is_grpc else _read_json, verb), tolerance)


def read_signals(is_grpc: bool, verb: Verb, body: bytes) -> Signals | None:
    """What a response body of an inference verb says about its version (`answer_signals`). Nothing is raised.

    20 us for a few numbers, 2.5 ms for 31 KB of JSON.
    """
    return signals_of(body, partial(_read_grpc if is_grpc else _read_json, verb))


# ------------------------------------------------------------------------------------------------------------- gRPC


def _message(body: bytes) -> None:
    """Checks that a response body is one whole, uncompressed message."""
    if len(body) < PREFIX_BYTES or int.from_bytes(body[1:5], "big") != len(body) - PREFIX_BYTES:
        raise Unreadable("it is not one complete message")
    if body[0]:
        raise Unreadable("it is compressed")


def _read_grpc(verb: Verb, body: bytes) -> dict[str, Output]:
    _message(body)
    outputs: dict[str, Output] = {}
    work = Work(MOST_FIELDS)
    if verb is Verb.PREDICT:
        for tag, begin, end in fields(body, PREFIX_BYTES, len(body), work):
            if tag == 0x0A:  # outputs: map<string, TensorProto>
                name, value = "", []
                for inner, at, stop in fields(body, begin, end, work):
                    if inner == 0x0A:
                        name = body[at:stop].decode("utf-8", "replace")
                    elif inner == 0x12:
                        value.append((at, stop))
                outputs[name] = _read_tensor(body, value, work)
    elif verb is Verb.MULTI_INFERENCE:
        for tag, begin, end in fields(body, PREFIX_BYTES, len(body), work):
            if tag == 0x0A:  # results, each of one kind
                for inner, at, stop in fields(body, begin, end, work):
                    if inner == 0x12:
                        outputs[f"{len(outputs)}"] = _read_classifications(body, at, stop, work)
                    elif inner == 0x1A:
                        outputs[f"{len(outputs)}"] = _read_regressions(body, at, stop, work)
    else:
        read = _read_classifications if verb is Verb.CLASSIFY else _read_regressions
        for tag, begin, end in fields(body, PREFIX_BYTES, len(body), work):
            if tag == 0x0A:
                outputs["result"] = read(body, begin, end, work)
    if not outputs:
        raise Unreadable("it has no outputs")
    return outputs


_CONTENT = {1: "f", 2: "d", 3: "i", 4: "B", 5: "h", 6: "b", 8: "f", 9: "q", 10: "B", 17: "H", 18: "d", 22: "I", 23: "Q"}
"""DataType -> what an `array` calls it: float, double, int32, uint8, int16, int8, complex64, int64, bool, uint16,
complex128, uint32, uint64. Complex numbers are two each."""
_STRING, _BFLOAT16, _HALF = 7, 14, 19
_COMPLEX = (8, 18)
_FIXED = {5: "f", 6: "d", 9: "f", 12: "d"}
_UINT64_VAL = 17
_VARINTS = (7, 10, 11, 13, 16, _UINT64_VAL)
"""Fields of TensorProto: float_val, double_val, scomplex_val, dcomplex_val; int_val, int64_val, bool_val, half_val,
uint32_val, uint64_val. Each may be packed or not."""


def _read_tensor(data: bytes, places: list[tuple[int, int]], work: Work) -> Output:
    """A TensorProto, merged from all of its occurrences."""
    dtype = 0
    shape: list[int] = []
    content: bytes | None = None
    floats: array[float] | None = None
    integers: list[int] = []
    texts: list[bytes] = []
    for place in places:
        for tag, begin, end in fields(data, *place, work):
            number, wire = tag >> 3, tag & 7
            if tag == 0x08:
                dtype = read_varint(data, begin, end)[0]
            elif tag == 0x12:
                shape += _read_shape(data, begin, end, work)
            elif tag == 0x22:
                content = data[begin:end]
            elif tag == 0x42:
                texts.append(data[begin:end])
            elif number in _FIXED and wire in (1, 2, 5):
                floats = array(_FIXED[number]) if floats is None else floats
                floats.extend(_array(floats.typecode, data[begin:end]))
            elif number in _VARINTS and wire in (0, 2):
                work.spend((end - begin) // VARINTS_FOR_A_FIELD)
                integers += _read_packed(data[begin:end], number != _UINT64_VAL)
    count = 1
    for size in shape:
        count *= max(0, size)
        if count > len(data):
            raise Unreadable("a tensor has not as many values as its shape")
    if dtype == _STRING:
        if len(texts) != count:
            raise Unreadable("a tensor has not as many values as its shape")
        return Output(f"dtype {dtype}", shape, (), (), texts)
    numbers = _numbers(dtype, content, floats, integers)
    row = shape[-1] if len(shape) > 1 else 0
    if dtype in _COMPLEX:
        count, row = 2 * count, 0
    if 0 < len(numbers) < count and not content:
        # The last value fills what is missing (tensorflow/core/framework/tensor.cc, FromProtoField).
        numbers = [*numbers, *[numbers[-1]] * (count - len(numbers))]
    if len(numbers) != count:
        raise Unreadable("a tensor has not as many values as its shape")
    rows = [(begin, begin + row) for begin in range(0, count, row)] if row > 1 else []
    return Output(f"dtype {dtype}", shape, numbers, rows)


def _numbers(dtype: int, content: bytes | None, floats: array[float] | None, integers: list[int]) -> Numbers:
    if dtype in (_HALF, _BFLOAT16):
        if not content:
            content = b"".join((value & 0xFFFF).to_bytes(2, "little") for value in integers)
        if len(content) % 2:
            raise Unreadable("a tensor is cut within a value")
        if dtype == _HALF:
            return array("f", (value for (value,) in iter_unpack("<e", content)))
        widened = bytearray(2 * len(content))  # a bfloat16 is the upper half of a float
        widened[2::4] = content[::2]
        widened[3::4] = content[1::2]
        return _array("f", bytes(widened))
    code = _CONTENT.get(dtype)
    if code is None:
        raise Unreadable(f"a tensor has type {dtype}")
    if content:
        return _array(code, content)
    return floats if floats is not None else integers


def _array(code: str, content: bytes) -> array[float]:
    """Little-endian numbers."""
    numbers: array[float] = array(code)
    if len(content) % numbers.itemsize:
        raise Unreadable("a tensor is cut within a value")
    numbers.frombytes(content)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _read_shape(data: bytes, begin: int, end: int, work: Work) -> Iterable[int]:
    for tag, at, stop in fields(data, begin, end, work):
        if tag == 0x12:
            size = 0
            for inner, value, after in fields(data, at, stop, work):
                if inner == 0x08:
                    size = as_int64(read_varint(data, value, after)[0])
            yield size


def _read_packed(data: bytes, is_signed: bool) -> list[int]:
    """Varints, one after the other."""
    if data.isascii():
        return list(data)
    numbers = []
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            numbers.append(as_int64(number) if is_signed else number)
            number = shift = 0
        else:
            shift += 7
            if shift == 70:
                raise Unreadable("a varint is too long")
    if shift:
        raise Unreadable("a tensor is cut within a value")
    return numbers


def _read_classifications(data: bytes, begin: int, end: int, work: Work) -> Output:
    """`ClassificationResult {classifications=1 {classes=1 {label=1, score=2}}}`, both repeated."""
    rows: list[list[tuple[bytes, float]]] = []
    for tag, at, stop in fields(data, begin, end, work):
        if tag == 0x0A:
            row: list[tuple[bytes, float]] = []
            for inner, class_at, class_stop in fields(data, at, stop, work):
                if inner == 0x0A:
                    row.append(_read_class(data, class_at, class_stop, work))
            rows.append(row)
    return _classified(rows)


def _read_class(data: bytes, begin: int, end: int, work: Work) -> tuple[bytes, float]:
    label, score = b"", 0.0
    if 6 < end - begin < 0x80 and data[begin] == 0x0A and data[begin + 1] == end - begin - 7 and data[end - 5] == 0x15:
        # As nearly all of them are written.
        score = _FLOAT.unpack_from(data, end - 4)[0]
        return data[begin + 2 : end - 5], score
    for tag, at, stop in fields(data, begin, end, work):
        if tag == 0x0A:
            label = data[at:stop]
        elif tag == 0x15:
            score = _FLOAT.unpack_from(data, at)[0]
    return label, score


def _classified(rows: list[list[tuple[bytes, float]]]) -> Output:
    """Labels with their scores. A model may list them by score: labels that occur once are put in an order."""
    numbers: list[float] = []
    places: list[tuple[int, int]] = []
    labels: list[list[bytes]] = []
    for row in rows:
        if len({label for label, _ in row}) == len(row):
            row = sorted(row, key=lambda pair: pair[0])
        labels.append([label for label, _ in row])
        if row:
            places.append((len(numbers), len(numbers) + len(row)))
        numbers += [score for _, score in row]
    return Output("classes", [len(row) for row in rows], numbers, places, labels)


def _read_regressions(data: bytes, begin: int, end: int, work: Work) -> Output:
    """`RegressionResult {regressions=1 {value=1}}`, repeated."""
    numbers: list[float] = []
    for tag, at, stop in fields(data, begin, end, work):
        if tag == 0x0A:
            number = 0.0
            for inner, value, _ in fields(data, at, stop, work):
                if inner == 0x0D:
                    number = _FLOAT.unpack_from(data, value)[0]
            numbers.append(number)
    return Output("values", [len(numbers)], numbers, ())


# ------------------------------------------------------------------------------------------------------------- JSON

_KEYS = {Verb.PREDICT: ("predictions", "outputs"), Verb.CLASSIFY: ("results", "result")}
_KEYS[Verb.REGRESS] = _KEYS[Verb.CLASSIFY]


def _read_json(verb: Verb, body: bytes) -> dict[str, Output]:
    Work(MOST_VALUES).spend(body.count(b",") + body.count(b"[") + body.count(b"{"))
    try:
        # TensorFlow Serving writes 1.0 for a float, but its clients need not know the type: all numbers are floats.
        document = loads(body, parse_int=float)
    except ValueError:
        raise Unreadable("it is not JSON") from None
    outputs: dict[str, Output] = {}
    for key in _KEYS.get(verb, ()):
        if isinstance(document, dict) and key in document:
            tree = document[key]
            rows = _labelled(tree) if verb is Verb.CLASSIFY else None
            outputs[key] = _classified(rows) if rows is not None else _Tree(tree).output()
    if not outputs:
        raise Unreadable("it has no outputs")
    return outputs


def _labelled(tree: object) -> list[list[tuple[bytes, float]]] | None:
    """`[[[label, score], ...], ...]`, or None if it is something else."""
    if not isinstance(tree, list):
        return None
    rows: list[list[tuple[bytes, float]]] = []
    for listed in tree:
        if not isinstance(listed, list):
            return None
        row: list[tuple[bytes, float]] = []
        for pair in listed:
            if not isinstance(pair, list) or len(pair) != 2:
                return None
            label, score = pair
            if not isinstance(label, str) or not isinstance(score, float):
                return None
            row.append((label.encode("utf-8", "surrogatepass"), score))
        rows.append(row)
    return rows


class _Tree:
    """Lists and objects within each other -> their numbers, and the shape in which they stand."""

    __slots__ = ("_numbers", "_rows", "_shape", "_texts")

    def __init__(self, tree: object) -> None:
        self._numbers: list[float] = []
        self._shape: list[object] = []
        self._rows: list[tuple[int, int]] = []
        self._texts: list[object] = []
        self._add(tree, 0)

    def output(self) -> Output:
        return Output("JSON", self._shape, self._numbers, self._rows, self._texts)

    def _add(self, tree: object, depth: int) -> None:
        """`depth`: in how many lists and objects it is nested."""
        if isinstance(tree, float):
            self._shape.append(-1)
            self._numbers.append(tree)
        elif isinstance(tree, list):
            self._shape.append(len(tree))
            if set(map(type, tree)) == {float}:
                if depth and len(tree) > 1:
                    self._rows.append((len(self._numbers), len(self._numbers) + len(tree)))
                self._shape.append(-2)
                self._numbers += tree
            else:
                for each in tree:
                    self._add(each, depth + 1)
        elif isinstance(tree, dict):
            keys = sorted(tree)
            self._shape.append(keys)
            for key in keys:
                self._add(tree[key], depth + 1)
        else:  # a text, a truth value, null
            self._shape.append(type(tree).__name__)
            self._texts.append(tree)
