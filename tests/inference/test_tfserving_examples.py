from __future__ import annotations

import base64
import gzip
import json
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.grpc import frame
from meshproxy.devtools.messages import (
    ClassificationRequest,
    MultiInferenceRequest,
    PredictRequest,
    RegressionRequest,
)
from meshproxy.inference import tfserving_examples as module
from meshproxy.inference.call import Verb
from meshproxy.inference.tfserving_examples import FIELDS, INFLATED_BYTES, WORK_BYTES, count_grpc, count_json
from tests.thorough import tries

WHOLE = [1 << 30]
STEPS = [WHOLE, [1], [2], [7], [1000]]


def counted(
    verb: Verb, body: bytes, steps: list[int] = WHOLE, *, is_grpc: bool = True, encoding: bytes | None = None
) -> int:
    count = count_grpc(verb, encoding) if is_grpc else count_json(verb)
    position = turn = 0
    while position < len(body):
        step = steps[turn % len(steps)]
        count.feed(body[position : position + step], False)
        assert count.count >= 1
        position, turn = position + step, turn + 1
    count.feed(b"", True)
    return count.count


def of_json(document: Any, steps: list[int] = WHOLE, verb: Verb = Verb.PREDICT) -> int:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return counted(verb, body, steps, is_grpc=False)


# ------------------------------------------------------------------------------------------------------------- gRPC


def predict(*inputs: tuple[str, list[int], bytes]) -> bytes:
    """A PredictRequest, with its inputs in this order, also where a name comes twice."""
    out = b""
    for name, shape, content in inputs:
        request = PredictRequest()
        tensor = request.inputs[name]
        tensor.dtype = 1
        for size in shape:
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_content = content
        out += request.SerializeToString()
    request = PredictRequest()
    request.model_spec.name = "m"
    return bytes(request.SerializeToString()) + out


CONTENT = bytes(3000)
PREDICTS = {
    "a batch": (predict(("x", [32, 10], CONTENT)), 32),
    "a vector": (predict(("x", [7], CONTENT)), 7),
    "a scalar": (predict(("x", [], CONTENT)), 1),
    "an empty batch": (predict(("x", [0, 10], b"")), 1),
    "a negative one": (predict(("x", [-5, 10], b"")), 1),
    "a constant": (predict(("x", [1_000_000, 10], b"abcd")), 1_000_000),
    "the first of several": (predict(("x", [3, 10], CONTENT), ("y", [1000], CONTENT)), 3),
    "a scalar first": (predict(("x", [], CONTENT), ("y", [1000], CONTENT)), 1),
    "the same name again": (predict(("x", [3], CONTENT), ("y", [9], CONTENT), ("x", [1000], CONTENT)), 1000),
    "the same name, smaller": (predict(("x", [30], CONTENT), ("x", [3], CONTENT)), 30),
    "long names": (predict(("x" * 500, [3], CONTENT), ("y" * 500, [4], CONTENT)), 4),
    "no inputs": (predict(), 1),
    "nothing": (b"", 1),
    "content first": (b"\x12\x0a\x12\x08\x22\x00\x12\x04\x12\x02\x08\x05", 5),
    "a name last": (b"\x12\x0b\x12\x06\x12\x04\x12\x02\x08\x05\x0a\x01x", 5),
    "a shape in two parts": (b"\x12\x0e\x12\x0c\x12\x04\x12\x02\x08\x05\x12\x04\x12\x02\x08\x09", 5),
    "a size in a group": (b"\x12\x0a\x12\x08\x12\x06\x12\x04\x0b\x08\x05\x0c", 1),
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", PREDICTS)
def test_counts_the_rows_of_the_first_input(name: str, steps: list[int]) -> None:
    message, expected = PREDICTS[name]
    assert counted(Verb.PREDICT, frame(message), steps) == expected


def test_knows_the_rows_before_the_tensor_has_come() -> None:
    count = count_grpc(Verb.PREDICT)
    count.feed(frame(predict(("x", [32, 10], bytes(100_000))))[:40], False)
    assert count.count == 32


def examples(message: Any, count: int, *, with_context: bool = False) -> Any:
    kind = message.input.example_list_with_context if with_context else message.input.example_list
    for i in range(count):
        kind.examples.add().features.feature["x"].float_list.value.append(i)
    return message


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("with_context", [False, True])
@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        (Verb.CLASSIFY, ClassificationRequest),
        (Verb.REGRESS, RegressionRequest),
        (Verb.MULTI_INFERENCE, MultiInferenceRequest),
    ],
)
def test_counts_the_examples_of_an_input(verb: Verb, kind: Any, with_context: bool, steps: list[int]) -> None:
    for expected in (1, 2, 50):
        body = frame(examples(kind(), expected, with_context=with_context).SerializeToString())
        assert counted(verb, body, steps) == expected


def test_counts_all_examples_there_could_be() -> None:
    few = examples(RegressionRequest(), 2).SerializeToString()
    many = examples(RegressionRequest(), 50, with_context=True).SerializeToString()
    assert counted(Verb.REGRESS, frame(few + many)) == 52
    assert counted(Verb.REGRESS, frame(few) + frame(few)) == 4
    assert counted(Verb.REGRESS, frame(b"")) == 1


@pytest.mark.parametrize("steps", STEPS)
def test_counts_in_compressed_messages(steps: list[int]) -> None:
    message = examples(RegressionRequest(), 50).SerializeToString()
    body = frame(gzip.compress(message), compressed=True)
    assert counted(Verb.REGRESS, body, steps, encoding=b"gzip") == 50
    assert counted(Verb.REGRESS, body, steps, encoding=b"snappy") == 1
    assert counted(Verb.REGRESS, frame(b"no gzip", compressed=True), steps, encoding=b"gzip") == 1


def test_a_large_compressed_tensor_has_the_rows_of_its_shape() -> None:
    message = predict(("x", [7, 2 << 20], bytes(2 * INFLATED_BYTES)))
    assert counted(Verb.PREDICT, frame(gzip.compress(message), compressed=True), WHOLE, encoding=b"gzip") == 7


def test_inflates_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    fed = []
    monkeypatch.setattr(module._Message, "feed", lambda message, data: fed.append(len(data)))
    counted(Verb.PREDICT, frame(gzip.compress(bytes(4 * INFLATED_BYTES)), compressed=True), WHOLE, encoding=b"gzip")
    assert sum(fed) <= INFLATED_BYTES


@pytest.mark.parametrize("steps", [WHOLE, [1000]])
def test_counts_on_by_bytes_where_examples_have_no_end(steps: list[int]) -> None:
    message = examples(RegressionRequest(), 5 * FIELDS).SerializeToString()
    assert counted(Verb.REGRESS, frame(message), steps) == pytest.approx(5 * FIELDS, rel=0.05)
    # Within an input of 64 KiB nothing else can be found: 32,768 empty examples.
    empty = b"\x12\x84\x80\x04\x0a\x80\x80\x04" + b"\x0a\x00" * 32_768
    assert counted(Verb.REGRESS, frame(empty), steps) == pytest.approx(32_768, rel=0.05)


def test_looks_at_a_bounded_number_of_fields() -> None:
    message = b"\x18\x00" * FIELDS + PREDICTS["a batch"][0]
    assert counted(Verb.PREDICT, frame(message)) == 1
    assert counted(Verb.PREDICT, frame(message[20:])) == 32


@given(
    shapes=st.lists(
        st.tuples(st.sampled_from("xyz"), st.lists(st.integers(1, 99), max_size=3), st.binary(max_size=50)), max_size=4
    ),
    steps=st.lists(st.integers(1, 30), min_size=1, max_size=4),
)
@settings(max_examples=tries(200))
def test_counts_what_protobuf_reads(shapes: list[tuple[str, list[int], bytes]], steps: list[int]) -> None:
    message = predict(*shapes)
    found = counted(Verb.PREDICT, frame(message), steps)
    assert found == counted(Verb.PREDICT, frame(message))
    read = PredictRequest.FromString(message)
    first = [dim.size for dim in read.inputs[shapes[0][0]].tensor_shape.dim][:1] if shapes else []
    assert found >= (first[0] if first else 1)
    if len({name for name, _, _ in shapes}) == len(shapes):
        assert found == (first[0] if first else 1)


# ------------------------------------------------------------------------------------------------------------- JSON

ROW = {"x": [1.0, 2.0], "y": 'a\\"]}[{,', "z": {"deep": [[1], {"er": []}]}, "w": None}
IMAGE = [[[0.5, 0.25, 1e-3]] * 4] * 5
DOCUMENTS: dict[str, tuple[Any, int]] = {
    "vectors": ({"instances": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]}, 3),
    "numbers": ({"instances": [1, 2.5, -3e5, 4]}, 4),
    "one number": ({"instances": [17]}, 1),
    "texts": ({"instances": ["a", "b,", "[c]", '"', "\\"]}, 5),
    "objects": ({"instances": [ROW] * 6}, 6),
    "flat objects": ({"instances": [{"x": 1, "y": [1, 2], "z": "}"}] * 6}, 6),
    "images": ({"instances": [IMAGE] * 7}, 7),
    "mixed": ({"instances": [[1, 2], 3, "a", {"b": 4}, None, True, [], {}, [[]], 5, 6]}, 11),
    "none": ({"instances": []}, 1),
    "after others": ({"signature_name": "instances", "context": {"instances": [1, 2]}, "instances": [1, 2, 3]}, 3),
    "before others": ({"instances": [1, 2, 3], "signature_name": "s", "inputs": [1]}, 3),
    "binary": ({"instances": [{"b64": base64.b64encode(bytes(5000)).decode()}] * 3}, 3),
    "inputs": ({"inputs": [[1, 2], [3, 4]]}, 2),
    "inputs by name": ({"inputs": {"x": [[1, 2], [3, 4], [5, 6]], "y": [1]}}, 3),
    "an input of numbers": ({"inputs": {"x": [1, 2, 3]}}, 3),
    "a number": ({"inputs": 5}, 1),
    "a text": ({"inputs": "abc"}, 1),
    "a number by name": ({"inputs": {"x": 5, "y": [1, 2]}}, 1),
    "a text by name": ({"inputs": {"x": "a", "y": [1, 2]}}, 1),
    "binary by name": ({"inputs": {"b64": "AAAA"}}, 1),
    "a name and nothing": ({"inputs": {}}, 1),
    "an object where a list should be": ({"instances": {"x": [1, 2, 3]}}, 1),
    "a number where a list should be": ({"instances": 3, "inputs": [1, 2]}, 2),
    "another name": ({"rows": [1, 2, 3]}, 1),
    "a long name": ({"n" * 1000: [1, 2, 3], "instances": [1, 2]}, 2),
    "no object": ([[1, 2, 3]], 1),
    "spaces": (b' \r\n\t{ "instances" \n:\t[ [1 , 2 ] , [ 3,4]\n,[5] ] } ', 3),
    "the first of two": (b'{"instances": [1, 2], "instances": [1, 2, 3]}', 2),
    "an escaped name": (rb'{"inst\u0061nces": [1, 2, 3]}', 3),
    "an escape that is none": (rb'{"inst\u00zances": [1, 2, 3]}', 1),
    "words": (b'{"instances": [NaN, Infinity, -Infinity, null]}', 4),
    "cut short": (b'{"instances": [[1, 2], [3', 2),
    "cut short in a text": (b'{"instances": ["a", "b', 2),
    "a word right after a text": (b'{"instances": [x"ab"y', 3),
    "no JSON": (b'\x00\xff[[}]"{', 1),
    "nothing": (b"", 1),
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_counts_the_rows_of_a_document(name: str, steps: list[int]) -> None:
    document, expected = DOCUMENTS[name]
    assert of_json(document, steps) == expected


@pytest.mark.parametrize("verb", [Verb.CLASSIFY, Verb.REGRESS])
def test_counts_the_examples_of_a_document(verb: Verb) -> None:
    assert of_json({"context": {"a": [1, 2, 3]}, "examples": [{"x": 1.0}, {"x": 2.0}]}, verb=verb) == 2
    assert of_json({"instances": [1, 2]}, verb=verb) == 1


@pytest.mark.parametrize("steps", [WHOLE, [65_536]])
@pytest.mark.parametrize("row", [[0.123456] * 10, {"x": 0.5, "y": "a"}, [[[0.5]] * 28] * 28, 0.123456])
def test_counts_on_by_bytes_where_a_document_has_no_end(row: Any, steps: list[int]) -> None:
    rows = 6 * WORK_BYTES // (len(json.dumps(row)) + 2)
    assert of_json({"instances": [row] * rows}, steps) == pytest.approx(rows, rel=0.02)


def test_long_texts_are_passed_over() -> None:
    image = {"b64": "A" * 1_000_000}
    assert of_json({"instances": [image] * 12}, [65_536]) == 12


numbers = st.integers(-99, 99) | st.floats(-1e6, 1e6)
texts = st.text('ab"\\[]{}:, é', max_size=5)
values = st.recursive(
    numbers | texts | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


@given(
    rows=st.lists(values, max_size=6),
    before=st.dictionaries(texts, values, max_size=2),
    key=st.sampled_from(["instances", "inputs"]),
    indent=st.sampled_from([None, 1]),
    is_ascii=st.booleans(),
    steps=st.lists(st.integers(1, 20), min_size=1, max_size=4),
)
@settings(max_examples=tries(400))
def test_counts_what_json_reads(
    rows: list[Any], before: dict[str, Any], key: str, indent: int | None, is_ascii: bool, steps: list[int]
) -> None:
    body = json.dumps({**before, key: rows}, indent=indent, ensure_ascii=is_ascii).encode()
    assert of_json(body) == of_json(body, steps) == max(1, len(rows))


@given(
    body=st.binary(max_size=40) | st.text('ab"\\[]{}:, 12', max_size=60).map(lambda text: text.encode()),
    steps=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
@settings(max_examples=tries(300))
def test_any_body_has_a_count(body: bytes, steps: list[int]) -> None:
    assert of_json(body, steps) >= 1
    assert of_json(b'{"instances": [' + body, steps) == of_json(b'{"instances": [' + body)
    for verb in (Verb.PREDICT, Verb.REGRESS):
        assert counted(verb, body, steps, encoding=b"gzip") >= 1
        assert counted(verb, frame(body), steps) == counted(verb, frame(body))


# ---------------------------------------------------------------------------------------------------- JSON in gzip


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_counts_in_gzip_what_it_counts_without(name: str, steps: list[int]) -> None:
    body, expected = DOCUMENTS[name]
    assert of_json(gzip.compress(body if isinstance(body, bytes) else json.dumps(body).encode()), steps) == expected


@pytest.mark.parametrize("steps", [WHOLE, [1000]])
def test_counts_on_by_bytes_where_gzip_inflates_to_more(steps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    fed = []
    feed = module._JsonBody.feed

    def counted_feed(body: Any, data: bytes) -> None:
        fed.append(len(data))
        feed(body, data)

    monkeypatch.setattr(module._JsonBody, "feed", counted_feed)
    rows = 3 * INFLATED_BYTES // 10
    body = gzip.compress(b'{"instances":[' + b"[1.0,2.0]," * rows + b"[1.0,2.0]]}")
    assert of_json(body, steps) == pytest.approx(rows, rel=0.05)
    assert sum(fed) == INFLATED_BYTES


@pytest.mark.parametrize("steps", STEPS)
def test_members_are_one_document(steps: list[int]) -> None:
    body = json.dumps({"instances": [1, 2, 3]}).encode()
    assert of_json(b"".join(gzip.compress(body[at : at + 5]) for at in range(0, len(body), 5)), steps) == 3
    assert of_json(gzip.compress(body) + b"junk", steps) == 3


@pytest.mark.parametrize("steps", [WHOLE, [20]])
def test_a_bounded_number_of_members_is_looked_at(steps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = zlib.decompressobj

    def counted_make(bits: int) -> Any:
        made.append(bits)
        return make(bits)

    monkeypatch.setattr(zlib, "decompressobj", counted_make)
    member = gzip.compress(b"1,")
    body = gzip.compress(b'{"instances": [') + member * 1_000
    assert of_json(body, steps) == pytest.approx(1_000, rel=0.05)
    assert len(made) <= module._MEMBERS + 1


@pytest.mark.parametrize("steps", STEPS)
def test_what_is_no_gzip_counts_as_one(steps: list[int]) -> None:
    document = gzip.compress(json.dumps({"instances": list(range(1000))}).encode())
    assert of_json(document[:4] + bytes(len(document)), steps) == 1
    assert of_json(document[:1], steps) == of_json(document[:12], steps) == 1


@given(st.binary(max_size=200), st.sampled_from(STEPS))
def test_any_body_in_gzip_has_a_count(body: bytes, steps: list[int]) -> None:
    assert of_json(gzip.compress(body), steps) == of_json(body, steps)
    assert of_json(module._GZIP + body, steps) >= 1
