"""What answers say about the version that gave them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.inference.answer_signals import MOST_NUMBERS
from meshproxy.inference.call import Verb
from meshproxy.inference.surface import Signals
from meshproxy.inference.tfserving_answers import read_signals
from tests.thorough import tries


def tensor(numbers: list[float], *shape: int) -> bytes:
    """A framed PredictResponse with float32 in tensor_content."""

    def field(number: int, content: bytes) -> bytes:
        size, low = len(content), []
        while size >= 0x80:
            low.append(size & 0x7F | 0x80)
            size >>= 7
        return bytes([number << 3 | 2, *low, size]) + content

    dims = b"".join(field(2, b"\x08" + bytes([size])) for size in shape)
    value = b"\x08\x01" + field(2, dims) + field(4, struct.pack(f"<{len(numbers)}f", *numbers))
    message = field(1, field(1, b"y") + field(2, value))
    return b"\0" + len(message).to_bytes(4, "big") + message


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"predictions": [[0.1, 0.75, 0.2], [0.9, 0.1, 0.0]]}', Signals(6, 0, 1, 0.75)),
        (b'{"predictions": [2.5, 3.0]}', Signals(2, 0, None, 2.5)),
        (b'{"predictions": [NaN, 3.0]}', Signals(2, 1, None, None)),
        (b'{"predictions": [[NaN, 3.0], [1.0, -Infinity]]}', Signals(4, 2, None, None)),
        (b'{"outputs": {"b": [[1.0, 2.0]], "a": [[5.0, 4.0]]}}', Signals(4, 0, 0, 5.0)),
        (b'{"error": "no"}', None),
        (b"{", None),
        (b'{"predictions": ["text"]}', None),
        (b"[" * 100_000, None),
        (b'{"predictions": [%s]}' % (b"9" * 4_000), None),
    ],
)
def test_rest(body: bytes, found: Signals | None) -> None:
    signals = read_signals(False, Verb.PREDICT, body)
    if b"9999" in body:  # a number that no float holds: whatever it is taken for, nothing is raised
        return
    assert signals == found


def test_grpc() -> None:
    assert read_signals(True, Verb.PREDICT, tensor([0.25, 0.5, 0.25], 1, 3)) == Signals(3, 0, 1, 0.5)
    assert read_signals(True, Verb.PREDICT, tensor([float("nan"), 0.5], 2)) == Signals(2, 1, None, None)
    assert read_signals(True, Verb.PREDICT, tensor([2.0**127] * 4, 4)) == Signals(4, 0, None, 2.0**127)
    cut = tensor([0.25, 0.5], 2)[:-1]
    assert read_signals(True, Verb.PREDICT, cut) is None


def test_long_answers_are_not_read() -> None:
    body = b'{"predictions": [' + b",".join([b"1"] * (MOST_NUMBERS + 1)) + b"]}"
    assert read_signals(False, Verb.PREDICT, body) is None


@settings(max_examples=tries(60))
@given(st.sampled_from([Verb.PREDICT, Verb.CLASSIFY, Verb.REGRESS, Verb.MULTI_INFERENCE]), st.booleans(), st.binary())
def test_nothing_is_raised(verb: Verb, is_grpc: bool, body: bytes) -> None:
    read_signals(is_grpc, verb, body)
    framed = b"\0" + len(body).to_bytes(4, "big") + body
    read_signals(is_grpc, verb, framed)


@settings(max_examples=40)
@given(st.recursive(st.floats() | st.integers() | st.text() | st.none(), lambda inner: st.lists(inner, max_size=4)))
def test_nothing_is_raised_by_json(tree: object) -> None:
    import json

    read_signals(False, Verb.PREDICT, json.dumps({"predictions": tree}).encode())
