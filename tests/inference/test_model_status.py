from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.grpc import frame
from meshproxy.devtools import messages
from meshproxy.inference.model_status import read_json, read_response, rest_target, write_request
from meshproxy.inference.surface import ModelVersions
from meshproxy.refusal import Refusal

STATES = ["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]
STATUSES = st.lists(st.tuples(st.integers(-(1 << 63), (1 << 63) - 1), st.sampled_from(STATES)), max_size=6)


@given(st.text(min_size=1, max_size=60))
def test_requests_are_protobufs(model: str) -> None:
    asked = messages.GetModelStatusRequest(model_spec={"name": model})
    assert write_request(model) == frame(asked.SerializeToString())


@given(STATUSES)
def test_answers_are_protobufs(statuses: list[tuple[int, str]]) -> None:
    answer = messages.GetModelStatusResponse()
    for version, state in statuses:
        answer.model_version_status.add(version=version, state=state).status.SetInParent()
    available = tuple(map(str, sorted({version for version, state in statuses if state == "AVAILABLE"})))
    expected = ModelVersions(available, is_loading=any(state == "LOADING" for _, state in statuses))
    assert read_response(frame(answer.SerializeToString())) == expected
    listed = [{"version": str(version), "state": state, "status": {}} for version, state in statuses]
    assert read_json(json.dumps({"model_version_status": listed}).encode()) == expected


def test_loading_is_not_available() -> None:
    loading = b'{"model_version_status": [{"version": "3", "state": "LOADING"}]}'
    assert read_json(loading) == ModelVersions((), is_loading=True)
    assert read_json(loading.replace(b"LOADING", b"AVAILABLE")) == ModelVersions(("3",))
    assert read_json(loading.replace(b"LOADING", b"START")) == ModelVersions(())
    assert read_json(b"{}") == ModelVersions(())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"model_version_status": 1}',
        b'{"model_version_status": [1]}',
        b'{"model_version_status": [{"version": "x", "state": "AVAILABLE"}]}',
        b'{"model_version_status": [{"version": [], "state": "AVAILABLE"}]}',
        b'{"model_version_status": [{"version": "\xff"}]}',
        b'{"x":' + b"[" * 50_000,
    ],
)
def test_other_json_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal):
        read_json(body)


@given(st.binary(max_size=60))
def test_whatever_comes_is_read_or_refused(body: bytes) -> None:
    for read, data in ((read_json, body), (read_response, body), (read_response, frame(body))):
        try:
            read(data)
        except Refusal:
            pass


def test_names_are_encoded_in_targets() -> None:
    assert rest_target("half_plus_two") == b"/v1/models/half_plus_two"
    assert rest_target("a b/c\u00f6") == b"/v1/models/a%20b%2Fc%C3%B6"
