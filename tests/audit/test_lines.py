from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.audit.lines import BadLine, Caller, Kind, Model, read_line


@given(
    st.one_of(
        st.binary(),
        st.sampled_from([b"", b"[]", b"{}", b'{"x":' + b"[" * 50_000, b'{"time":1,"unmapped":{"kind":"other"}}']),
    )
)
def test_what_is_no_line_is_a_bad_line(line: bytes) -> None:
    with pytest.raises(BadLine, match="not a line of an audit trail"):
        read_line(line)


def test_fields_of_later_versions_are_ignored() -> None:
    record = read_line(b'{"time":1500,"unmapped":{"kind":"allowed","new":1},"newer":[],"resources":[{"name":"m"}]}')
    assert (record.time, record.kind, record.models, record.verb) == (1.5, Kind.ALLOWED, (Model("m"),), None)


def test_an_operation_that_is_not_known_is_no_verb() -> None:
    assert read_line(b'{"time":1,"unmapped":{"kind":"denied"},"api":{"operation":"unknown"}}').verb is None


def test_addresses() -> None:
    line = b'{"time":1,"unmapped":{"kind":"denied"},"src_endpoint":%b}'
    assert read_line(line % b'{"ip":"::1","port":80}').remote == "[::1]:80"
    assert read_line(line % b'{"ip":"10.0.0.1"}').remote == "10.0.0.1"
    assert read_line(line % b'{"name":"unix"}').remote == "unix"


def test_callers_and_models_as_text() -> None:
    assert str(Caller()) == "an anonymous caller"
    assert str(Caller("spiffe://a/b", "corp", "alice")) == "spiffe://a/b as corp:alice"
    assert str(Model("m")) == "m"
    assert str(Model("m", None, "canary")) == "m:canary"


@pytest.mark.parametrize("time", [b"-1", b"253402300800000", b"9" * 400])
def test_a_time_that_nobody_can_be_told(time: bytes) -> None:
    with pytest.raises(BadLine):
        read_line(b'{"time":%b,"unmapped":{"kind":"allowed"}}' % time)
    assert read_line(b'{"time":253402300799999,"unmapped":{"kind":"allowed"}}').time == 253_402_300_799.999
