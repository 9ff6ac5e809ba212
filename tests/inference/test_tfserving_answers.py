from __future__ import annotations

import json
import math
import struct
from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.grpc import frame
from meshproxy.devtools.messages import (
    ClassificationResponse,
    MultiInferenceResponse,
    PredictResponse,
    RegressionResponse,
)
from meshproxy.inference.answers import NUMBERS
from meshproxy.inference.call import Verb
from meshproxy.inference.surface import Comparison, Tolerance
from meshproxy.inference.tfserving_answers import MOST_FIELDS, MOST_VALUES
from meshproxy.inference.tfserving_answers import compare as compare_answers
from meshproxy.inference.unary import write_bytes as length
from meshproxy.inference.unary import write_varint
from tests.thorough import tries


def compare(first: bytes, second: bytes, is_grpc: bool, verb: Verb, tolerance: Tolerance) -> Comparison:
    """Of answers that are not too much."""
    found = compare_answers(first, second, is_grpc, verb, tolerance)
    assert found is not None
    return found


EXACT = Tolerance()
NAN, INF = math.nan, math.inf

# ------------------------------------------------------------------------------------------------------------ tensors

FLOAT, DOUBLE, INT32, UINT8, INT16, INT8, STRING, COMPLEX64, INT64, BOOL = range(1, 11)
BFLOAT16, UINT16, COMPLEX128, HALF, UINT32, UINT64 = 14, 17, 18, 19, 22, 23
CODES = {FLOAT: "f", DOUBLE: "d", INT32: "i", UINT8: "B", INT16: "h", INT8: "b", INT64: "q", BOOL: "B"}
FIELDS = {
    FLOAT: "float_val",
    DOUBLE: "double_val",
    INT32: "int_val",
    UINT8: "int_val",
    INT16: "int_val",
    INT8: "int_val",
    INT64: "int64_val",
    BOOL: "bool_val",
}


def varint(number: int) -> bytes:
    """Negative numbers as their two's complement."""
    return write_varint(number % (1 << 64))


def raw(dtype: int, shape: list[int], rest: bytes) -> bytes:
    """A PredictResponse with one output from its fields."""
    dims = b"".join(length(2, b"\x08" + varint(size)) for size in shape)
    return frame(length(1, length(1, b"y") + length(2, b"\x08" + varint(dtype) + length(2, dims) + rest)))


def predicted(
    values: list[Any], shape: list[int] | None = None, dtype: int = FLOAT, *, packed: bool = False, version: int = 1
) -> bytes:
    """A PredictResponse with one output, in `tensor_content` or in a field of its type."""
    response = PredictResponse()
    response.model_spec.name = "m"
    response.model_spec.version.value = version
    tensor = response.outputs["y"]
    tensor.dtype = dtype
    for size in [len(values)] if shape is None else shape:
        tensor.tensor_shape.dim.add(size=size)
    if packed:
        getattr(tensor, FIELDS[dtype]).extend(values)
    else:
        tensor.tensor_content = array(CODES[dtype], values).tobytes()
    return frame(response.SerializeToString())


def both(a: bytes, b: bytes, tolerance: Tolerance = EXACT, verb: Verb = Verb.PREDICT) -> Comparison:
    """Compares two gRPC answers, either way round."""
    found = compare(a, b, True, verb, tolerance)
    turned = compare(b, a, True, verb, tolerance)
    assert (found.agrees, found.top1_disagrees) == (turned.agrees, turned.top1_disagrees)
    assert found.max_difference == turned.max_difference
    assert found.agrees == (found.reason == "")
    return found


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", CODES)
def test_equal_tensors_agree_however_they_are_written(dtype: int, packed: bool) -> None:
    values = [0, 1, 1, 0] if dtype == BOOL else [0, 1, 2, 100]
    a, b = predicted(values, dtype=dtype, version=1), predicted(values, dtype=dtype, packed=packed, version=2)
    assert both(a, b) == Comparison(True)
    other = both(a, predicted([1, *values[1:]], dtype=dtype, packed=packed))
    assert (other.agrees, other.max_difference) == (False, 1.0)
    assert other.reason == "output 'y': numbers differ by up to 1"


@pytest.mark.parametrize("dtype", [INT32, INT64, INT8, INT16])
def test_negative_numbers_are_read(dtype: int) -> None:
    assert both(predicted([-1, -100, 5], dtype=dtype), predicted([-1, -100, 5], dtype=dtype, packed=True)).agrees


def test_large_integers_are_compared_exactly() -> None:
    a, b = predicted([2**62], dtype=INT64), predicted([2**62 + 1], dtype=INT64, packed=True)
    assert both(a, b).max_difference == 1.0
    assert not both(a, b).agrees
    assert both(a, b, Tolerance(absolute=1.0)).agrees
    assert both(a, b, Tolerance(relative=1e-9)).agrees


HALVES = struct.pack("<3e", 1.5, -2.0, 0.25)
HALF_BITS = b"".join(varint(bits) for (bits,) in struct.iter_unpack("<H", HALVES))


@pytest.mark.parametrize(
    ("dtype", "shape", "a", "b"),
    [
        (HALF, [3], length(4, HALVES), length(13, HALF_BITS)),
        (BFLOAT16, [2], length(4, b"\x80\x3f\x00\xc0"), length(13, varint(0x3F80) + varint(0xC000))),
        (UINT16, [2], length(4, b"\x01\x00\xff\xff"), length(7, varint(1) + varint(0xFFFF))),
        (UINT32, [1], length(4, b"\xff\xff\xff\xff"), length(16, varint(0xFFFFFFFF))),
        (UINT64, [1], length(4, b"\xff" * 8), length(17, varint((1 << 64) - 1))),
        (COMPLEX64, [2], length(4, bytes(16)), length(9, bytes(16))),
        (COMPLEX128, [1], length(4, bytes(16)), length(12, bytes(16))),
        (FLOAT, [2], length(4, bytes(8)), b"\x2d\0\0\0\0" * 2),  # not packed
        (DOUBLE, [2], length(4, bytes(16)), (b"\x31" + bytes(8)) * 2),
        (INT32, [3], length(7, b"\x01\x02\x03"), b"\x38\x01\x38\x02\x38\x03"),
        (INT32, [3], length(7, b"\x01\x02\x03"), length(7, b"\x01") + b"\x38\x02" + length(7, b"\x03")),
        (FLOAT, [4], length(4, array("f", [1, 2, 2, 2]).tobytes()), length(5, array("f", [1, 2]).tobytes())),
        (FLOAT, [], length(4, bytes(4)), length(5, bytes(4))),
        (FLOAT, [0], b"", length(4, b"")),
        (FLOAT, [3, 0], b"", length(4, b"")),
    ],
)
def test_all_ways_to_write_a_tensor_are_read(dtype: int, shape: list[int], a: bytes, b: bytes) -> None:
    assert both(raw(dtype, shape, a), raw(dtype, shape, b)).agrees
    if a:
        changed = bytearray(raw(dtype, shape, a))
        changed[-2] ^= 1
        assert not both(raw(dtype, shape, b), bytes(changed)).agrees


def test_bfloat16_is_the_upper_half_of_a_float() -> None:
    found = both(raw(BFLOAT16, [1], length(4, b"\x80\x3f")), raw(BFLOAT16, [1], length(4, b"\x00\xc0")))
    assert found.max_difference == 3.0  # 1.0 and -2.0


@pytest.mark.parametrize(
    ("a", "b", "tolerance", "agrees", "difference"),
    [
        ([1.0], [1.5], EXACT, False, 0.5),
        ([1.0], [1.5], Tolerance(absolute=0.5), True, 0.5),
        ([1.0], [1.5], Tolerance(absolute=0.25), False, 0.5),
        ([100.0], [101.0], Tolerance(relative=0.01), True, 1.0),
        ([100.0], [102.0], Tolerance(relative=0.01), False, 2.0),
        ([0.0], [1e-9], Tolerance(relative=0.5), False, pytest.approx(1e-9)),
        ([0.0], [1e-9], Tolerance(relative=0.5, absolute=1e-8), True, pytest.approx(1e-9)),
        ([1.0, 100.0], [1.5, 101.0], Tolerance(relative=0.02, absolute=0.5), True, 1.0),
        ([1.0, 100.0], [1.6, 101.0], Tolerance(relative=0.02, absolute=0.5), False, 1.0),
        ([NAN], [NAN], EXACT, True, 0.0),
        ([NAN, 1.0], [NAN, 1.5], EXACT, False, 0.5),
        ([NAN, 1.0], [NAN, 1.5], Tolerance(1.0, 1.0), True, 0.5),
        ([NAN], [1.0], Tolerance(1.0, 1e300), False, INF),
        ([1.0, NAN], [1.0, 1.0], Tolerance(1.0, 1e300), False, INF),
        ([INF], [INF], EXACT, True, 0.0),
        ([INF, 1.0], [INF, 1.0], Tolerance(1e-3, 0.0), True, 0.0),
        ([INF], [-INF], Tolerance(1.0, 1e300), False, INF),
        ([INF], [1.0], Tolerance(1.0, 1e300), False, INF),
        ([INF], [NAN], Tolerance(1.0, 1e300), False, INF),
        ([0.0], [-0.0], EXACT, True, 0.0),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_numbers_are_close_or_not(
    a: list[float], b: list[float], tolerance: Tolerance, agrees: bool, difference: float, packed: bool
) -> None:
    found = both(predicted(a), predicted(b, packed=packed), tolerance)
    assert (found.agrees, found.max_difference) == (agrees, pytest.approx(difference))
    first, second = (json.dumps({"predictions": each}).encode() for each in (a, b))
    found = compare(first, second, False, Verb.PREDICT, tolerance)
    assert (found.agrees, found.max_difference) == (agrees, difference)


@pytest.mark.parametrize(
    ("a", "b", "shape", "moved"),
    [
        ([0.1, 0.9, 0.8, 0.2], [0.2, 0.8, 0.7, 0.3], [2, 2], False),
        ([0.1, 0.9, 0.8, 0.2], [0.2, 0.8, 0.3, 0.7], [2, 2], True),
        ([0.1, 0.9, 0.8, 0.2], [0.2, 0.8, 0.3, 0.7], [1, 2, 2], True),
        ([0.1, 0.9, 0.8, 0.2], [0.2, 0.8, 0.3, 0.7], [4, 1], False),
        ([0.1, 0.9, 0.8, 0.2], [0.9, 0.1, 0.3, 0.7], [4], False),  # one axis is the batch
        ([NAN, 0.9, 0.8, 0.2], [NAN, 0.8, 0.8, 0.2], [2, 2], False),
        ([NAN, 0.9, 0.8, 0.2], [0.1, 0.9, 0.8, 0.2], [2, 2], True),
        ([0.1, NAN, 0.8, INF], [0.2, NAN, 0.7, INF], [2, 2], False),
        ([0.5, 0.5, 0.8, 0.2], [0.4, 0.6, 0.8, 0.2], [2, 2], True),
    ],
)
def test_top1_is_the_largest_of_a_row(a: list[float], b: list[float], shape: list[int], moved: bool) -> None:
    for tolerance in (EXACT, Tolerance(absolute=1.0)):
        assert both(predicted(a, shape), predicted(b, shape), tolerance).top1_disagrees is moved


@pytest.mark.parametrize("a", [predicted([1.0, 2.0, 3.0, 4.0], [2, 2])])
@pytest.mark.parametrize(
    ("b", "reason"),
    [
        (predicted([1.0, 2.0, 3.0, 4.0], [4]), "output 'y': different shapes"),
        (predicted([1.0, 2.0, 3.0, 4.0], [4, 1]), "output 'y': different shapes"),
        (predicted([1.0, 2.0], [1, 2]), "output 'y': different shapes"),
        (predicted([1.0, 2.0, 3.0, 4.0], [2, 2], DOUBLE), "output 'y': different types"),
        (predicted([1.0, 2.0, 3.0], [2, 2]), "not as many values"),
        (predicted([1.0] * 5, [2, 2]), "not as many values"),
        (predicted([], [1 << 60, 2]), "not as many values"),
        (raw(99, [2, 2], length(4, bytes(16))), "type 99"),
        (raw(FLOAT, [2, 2], length(4, bytes(17))), "cut within a value"),
        (raw(HALF, [2, 2], length(4, bytes(7))), "cut within a value"),
        (raw(INT32, [1], length(7, b"\x80")), "cut within a value"),
        (raw(INT32, [1], length(7, b"\x80" * 10)), "too long"),
        (raw(STRING, [2], length(8, b"a")), "not as many values"),
        (frame(predicted([1.0])[5:] + length(1, length(1, b"z"))), "type 0"),
        (frame(length(2, length(1, b"m"))), "no outputs"),
        (frame(b""), "no outputs"),
        (b"", "complete message"),
        (frame(b"abc")[:-1], "complete message"),
        (frame(b"") * 2, "complete message"),
        (frame(b"abc", compressed=True), "compressed"),
        (frame(b"\x0a\x05abc"), "cut short"),
        (frame(b"\x0f"), "wire type"),
    ],
)
def test_what_has_nothing_in_common_does_not_agree(a: bytes, b: bytes, reason: str) -> None:
    found = both(a, b, Tolerance(1.0, 1e300))
    assert not found.agrees
    assert reason in found.reason


def test_outputs_are_told_by_their_names() -> None:
    a, b = PredictResponse(), PredictResponse()
    for response, names in ((a, "xyz"), (b, "zyx")):
        for name in names:
            response.outputs[name].dtype = FLOAT
            response.outputs[name].float_val.append(ord(name))
    assert both(frame(a.SerializeToString()), frame(b.SerializeToString())).agrees
    del b.outputs["x"]
    assert "different names" in both(frame(a.SerializeToString()), frame(b.SerializeToString())).reason


def test_texts_are_equal_or_not() -> None:
    a = raw(STRING, [2], length(8, b"a") + length(8, b"b"))
    assert both(a, frame(a[5:] + length(2, length(1, b"m")))).agrees
    assert "texts differ" in both(a, raw(STRING, [2], length(8, b"a") + length(8, b"c"))).reason


# ----------------------------------------------------------------------------------------------- classify and regress


def classified(*rows: list[tuple[str, float]]) -> bytes:
    response = ClassificationResponse()
    response.model_spec.version.value = len(rows)
    for row in rows:
        classes = response.result.classifications.add()
        for label, score in row:
            classes.classes.add(label=label, score=score)
    return frame(response.SerializeToString())


def as_json(*rows: list[tuple[str, float]]) -> bytes:
    return json.dumps({"results": rows}).encode()


CLASSES = [("cat", 0.75), ("dog", 0.25)]


@pytest.mark.parametrize(
    ("a", "b", "agrees", "moved", "difference"),
    [
        (CLASSES, [("cat", 0.75), ("dog", 0.125)], False, False, 0.125),
        (CLASSES, [("dog", 0.25), ("cat", 0.75)], True, False, 0.0),
        (CLASSES, [("dog", 0.75), ("cat", 0.25)], False, True, 0.5),
        (CLASSES, [("cat", 0.75), ("cow", 0.25)], False, False, 0.0),
        (CLASSES, [("cat", 0.75)], False, False, 0.0),
        ([("", 0.75), ("", 0.25)], [("", 0.25), ("", 0.75)], False, True, 0.5),
        ([("x" * 200, 1.0)], [("x" * 200, 1.5)], False, False, 0.5),
        ([("cat", 0.0)], [("cat", 1.0)], False, False, 1.0),
        ([], [], True, False, 0.0),
    ],
)
def test_classes_are_told_by_their_labels(
    a: list[tuple[str, float]], b: list[tuple[str, float]], agrees: bool, moved: bool, difference: float
) -> None:
    expected = (agrees, moved, difference)
    found = both(classified(a, a), classified(a, b), verb=Verb.CLASSIFY)
    assert (found.agrees, found.top1_disagrees, found.max_difference) == expected
    found = compare(as_json(a, a), as_json(a, b), False, Verb.CLASSIFY, EXACT)
    assert (found.agrees, found.top1_disagrees, found.max_difference) == expected


def test_rows_of_classes_are_counted() -> None:
    assert "shape" in both(classified(CLASSES), classified(CLASSES, CLASSES), verb=Verb.CLASSIFY).reason


def regressed(*values: float) -> bytes:
    response = RegressionResponse()
    response.model_spec.name = f"{values}"
    for value in values:
        response.result.regressions.add(value=value)
    return frame(response.SerializeToString())


def test_regressions_are_numbers() -> None:
    found = both(regressed(1.0, 0.0, 3.0), regressed(1.0, 2.0, 3.0), verb=Verb.REGRESS)
    assert found == Comparison(False, False, 2.0, "output 'result': numbers differ by up to 2")
    assert both(regressed(1.0, 0.0), regressed(1.0, 2.0), Tolerance(absolute=2.0), Verb.REGRESS).agrees
    assert "shape" in both(regressed(1.0), regressed(1.0, 2.0), verb=Verb.REGRESS).reason


def multi(classes: list[tuple[str, float]], value: float, version: int = 1) -> bytes:
    response = MultiInferenceResponse()
    first, second = response.results.add(), response.results.add()
    for result in (first, second):
        result.model_spec.name = "m"
        result.model_spec.version.value = version
    row = first.classification_result.classifications.add()
    for label, score in classes:
        row.classes.add(label=label, score=score)
    second.regression_result.regressions.add(value=value)
    return frame(response.SerializeToString())


def test_every_result_of_a_multi_inference_is_compared() -> None:
    assert both(multi(CLASSES, 1.0), multi(CLASSES, 1.0, 2), verb=Verb.MULTI_INFERENCE).agrees
    assert both(multi(CLASSES, 1.0), multi(CLASSES, 3.0), verb=Verb.MULTI_INFERENCE).max_difference == 2.0
    moved = [("cat", 0.25), ("dog", 0.75)]
    assert both(multi(CLASSES, 1.0), multi(moved, 1.0), verb=Verb.MULTI_INFERENCE).top1_disagrees


# ------------------------------------------------------------------------------------------------------------- JSON


def documents(a: Any, b: Any, tolerance: Tolerance = EXACT, verb: Verb = Verb.PREDICT) -> Comparison:
    raws = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in (a, b)]
    return compare(raws[0], raws[1], False, verb, tolerance)


ROWS = [[0.1, 0.9], [0.8, 0.2]]


@pytest.mark.parametrize(
    ("a", "b", "agrees", "moved"),
    [
        ({"predictions": ROWS}, {"predictions": ROWS, "more": 1}, True, False),
        ({"predictions": [1, 2]}, {"predictions": [1.0, 2.0]}, True, False),
        ({"predictions": ROWS}, {"predictions": [[0.1, 0.9], [0.2, 0.8]]}, False, True),
        ({"predictions": [0.1, 0.9]}, {"predictions": [0.9, 0.1]}, False, False),
        ({"outputs": {"x": ROWS, "y": [1]}}, {"outputs": {"y": [1], "x": ROWS}}, True, False),
        ({"outputs": {"x": ROWS}}, {"outputs": {"x": ROWS[::-1]}}, False, True),
        ({"outputs": ROWS}, {"outputs": ROWS[:1]}, False, False),
        ({"outputs": ROWS}, {"predictions": ROWS}, False, False),
        ({"outputs": {"x": ROWS}}, {"outputs": {"y": ROWS}}, False, False),
        ({"predictions": [{"p": [0.1, 0.9], "c": "a"}]}, {"predictions": [{"c": "a", "p": [0.1, 0.9]}]}, True, False),
        ({"predictions": [{"p": [0.1, 0.9], "c": "a"}]}, {"predictions": [{"c": "b", "p": [0.1, 0.9]}]}, False, False),
        ({"predictions": [{"p": [0.1, 0.9]}]}, {"predictions": [{"p": [0.9, 0.1]}]}, False, True),
        ({"predictions": [True]}, {"predictions": [1]}, False, False),
        ({"predictions": [True]}, {"predictions": [False]}, False, False),
        ({"predictions": [None]}, {"predictions": [0]}, False, False),
        ({"predictions": ["1"]}, {"predictions": [1]}, False, False),
        ({"predictions": [[1], 2]}, {"predictions": [1, [2]]}, False, False),
        ({"predictions": []}, {"predictions": [], "x": 1}, True, False),
        (b'{"predictions": [1' + b"0" * 400 + b"]}", b'{"predictions": [1]}', False, False),
    ],
)
def test_documents_agree_where_their_numbers_do(a: Any, b: Any, agrees: bool, moved: bool) -> None:
    for first, second in ((a, b), (b, a)):
        found = documents(first, second)
        assert (found.agrees, found.top1_disagrees) == (agrees, moved)
        assert found.agrees == (found.reason == "")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[1]", "no outputs"),
        (b'{"error": "secret"}', "no outputs"),
        (b"[" * 50_000, "cannot be read"),
        (b'{"predictions":' + b"[" * 900 + b"]" * 900 + b"}", "shape"),
    ],
)
def test_what_is_no_answer_agrees_with_none(document: bytes, reason: str) -> None:
    found = documents({"predictions": [1]}, document)
    assert not found.agrees
    assert reason in found.reason
    assert "secret" not in found.reason
    assert not documents(document, {"predictions": [1]}).agrees


# --------------------------------------------------------------------------------------------------------- at random

small = st.floats(width=32) | st.sampled_from([0.0, 1.0, 1.0 + 2**-20, NAN, INF])
tolerances = st.builds(Tolerance, st.sampled_from([0.0, 1e-6, 0.5]), st.sampled_from([0.0, 1e-6, 1e30]))


def is_close(a: float, b: float, tolerance: Tolerance) -> bool:
    if a == b or (math.isnan(a) and math.isnan(b)):
        return True
    if not (math.isfinite(a) and math.isfinite(b)):
        return False
    return abs(a - b) <= max(tolerance.absolute, tolerance.relative * max(abs(a), abs(b)))


@given(pairs=st.lists(st.tuples(small, small) | small.map(lambda x: (x, x)), max_size=8), tolerance=tolerances)
@settings(max_examples=tries(300))
def test_agrees_if_every_pair_is_close(pairs: list[tuple[float, float]], tolerance: Tolerance) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    expected = all(is_close(x, y, tolerance) for x, y in pairs)
    assert both(predicted(a), predicted(b), tolerance).agrees is expected
    assert both(predicted(a), predicted(b, packed=True), tolerance).agrees is expected
    assert documents({"predictions": a}, {"predictions": b, "x": 0}, tolerance).agrees is expected


@given(
    rows=st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=1, max_size=4),
    others=st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=4, max_size=4),
)
def test_top1_disagrees_if_any_row_does(rows: list[list[int]], others: list[list[int]]) -> None:
    others = others[: len(rows)]
    expected = any(x.index(max(x)) != y.index(max(y)) for x, y in zip(rows, others, strict=True))
    shape = [len(rows), 3]
    for dtype in (FLOAT, INT32, INT64):
        a, b = (predicted([v for row in each for v in row], shape, dtype) for each in (rows, others))
        assert both(a, b).top1_disagrees is expected
    assert documents({"predictions": rows}, {"predictions": others}).top1_disagrees is expected


@given(a=st.binary(max_size=60), b=st.binary(max_size=60))
@settings(max_examples=tries(300))
def test_any_bytes_are_compared(a: bytes, b: bytes) -> None:
    known = predicted([1.0, 2.0], [1, 2])
    for verb in Verb:
        for x, y in ((a, b), (frame(a), frame(b)), (frame(a), known), (known, frame(known[5:] + b))):
            assert isinstance(compare(x, y, True, verb, Tolerance(0.1, 0.1)), Comparison)
        assert isinstance(compare(a, b'{"predictions": [1]}', False, verb, EXACT), Comparison)


@given(at=st.integers(5, 10_000), byte=st.integers(0, 255), dtype=st.sampled_from(list(CODES)), packed=st.booleans())
@settings(max_examples=tries(300))
def test_damage_is_survived(at: int, byte: int, dtype: int, packed: bool) -> None:
    whole = bytearray(predicted([0, 1, 1, 0], [2, 2], dtype, packed=packed))
    whole[5 + at % (len(whole) - 5)] = byte
    compare(bytes(whole), predicted([0, 1, 1, 0], [2, 2], dtype), True, Verb.PREDICT, Tolerance(0.1, 0.1))


def of_fields(content: bytes, last: int) -> bytes:
    """A tensor with these fields."""
    return frame(length(1, length(1, b"y") + length(2, b"\x08\x09" + content + bytes([0x78, last]))))


TOO_MUCH = {
    "unknown fields": lambda last: of_fields(b"\x7a\x00" * MOST_FIELDS, last),
    "dimensions": lambda last: of_fields(length(2, b"\x12\x02\x08\x01" * MOST_FIELDS), last),
    "numbers that are not packed": lambda last: of_fields(b"\x50\x01" * MOST_FIELDS, last),
    "packed numbers": lambda last: of_fields(length(10, b"\x81\x01" * (4 * MOST_FIELDS)), last),
    "floats": lambda last: frame(
        length(
            1,
            length(1, b"y")
            + length(
                2,
                b"\x08\x01"
                + length(2, length(2, b"\x08" + write_varint(NUMBERS + 1)))
                + length(5, bytes([0, 0, last, 63]) * (NUMBERS + 1)),
            ),
        )
    ),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_answers_that_would_take_long_are_not_compared(case: str) -> None:
    first, second = TOO_MUCH[case](1), TOO_MUCH[case](2)
    assert compare_answers(first, second, True, Verb.PREDICT, EXACT) is None
    assert compare_answers(first, first, True, Verb.PREDICT, EXACT) == Comparison(True)


@pytest.mark.parametrize("value", ["1", "[]", "{}", '""'])
def test_nor_are_those_in_json(value: str) -> None:
    body = '{"predictions": [' + f"{value}, " * MOST_VALUES
    assert compare_answers(f"{body} 1]}}".encode(), f"{body} 2]}}".encode(), False, Verb.PREDICT, EXACT) is None
