"""Answers without what the caller may not see, as TensorFlow Serving's own messages read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.grpc import frame
from meshproxy.devtools import messages
from meshproxy.inference.call import Verb
from meshproxy.inference.tfserving_parts import MOST_PARTS, keep_json, keep_message
from meshproxy.inference.unary import read_message
from meshproxy.refusal import Refusal

VERSIONS = st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=6, unique=True)
NAMES = st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=6, unique=True)


def status_of(versions: list[int]) -> Any:
    answer = messages.GetModelStatusResponse()
    for version in versions:
        answer.model_version_status.add(version=version, state="AVAILABLE").status.error_message = f"of {version}"
    return answer


def metadata_of(names: list[str]) -> Any:
    signatures = messages.SignatureDefMap()
    for name in names:
        signatures.signature_def[name].method_name = f"of {name}"
    answer = messages.GetModelMetadataResponse(model_spec={"name": "m", "version": {"value": 3}})
    answer.metadata["signature_def"].Pack(signatures)
    return answer


def read_metadata(body: bytes) -> tuple[Any, Any]:
    """The model and the signatures, which are in no order."""
    answer = messages.GetModelMetadataResponse.FromString(read_message(body))
    assert [*answer.metadata] == ["signature_def"]
    signatures = messages.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    return answer.model_spec, signatures


def described(names: list[str]) -> bytes:
    signatures = {name: {"method_name": f"of {name}"} for name in names}
    metadata = {"signature_def": {"signature_def": signatures}}
    return json.dumps({"model_spec": {"name": "m", "version": "3"}, "metadata": metadata}).encode()


@given(VERSIONS, st.data())
def test_versions(versions: list[int], data: st.DataObject) -> None:
    seen = data.draw(st.sets(st.sampled_from(versions))) if versions else set()
    kept = [version for version in versions if version in seen]
    body = keep_message(
        Verb.STATUS, frame(status_of(versions).SerializeToString()), lambda name: name in set(map(str, seen))
    )
    assert messages.GetModelStatusResponse.FromString(read_message(body)) == status_of(kept)
    listed = [{"version": str(each), "state": "AVAILABLE", "status": {"error_code": "OK"}} for each in versions]
    text = json.dumps({"model_version_status": listed, "more": 1}).encode()
    shown = json.loads(keep_json(Verb.STATUS, text, lambda name: name in set(map(str, seen))))
    assert shown == {"model_version_status": [each for each in listed if each["version"] in set(map(str, seen))]}


@given(NAMES, st.data())
def test_signatures(names: list[str], data: st.DataObject) -> None:
    seen = data.draw(st.sets(st.sampled_from(names))) if names else set()
    kept = [name for name in names if name in seen]
    body = keep_message(Verb.METADATA, frame(metadata_of(names).SerializeToString()), seen.__contains__)
    assert read_metadata(body) == read_metadata(frame(metadata_of(kept).SerializeToString()))
    assert json.loads(keep_json(Verb.METADATA, described(names), seen.__contains__)) == json.loads(described(kept))


def test_other_metadata_and_unknown_fields_are_left_out() -> None:
    answer = metadata_of(["a"])
    answer.metadata["other"].Pack(messages.GetModelStatusResponse())
    content = answer.SerializeToString() + b"\x9a\x06\x03abc"  # field 99
    body = keep_message(Verb.METADATA, frame(content), lambda name: True)
    assert messages.GetModelMetadataResponse.FromString(read_message(body)) == metadata_of(["a"])
    text = json.loads(described(["a"]))
    text["metadata"]["other"] = text["secret"] = {"b": 1}
    assert json.loads(keep_json(Verb.METADATA, json.dumps(text).encode(), lambda name: True)) == json.loads(
        described(["a"])
    )


def test_of_a_name_that_is_there_twice_the_last_counts() -> None:
    """A protobuf that says the key of an entry twice is read as the last one: so is it here."""
    entry = b"\x0a\x04open\x0a\x06secret\x12\x00"
    signatures = b"\x0a" + bytes([len(entry)]) + entry
    answer = messages.GetModelMetadataResponse()
    answer.metadata["signature_def"].type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    answer.metadata["signature_def"].value = signatures
    body = keep_message(Verb.METADATA, frame(answer.SerializeToString()), lambda name: name == "open")
    assert b"secret" not in body


@pytest.mark.parametrize("verb", [Verb.STATUS, Verb.METADATA])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"model_version_status": [{"version": "x"}]}',
        b'{"model_version_status": [{"version": null}]}',
        b'{"metadata": {"signature_def": {"signature_def": []}}}',
        b'{"metadata": {"signature_def": {}}}',
        b"[" * 100_000,
    ],
)
def test_what_cannot_be_read_is_refused(verb: Verb, body: bytes) -> None:
    with pytest.raises(Refusal):
        keep_json(verb, body, lambda name: True)


@pytest.mark.parametrize("verb", [Verb.STATUS, Verb.METADATA])
@given(body=st.binary(max_size=60))
def test_whatever_comes_is_read_or_refused(verb: Verb, body: bytes) -> None:
    for content in (body, frame(body)):
        try:
            keep_message(verb, content, lambda name: False)
        except Refusal:
            continue
    try:
        assert json.loads(keep_json(verb, body, lambda name: False))
    except Refusal:
        pass


def test_metadata_of_another_type_are_refused() -> None:
    answer = messages.GetModelMetadataResponse()
    answer.metadata["signature_def"].Pack(messages.GetModelStatusResponse())
    with pytest.raises(Refusal, match="another type"):
        keep_message(Verb.METADATA, frame(answer.SerializeToString()), lambda name: True)


def test_a_list_that_is_there_twice_is_refused() -> None:
    """So many lists would be more parts than there may be."""
    one = metadata_of(["a"]).SerializeToString()
    with pytest.raises(Refusal, match="two lists"):
        keep_message(Verb.METADATA, frame(one + one), lambda name: True)


def test_there_is_a_most() -> None:
    many = [*range(MOST_PARTS + 1)]
    contents: list[Callable[[], bytes]] = [
        lambda: keep_message(Verb.STATUS, frame(status_of(many).SerializeToString()), lambda name: True),
        lambda: keep_message(
            Verb.METADATA, frame(metadata_of([*map(str, many)]).SerializeToString()), lambda name: True
        ),
        lambda: keep_json(Verb.METADATA, described([*map(str, many)]), lambda name: True),
    ]
    for content in contents:
        with pytest.raises(Refusal) as caught:
            content()
        assert caught.value.limit == "answer_parts"
