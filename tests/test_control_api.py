"""Messages between versions: those of 0.1 are kept in `wire_0_1`."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest

from meshproxy import control_api
from meshproxy.control_api import (
    DocumentSet,
    IssueRequest,
    IssueResponse,
    MeshReport,
    ReportedCaller,
    ReportedCalls,
    ReportedDenial,
    SidecarReport,
)
from tests import wire_0_1

MESSAGES: list[tuple[bytes, Any]] = [
    (wire_0_1.ISSUE_REQUEST, IssueRequest(b"0\x81\xec", "mpj1-x")),
    (wire_0_1.ISSUE_RESPONSE, IssueResponse("-----BEGIN CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\n")),
    (wire_0_1.SIDECAR_REPORT, SidecarReport("resnet", "0.1.0", "a1", "b2", ("mesh.yaml:3: no such server",))),
    (wire_0_1.DOCUMENT_SET, DocumentSet("a1", "kind: MeshConfig\n")),
]
"""What 0.1 sends, and what it means."""
each_message = pytest.mark.parametrize(("message", "meaning"), MESSAGES, ids=lambda each: type(each).__name__)


def test_methods_keep_their_names() -> None:
    assert (control_api.ISSUE, control_api.WATCH) == (wire_0_1.ISSUE, wire_0_1.WATCH)


def test_messages_are_json_that_others_can_read() -> None:
    assert msgspec.json.encode(IssueRequest(b"\x00\xff", "t")).startswith(b'{"csr":"AP8=","join_token":"t"')
    assert msgspec.json.decode(b'{"csr":"AP8="}', type=IssueRequest) == IssueRequest(b"\x00\xff")


@each_message
def test_what_0_1_sends_is_understood(message: bytes, meaning: Any) -> None:
    assert msgspec.json.decode(message, type=type(meaning)) == meaning


@each_message
def test_0_1_understands_what_is_sent(message: bytes, meaning: Any) -> None:
    """Members that it does not know are ignored."""
    older = getattr(wire_0_1, type(meaning).__name__)
    assert msgspec.json.decode(msgspec.json.encode(meaning), type=older) == msgspec.json.decode(message, type=older)


@each_message
def test_members_of_later_versions_are_ignored(message: bytes, meaning: Any) -> None:
    later = json.dumps({**json.loads(message), "later": [{"than": 1}]}).encode()
    assert msgspec.json.decode(later, type=type(meaning)) == meaning


@each_message
def test_members_that_0_1_does_not_send_have_a_default(message: bytes, meaning: Any) -> None:
    older = {field.name: field.required for field in msgspec.structs.fields(getattr(wire_0_1, type(meaning).__name__))}
    assert older.keys() == json.loads(message).keys()
    for field in msgspec.structs.fields(type(meaning)):
        assert not field.required or older.get(field.name), f"{type(meaning).__name__}.{field.name} needs a default"


@each_message
def test_members_of_0_1_are_always_sent(message: bytes, meaning: Any) -> None:
    """Even if they have their default, which another version may have changed."""
    required = {
        field.name: getattr(meaning, field.name) for field in msgspec.structs.fields(type(meaning)) if field.required
    }
    sent = json.loads(msgspec.json.encode(type(meaning)(**required)))
    older = msgspec.structs.fields(getattr(wire_0_1, type(meaning).__name__))
    assert {field.name for field in older if field.required} <= sent.keys()


def test_a_denial_of_now_can_be_reported() -> None:
    denial = ReportedDenial(time.time(), ReportedCaller("spiffe://m.example/ns/a/sa/b"), "predict fraud", "rbac", "no")
    report = MeshReport("fraud", "a", 1, 5.0, denials=(denial,))
    assert msgspec.json.decode(msgspec.json.encode(report), type=MeshReport) == report


@pytest.mark.parametrize("at", [b"-1", b"1e12", b"1e400", b"NaN"])
def test_a_denial_of_no_time_that_people_know(at: bytes) -> None:
    message = msgspec.json.encode(ReportedDenial(7.5, ReportedCaller(), "predict fraud", "rbac", "no"))
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(message.replace(b"7.5", at), type=ReportedDenial)


@pytest.mark.parametrize("direction", ["inbound", "outbound", "", "inbound\n", "sideways"])
def test_directions(direction: str) -> None:
    """There are two: rows that find no room are counted by direction."""
    row = ReportedCalls(direction, ReportedCaller(), "mtls", "fraud", "1", "predict")
    message = msgspec.json.encode(row)
    if direction in ("inbound", "outbound"):
        assert msgspec.json.decode(message, type=ReportedCalls) == row
    else:
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(message, type=ReportedCalls)
