from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.grpc import frame
from meshproxy.devtools import messages
from meshproxy.inference import answer_version
from meshproxy.inference.answer_version import (
    MEMO_ENTRIES,
    SPEC_BYTES,
    BehindOutputs,
    InFront,
    front_version,
    whole_version,
)
from meshproxy.inference.surface import Operation, VersionReader
from meshproxy.inference.tfserving_grpc import METHODS
from meshproxy.inference.unary import write_bytes as length
from meshproxy.inference.unary import write_varint as varint
from tests.inference.spec_messages import cuts
from tests.thorough import tries


def pieces(body: bytes, sizes: Iterable[int]) -> list[bytes]:
    """A body in pieces of these sizes, in turn."""
    sizes = list(sizes)
    made, at, turn = [], 0, 0
    while at < len(body):
        size = sizes[turn % len(sizes)]
        made.append(body[at : at + size])
        at, turn = at + size, turn + 1
    return made


def read(reader: VersionReader, *data: bytes) -> str:
    """What is found in these pieces; once it is, nothing else is."""
    found = ""
    for piece in data:
        said = reader.feed(piece)
        assert not (found and said)
        found = found or said
    return found


def operation_of(method: str) -> Operation:
    (operation,) = [each for path, each in METHODS.items() if path.endswith(b"/" + method.encode())]
    return operation


def spec(version: int | None = 7) -> Any:
    made = messages.ModelSpec(name="half_plus_two", signature_name="serving_default")
    if version is not None:
        made.version.value = version
    return made


def predicted(version: int | None = 7, size: int = 3) -> bytes:
    response = messages.PredictResponse(model_spec=spec(version))
    for name in ("y", "z"):
        tensor = response.outputs[name]
        tensor.dtype = 1
        tensor.tensor_content = b"\x12\x02\x08\x09" * size
    return frame(response.SerializeToString())


RESPONSES = {
    "Predict": predicted(),
    "Classify": frame(messages.ClassificationResponse(model_spec=spec()).SerializeToString()),
    "Regress": frame(messages.RegressionResponse(model_spec=spec()).SerializeToString()),
    "MultiInference": frame(
        messages.MultiInferenceResponse(results=[{"model_spec": spec()}, {"model_spec": spec(8)}]).SerializeToString()
    ),
    "GetModelMetadata": frame(messages.GetModelMetadataResponse(model_spec=spec()).SerializeToString()),
}


@pytest.mark.parametrize("method", RESPONSES)
def test_the_responses_of_tensorflow_serving_name_the_version(method: str) -> None:
    operation = operation_of(method)
    assert operation.read_version is not None
    assert operation.whole_version is not None
    assert read(operation.read_version(), RESPONSES[method]) == "7"
    assert [operation.whole_version(RESPONSES[method]) for _ in range(2)] == ["7", "7"]


def test_which_methods_say_no_version() -> None:
    silent = {path.rpartition(b"/")[2] for path, operation in METHODS.items() if operation.read_version is None}
    assert silent == {b"GetModelStatus", b"HandleReloadConfigRequest"}
    for operation in METHODS.values():
        assert (operation.read_version is None) is (operation.whole_version is None)


@settings(max_examples=tries(200))
@given(
    version=st.integers(-(2**63), 2**63 - 1),
    size=st.sampled_from([0, 1, 20, 40, 5_000]),
    sizes=st.lists(st.integers(5, 4_000), min_size=1, max_size=5),
)
def test_a_response_may_come_in_pieces(version: int, size: int, sizes: list[int]) -> None:
    body = predicted(version, size)
    assert read(BehindOutputs(), body) == str(version)
    assert read(BehindOutputs(), *pieces(body, sizes)) == str(version)


def test_every_cut_behind_the_prefix() -> None:
    body = predicted()
    for cut in range(5, len(body)):
        assert read(BehindOutputs(), body[:cut], body[cut:]) == "7"
    assert read(BehindOutputs(), body[:5], *pieces(body[5:], [1])) == "7"


def test_a_version_that_is_not_there() -> None:
    assert read(BehindOutputs(), predicted(None)) == ""
    assert read(BehindOutputs(), frame(b"")) == ""
    assert read(InFront(1), frame(b"")) == ""
    labelled = messages.PredictResponse(model_spec=messages.ModelSpec(name="m", version_label="stable"))
    assert read(BehindOutputs(), frame(labelled.SerializeToString())) == ""
    # A field of the message of the version that is not there is its default.
    assert read(BehindOutputs(), frame(length(2, length(2, b"")))) == "0"


def test_what_is_compressed_or_cut_short_says_nothing() -> None:
    body = predicted()
    for make in (BehindOutputs, lambda: InFront(1), lambda: InFront(2)):
        assert read(make(), b"\x01" + body[1:], body) == ""
    assert read(BehindOutputs(), body[:3], body[3:]) == ""  # a prefix in two pieces, which no server sends
    assert read(BehindOutputs(), body[:-1]) == ""


def test_fields_in_any_order_and_of_any_size() -> None:
    version = length(2, length(2, b"\x08\x07"))
    for before in (length(3, b"x"), b"\x18\x01", length(1, bytes(20_000)), b"\x0a\x83\x00abc", length(1, b"") * 100):
        assert read(BehindOutputs(), frame(before + version)) == "7"
        assert read(BehindOutputs(), frame(version + before)) == "7"


def test_what_takes_long_says_nothing() -> None:
    version = length(2, length(2, b"\x08\x07"))
    for many in (2_000, 200_000):
        assert read(BehindOutputs(), frame(length(1, b"") * many + version)) == ""
        assert read(BehindOutputs(), *pieces(frame(length(1, b"") * many + version), [1_000])) == ""
    assert read(BehindOutputs(), frame(length(2, length(1, bytes(SPEC_BYTES)) + length(2, b"\x08\x07")))) == ""
    assert read(BehindOutputs(), frame(length(2, b"\x08\x01" * 200 + length(2, b"\x08\x07")))) == ""


def test_what_is_remembered_is_bounded() -> None:
    for number in range(2 * MEMO_ENTRIES):
        assert read(BehindOutputs(), frame(length(2, length(2, b"\x08" + varint(number))))) == str(number)
    assert len(answer_version._memo) <= MEMO_ENTRIES


@settings(max_examples=tries(300))
@given(
    data=st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(frame), st.just(predicted())),
    place=st.integers(0, 300),
    byte=st.integers(0, 255),
    sizes=cuts,
)
def test_nothing_is_raised_whatever_comes(data: bytes, place: int, byte: int, sizes: list[int]) -> None:
    damaged = data[:place] + bytes([byte]) + data[place + 1 :]
    for make in (BehindOutputs, lambda: InFront(1), lambda: InFront(2)):
        read(make(), damaged)
        read(make(), *pieces(damaged, sizes))
    for data in (damaged, frame(damaged)):
        assert whole_version(data) == read(BehindOutputs(), data)
        assert [front_version(depth, data) for depth in (1, 2)] == [read(InFront(depth), data) for depth in (1, 2)]
