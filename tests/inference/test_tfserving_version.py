"""Authorisation compares texts: two spellings of one version must not differ, and two versions must not be equal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.grpc import frame
from meshproxy.config.values import read_version
from meshproxy.inference.body_scan import DEFAULT_LIMITS
from meshproxy.inference.call import Call, Chosen, ModelRef, Verb
from meshproxy.inference.surface import Operation
from meshproxy.inference.surfaces import SURFACES
from meshproxy.inference.tfserving_version import INT64_MAX, INT64_MIN, write_number
from meshproxy.inference.unary import write_bytes, write_varint
from meshproxy.refusal import Reason, Refusal

PREDICT = SURFACES.find_grpc(b"/tensorflow.serving.PredictionService/Predict")
REST = SURFACES.find_rest(b"POST", b"/v1/models/m:predict")
CALL = Call(Verb.PREDICT, (ModelRef("m", signature="serving_default"),))

numbers = st.integers(INT64_MIN, INT64_MAX) | st.sampled_from([INT64_MIN, -1, 0, 1, 9, 10, INT64_MAX])


def over_grpc(operation: Operation, body: bytes) -> str | None:
    assert operation.scan is not None
    call = operation.scan(None, DEFAULT_LIMITS).feed(body, True)
    assert call is not None
    return call.models[0].version


def over_rest(target: bytes) -> str | None:
    call = SURFACES.find_rest(b"POST", target).call
    assert call is not None
    return call.models[0].version


@st.composite
def padded(draw: st.DrawFn, number: int) -> bytes:
    """A varint of an int64, with zeros behind: protobuf takes them in a value, and we up to nine bytes."""
    plain = write_varint(number % (1 << 64))
    zeros = draw(st.integers(0, max(0, 9 - len(plain))))
    return plain if not zeros else plain[:-1] + bytes([plain[-1] | 0x80]) + b"\x80" * (zeros - 1) + b"\0"


@st.composite
def spellings(draw: st.DrawFn, number: int) -> str | None:
    """The version as the proxy reads it, from one of the ways to name it in a call or a document."""
    ways = ["grpc", "rewritten grpc"] + ["rest", "rewritten rest", "document", "document text"] * (number >= 0)
    way = draw(st.sampled_from(ways))
    if way == "grpc":
        value = b"\x08" + draw(padded(number))
        if draw(st.booleans()):  # the last value wins, also over another occurrence
            value = b"\x08\x07" + value
        return over_grpc(PREDICT, frame(write_bytes(1, write_bytes(1, b"m") + write_bytes(2, value))))
    if way == "rewritten grpc":
        assert PREDICT.rewrite_body is not None
        rewriter = PREDICT.rewrite_body(CALL, Chosen(version=str(number)), 1000, None, DEFAULT_LIMITS)
        return over_grpc(PREDICT, rewriter.feed(frame(write_bytes(1, write_bytes(1, b"m"))), True))
    if way == "rest":
        return over_rest(b"/v1/models/m/versions/%d:predict" % number)
    if way == "rewritten rest":
        assert REST.rewrite_target is not None
        return over_rest(REST.rewrite_target(CALL, Chosen(version=str(number))))
    return read_version(number if way == "document" else str(number))


@given(data=st.data(), number=numbers, other=numbers)
def test_a_version_has_one_text_however_it_is_spelled(data: st.DataObject, number: int, other: int) -> None:
    first, again = data.draw(spellings(number)), data.draw(spellings(number))
    assert first == again == str(number)
    assert (data.draw(spellings(other)) == first) == (other == number)


@given(number=st.integers(0, INT64_MAX), zeros=st.integers(1, 3))
def test_leading_zeros_are_refused_everywhere(number: int, zeros: int) -> None:
    text = "0" * zeros + str(number)
    with pytest.raises(Refusal):
        SURFACES.find_rest(b"POST", b"/v1/models/m/versions/%s:predict" % text.encode())
    with pytest.raises(ValueError):
        read_version(text)
    with pytest.raises(Refusal):
        write_number(text)


@given(number=st.integers())
def test_a_number_that_is_no_int64_cannot_be_written(number: int) -> None:
    if INT64_MIN <= number <= INT64_MAX:
        assert write_number(str(number)) == number
    else:
        with pytest.raises(Refusal):
            write_number(str(number))


@pytest.mark.parametrize("version", ["", "rc1", "2024-06-rc1", "1.0", "+1", "-0", " 1", "1\n", "1e3", "٣", "1_0"])
def test_text_cannot_be_written_into_a_call(version: str) -> None:
    assert REST.rewrite_target is not None
    assert PREDICT.rewrite_body is not None
    with pytest.raises(Refusal) as refused:
        REST.rewrite_target(CALL, Chosen(version=version))
    assert refused.value.reason is Reason.NO_ROUTE
    assert "whole number" in refused.value.message
    with pytest.raises(Refusal) as refused:
        PREDICT.rewrite_body(CALL, Chosen(version=version), 1000, None, DEFAULT_LIMITS)
    assert refused.value.reason is Reason.NO_ROUTE


def test_a_path_has_no_negative_version() -> None:
    assert REST.rewrite_target is not None
    with pytest.raises(Refusal):
        REST.rewrite_target(CALL, Chosen(version="-1"))
