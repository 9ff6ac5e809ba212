"""Messages that name models in a ModelSpec, for tests against the oracle: well-formed, with fields in any order,
repeated, unknown and of other wire types; and damaged ones. Field numbers as in `conftest.py`."""

from __future__ import annotations

from hypothesis import strategies as st

from meshproxy.inference.unary import write_bytes as length
from meshproxy.inference.unary import write_varint as varint

texts = st.text("abm/:é", max_size=4)
versions = st.one_of(
    st.integers(0, 2**64 - 1).map(lambda value: b"\x08" + varint(value)),
    st.sampled_from([b"", b"\x09" + bytes(8), b"\x10\x05", b"\x08\x01\x08\x02", b"\x08\x85\x80\x00", b"\x0b\x0c"]),
)
unknown = st.sampled_from(
    [b"\x48\x01", b"\x49" + bytes(8), b"\x4d" + bytes(4), length(9, b"\x0a\x01x"), b"\x4b" + length(1, b"x") + b"\x4c"]
)
in_spec = st.one_of(
    texts.map(lambda text: length(1, text.encode())),
    versions.map(lambda value: length(2, value)),
    texts.map(lambda text: length(3, text.encode())),
    texts.map(lambda text: length(4, text.encode())),
    st.sampled_from([b"\x08\x01", b"\x10\x01", b"\x1d" + bytes(4), b"\x23" + length(4, b"x") + b"\x24"]),
    unknown,
)
specs = st.lists(in_spec, max_size=6).map(lambda parts: length(1, b"".join(parts)))
others = st.one_of(
    st.binary(max_size=300).map(lambda data: length(2, data)),
    st.sampled_from([b"\x08\x01", b"\x09" + bytes(8), b"\x0b" + length(1, b"x") + b"\x0c", b"\x0d" + bytes(4)]),
    unknown,
)
spec_requests = st.lists(st.one_of(specs, specs, others), max_size=6).map(b"".join)
tasks = st.lists(st.one_of(specs, others), max_size=3).map(lambda parts: length(1, b"".join(parts)))
task_requests = st.lists(st.one_of(tasks, others), max_size=4).map(b"".join)
cuts = st.lists(st.integers(1, 30), min_size=1, max_size=5)


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """A message with a byte changed, or an end lost."""
    data = draw(whole)
    if data and draw(st.booleans()):
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data
